// The upload state machine, in a server of this process: the input is a script of messages. Each
// step is two bytes and what they announce:
//
//     0 n   n bytes follow, sent as they are, but for the name of a region, which may be Known's
//     1 n   a chunk of n bytes of value kChunkByte
//     2 n   a header of dtype BOOL and shape [n]
//     3 n   the same with the SHA-256 of n bytes of value kChunkByte
//     4 n   the client breaks off
//     5 n   a header as of 2, whose elements are in the shared region a or, n odd, b
//     6 n   as the first step, n odd: the tensors of the server are on a device
//
// However the call ends, nothing is left pending; what it stored are the bytes that came, and those
// alone; deleting that leaves the store as it was.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "server/cache/sha256.h"
#include "tests/fuzz/call.h"
#include "tests/fuzz/expect.h"

namespace theria::server {
namespace {

constexpr char kChunkByte = 0x5A;

std::string DigestOf(const std::string& bytes) {
  Sha256 sha256;
  sha256.Update(bytes.data(), bytes.size());
  const Sha256Digest digest = *sha256.Finish();
  return {digest.begin(), digest.end()};
}

struct Script {
  Call call{.method = "Upload"};
  bool is_raw = false;     // the bytes of a chunk may be any
  bool is_shared = false;  // a header names a region
};

// Bytes that are an upload's message, with names of regions that live; else as they are.
std::string NameIn(const std::string& bytes, const Known& known, Script& script) {
  v1::UploadRequest message;
  if (!message.ParseFromString(bytes) || !message.header().has_shared_memory()) return bytes;
  script.is_shared = true;
  known.Name(message);
  return message.SerializeAsString();
}

std::string Message(int kind, std::size_t count) {
  v1::UploadRequest message;
  if (kind == 1) {
    message.set_chunk(std::string(count, kChunkByte));
    return message.SerializeAsString();
  }
  v1::UploadHeader& header = *message.mutable_header();
  header.set_dtype(v1::BOOL);
  header.add_shape(static_cast<std::int64_t>(count));
  if (kind == 3) header.set_sha256(DigestOf(std::string(count, kChunkByte)));
  if (kind == 5) {
    header.mutable_shared_memory()->set_region(count % 2 == 0 ? "a" : "b");
    header.mutable_shared_memory()->set_size_bytes(count);
  }
  return message.SerializeAsString();
}

bool HasDevice(const std::uint8_t* data, std::size_t size) {
  return size >= 2 && data[0] % 7 == 6 && data[1] % 2 != 0;
}

Script ReadScript(const std::uint8_t* data, std::size_t size, const Known& known) {
  Script script;
  std::vector<std::string>& messages = script.call.messages;
  while (size >= 2 && messages.size() < 16) {
    const int kind = data[0] % 7;
    const std::size_t count = data[1];
    data += 2;
    size -= 2;
    if (kind == 6) continue;
    if (kind == 4) {
      script.call.is_cut = true;
      break;
    }
    std::string message;
    if (kind == 0) {
      const std::size_t taken = std::min(count, size);
      message.assign(reinterpret_cast<const char*>(data), taken);
      script.is_raw = true;
      data += taken;
      size -= taken;
    } else {
      message = Message(kind, count);
    }
    messages.push_back(NameIn(message, known, script));
  }
  return script;
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

void CheckStored(const Script& script, const Known& known, TensorStore& store, Answer answer) {
  THERIA_FUZZ_EXPECT(answer.messages.size() == 1);
  v1::UploadResponse response;
  THERIA_FUZZ_EXPECT(grpc::SerializationTraits<v1::UploadResponse>::Deserialize(
                         &answer.messages.front(), &response)
                         .ok());
  const absl::StatusOr<TensorLease> lease = store.Acquire({}, response.info().handle());
  THERIA_FUZZ_EXPECT(lease.ok());
  const std::string stored = known.Read(*lease);
  THERIA_FUZZ_EXPECT(!stored.empty());
  THERIA_FUZZ_EXPECT(stored.size() == response.info().size_bytes());
  // Of two headers the second is refused: what names a region took its bytes from there.
  const char expected = script.is_shared ? Known::kFill : kChunkByte;
  if (script.is_shared || !script.is_raw) {
    THERIA_FUZZ_EXPECT(stored.find_first_not_of(expected) == std::string::npos);
  }
}

void TestOne(const std::uint8_t* data, std::size_t size) {
  TensorServer& server =
      HasDevice(data, size) ? TensorServer::OverFakeDevice() : TensorServer::OverHost();
  const Known& known = server.known;
  TensorStore& store = server.known.store();
  const std::size_t used_bytes = store.stats().used_bytes;
  const Script script = ReadScript(data, size, known);
  const Answer answer = Make(script.call, server);
  const bool is_ok = answer.status.ok();
  if (is_ok) CheckStored(script, known, store, answer);
  Await([&] { return store.stats().pending_bytes == 0; });
  // A call that was cut may have been complete, and be stored a little later.
  Await([&] {
    const auto page = store.List({}, 100, "");
    THERIA_FUZZ_EXPECT(page.ok());
    for (const TensorInfo& info : page->tensors) {
      if (known.HasTensor(info.handle)) continue;
      THERIA_FUZZ_EXPECT(is_ok || script.call.is_cut);
      store.Delete({}, info.handle).IgnoreError();
    }
    return store.stats().used_bytes == used_bytes;
  });
  THERIA_FUZZ_EXPECT(known.IsUntouchedBut({}));
}

}  // namespace
}  // namespace theria::server

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  theria::server::TestOne(data, size);
  return 0;
}
