#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "kernels/api/memory.h"
#include "server/cache/sha256.h"
#include "server/cache/tensor_store.h"
#include "server/identity/authenticator.h"
#include "server/rpc/admission.h"
#include "server/rpc/request_context.h"
#include "server/rpc/tensor_service.h"
#include "theria/v1/tensor_store.grpc.pb.h"

namespace theria::server {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

// Host memory that only its own copies may touch: data() points at nothing.
class FarMemory final : public Memory {
 public:
  std::string_view name() const override { return "far"; }
  bool host_accessible() const override { return false; }
  absl::StatusOr<Buffer> Allocate(std::size_t size_bytes) override {
    return Buffer(this, Shift(::operator new(size_bytes)), size_bytes);
  }
  absl::Status CopyFromHost(void* destination, const void* source, std::size_t size) override {
    std::memcpy(Shift(destination), source, size);
    return absl::OkStatus();
  }
  absl::Status CopyToHost(void* destination, const void* source, std::size_t size) override {
    std::memcpy(destination, Shift(const_cast<void*>(source)), size);
    return absl::OkStatus();
  }

 private:
  // Flips the top bit: an address that traps.
  static void* Shift(void* address) {
    constexpr auto kTopBit = std::uintptr_t{1} << 63;
    return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(address) ^ kTopBit);
  }
  void Deallocate(void* data, std::size_t /*size_bytes*/) noexcept override {
    ::operator delete(Shift(data));
  }
};

class StoreStreamTest : public ::testing::Test {
 protected:
  // gRPC stays up between the tests: its end waits up to ten seconds for a poller of its own.
  static void SetUpTestSuite() { grpc_init(); }

  StoreStreamTest() { Serve(HostMemory(), {}); }
  ~StoreStreamTest() override { StopServing(); }

  void Serve(Memory& memory, TransferWatch::Limits limits) {
    StopServing();
    TensorStore::Options options;
    options.capacity_bytes = 256 * kMiB;
    store_ = std::make_unique<TensorStore>(memory, options);
    TensorServiceOptions service_options;
    service_options.transfer = limits;
    service_ = std::make_unique<TensorService>(*store_, admission_, service_options);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.get());
    builder.SetContextAllocator(MakeContextAllocator());
    server_ = builder.BuildAndStart();
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::TensorService::NewStub(channel_);
  }

  void StopServing() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    stub_.reset();
    channel_.reset();
    server_.reset();
    service_.reset();
    store_.reset();
  }

  static v1::UploadRequest Header(std::int64_t size_bytes) {
    v1::UploadRequest request;
    request.mutable_header()->set_dtype(v1::BOOL);
    request.mutable_header()->add_shape(size_bytes);
    return request;
  }
  static v1::UploadRequest Chunk(std::string bytes) {
    v1::UploadRequest request;
    request.set_chunk(std::move(bytes));
    return request;
  }

  static std::string Pattern(std::size_t size_bytes) {
    std::string bytes(size_bytes, '\0');
    for (std::size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<char>(i * 31 + i / 4093);
    return bytes;
  }

  // Uploads `bytes` in chunks; the handle.
  std::string Upload(const std::string& bytes, std::size_t chunk_bytes) {
    grpc::ClientContext context;
    v1::UploadResponse response;
    const auto writer = stub_->Upload(&context, &response);
    writer->Write(Header(static_cast<std::int64_t>(bytes.size())));
    for (std::size_t at = 0; at < bytes.size(); at += chunk_bytes) {
      writer->Write(Chunk(bytes.substr(at, chunk_bytes)));
    }
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.info().handle();
  }

  std::string Download(const std::string& handle, std::uint32_t chunk_bytes) {
    grpc::ClientContext context;
    v1::DownloadRequest request;
    request.set_handle(handle);
    request.set_chunk_bytes(chunk_bytes);
    const auto reader = stub_->Download(&context, request);
    std::string bytes;
    v1::DownloadResponse response;
    for (bool first = true; reader->Read(&response); first = false) {
      EXPECT_EQ(response.has_info(), first);
      bytes += response.chunk();
    }
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return bytes;
  }

  // The code with which an upload of these serialised messages ends.
  grpc::StatusCode RawUpload(const std::vector<std::string>& messages) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const auto next = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    const auto call = stub.PrepareCall(&context, "/theria.v1.TensorService/Upload", &queue);
    call->StartCall(nullptr);
    next();
    for (const std::string& message : messages) {
      const grpc::Slice slice(message);
      call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
      if (!next()) break;
    }
    call->WritesDone(nullptr);
    next();
    grpc::ByteBuffer response;  // an answer must be read before the status comes
    call->Read(&response, nullptr);
    next();
    grpc::Status status;
    call->Finish(&status, nullptr);
    next();
    return status.error_code();
  }

  // Whether the store holds no byte, now or soon: the end of a stream reaches it asynchronously.
  bool StoreEmpties() {
    for (int i = 0; i < 6000 && store_->stats().used_bytes > 0; ++i) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    return store_->stats().used_bytes == 0;
  }

  DrainGate gate_;
  Authenticator authenticator_;
  Admission admission_{gate_, authenticator_};
  std::unique_ptr<TensorStore> store_;
  std::unique_ptr<TensorService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::TensorService::Stub> stub_;
};

TEST_F(StoreStreamTest, BytesComeBackWhateverTheChunks) {
  const std::string bytes = Pattern(3 * kMiB + 17);
  for (const std::size_t upload_chunk : {std::size_t{1000}, kMiB, 3 * kMiB}) {
    const std::string handle = Upload(bytes, upload_chunk);
    for (const std::uint32_t chunk : {0u, 1u, 5000u, 4294967295u}) {
      EXPECT_TRUE(Download(handle, chunk) == bytes) << upload_chunk << " " << chunk;
    }
  }
}

TEST_F(StoreStreamTest, MemoryOutOfTheHostsReachIsCopied) {
  FarMemory memory;
  Serve(memory, {});
  const std::string bytes = Pattern(kMiB + 5);
  const std::string handle = Upload(bytes, 100000);
  EXPECT_TRUE(Download(handle, 0) == bytes);
  StopServing();
}

TEST_F(StoreStreamTest, AStalledUploadIsEndedAndLeavesNothing) {
  Serve(HostMemory(), {.stall_timeout = absl::Milliseconds(300)});
  grpc::ClientContext context;
  v1::UploadResponse response;
  const absl::Time start = absl::Now();
  const auto writer = stub_->Upload(&context, &response);
  writer->Write(Header(100 * kMiB));
  writer->Write(Chunk(std::string(kMiB, 'x')));
  const grpc::Status status = writer->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << status.error_message();
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(200));
  EXPECT_TRUE(StoreEmpties());
}

// One byte, or an empty chunk, now and then is no progress.
TEST_F(StoreStreamTest, ADrippingUploadIsEnded) {
  for (const std::string drop : {"", "x"}) {
    Serve(HostMemory(), {.stall_timeout = absl::Milliseconds(300)});
    grpc::ClientContext context;
    v1::UploadResponse response;
    const auto writer = stub_->Upload(&context, &response);
    writer->Write(Header(100 * kMiB));
    const absl::Time give_up = absl::Now() + absl::Seconds(60);
    while (writer->Write(Chunk(drop)) && absl::Now() < give_up) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_LT(absl::Now(), give_up);
    EXPECT_TRUE(StoreEmpties());
  }
}

TEST_F(StoreStreamTest, ASteadyUploadOutlivesTheStallTimeout) {
  Serve(HostMemory(), {.stall_timeout = absl::Seconds(3), .min_bytes_per_second = 200});
  grpc::ClientContext context;
  v1::UploadResponse response;
  const auto writer = stub_->Upload(&context, &response);
  writer->Write(Header(10000));
  for (int i = 0; i < 10; ++i) {
    writer->Write(Chunk(std::string(1000, 'x')));
    absl::SleepFor(absl::Milliseconds(400));
  }
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(StoreStreamTest, AStalledDownloadLetsGoOfItsTensor) {
  Serve(HostMemory(), {.stall_timeout = absl::Seconds(3)});
  const std::string handle = Upload(Pattern(64 * kMiB), kMiB);
  grpc::ClientContext context;
  v1::DownloadRequest request;
  request.set_handle(handle);
  const auto reader = stub_->Download(&context, request);
  v1::DownloadResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(store_->Stat({}, handle)->readers, 1);
  ASSERT_TRUE(store_->Delete({}, handle).ok());
  EXPECT_EQ(store_->stats().used_bytes, 64 * kMiB);
  EXPECT_TRUE(StoreEmpties());
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(StoreStreamTest, ADownloadOfADeletedTensorFinishes) {
  const std::string bytes = Pattern(32 * kMiB);
  const std::string handle = Upload(bytes, kMiB);
  grpc::ClientContext context;
  v1::DownloadRequest request;
  request.set_handle(handle);
  const auto reader = stub_->Download(&context, request);
  v1::DownloadResponse response;
  ASSERT_TRUE(reader->Read(&response));
  std::string received = response.chunk();
  ASSERT_TRUE(store_->Delete({}, handle).ok());
  while (reader->Read(&response)) received += response.chunk();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(received == bytes);
  EXPECT_TRUE(StoreEmpties());
}

TEST_F(StoreStreamTest, CutUploadsLeaveNothingWhereverTheyAreCut) {
  for (const int chunks : {0, 1, 7, 8}) {  // 8: all bytes, but not the end of the stream
    grpc::ClientContext context;
    v1::UploadResponse response;
    const auto writer = stub_->Upload(&context, &response);
    writer->Write(Header(8 * kMiB));
    for (int i = 0; i < chunks; ++i) writer->Write(Chunk(std::string(kMiB, 'x')));
    while (store_->stats().pending_bytes == 0) absl::SleepFor(absl::Milliseconds(1));
    context.TryCancel();
    EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(StoreEmpties()) << chunks;
    EXPECT_EQ(store_->stats().pending_bytes, 0);
  }
}

TEST_F(StoreStreamTest, AClientsDeadlineEndsItsUpload) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  v1::UploadResponse response;
  const auto writer = stub_->Upload(&context, &response);
  writer->Write(Header(8 * kMiB));
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(StoreEmpties());
}

TEST_F(StoreStreamTest, ADrainingServerTakesNoNewTransfer) {
  const std::string handle = Upload("x", 1);
  gate_.Close();
  grpc::ClientContext upload_context;
  v1::UploadResponse response;
  EXPECT_EQ(stub_->Upload(&upload_context, &response)->Finish().error_code(),
            grpc::StatusCode::UNAVAILABLE);
  grpc::ClientContext download_context;
  v1::DownloadRequest request;
  request.set_handle(handle);
  EXPECT_EQ(stub_->Download(&download_context, request)->Finish().error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(StoreStreamTest, MessagesThatAreNoneAreRefused) {
  const std::string header = Header(4).SerializeAsString();
  const std::string chunk = Chunk("abcd").SerializeAsString();
  const std::string unknown_field("\x78\x01", 2);  // number 15, varint
  EXPECT_EQ(RawUpload({header, chunk}), grpc::StatusCode::OK);
  EXPECT_EQ(RawUpload({header + unknown_field, unknown_field + chunk}), grpc::StatusCode::OK);
  const std::vector<std::vector<std::string>> malformed = {
      {""},                     // no part
      {unknown_field},          // no part that we know
      {header + chunk},         // two parts
      {header, chunk + chunk},  //
      {header, std::string("\x12\x7f"
                           "abcd")},  // a chunk longer than its message
      {header, std::string("\x12\x04"
                           "abc")},  //
      {header, std::string("\x12\xff\xff\xff\xff\x0f"
                           "abcd")},                                              // 4 GiB announced
      {header, std::string("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")},  // no varint
      {std::string("\x0a\x7f\x08\x05")},          // a header longer than its message
      {std::string("\x0a\x02\x08\xff")},          // a header cut inside a field
      {header.substr(0, header.size() - 1)},      //
      {std::string("\x0b")},                      // a group without end
      {std::string("\xff\xff\xff\xff\xff\xff")},  // no tag
      {std::string(1, '\0')},                     // tag zero
      {std::string(100000, '\x0b')},              // groups nested a hundred thousand deep
  };
  for (const auto& messages : malformed) {
    EXPECT_EQ(RawUpload(messages), grpc::StatusCode::INVALID_ARGUMENT)
        << ::testing::PrintToString(messages.back().substr(0, 32));
  }
  EXPECT_EQ(store_->stats().entries, 2);
  EXPECT_EQ(store_->stats().pending_bytes, 0);
}

}  // namespace
}  // namespace theria::server
