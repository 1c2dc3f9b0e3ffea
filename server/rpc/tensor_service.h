#ifndef THERIA_SERVER_RPC_TENSOR_SERVICE_H_
#define THERIA_SERVER_RPC_TENSOR_SERVICE_H_

#include <cstddef>

#include "absl/time/time.h"
#include "server/cache/shared_regions.h"
#include "server/cache/tensor_store.h"
#include "server/rpc/admission.h"
#include "server/rpc/transfer_watch.h"
#include "theria/v1/tensor_store.grpc.pb.h"

// theria.v1.TensorService over a TensorStore, on gRPC's callback API. Upload and Download exchange
// raw byte buffers: an upload's chunks are copied once, from the transport's slices to their place
// in the tensor; a download's chunks are not copied at all where the host can reach the tensor, the
// transport sends them from the leased bytes. One message of a stream is in flight at a time.
//
// Every call acts for the tenant that makes it. Thread-safe.

namespace theria::server {

struct TensorServiceOptions {
  TransferWatch::Limits transfer;
  std::size_t default_chunk_bytes = std::size_t{1} << 20;  // of a Download
  std::size_t min_chunk_bytes = std::size_t{4} << 10;
  std::size_t max_chunk_bytes = std::size_t{2} << 20;  // below what clients receive by default
  int default_page_size = 100;
  int max_page_size = 1000;
};

namespace internal {
using StreamingTensorService = v1::TensorService::WithRawCallbackMethod_Upload<
    v1::TensorService::WithRawCallbackMethod_Download<v1::TensorService::Service>>;
using CallbackTensorService = v1::TensorService::WithCallbackMethod_Stat<
    v1::TensorService::WithCallbackMethod_List<v1::TensorService::WithCallbackMethod_Renew<
        v1::TensorService::WithCallbackMethod_Pin<v1::TensorService::WithCallbackMethod_Unpin<
            v1::TensorService::WithCallbackMethod_Delete<StreamingTensorService>>>>>>;
}  // namespace internal

class TensorService final : public internal::CallbackTensorService {
 public:
  // The store, the admission and the regions (null: no memory is shared) must outlive the service,
  // and the store every connection of the server: destroy it after the grpc::Server. The server's
  // contexts are RequestContexts.
  TensorService(TensorStore& store, const Admission& admission, TensorServiceOptions options = {},
                SharedRegions* regions = nullptr);

  grpc::ServerReadReactor<grpc::ByteBuffer>* Upload(grpc::CallbackServerContext* context,
                                                    grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Download(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Stat(grpc::CallbackServerContext* context,
                                 const v1::StatRequest* request,
                                 v1::StatResponse* response) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const v1::ListRequest* request,
                                 v1::ListResponse* response) override;
  grpc::ServerUnaryReactor* Renew(grpc::CallbackServerContext* context,
                                  const v1::RenewRequest* request,
                                  v1::RenewResponse* response) override;
  grpc::ServerUnaryReactor* Pin(grpc::CallbackServerContext* context, const v1::PinRequest* request,
                                v1::PinResponse* response) override;
  grpc::ServerUnaryReactor* Unpin(grpc::CallbackServerContext* context,
                                  const v1::UnpinRequest* request,
                                  v1::UnpinResponse* response) override;
  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext* context,
                                   const v1::DeleteRequest* request,
                                   v1::DeleteResponse* response) override;

 private:
  TensorStore& store_;
  const Admission& admission_;
  const TensorServiceOptions options_;
  SharedRegions* const regions_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_TENSOR_SERVICE_H_
