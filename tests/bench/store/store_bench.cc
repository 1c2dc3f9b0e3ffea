// Throughput of the tensor store through the wire: uploads and downloads of 1, 16 and 256 MiB over
// loopback TCP and a unix socket, client and server in one process, one call at a time; against a
// raw echo on the same connection, which moves one ByteBuffer of that size in one call each way,
// out of memory that its owner keeps, and stores nothing.
//
//     store_bench [--json FILE] [--seconds PER_CASE]

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/api/memory.h"
#include "nlohmann/json.hpp"
#include "server/cache/sha256.h"
#include "server/cache/tensor_store.h"
#include "server/rpc/request_context.h"
#include "server/rpc/tensor_service.h"
#include "theria/v1/tensor_store.grpc.pb.h"

namespace theria::server {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kChunkBytes = kMiB;

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "store_bench: %s\n", why.c_str());
  std::exit(1);
}

constexpr std::size_t kMaxBytes = 256 * kMiB;

// Bytes that a transport sends from where they are.
grpc::ByteBuffer Borrowed(const std::string& memory, std::size_t size_bytes) {
  const grpc::Slice slice(
      const_cast<char*>(memory.data()), size_bytes, [](void*) {}, nullptr);
  return grpc::ByteBuffer(&slice, 1);
}

// The peer: "/echo/Put" answers with nothing, "/echo/Get" with as many bytes as its request says.
class EchoService final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new Call(memory_, context->method() == "/echo/Get");
  }

 private:
  class Call final : public grpc::ServerGenericBidiReactor {
   public:
    Call(const std::string& memory, bool is_get) : memory_(memory), is_get_(is_get) {
      StartRead(&message_);
    }

   private:
    void OnReadDone(bool ok) override {
      if (!ok) return Finish({grpc::StatusCode::INTERNAL, "no message"});
      std::size_t size_bytes = 0;
      if (is_get_) {
        grpc::Slice slice;
        message_.DumpToSingleSlice(&slice).ok();
        size_bytes = std::stoull(std::string(slice.begin(), slice.end()));
      }
      message_ = Borrowed(memory_, size_bytes);
      StartWriteAndFinish(&message_, {}, grpc::Status::OK);
    }
    void OnDone() override { delete this; }

    const std::string& memory_;
    const bool is_get_;
    grpc::ByteBuffer message_;
  };

  const std::string memory_ = std::string(kMaxBytes, 'x');
};

class Client {
 public:
  explicit Client(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    const auto channel =
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::TensorService::NewStub(channel);
    echo_ = std::make_unique<grpc::GenericStub>(channel);
    chunk_.set_chunk(std::string(kChunkBytes, 'x'));
  }

  void EchoPut(std::size_t size_bytes) {
    if (Echo("/echo/Put", Borrowed(memory_, size_bytes)).Length() != 0) Die("echo: wrong answer");
  }

  void EchoGet(std::size_t size_bytes) {
    const grpc::Slice size(std::to_string(size_bytes));
    if (Echo("/echo/Get", grpc::ByteBuffer(&size, 1)).Length() != size_bytes) {
      Die("echo: wrong answer");
    }
  }

  // An upload of zeros' worth; with `digest`, the server hashes it. Returns the handle.
  std::string Upload(std::size_t size_bytes, const std::string& digest) {
    grpc::ClientContext context;
    v1::UploadResponse response;
    const auto writer = stub_->Upload(&context, &response);
    v1::UploadRequest header;
    header.mutable_header()->set_dtype(v1::BOOL);
    header.mutable_header()->add_shape(static_cast<std::int64_t>(size_bytes));
    header.mutable_header()->set_sha256(digest);
    writer->Write(header);
    for (std::size_t sent = 0; sent < size_bytes; sent += kChunkBytes) writer->Write(chunk_);
    writer->WritesDone();
    if (const grpc::Status status = writer->Finish(); !status.ok()) Die(status.error_message());
    return response.info().handle();
  }

  void Download(const std::string& handle, std::size_t size_bytes) {
    grpc::ClientContext context;
    v1::DownloadRequest request;
    request.set_handle(handle);
    const auto reader = stub_->Download(&context, request);
    std::size_t received = 0;
    v1::DownloadResponse response;
    while (reader->Read(&response)) received += response.chunk().size();
    if (const grpc::Status status = reader->Finish(); !status.ok()) Die(status.error_message());
    if (received != size_bytes) Die("bytes are missing");
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
  v1::UploadRequest chunk_;
  const std::string memory_ = std::string(kMaxBytes, 'x');
};

// Median seconds of `call`, repeated for about `budget`, at least three times after a warm-up;
// `cleanup` is not timed.
double MedianSeconds(absl::Duration budget, const std::function<void()>& call,
                     const std::function<void()>& cleanup) {
  std::vector<double> seconds;
  const absl::Time end = absl::Now() + budget;
  while (seconds.size() < 4 || absl::Now() < end) {
    const absl::Time start = absl::Now();
    call();
    seconds.push_back(absl::ToDoubleSeconds(absl::Now() - start));
    cleanup();
  }
  seconds.erase(seconds.begin());
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

std::string DigestOfUpload(std::size_t size_bytes) {
  const std::string bytes(size_bytes, 'x');
  Sha256 sha256;
  sha256.Update(bytes.data(), bytes.size());
  const Sha256Digest digest = *sha256.Finish();
  return std::string(digest.begin(), digest.end());
}

nlohmann::json Measure(Client& client, std::string_view transport, std::size_t size_bytes,
                       absl::Duration budget) {
  std::string handle;
  const auto drop = [&] { client.Delete(handle); };
  const double echo_put = MedianSeconds(
      budget, [&] { client.EchoPut(size_bytes); }, [] {});
  const double echo_get = MedianSeconds(
      budget, [&] { client.EchoGet(size_bytes); }, [] {});
  const double upload = MedianSeconds(
      budget, [&] { handle = client.Upload(size_bytes, ""); }, drop);
  const std::string digest = DigestOfUpload(size_bytes);
  const double hashed = MedianSeconds(
      budget, [&] { handle = client.Upload(size_bytes, digest); }, drop);
  handle = client.Upload(size_bytes, "");
  const double download = MedianSeconds(
      budget, [&] { client.Download(handle, size_bytes); }, [] {});
  drop();
  const auto rate = [size_bytes](double seconds) {
    return static_cast<double>(size_bytes) / seconds / 1e9;
  };
  std::printf("%-9s %5zu MiB  %8.2f  %5.2f  %15.2f  %8.2f  %5.2f\n", std::string(transport).c_str(),
              size_bytes / kMiB, rate(upload), echo_put / upload, rate(hashed), rate(download),
              echo_get / download);
  return {{"transport", transport},
          {"size_bytes", size_bytes},
          {"upload_seconds", upload},
          {"upload_sha256_seconds", hashed},
          {"download_seconds", download},
          {"echo_put_seconds", echo_put},
          {"echo_get_seconds", echo_get},
          {"upload_to_echo", echo_put / upload},
          {"download_to_echo", echo_get / download},
          {"upload_gigabytes_per_second", rate(upload)},
          {"upload_sha256_gigabytes_per_second", rate(hashed)},
          {"download_gigabytes_per_second", rate(download)}};
}

int Main(int argc, char** argv) {
  std::string json_path;
  absl::Duration budget = absl::Seconds(1);
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    if (flag == "--json") {
      json_path = argv[i + 1];
    } else if (flag == "--seconds") {
      budget = absl::Seconds(std::atof(argv[i + 1]));
    } else {
      Die("usage: store_bench [--json FILE] [--seconds PER_CASE]");
    }
  }

  TensorStore store(HostMemory(), {.capacity_bytes = 1024 * kMiB});
  const DrainGate gate;
  Authenticator authenticator;
  const Admission admission(gate, authenticator);
  TensorService service(store, admission);
  const std::string socket = "unix:/tmp/theria_store_bench." + std::to_string(getpid());
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.AddListeningPort(socket, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  EchoService echo;
  builder.RegisterCallbackGenericService(&echo);
  builder.SetMaxReceiveMessageSize(-1);
  builder.SetContextAllocator(MakeContextAllocator());
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) Die("cannot listen");

  std::printf("GB/s, median, chunks of 1 MiB; ratio: to the raw echo's\n");
  std::printf("transport      size    upload  ratio  upload + sha256  download  ratio\n");
  nlohmann::json results = nlohmann::json::array();
  const std::pair<std::string, std::string> transports[] = {
      {"tcp", "127.0.0.1:" + std::to_string(port)}, {"unix", socket}};
  for (const auto& [transport, address] : transports) {
    Client client(address);
    for (const std::size_t size : {kMiB, 16 * kMiB, 256 * kMiB}) {
      results.push_back(Measure(client, transport, size, budget));
    }
  }
  server->Shutdown();
  if (!json_path.empty()) {
    std::ofstream file(json_path);
    file << nlohmann::json{{"benchmark", "store"}, {"results", results}}.dump(2) << '\n';
    if (!file.good()) Die("cannot write " + json_path);
  }
  return 0;
}

}  // namespace
}  // namespace theria::server

int main(int argc, char** argv) { return theria::server::Main(argc, argv); }
