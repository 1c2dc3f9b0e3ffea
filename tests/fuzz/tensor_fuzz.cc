// The codec: a serialised theria.v1.Tensor. Whatever is accepted is a view whose every element lies
// in the bytes that came; whatever is refused is refused as INVALID_ARGUMENT or UNIMPLEMENTED.

#include <cstddef>
#include <cstdint>

#include "kernels/api/memory.h"
#include "server/rpc/tensor_codec.h"
#include "tests/fuzz/expect.h"

namespace theria::server {
namespace {

constexpr std::size_t kMaxTensorBytes = std::size_t{1} << 20;

void TestOne(const std::uint8_t* data, std::size_t size) {
  static TensorStore store(HostMemory(), {.capacity_bytes = std::size_t{1} << 20});
  v1::Tensor tensor;
  if (!tensor.ParseFromArray(data, static_cast<int>(size))) return;
  TensorDecoder decoder(store, TenantId{}, kMaxTensorBytes);
  const auto view = decoder.Decode(tensor, "q");
  if (!view.ok()) {
    THERIA_FUZZ_EXPECT(absl::IsInvalidArgument(view.status()) ||
                       absl::IsUnimplemented(view.status()));
    return;
  }
  if (!view->has_value()) {
    THERIA_FUZZ_EXPECT(absl::IsFailedPrecondition(decoder.status()));
    return;
  }
  const TensorView& accepted = **view;
  THERIA_FUZZ_EXPECT(accepted.rank >= 1 && accepted.rank <= kMaxRank);
  THERIA_FUZZ_EXPECT(accepted.SizeBytes() <= kMaxTensorBytes);
  const char* const first = tensor.data().data();
  THERIA_FUZZ_EXPECT(accepted.data == first);
  THERIA_FUZZ_EXPECT(static_cast<std::size_t>(accepted.SpanElements()) *
                         ItemSizeBytes(accepted.dtype) ==
                     tensor.data().size());
  for (int axis = 0; axis < accepted.rank; ++axis) {
    THERIA_FUZZ_EXPECT(accepted.shape[axis] >= 1 && accepted.strides[axis] >= 0);
  }
}

}  // namespace
}  // namespace theria::server

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  theria::server::TestOne(data, size);
  return 0;
}
