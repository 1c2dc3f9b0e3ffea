// The upload state machine, in a server of this process: the input is a script of messages. Each
// step is two bytes and what they announce:
//
//     0 n   n bytes follow, sent as they are
//     1 n   a chunk of n bytes
//     2 n   a header of dtype BOOL and shape [n]
//     3 n   the same with the SHA-256 of n bytes of value 0x5A
//     4 n   the client breaks off
//
// However the call ends, nothing is left pending; what it stored are the bytes that came, and those
// alone; deleting that leaves an empty store.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "server/cache/sha256.h"
#include "server/rpc/request_context.h"
#include "server/rpc/tensor_service.h"
#include "tests/fuzz/expect.h"

namespace theria::server {
namespace {

// A service on a channel within the process.
struct Server {
  Server() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service);
    builder.SetContextAllocator(MakeContextAllocator());
    server = builder.BuildAndStart();
    channel = server->InProcessChannel({});
  }

  TensorStore store{HostMemory(), {.capacity_bytes = std::size_t{1} << 20}};
  DrainGate gate;
  Authenticator authenticator;
  Admission admission{gate, authenticator};
  TensorService service{store, admission};
  std::unique_ptr<grpc::Server> server;
  std::shared_ptr<grpc::Channel> channel;
};

std::string DigestOf(const std::string& bytes) {
  Sha256 sha256;
  sha256.Update(bytes.data(), bytes.size());
  const Sha256Digest digest = *sha256.Finish();
  return {digest.begin(), digest.end()};
}

// The serialised messages of a script; `is_cut` if the client breaks off at its end.
struct Script {
  std::vector<std::string> messages;
  bool is_cut = false;
};

Script ReadScript(const std::uint8_t* data, std::size_t size) {
  Script script;
  while (size >= 2 && script.messages.size() < 16) {
    const std::uint8_t kind = data[0] % 5;
    const std::size_t count = data[1];
    data += 2;
    size -= 2;
    if (kind == 4) {
      script.is_cut = true;
      return script;
    }
    v1::UploadRequest message;
    if (kind == 0) {
      const std::size_t taken = std::min(count, size);
      script.messages.emplace_back(reinterpret_cast<const char*>(data), taken);
      data += taken;
      size -= taken;
      continue;
    }
    if (kind == 1) {
      message.set_chunk(std::string(count, '\x5A'));
    } else {
      message.mutable_header()->set_dtype(v1::BOOL);
      message.mutable_header()->add_shape(static_cast<std::int64_t>(count));
      if (kind == 3) message.mutable_header()->set_sha256(DigestOf(std::string(count, '\x5A')));
    }
    script.messages.push_back(message.SerializeAsString());
  }
  return script;
}

// Plays the script; the call's status, and its response if that is OK.
grpc::Status Play(Server& server, const Script& script, v1::UploadResponse& response) {
  grpc::GenericStub stub(server.channel);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  const auto call = stub.PrepareCall(&context, "/theria.v1.TensorService/Upload", &queue);
  void* tag = nullptr;
  bool ok = false;
  const auto next = [&] { return queue.Next(&tag, &ok) && ok; };
  call->StartCall(nullptr);
  bool is_open = next();
  for (const std::string& message : script.messages) {
    if (!is_open) break;
    const grpc::Slice slice(message);
    call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    is_open = next();
  }
  if (script.is_cut) {
    context.TryCancel();
  } else if (is_open) {
    call->WritesDone(nullptr);
    next();
  }
  grpc::ByteBuffer bytes;
  call->Read(&bytes, nullptr);
  const bool has_response = next();
  grpc::Status status;
  call->Finish(&status, nullptr);
  next();
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  if (status.ok()) {
    THERIA_FUZZ_EXPECT(has_response);
    THERIA_FUZZ_EXPECT(
        grpc::SerializationTraits<v1::UploadResponse>::Deserialize(&bytes, &response).ok());
  }
  return status;
}

// Waits for what the server does after its answer.
template <typename Condition>
void Await(const Condition& condition) {
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (!condition()) {
    THERIA_FUZZ_EXPECT(absl::Now() < end);
    std::this_thread::yield();
  }
}

void TestOne(const std::uint8_t* data, std::size_t size) {
  static Server& server = *new Server;
  TensorStore& store = server.store;
  const Script script = ReadScript(data, size);
  v1::UploadResponse response;
  const grpc::Status status = Play(server, script, response);
  if (status.ok()) {
    const absl::StatusOr<TensorLease> lease = store.Acquire({}, response.info().handle());
    THERIA_FUZZ_EXPECT(lease.ok());
    THERIA_FUZZ_EXPECT(lease->spec().SizeBytes() > 0);
    THERIA_FUZZ_EXPECT(lease->spec().SizeBytes() == response.info().size_bytes());
  } else {
    THERIA_FUZZ_EXPECT(status.error_code() != grpc::StatusCode::INTERNAL);
    THERIA_FUZZ_EXPECT(status.error_code() != grpc::StatusCode::UNKNOWN);
  }
  Await([&] { return store.stats().pending_bytes == 0; });
  // A call that was cut may have been complete, and be stored a little later.
  Await([&] {
    const auto page = store.List({}, 100, "");
    THERIA_FUZZ_EXPECT(page.ok());
    THERIA_FUZZ_EXPECT(page->tensors.empty() || status.ok() || script.is_cut);
    for (const TensorInfo& info : page->tensors) store.Delete({}, info.handle).IgnoreError();
    return store.stats().used_bytes == 0;
  });
}

}  // namespace
}  // namespace theria::server

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  theria::server::TestOne(data, size);
  return 0;
}
