#ifndef THERIA_TESTS_FUZZ_CALL_H_
#define THERIA_TESTS_FUZZ_CALL_H_

#include <memory>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "server/rpc/tensor_service.h"
#include "tests/fuzz/known.h"

// Calls of theria.v1.TensorService within this process, of whatever bytes.

namespace theria::server {

// The service over Known's tensors and regions, on a channel without a network.
struct TensorServer {
  // Outlives the process's end, as the connections of its channel may.
  static TensorServer& OverHost();
  static TensorServer& OverFakeDevice();

  Known known;
  DrainGate gate;
  Authenticator authenticator;
  Admission admission{gate, authenticator};
  TensorService service;
  std::unique_ptr<grpc::Server> server;
  std::shared_ptr<grpc::Channel> channel;

 private:
  explicit TensorServer(Memory& memory);
};

struct Call {
  std::string method;                 // "Upload"
  std::vector<std::string> messages;  // serialised, sent one after the other
  bool is_cut = false;                // the client breaks off when they are out
};

struct Answer {
  grpc::Status status;
  std::vector<grpc::ByteBuffer> messages;
};

// Makes the call and reads to its end. What ends it is the contract's: not INTERNAL, not UNKNOWN.
Answer Make(const Call& call, TensorServer& server);

}  // namespace theria::server

#endif  // THERIA_TESTS_FUZZ_CALL_H_
