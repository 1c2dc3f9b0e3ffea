#ifndef THERIA_TESTS_BENCH_STORE_RAW_CLIENT_H_
#define THERIA_TESTS_BENCH_STORE_RAW_CLIENT_H_

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "proto/wire.h"
#include "tests/bench/store/raw_bytes.h"
#include "theria/v1/attention.grpc.pb.h"
#include "theria/v1/tensor_store.grpc.pb.h"

namespace theria::server {

// A client of the echo and of the services, whose tensors are borrowed bytes.
class RawClient {
 public:
  explicit RawClient(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    const auto channel =
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::TensorService::NewStub(channel);
    echo_ = std::make_unique<grpc::GenericStub>(channel);
    attention_ = v1::AttentionService::NewStub(channel);
  }

  // To be kept or not.
  void EchoPut(std::size_t size_bytes, bool keep) {
    if (Echo(keep ? "/echo/Keep" : "/echo/Put", Borrowed(memory_, size_bytes)).Length() != 0) {
      Die("echo: wrong answer");
    }
  }

  void EchoGet(std::size_t size_bytes) {
    const grpc::Slice size(std::to_string(size_bytes));
    if (Echo("/echo/Get", grpc::ByteBuffer(&size, 1)).Length() != size_bytes) {
      Die("echo: wrong answer");
    }
  }

  // An upload of x's; with `digest`, the server hashes it. Returns the handle.
  std::string Upload(std::size_t size_bytes, const std::string& digest) {
    v1::UploadRequest header;
    header.mutable_header()->set_dtype(v1::BOOL);
    header.mutable_header()->add_shape(static_cast<std::int64_t>(size_bytes));
    header.mutable_header()->set_sha256(digest);
    Stream stream(*echo_, kUploadMethod);
    const grpc::Slice first(header.SerializeAsString());
    stream.Write(grpc::ByteBuffer(&first, 1), grpc::WriteOptions().set_buffer_hint());
    for (std::size_t sent = 0; sent < size_bytes; sent += kChunkBytes) {
      const std::size_t chunk_bytes = std::min(kChunkBytes, size_bytes - sent);
      const grpc::Slice slices[] = {
          grpc::Slice(wire::TagAndSize(v1::UploadRequest::kChunkFieldNumber, chunk_bytes)),
          Borrow(memory_.data() + sent, chunk_bytes)};
      const grpc::ByteBuffer message(slices, 2);
      if (sent + chunk_bytes == size_bytes) return stream.FinishUpload(message);
      stream.Write(message);
    }
    Die("upload: nothing to send");
  }

  void Download(const std::string& handle, std::size_t size_bytes) {
    v1::DownloadRequest request;
    request.set_handle(handle);
    if (Receive(request) < size_bytes) Die("bytes are missing");
  }

  std::string UploadShared(const v1::SharedMemoryRef& part) {
    v1::UploadRequest header;
    header.mutable_header()->set_dtype(v1::BOOL);
    header.mutable_header()->add_shape(static_cast<std::int64_t>(part.size_bytes()));
    *header.mutable_header()->mutable_shared_memory() = part;
    Stream stream(*echo_, kUploadMethod);
    const grpc::Slice first(header.SerializeAsString());
    return stream.FinishUpload(grpc::ByteBuffer(&first, 1));
  }

  void DownloadShared(const std::string& handle, const v1::SharedMemoryRef& part) {
    v1::DownloadRequest request;
    request.set_handle(handle);
    *request.mutable_shared_memory() = part;
    Receive(request);
  }

  // Seconds of one Forward of `size_bytes` of k and v but those in which it queued and computed.
  double HandOver(const std::string& region, std::size_t size_bytes) {
    const auto tensor = [&](std::size_t offset_bytes, std::int64_t seq) {
      v1::Tensor message;
      message.set_dtype(v1::FLOAT32);
      for (const std::int64_t extent : {std::int64_t{1}, std::int64_t{1}, seq, kHeadDim}) {
        message.add_shape(extent);
      }
      v1::SharedMemoryRef& part = *message.mutable_shared_memory();
      part.set_region(region);
      part.set_offset_bytes(offset_bytes);
      part.set_size_bytes(static_cast<std::uint64_t>(seq * kHeadDim) * sizeof(float));
      return message;
    };
    const auto seq = static_cast<std::int64_t>(size_bytes / 2 / sizeof(float)) / kHeadDim;
    v1::ForwardRequest request;
    *request.mutable_q() = tensor(0, 1);
    *request.mutable_k() = tensor(0, seq);
    *request.mutable_v() = tensor(size_bytes / 2, seq);
    grpc::ClientContext context;
    v1::ForwardResponse response;
    const absl::Time start = absl::Now();
    const grpc::Status status = attention_->Forward(&context, request, &response);
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
    if (!status.ok()) Die(status.error_message());
    return seconds - response.execution().queue_seconds() - response.execution().compute_seconds();
  }

  void Delete(const std::string& handle) {
    grpc::ClientContext context;
    v1::DeleteRequest request;
    request.set_handle(handle);
    v1::DeleteResponse response;
    const grpc::Status status = stub_->Delete(&context, request, &response);
    if (!status.ok()) Die(status.error_message());
  }

 private:
  static constexpr std::size_t kChunkBytes = 2 * kMiB;
  static constexpr char kUploadMethod[] = "/theria.v1.TensorService/Upload";

  // A streamed call of raw messages, each awaited. Its metadata go out with the first that is not
  // buffered, its end with the last.
  class Stream {
   public:
    Stream(grpc::GenericStub& stub, const std::string& method) {
      context_.set_initial_metadata_corked(true);
      call_ = stub.PrepareCall(&context_, method, &queue_);
      call_->StartCall(nullptr);
    }
    ~Stream() {
      queue_.Shutdown();
      void* tag = nullptr;
      bool ok = false;
      while (queue_.Next(&tag, &ok)) {
      }
    }
    void Write(const grpc::ByteBuffer& message, grpc::WriteOptions options = {}) {
      call_->Write(message, options, nullptr);
      if (!Await()) Finish();
    }
    void WriteLast(const grpc::ByteBuffer& message) {
      call_->WriteLast(message, grpc::WriteOptions(), nullptr);
      if (!Await()) Finish();
    }
    bool Read(grpc::ByteBuffer& message) {
      call_->Read(&message, nullptr);
      return Await();
    }
    void Finish() {
      grpc::Status status;
      call_->Finish(&status, nullptr);
      Await();
      if (!status.ok()) Die(status.error_message());
    }
    // Writes the last message and returns the handle.
    std::string FinishUpload(const grpc::ByteBuffer& last) {
      grpc::ByteBuffer message;
      grpc::Status status;
      call_->WriteLast(last, grpc::WriteOptions(), nullptr);
      call_->Read(&message, nullptr);
      call_->Finish(&status, nullptr);
      for (int i = 0; i < 3; ++i) Await();
      if (!status.ok()) Die(status.error_message());
      v1::UploadResponse response;
      if (!grpc::SerializationTraits<v1::UploadResponse>::Deserialize(&message, &response).ok()) {
        Die("upload: no answer");
      }
      return response.info().handle();
    }

   private:
    bool Await() {
      void* tag = nullptr;
      bool ok = false;
      return queue_.Next(&tag, &ok) && ok;
    }

    grpc::ClientContext context_;
    grpc::CompletionQueue queue_;
    std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  };

  // Bytes of all messages of a download.
  std::size_t Receive(const v1::DownloadRequest& request) {
    Stream stream(*echo_, "/theria.v1.TensorService/Download");
    const grpc::Slice slice(request.SerializeAsString());
    stream.WriteLast(grpc::ByteBuffer(&slice, 1));
    std::size_t received = 0;
    grpc::ByteBuffer message;
    while (stream.Read(message)) received += message.Length();
    stream.Finish();
    return received;
  }

  grpc::ByteBuffer Echo(const std::string& method, const grpc::ByteBuffer& request) {
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const auto call = echo_->PrepareUnaryCall(&context, method, request, &queue);
    grpc::ByteBuffer response;
    grpc::Status status;
    call->StartCall();
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    if (!status.ok()) Die(status.error_message());
    return response;
  }

  std::unique_ptr<v1::TensorService::Stub> stub_;
  std::unique_ptr<grpc::GenericStub> echo_;
  std::unique_ptr<v1::AttentionService::Stub> attention_;
  const std::string memory_ = std::string(kMaxBytes, 'x');
};

}  // namespace theria::server

#endif  // THERIA_TESTS_BENCH_STORE_RAW_CLIENT_H_
