#ifndef THERIA_TESTS_BENCH_STORE_ECHO_SERVICE_H_
#define THERIA_TESTS_BENCH_STORE_ECHO_SERVICE_H_

#include <grpcpp/generic/async_generic_service.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "tests/bench/store/raw_bytes.h"

namespace theria::server {

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

}  // namespace theria::server

#endif  // THERIA_TESTS_BENCH_STORE_ECHO_SERVICE_H_
