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
// - the public C++ client: Put of a tensor that it owns and of one that it borrows, Get, and a
//   Forward with k and v inline, its time less queue and computation.
//
//     store_bench [--json FILE] [--seconds PER_CASE]

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
#include "tests/bench/store/echo_service.h"
#include "tests/bench/store/raw_bytes.h"
#include "tests/bench/store/raw_client.h"
#include "theria/client.h"

namespace theria::server {
namespace {

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

nlohmann::json Measure(RawClient& client, SharedRegions& regions, std::string_view transport,
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
nlohmann::json MeasurePublic(RawClient& echo, PublicClient& client, std::size_t size_bytes,
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
    RawClient client(address);
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
