#include "client/cli/maml_experiment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "client/cli/maml_report.h"
#include "tests/unit/client/maml/fake_server.h"
#include "tests/unit/client/maml/small_task.h"

namespace theria::cli {
namespace {

using ::testing::HasSubstr;

MamlConfig SmallConfig(maml::Mode mode) {
  return {.mode = mode,
          .inner = {.steps = 2, .learning_rate = 0.4},
          .outer = {.steps = 3, .meta_batch = 2, .learning_rate = 1e-3},
          .task = maml::kSmallSpec,
          .seed = 5};
}

void Ignore(const std::string& /*note*/) {}

TEST(RunMamlTest, HoldsInEveryModeOnAnExactServer) {
  for (const maml::Mode mode : {maml::Mode::kFull, maml::Mode::kFo, maml::Mode::kFoStrict}) {
    maml::FakeServer server;
    const auto report = RunMaml(SmallConfig(mode), server, Ignore);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->check.held());
    EXPECT_EQ(report->check.error, 0.0);
    EXPECT_EQ(report->check.server.second_order_path, mode != maml::Mode::kFoStrict);
    ASSERT_EQ(report->steps.size(), 3u);
  }
}

TEST(RunMamlTest, CountsTheOuterLoopsCallsApartFromTheChecks) {
  maml::FakeServer server;
  std::vector<std::string> notes;
  const MamlConfig config = SmallConfig(maml::Mode::kFull);
  const auto report =
      RunMaml(config, server, [&](const std::string& note) { notes.push_back(note); });
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(notes.size(), static_cast<std::size_t>(MamlProgressSteps(config)));
  EXPECT_EQ(notes.back(), "task 6 of 6");
  const auto calls = [&](client::Operation operation) {
    return report->calls[static_cast<std::size_t>(operation)].calls;
  };
  EXPECT_EQ(calls(client::Operation::kForward), 6 * (1 + 2 + 1));
  EXPECT_EQ(calls(client::Operation::kVjp), 6 * (2 + 1));
  EXPECT_EQ(calls(client::Operation::kJvp), 6 * 2);
  EXPECT_EQ(calls(client::Operation::kHvp), 6 * 2);
  // Two inner gradients and the outer one; two pull-backs over two steps, one outer curvature.
  EXPECT_EQ(report->check_calls.calls, 2 * (2 + 1) + 2 * (2 + 2 + 1));
}

// Loses what an HVP adds, as a backend without exact second derivatives does.
class LossyServer : public maml::FakeServer {
 public:
  absl::StatusOr<client::AttentionResult> Run(client::Operation operation,
                                              const client::AttentionRequest& request,
                                              const client::CallOptions& call) override {
    auto result = maml::FakeServer::Run(operation, request, call);
    if (operation == client::Operation::kHvp && result.ok()) {
      const client::Tensor& q_bar_dot = result->q_bar_dot.local();
      result->q_bar_dot = client::Tensor::Zeros(q_bar_dot.dtype(), q_bar_dot.shape());
    }
    return result;
  }
};

TEST(RunMamlTest, FailsOnAServerThatLosesCurvature) {
  LossyServer server;
  const auto report = RunMaml(SmallConfig(maml::Mode::kFull), server, Ignore);
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->check.server.second_order_path);
  EXPECT_GT(report->check.error, report->check.error_limit);
  EXPECT_FALSE(report->check.held());
  EXPECT_THAT(FormatMaml("here", SmallConfig(maml::Mode::kFull), *report), HasSubstr("FAILED"));
}

TEST(RunMamlTest, RoundedTensorsStayWithinTheirTolerance) {
  for (const client::DType dtype :
       {client::DType::kFloat32, client::DType::kFloat16, client::DType::kBFloat16}) {
    MamlConfig config = SmallConfig(maml::Mode::kFull);
    config.attention.dtype = dtype;
    maml::FakeServer server;
    const auto report = RunMaml(config, server, Ignore);
    ASSERT_TRUE(report.ok());
    EXPECT_TRUE(report->check.held()) << client::DTypeName(dtype);
    EXPECT_GT(report->check.error, report->check.error_limit / 1000) << client::DTypeName(dtype);
  }
}

TEST(RunMamlTest, PassesTheServersErrorOn) {
  maml::FakeServer server;
  server.error = absl::UnimplementedError("no kernel");
  const auto report = RunMaml(SmallConfig(maml::Mode::kFull), server, Ignore);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(report.status().message(), "forward: no kernel");
}

TEST(MamlReportTest, JsonHoldsConfigurationCheckStepsAndCalls) {
  maml::FakeServer server;
  const MamlConfig config = SmallConfig(maml::Mode::kFo);
  const auto report = RunMaml(config, server, Ignore);
  ASSERT_TRUE(report.ok());
  const nlohmann::ordered_json document = MamlJson("here", config, *report);
  EXPECT_EQ(document["target"], "here");
  EXPECT_EQ(document["held"], true);
  EXPECT_EQ(document["config"]["mode"], "fo");
  EXPECT_EQ(document["config"]["inner_lr"], 0.4);
  EXPECT_EQ(document["check"]["server"]["rel_diff"], report->check.server.rel_diff);
  EXPECT_EQ(document["steps"].size(), 3u);
  EXPECT_EQ(document["steps"][2]["after"]["loss"], report->steps[2].after.loss);
  EXPECT_EQ(document["calls"]["hvp"]["calls"], 0);
  EXPECT_EQ(document["calls"]["all"]["calls"], 6 * (1 + 2 + 1) + 6 * 3);
  EXPECT_DOUBLE_EQ(document["calls"]["vjp"]["compute_seconds"].get<double>(), 18 * 10e-6);
}

TEST(MamlReportTest, LongRunsShowSomeStepsAndTheLast) {
  maml::FakeServer server;
  MamlConfig config = SmallConfig(maml::Mode::kFo);
  config.outer = {.steps = 50, .meta_batch = 1};
  const auto report = RunMaml(config, server, Ignore);
  ASSERT_TRUE(report.ok());
  const std::string text = FormatMaml("here", config, *report);
  EXPECT_THAT(text, HasSubstr("\n   3  "));
  EXPECT_THAT(text, HasSubstr("\n  49  "));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("\n   4  ")));
}

}  // namespace
}  // namespace theria::cli
