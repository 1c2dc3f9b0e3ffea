// The codec: a serialised theria.v1.Tensor, whose source may be one of Known's. Whatever is
// accepted is a view whose every element lies in the bytes that came, in the tensor or in the
// region; whatever is refused is refused as INVALID_ARGUMENT, UNIMPLEMENTED or FAILED_PRECONDITION.

#include <cstddef>
#include <cstdint>

#include "kernels/api/memory.h"
#include "server/rpc/tensor_codec.h"
#include "tests/fuzz/expect.h"
#include "tests/fuzz/known.h"

namespace theria::server {
namespace {

constexpr std::size_t kMaxTensorBytes = std::size_t{1} << 20;

std::size_t SpanBytes(const TensorView& view) {
  return static_cast<std::size_t>(view.SpanElements()) * ItemSizeBytes(view.dtype);
}

void CheckShared(Known& known, const v1::SharedMemoryRef& reference, const TensorView& view) {
  const SharedRegionPtr region = known.RegionOf(reference.region());
  THERIA_FUZZ_EXPECT(region != nullptr);
  const std::size_t offset_bytes = reference.offset_bytes();
  THERIA_FUZZ_EXPECT(offset_bytes % kRegionAlignmentBytes == 0);
  THERIA_FUZZ_EXPECT(offset_bytes <= region->size_bytes());
  THERIA_FUZZ_EXPECT(SpanBytes(view) <= region->size_bytes() - offset_bytes);
  THERIA_FUZZ_EXPECT(SpanBytes(view) == reference.size_bytes());
  THERIA_FUZZ_EXPECT(view.data == region->data() + offset_bytes);
}

void CheckResident(Known& known, const std::string& handle, const TensorView& view) {
  const auto lease = known.store().Acquire(TenantId{}, handle);
  THERIA_FUZZ_EXPECT(lease.ok());
  THERIA_FUZZ_EXPECT(view.data == lease->data());
  THERIA_FUZZ_EXPECT(SpanBytes(view) == lease->spec().SizeBytes());
}

void TestOne(const std::uint8_t* data, std::size_t size) {
  static Known& known = *new Known(HostMemory());
  v1::Tensor tensor;
  if (!tensor.ParseFromArray(data, static_cast<int>(size))) return;
  known.Name(tensor);
  TensorDecoder decoder(known.store(), TenantId{}, kMaxTensorBytes, &known.regions());
  const auto view = decoder.Decode(tensor, "q");
  if (!view.ok()) {
    THERIA_FUZZ_EXPECT(absl::IsInvalidArgument(view.status()) ||
                       absl::IsUnimplemented(view.status()) ||
                       (absl::IsFailedPrecondition(view.status()) && tensor.has_shared_memory()));
    return;
  }
  if (!view->has_value()) {
    THERIA_FUZZ_EXPECT(tensor.source_case() == v1::Tensor::kHandle);
    THERIA_FUZZ_EXPECT(absl::IsFailedPrecondition(decoder.status()));
    return;
  }
  const TensorView& accepted = **view;
  THERIA_FUZZ_EXPECT(accepted.rank >= 1 && accepted.rank <= kMaxRank);
  THERIA_FUZZ_EXPECT(accepted.SizeBytes() <= kMaxTensorBytes);
  for (int axis = 0; axis < accepted.rank; ++axis) {
    THERIA_FUZZ_EXPECT(accepted.shape[axis] >= 1 && accepted.strides[axis] >= 0);
  }
  if (tensor.has_shared_memory()) {
    CheckShared(known, tensor.shared_memory(), accepted);
  } else if (tensor.source_case() == v1::Tensor::kHandle) {
    CheckResident(known, tensor.handle(), accepted);
  } else {
    THERIA_FUZZ_EXPECT(accepted.data == tensor.data().data());
    THERIA_FUZZ_EXPECT(SpanBytes(accepted) == tensor.data().size());
  }
}

}  // namespace
}  // namespace theria::server

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  theria::server::TestOne(data, size);
  return 0;
}
