#include "server/rpc/shared_download.h"

#include <cstddef>

#include "absl/status/status.h"
#include "grpcpp/support/slice.h"
#include "server/rpc/chunk_codec.h"
#include "server/rpc/status_map.h"
#include "server/rpc/store_codec.h"

namespace theria::server {

SharedDownload* SharedDownload::Start(Memory& memory, const TensorLease& tensor,
                                      const SharedPart& target) {
  auto* const download = new SharedDownload;
  const std::size_t size_bytes = tensor.spec().SizeBytes();
  const absl::Status copied = target.region->is_on_device()
                                  ? memory.CopyWithin(target.data(), tensor.data(), size_bytes)
                                  : memory.CopyToHost(target.data(), tensor.data(), size_bytes);
  if (!copied.ok()) {
    download->Finish(ToGrpcStatus(copied));
    return download;
  }
  v1::TensorInfo info;
  EncodeTensorInfo(tensor.info(), info);
  download->message_ = MakeDownloadResponse(&info, grpc::Slice());
  download->StartWriteAndFinish(&download->message_, grpc::WriteOptions(), grpc::Status::OK);
  return download;
}

}  // namespace theria::server
