#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/maml/fake_server.h"
#include "tests/unit/client/maml/small_task.h"
#include "theria/maml.h"
#include "theria/maml_dense_attention.h"
#include "theria/maml_remote_attention.h"

namespace theria::maml {
namespace {

using client::DType;
using client::Operation;
using client::OutputMode;

Matrix SomeMatrix(Eigen::Index rows, Eigen::Index cols, int seed) {
  return SomeDirection(rows * cols, seed).reshaped<Eigen::RowMajor>(rows, cols);
}

class RemoteAttentionTest : public ::testing::Test {
 protected:
  FakeServer server_;
  RemoteAttention remote_{server_, {}};
  Qkv x_ = {SomeMatrix(2, 3, 1), SomeMatrix(10, 3, 2), SomeMatrix(10, 4, 3)};
  Matrix o_bar_ = SomeMatrix(2, 4, 4);
};

TEST_F(RemoteAttentionTest, StacksExamplesAsBatchesOfOneHead) {
  ASSERT_TRUE(remote_.Forward(2, x_).ok());
  EXPECT_EQ(server_.last.q.local().shape(), (client::Shape{2, 1, 1, 3}));
  EXPECT_EQ(server_.last.k.local().shape(), (client::Shape{2, 1, 5, 3}));
  EXPECT_EQ(server_.last.v.local().shape(), (client::Shape{2, 1, 5, 4}));
  EXPECT_EQ(StackedRows(server_.last.v), x_.v);
}

TEST_F(RemoteAttentionTest, SendsSavedResultsAndSkipsWhatItDoesNotNeed) {
  const AttentionOutput saved = *remote_.Forward(2, x_);
  ASSERT_TRUE(remote_.Hvp(2, x_, saved, o_bar_, x_, o_bar_).ok());
  EXPECT_EQ(StackedRows(server_.last.o), saved.o);
  EXPECT_EQ(server_.last.lse.local().shape(), (client::Shape{2, 1, 1}));
  EXPECT_EQ(server_.last.outputs.q_bar, OutputMode::kSkip);
  EXPECT_EQ(server_.last.outputs.k_bar, OutputMode::kSkip);
  EXPECT_EQ(server_.last.outputs.v_bar, OutputMode::kSkip);
}

TEST_F(RemoteAttentionTest, MetaGradientEqualsTheLocalOneToTheBit) {
  DenseAttention dense;
  const Task task = MakeTask(kSmallSpec, 5, 0);
  const Vector parameters = MakeParameters(kSmallSpec, 5);
  const AttentionClassifier here(kSmallSpec.d_model, kSmallSpec.classes, dense);
  const AttentionClassifier there(kSmallSpec.d_model, kSmallSpec.classes, remote_);
  const auto expected = ComputeMetaGradient(here, task, {}, Mode::kFull, parameters);
  const auto actual = ComputeMetaGradient(there, task, {}, Mode::kFull, parameters);
  ASSERT_TRUE(actual.ok()) << actual.status();
  EXPECT_EQ(actual->gradient, expected->gradient);
  EXPECT_EQ(remote_.statistics(Operation::kForward).calls, 1 + 5 + 1);
  EXPECT_EQ(remote_.statistics(Operation::kVjp).calls, 5 + 1);
  EXPECT_EQ(remote_.statistics(Operation::kJvp).calls, 5);
  EXPECT_EQ(remote_.statistics(Operation::kHvp).calls, 5);
  EXPECT_EQ(remote_.total().calls, 23);
  EXPECT_EQ(remote_.total().queue_time, absl::Microseconds(23));
  EXPECT_EQ(remote_.total().compute_time, absl::Microseconds(230));
  EXPECT_EQ(remote_.total().rpc_time, absl::Microseconds(2300));
  EXPECT_EQ(remote_.total().total_time, absl::Microseconds(23000));
}

TEST_F(RemoteAttentionTest, RoundsToTheDtypeAskedFor) {
  RemoteAttention half(
      server_, {.dtype = DType::kBFloat16, .implementation = client::Implementation::kUnfused});
  const AttentionOutput saved = *half.Forward(2, x_);
  EXPECT_EQ(server_.last.q.local().dtype(), DType::kBFloat16);
  EXPECT_EQ(server_.last.options.implementation, client::Implementation::kUnfused);
  EXPECT_LT(RelativeDifference(StackedRows(server_.last.q), x_.q), 0.004);
  EXPECT_NE(StackedRows(server_.last.q), x_.q);
  ASSERT_TRUE(half.Vjp(2, x_, saved, o_bar_).ok());
  EXPECT_EQ(server_.last.lse.local().dtype(), DType::kFloat32);
}

TEST_F(RemoteAttentionTest, NamesTheOperationThatFailedAndKeepsItsDetails) {
  server_.error = absl::InvalidArgumentError("bad");
  server_.error.SetPayload("type.googleapis.com/google.rpc.BadRequest", absl::Cord("detail"));
  const absl::Status status = remote_.Jvp(2, x_, x_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "jvp: bad");
  EXPECT_EQ(status.GetPayload("type.googleapis.com/google.rpc.BadRequest"), absl::Cord("detail"));
  EXPECT_EQ(remote_.total().calls, 0);
}

}  // namespace
}  // namespace theria::maml
