#include "server/rpc/tensor_codec.h"

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "kernels/api/attention.h"
#include "server/rpc/status_map.h"

namespace theria::server {
namespace {

constexpr std::size_t kMaxBytes = 1 << 20;
constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

v1::Tensor Inline(v1::DType dtype, const std::vector<std::int64_t>& shape, std::size_t size_bytes,
                  const std::vector<std::int64_t>& strides = {}) {
  v1::Tensor tensor;
  tensor.set_dtype(dtype);
  tensor.mutable_shape()->Add(shape.begin(), shape.end());
  tensor.mutable_strides()->Add(strides.begin(), strides.end());
  tensor.set_data(std::string(size_bytes, 'x'));
  return tensor;
}

class TensorCodecTest : public testing::Test {
 protected:
  std::string Put(TensorSpec spec) {
    absl::StatusOr<PendingTensor> pending = store_.Create({}, std::move(spec));
    EXPECT_TRUE(pending.ok());
    return (*std::move(pending)).Commit().handle;
  }

  TensorStore store_{HostMemory(), {.capacity_bytes = std::size_t{16} << 20, .clock = [] {
                                      return absl::Now() - absl::UnixEpoch();
                                    }}};
  TensorDecoder decoder_{store_, TenantId{}, kMaxBytes};
};

TEST_F(TensorCodecTest, ViewsInlineDataInPlace) {
  const v1::Tensor tensor = Inline(v1::FLOAT16, {2, 3, 4}, 48);
  const auto view = decoder_.Decode(tensor, "q");
  ASSERT_TRUE(view.ok()) << view.status();
  ASSERT_TRUE(view->has_value());
  EXPECT_EQ((*view)->data, tensor.data().data());
  EXPECT_EQ((*view)->dtype, DType::kFloat16);
  EXPECT_EQ((*view)->rank, 3);
  EXPECT_EQ((*view)->shape, (std::array<std::int64_t, 4>{2, 3, 4, 0}));
  EXPECT_TRUE((*view)->IsRowMajor());
}

TEST_F(TensorCodecTest, TakesEmptyTensors) {
  for (const std::vector<std::int64_t>& strides :
       {std::vector<std::int64_t>{}, std::vector<std::int64_t>{9, 3, 1}}) {
    const auto view = decoder_.Decode(Inline(v1::FLOAT32, {2, 0, 3}, 0, strides), "q");
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ((*view)->NumElements(), 0);
    EXPECT_EQ((*view)->SpanElements(), 0);
  }
}

TEST_F(TensorCodecTest, TakesStridesAsTheyAre) {
  // A transposed view, and a broadcast one whose data is a single row.
  const auto transposed = decoder_.Decode(Inline(v1::FLOAT32, {2, 3}, 24, {1, 2}), "q");
  ASSERT_TRUE(transposed.ok()) << transposed.status();
  EXPECT_EQ((*transposed)->strides[0], 1);
  EXPECT_EQ((*transposed)->strides[1], 2);
  const auto broadcast = decoder_.Decode(Inline(v1::FLOAT32, {5, 3}, 12, {0, 1}), "q");
  ASSERT_TRUE(broadcast.ok()) << broadcast.status();
  EXPECT_EQ((*broadcast)->strides[0], 0);
}

struct Malformed {
  std::string name;
  v1::Tensor tensor;
  std::string field;
};

std::vector<Malformed> MalformedTensors() {
  v1::Tensor unknown_dtype = Inline(v1::FLOAT32, {2}, 8);
  unknown_dtype.set_dtype(static_cast<v1::DType>(77));
  v1::Tensor no_source;
  no_source.set_dtype(v1::FLOAT32);
  no_source.add_shape(1);
  return {
      {"NoSource", no_source, "q"},
      {"NothingAtAll", {}, "q"},
      {"NoDType", Inline(v1::DTYPE_UNSPECIFIED, {2}, 8), "q.dtype"},
      {"UnknownDType", unknown_dtype, "q.dtype"},
      {"NoShape", Inline(v1::FLOAT32, {}, 4), "q.shape"},
      {"FiveDimensions", Inline(v1::FLOAT32, {1, 1, 1, 1, 1}, 4), "q.shape"},
      {"DataOfAnEmptyTensor", Inline(v1::FLOAT32, {2, 0}, 4), "q.data"},
      {"NegativeExtent", Inline(v1::FLOAT32, {-1, 2}, 8), "q.shape[0]"},
      {"LeastExtent", Inline(v1::FLOAT32, {std::numeric_limits<std::int64_t>::min()}, 8),
       "q.shape[0]"},
      {"OverflowingExtent", Inline(v1::FLOAT64, {kHuge}, 8), "q.shape"},
      {"OverflowingProduct", Inline(v1::FLOAT32, {1L << 32, 1L << 32}, 8), "q.shape"},
      {"ProductThatWrapsToZero", Inline(v1::FLOAT32, {1L << 31, 1L << 31, 4}, 0), "q.shape"},
      {"ProductThatWrapsToTheSize", Inline(v1::BOOL, {(1L << 62) + 1, 4}, 4), "q.shape"},
      {"OverTheLimit", Inline(v1::BOOL, {(1 << 20) + 1}, 8), "q.shape"},
      {"OverTheLimitByBroadcast", Inline(v1::BOOL, {1 << 30}, 1, {0}), "q.shape"},
      {"TooShort", Inline(v1::FLOAT32, {2, 3}, 23), "q.data"},
      {"TooLong", Inline(v1::FLOAT32, {2, 3}, 25), "q.data"},
      {"NoData", Inline(v1::FLOAT32, {2, 3}, 0), "q.data"},
      {"TooShortForItsStrides", Inline(v1::FLOAT32, {2, 3}, 24, {4, 1}), "q.data"},
      {"TooLongForItsStrides", Inline(v1::FLOAT32, {2, 3}, 24, {0, 1}), "q.data"},
      {"FewStrides", Inline(v1::FLOAT32, {2, 3}, 24, {3}), "q.strides"},
      {"ManyStrides", Inline(v1::FLOAT32, {2, 3}, 24, {3, 1, 1}), "q.strides"},
      {"NegativeStride", Inline(v1::FLOAT32, {2, 3}, 24, {3, -1}), "q.strides[1]"},
      {"OverflowingStride", Inline(v1::FLOAT32, {3, 3}, 24, {kHuge, 1}), "q.strides[0]"},
      {"OverflowingSpan", Inline(v1::FLOAT32, {2, 2}, 24, {kHuge, kHuge}), "q.strides[0]"},
      {"OverflowingBytes", Inline(v1::FLOAT64, {2, 2}, 24, {1L << 59, 1L << 59}), "q.strides[1]"},
  };
}

class MalformedTensorTest : public TensorCodecTest,
                            public testing::WithParamInterface<Malformed> {};

TEST_P(MalformedTensorTest, IsRefusedByItsField) {
  const auto view = decoder_.Decode(GetParam().tensor, "q");
  ASSERT_FALSE(view.ok());
  EXPECT_EQ(view.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FieldOf(view.status()), GetParam().field) << view.status();
}

INSTANTIATE_TEST_SUITE_P(All, MalformedTensorTest, testing::ValuesIn(MalformedTensors()),
                         [](const auto& info) { return info.param.name; });

TEST_F(TensorCodecTest, SharedMemoryIsUnimplementedAndNamed) {
  v1::Tensor tensor;
  tensor.mutable_shared_memory()->set_region("secret");
  const auto view = decoder_.Decode(tensor, "o_bar");
  EXPECT_EQ(view.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(view.status().message().find("o_bar.shared_memory"), absl::string_view::npos);
  EXPECT_EQ(view.status().message().find("secret"), absl::string_view::npos);
}

TEST_F(TensorCodecTest, ReadsResidentTensorsAndHoldsTheirLeases) {
  const std::string handle = Put({DType::kBFloat16, {2, 5}});
  v1::Tensor tensor;
  tensor.set_handle(handle);
  {
    TensorDecoder decoder(store_, TenantId{}, kMaxBytes);
    const auto view = decoder.Decode(tensor, "q");
    ASSERT_TRUE(view.ok() && view->has_value());
    EXPECT_EQ((*view)->dtype, DType::kBFloat16);
    EXPECT_EQ((*view)->rank, 2);
    EXPECT_TRUE((*view)->IsRowMajor());
    EXPECT_EQ(store_.Stat({}, handle)->readers, 1);
    EXPECT_TRUE(decoder.status().ok());
  }
  EXPECT_EQ(store_.Stat({}, handle)->readers, 0);
}

TEST_F(TensorCodecTest, ResidentTensorsMustBeWhatTheRequestSays) {
  const std::string handle = Put({DType::kFloat32, {2, 5}});
  v1::Tensor tensor;
  tensor.set_handle(handle);
  tensor.set_dtype(v1::FLOAT32);
  tensor.add_shape(2);
  tensor.add_shape(5);
  tensor.add_strides(5);
  tensor.add_strides(1);
  EXPECT_TRUE(decoder_.Decode(tensor, "k").ok());

  v1::Tensor other = tensor;
  other.set_dtype(v1::FLOAT64);
  EXPECT_EQ(FieldOf(decoder_.Decode(other, "k").status()), "k.dtype");
  other = tensor;
  other.set_shape(1, 4);
  EXPECT_EQ(FieldOf(decoder_.Decode(other, "k").status()), "k.shape");
  other = tensor;
  other.set_strides(0, 0);
  EXPECT_EQ(FieldOf(decoder_.Decode(other, "k").status()), "k.strides");
  other = tensor;
  other.add_strides(1);
  EXPECT_EQ(FieldOf(decoder_.Decode(other, "k").status()), "k.strides");

  v1::Tensor many_dimensions;
  many_dimensions.set_handle(Put({DType::kFloat32, {1, 1, 1, 1, 2}}));
  EXPECT_EQ(FieldOf(decoder_.Decode(many_dimensions, "k").status()), "k.shape");
}

TEST_F(TensorCodecTest, RemembersEveryMissingHandleOnce) {
  v1::Tensor tensor;
  for (const char* handle : {"one", "two", "one", ""}) {
    tensor.set_handle(handle);
    const auto view = decoder_.Decode(tensor, "q");
    ASSERT_TRUE(view.ok());
    EXPECT_FALSE(view->has_value());
  }
  EXPECT_EQ(MissingTensorsOf(decoder_.status()), (std::vector<std::string>{"one", "two", ""}));
}

TEST_F(TensorCodecTest, OtherTenantsTensorsAreMissing) {
  v1::Tensor tensor;
  tensor.set_handle(Put({DType::kFloat32, {2, 5}}));
  TensorDecoder stranger(store_, TenantId{"stranger"}, kMaxBytes);
  const auto view = stranger.Decode(tensor, "q");
  ASSERT_TRUE(view.ok());
  EXPECT_FALSE(view->has_value());
  EXPECT_EQ(MissingTensorsOf(stranger.status()).size(), 1u);
}

TEST_F(TensorCodecTest, DTypesMapBothWays) {
  for (const DType dtype :
       {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kBool}) {
    EXPECT_EQ(*DecodeDType(EncodeDType(dtype), "dtype"), dtype);
  }
}

TEST_F(TensorCodecTest, EncodesInline) {
  v1::Tensor tensor;
  const auto view = EncodeInline(RowMajorView<void>(nullptr, DType::kFloat64, {2, 3}), tensor);
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(view->data, tensor.data().data());
  EXPECT_EQ(tensor.data().size(), 48u);
  EXPECT_EQ(tensor.dtype(), v1::FLOAT64);
  EXPECT_EQ(std::vector<std::int64_t>(tensor.shape().begin(), tensor.shape().end()),
            (std::vector<std::int64_t>{2, 3}));
  EXPECT_TRUE(tensor.strides().empty());
}

TEST_F(TensorCodecTest, EncodesResident) {
  v1::Tensor tensor;
  EncodeResident({.handle = "h", .spec = {DType::kFloat16, {7}}}, tensor);
  EXPECT_EQ(tensor.handle(), "h");
  EXPECT_EQ(tensor.dtype(), v1::FLOAT16);
  ASSERT_EQ(tensor.shape_size(), 1);
  EXPECT_EQ(tensor.shape(0), 7);
}

}  // namespace
}  // namespace theria::server
