#include "server/rpc/device_staging.h"

#include <utility>

#include "server/cache/relief.h"

namespace theria::server {
namespace {

// Where kernels and copies are fastest; every Memory gives it to a whole block.
constexpr std::size_t kAlignmentBytes = 256;

template <typename View>
std::size_t SpanBytes(const View& view) {
  return static_cast<std::size_t>(view.SpanElements()) * ItemSizeBytes(view.dtype);
}

}  // namespace

DeviceStaging::DeviceStaging(TensorStore& store, TenantId tenant)
    : store_(store), tenant_(std::move(tenant)) {}

void DeviceStaging::AddInput(TensorView& view) {
  AddInput(view, {{static_cast<const char*>(view.data), SpanBytes(view)}});
}

void DeviceStaging::AddInput(TensorView& view, absl::Span<const absl::Span<const char>> pieces) {
  std::size_t offset_bytes = Reserve(SpanBytes(view));
  inputs_.push_back({&view, offset_bytes});
  for (const absl::Span<const char> piece : pieces) {
    pieces_.push_back({offset_bytes, piece});
    offset_bytes += piece.size();
  }
}

void DeviceStaging::AddOutput(MutableTensorView& view) {
  const std::size_t size_bytes = SpanBytes(view);
  outputs_.push_back({&view, Reserve(size_bytes), size_bytes});
}

std::size_t DeviceStaging::Reserve(std::size_t size_bytes) {
  const std::size_t offset_bytes = block_bytes_;
  block_bytes_ += (size_bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
  return offset_bytes;
}

absl::Status DeviceStaging::Upload() {
  if (block_bytes_ == 0) return absl::OkStatus();
  Memory& memory = store_.memory();
  absl::StatusOr<Buffer> block =
      WithRelief(store_, tenant_, block_bytes_, [&] { return memory.Allocate(block_bytes_); });
  if (!block.ok()) return block.status();
  block_ = *std::move(block);
  auto* const base = static_cast<char*>(block_.data());
  std::vector<MemoryCopy> uploads;
  uploads.reserve(pieces_.size());
  for (const Piece& piece : pieces_) {
    uploads.push_back({base + piece.offset_bytes, piece.bytes.data(), piece.bytes.size()});
  }
  for (const Input& input : inputs_) input.view->data = base + input.offset_bytes;
  for (const Output& output : outputs_) {
    char* const data = base + output.offset_bytes;
    downloads_.push_back({output.view->data, data, output.size_bytes});
    output.view->data = data;
  }
  return memory.CopyAllFromHost(uploads);
}

absl::Status DeviceStaging::Download() { return store_.memory().CopyAllToHost(downloads_); }

}  // namespace theria::server
