// Throughput of transfers of 1, 16 and 256 MiB over loopback TCP and a unix socket, client and
// server in one process, one call at a time, as multiples of a raw echo on the same connection,
// which moves one ByteBuffer of that size in one call each way, out of memory that its owner keeps,
// and stores nothing:
//
// - the same echo made to keep what it gets, in memory of one piece: what any store must do;
// - uploads and downloads of the tensor store, in chunks that refer to the client's memory;
// - the same by shared memory: one copy between region and store;
// - tensors handed over in shared memory: Forward reads k and v, which make up the size, where they
//   are. Its time less the time in which it queued and computed;
// - a call that moves nothing, which no other can beat;
// - the public C++ client: Put of a tensor that it owns and of one that it borrows, Get, and
// Forward
//   with k and v inline, its time less queue and computation.
//
//     store_bench [--json FILE] [--seconds PER_CASE]

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/api/memory.h"
#include "kernels/cpu/backend.h"
#include "nlohmann/json.hpp"
#include "server/cache/sha256.h"
#include "server/cache/shared_regions.h"
#include "server/cache/tensor_store.h"
#include "server/rpc/attention_service.h"
#include "server/rpc/request_context.h"
#include "server/rpc/tensor_service.h"
#include "theria/client.h"
#include "theria/v1/tensor_store.grpc.pb.h"

namespace theria::server {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::int64_t kHeadDim = 64;
constexpr std::size_t kChunkBytes = 2 * kMiB;

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "store_bench: %s\n", why.c_str());
  std::exit(1);
}

constexpr std::size_t kMaxBytes = 256 * kMiB;

// Bytes that a transport sends from where they are.
grpc::Slice Borrow(const char* data, std::size_t size_bytes) {
  return grpc::Slice(
      const_cast<char*>(data), size_bytes, [](void*) {}, nullptr);
}

grpc::ByteBuffer Borrowed(const std::string& memory, std::size_t size_bytes) {
  const grpc::Slice slice = Borrow(memory.data(), size_bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// What stands before the bytes of a chunk in its message: tag and size.
std::string ChunkHead(std::size_t chunk_bytes) {
  std::string head(1, static_cast<char>(v1::UploadRequest::kChunkFieldNumber << 3 | 2));
  std::size_t left = chunk_bytes;
  for (; left >= 0x80; left >>= 7) head.push_back(static_cast<char>(left | 0x80));
  head.push_back(static_cast<char>(left));
  return head;
}

// The peer: "/echo/Put" answers with nothing, "/echo/Keep" too, with the bytes in its memory;
// "/echo/Get" answers with as many bytes as its request says.
class EchoService final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new Call(memory_, context->method());
  }

 private:
  class Call final : public grpc::ServerGenericBidiReactor {
   public:
    Call(std::string& memory, std::string method) : memory_(memory), method_(std::move(method)) {
      StartRead(&message_);
    }

   private:
    void OnReadDone(bool ok) override {
      if (!ok) return Finish({grpc::StatusCode::INTERNAL, "no message"});
      std::size_t size_bytes = 0;
      if (method_ == "/echo/Keep") Keep();
      if (method_ == "/echo/Get") {
        grpc::Slice slice;
        message_.DumpToSingleSlice(&slice).ok();
        size_bytes = std::stoull(std::string(slice.begin(), slice.end()));
      }
      message_ = Borrowed(memory_, size_bytes);
      StartWriteAndFinish(&message_, {}, grpc::Status::OK);
    }
    void OnDone() override { delete this; }

    void Keep() {
      std::vector<grpc::Slice> slices;
      message_.Dump(&slices).ok();
      char* end = memory_.data();
      for (const grpc::Slice& slice : slices) end = std::copy(slice.begin(), slice.end(), end);
    }

    std::string& memory_;
    const std::string method_;
    grpc::ByteBuffer message_;
  };

  std::string memory_ = std::string(kMaxBytes, 'x');
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
      const grpc::Slice slices[] = {grpc::Slice(ChunkHead(chunk_bytes)),
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

// The library that users call, on a connection of its own.
class PublicClient {
 public:
  explicit PublicClient(const std::string& address) : client_(address) {}

  void Put(const client::Tensor& tensor) { resident_ = Checked(client_.Put(tensor)); }

  void Get() {
    if (Checked(client_.Get(*resident_)).shape() != resident_->shape()) {
      Die("bytes are missing");
    }
  }

  void Delete() {
    if (absl::Status status = client_.Delete(*resident_); !status.ok()) Die(status.ToString());
  }

  // As Client::HandOver, of tensors that travel with the request.
  double HandOver(const client::Tensor& q, const client::Tensor& k, const client::Tensor& v) {
    const absl::Time start = absl::Now();
    const client::AttentionResult result = Checked(client_.Forward({.q = q, .k = k, .v = v}));
    return absl::ToDoubleSeconds(absl::Now() - start - result.execution.queue_time -
                                 result.execution.compute_time);
  }

 private:
  template <typename T>
  static T Checked(absl::StatusOr<T> result) {
    if (!result.ok()) Die(result.status().ToString());
    return *std::move(result);
  }

  client::Client client_;
  std::optional<client::ResidentTensor> resident_;
};

double Seconds(const std::function<void()>& call) {
  const absl::Time start = absl::Now();
  call();
  return absl::ToDoubleSeconds(absl::Now() - start);
}

// One of those that take turns, so that what else the machine does falls on all of them alike.
struct Case {
  std::string_view name;
  std::function<double()> seconds;  // makes the call and cleans up after it
};

// Medians over rounds for about `budget` a case, at least three after one that warms up.
std::map<std::string_view, double> Medians(absl::Duration budget, const std::vector<Case>& cases) {
  std::map<std::string_view, std::vector<double>> seconds;
  const absl::Time end = absl::Now() + budget * static_cast<double>(cases.size());
  for (int round = 0; round < 4 || absl::Now() < end; ++round) {
    for (const Case& one : cases) {
      const double once = one.seconds();
      if (round > 0) seconds[one.name].push_back(once);
    }
  }
  std::map<std::string_view, double> medians;
  for (auto& [name, all] : seconds) {
    std::sort(all.begin(), all.end());
    medians[name] = all[all.size() / 2];
  }
  return medians;
}

// Seconds of each case, and how many times faster it is than the echo that moves as much its way.
nlohmann::json Ratios(const std::map<std::string_view, double>& medians) {
  nlohmann::json result;
  for (const auto& [name, seconds] : medians) {
    const bool is_download = name.find("download") != name.npos || name.find("_get") != name.npos;
    result[std::string(name) + "_seconds"] = seconds;
    result[std::string(name) + "_to_echo"] =
        medians.at(is_download ? "echo_get" : "echo_put") / seconds;
  }
  return result;
}

std::string DigestOfUpload(std::size_t size_bytes) {
  const std::string bytes(size_bytes, 'x');
  Sha256 sha256;
  sha256.Update(bytes.data(), bytes.size());
  const Sha256Digest digest = *sha256.Finish();
  return std::string(digest.begin(), digest.end());
}

nlohmann::json Measure(Client& client, SharedRegions& regions, std::string_view transport,
                       std::size_t size_bytes, absl::Duration budget) {
  const absl::StatusOr<SharedRegionInfo> region =
      regions.Create(TenantId{}, size_bytes, absl::ZeroDuration());
  if (!region.ok()) Die(region.status().ToString());
  std::memset(regions.OfName(region->name)->data(), 0, size_bytes);
  v1::SharedMemoryRef part;
  part.set_region(region->name);
  part.set_size_bytes(size_bytes);

  const auto uploaded = [&](const std::function<std::string()>& upload) {
    std::string handle;
    const double seconds = Seconds([&] { handle = upload(); });
    client.Delete(handle);
    return seconds;
  };
  const std::string digest = DigestOfUpload(size_bytes);
  const std::string kept = client.Upload(size_bytes, "");
  const std::map<std::string_view, double> medians = Medians(
      budget,
      {{"empty_call", [&] { return Seconds([&] { client.EchoGet(0); }); }},
       {"echo_put", [&] { return Seconds([&] { client.EchoPut(size_bytes, false); }); }},
       {"echo_keep", [&] { return Seconds([&] { client.EchoPut(size_bytes, true); }); }},
       {"upload", [&] { return uploaded([&] { return client.Upload(size_bytes, ""); }); }},
       {"upload_sha256",
        [&] { return uploaded([&] { return client.Upload(size_bytes, digest); }); }},
       {"shared_upload", [&] { return uploaded([&] { return client.UploadShared(part); }); }},
       {"echo_get", [&] { return Seconds([&] { client.EchoGet(size_bytes); }); }},
       {"download", [&] { return Seconds([&] { client.Download(kept, size_bytes); }); }},
       {"shared_download", [&] { return Seconds([&] { client.DownloadShared(kept, part); }); }},
       {"hand_over", [&] { return client.HandOver(region->name, size_bytes); }}});
  client.Delete(kept);
  if (!regions.Delete(TenantId{}, region->name).ok()) Die("the region is gone");

  nlohmann::json result = Ratios(medians);
  const auto ratio = [&](const std::string& name) {
    return result[name + "_to_echo"].get<double>();
  };
  const auto gigabytes_per_second = [&](std::string_view name) {
    return static_cast<double>(size_bytes) / medians.at(name) / 1e9;
  };
  std::printf("%-4s %4zu MiB | %5.2f %5.2f | %5.2f %5.2f %5.2f | %6.2f %6.2f | %8.1f | %7.1f |",
              std::string(transport).c_str(), size_bytes / kMiB, gigabytes_per_second("echo_put"),
              gigabytes_per_second("echo_get"), ratio("echo_keep"), ratio("upload"),
              ratio("download"), ratio("shared_upload"), ratio("shared_download"),
              ratio("hand_over"), ratio("empty_call"));
  result["transport"] = transport;
  result["size_bytes"] = size_bytes;
  return result;
}

// The same of the public client, in turns with the echo.
nlohmann::json MeasurePublic(Client& echo, PublicClient& client, std::size_t size_bytes,
                             absl::Duration budget) {
  using client::DType;
  using client::Tensor;
  const Tensor owned = Tensor::Zeros(DType::kBool, {static_cast<std::int64_t>(size_bytes)});
  const Tensor borrowed = Tensor::Borrow(DType::kBool, owned.data(), owned.shape());
  const auto seq = static_cast<std::int64_t>(size_bytes / 2 / sizeof(float)) / kHeadDim;
  const Tensor q = Tensor::Zeros(DType::kFloat32, {1, 1, 1, kHeadDim});
  const Tensor kv = Tensor::Zeros(DType::kFloat32, {1, 1, seq, kHeadDim});
  const auto put = [&](const Tensor& tensor) {
    const double seconds = Seconds([&] { client.Put(tensor); });
    client.Delete();
    return seconds;
  };
  const auto get = [&] {
    client.Put(owned);
    const double seconds = Seconds([&] { client.Get(); });
    client.Delete();
    return seconds;
  };
  const nlohmann::json result = Ratios(Medians(
      budget, {{"echo_put", [&] { return Seconds([&] { echo.EchoPut(size_bytes, false); }); }},
               {"client_put", [&] { return put(owned); }},
               {"client_put_borrowed", [&] { return put(borrowed); }},
               {"client_inline", [&] { return client.HandOver(q, kv, kv); }},
               {"echo_get", [&] { return Seconds([&] { echo.EchoGet(size_bytes); }); }},
               {"client_get", get}}));
  const auto ratio = [&](const std::string& name) {
    return result[name + "_to_echo"].get<double>();
  };
  std::printf(" %5.2f %5.2f %5.2f %5.2f\n", ratio("client_put"), ratio("client_put_borrowed"),
              ratio("client_get"), ratio("client_inline"));
  return result;
}

int Main(int argc, char** argv) {
  std::string json_path;
  absl::Duration budget = absl::Seconds(1);
  for (int i = 1; i < argc; i += 2) {
    const std::string_view flag = argv[i];
    if (i + 1 < argc && flag == "--json") {
      json_path = argv[i + 1];
    } else if (i + 1 < argc && flag == "--seconds") {
      budget = absl::Seconds(std::atof(argv[i + 1]));
    } else {
      Die("usage: store_bench [--json FILE] [--seconds PER_CASE]");
    }
  }

  TensorStore store(HostMemory(), {.capacity_bytes = 1024 * kMiB});
  const DrainGate gate;
  Authenticator authenticator;
  const Admission admission(gate, authenticator);
  SharedRegions regions({});
  TensorService service(store, admission, {}, &regions);
  const std::unique_ptr<Backend> backend = MakeCpuBackend({});
  MetricRegistry registry;
  ComputeMetrics metrics(registry);
  Executor executor({.slots = 2, .max_accepted_jobs = 4, .max_accepted_bytes = 1024 * kMiB},
                    metrics);
  AttentionService attention({*backend, store, executor, metrics, admission, &regions},
                             {512 * kMiB, 1024 * kMiB, 512 * kMiB}, absl::Hours(1));
  const std::string socket = "unix:/tmp/theria_store_bench." + std::to_string(getpid());
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.AddListeningPort(socket, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  builder.RegisterService(&attention);
  EchoService echo;
  builder.RegisterCallbackGenericService(&echo);
  builder.SetMaxReceiveMessageSize(-1);
  builder.SetContextAllocator(MakeContextAllocator());
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) Die("cannot listen");

  std::printf("medians, chunks of up to 2 MiB; all but the echo's GB/s as multiples of the echo\n");
  std::printf(
      "              | echo GB/s   | by messages       | shared memory  | shared   | call of |"
      " C++ client: put,\n");
  std::printf(
      "              |   put   get |  keep    up  down |    up   down | in place | 0 bytes |"
      " borrowed, get, inline\n");
  nlohmann::json results = nlohmann::json::array();
  const std::pair<std::string, std::string> transports[] = {
      {"tcp", "127.0.0.1:" + std::to_string(port)}, {"unix", socket}};
  for (const auto& [transport, address] : transports) {
    Client client(address);
    PublicClient public_client(address);
    for (const std::size_t size : {kMiB, 16 * kMiB, 256 * kMiB}) {
      const nlohmann::json raw = Measure(client, regions, transport, size, budget);
      nlohmann::json row = MeasurePublic(client, public_client, size, budget);
      row.update(raw);
      results.push_back(std::move(row));
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
