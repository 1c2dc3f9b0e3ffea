#include "tests/fuzz/call.h"

#include <chrono>
#include <utility>

#include "grpcpp/generic/generic_stub.h"
#include "server/rpc/request_context.h"
#include "tests/fuzz/expect.h"
#include "tests/unit/server/fake_device.h"

namespace theria::server {

TensorServer& TensorServer::OverHost() {
  static TensorServer& server = *new TensorServer(HostMemory());
  return server;
}

TensorServer& TensorServer::OverFakeDevice() {
  static FakeDeviceMemory& device = *new FakeDeviceMemory;
  static TensorServer& server = *new TensorServer(device);
  return server;
}

// Chunks of a download as small as a client asks for: tensors of the fuzz targets are.
TensorServer::TensorServer(Memory& memory)
    : known(memory), service(known.store(), admission, {.min_chunk_bytes = 1}, &known.regions()) {
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  builder.SetContextAllocator(MakeContextAllocator());
  server = builder.BuildAndStart();
  channel = server->InProcessChannel({});
}

Answer Make(const Call& call, TensorServer& server) {
  grpc::GenericStub stub(server.channel);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  const auto stream = stub.PrepareCall(&context, "/theria.v1.TensorService/" + call.method, &queue);
  void* tag = nullptr;
  bool ok = false;
  const auto next = [&] { return queue.Next(&tag, &ok) && ok; };
  stream->StartCall(nullptr);
  bool is_open = next();
  for (const std::string& message : call.messages) {
    if (!is_open) break;
    const grpc::Slice slice(message);
    stream->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    is_open = next();
  }
  if (call.is_cut) {
    context.TryCancel();
  } else if (is_open) {
    stream->WritesDone(nullptr);
    next();
  }
  Answer answer;
  for (;;) {
    grpc::ByteBuffer message;
    stream->Read(&message, nullptr);
    if (!next()) break;
    answer.messages.push_back(std::move(message));
  }
  stream->Finish(&answer.status, nullptr);
  next();
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  THERIA_FUZZ_EXPECT(answer.status.error_code() != grpc::StatusCode::INTERNAL);
  THERIA_FUZZ_EXPECT(answer.status.error_code() != grpc::StatusCode::UNKNOWN);
  return answer;
}

}  // namespace theria::server
