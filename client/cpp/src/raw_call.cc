#include "client/cpp/src/raw_call.h"

namespace theria::client {
namespace {

// Whether the one operation under way succeeded.
bool Next(grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  return queue.Next(&tag, &ok) && ok;
}

}  // namespace

grpc::Status CallRaw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     grpc::ClientContext* context, const grpc::ByteBuffer& request,
                     grpc::ByteBuffer* response) {
  grpc::CompletionQueue queue;
  const auto call = grpc::GenericStub(channel).PrepareUnaryCall(context, method, request, &queue);
  grpc::Status status;
  call->StartCall();
  call->Finish(response, &status, nullptr);
  Next(queue);
  queue.Shutdown();
  Next(queue);
  return status;
}

RawStream::RawStream(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     grpc::ClientContext* context) {
  context->set_initial_metadata_corked(true);
  call_ = grpc::GenericStub(channel).PrepareCall(context, method, &queue_);
  call_->StartCall(nullptr);  // corked: nothing to await
}

RawStream::~RawStream() {
  queue_.Shutdown();
  Next(queue_);
}

bool RawStream::Write(const grpc::ByteBuffer& message, grpc::WriteOptions options) {
  call_->Write(message, options, nullptr);
  return Next(queue_);
}

bool RawStream::Read(grpc::ByteBuffer* message) {
  call_->Read(message, nullptr);
  return Next(queue_);
}

grpc::Status RawStream::Finish() {
  grpc::Status status;
  call_->Finish(&status, nullptr);
  Next(queue_);
  return status;
}

}  // namespace theria::client
