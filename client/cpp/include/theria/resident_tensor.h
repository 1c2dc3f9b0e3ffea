#ifndef THERIA_RESIDENT_TENSOR_H_
#define THERIA_RESIDENT_TENSOR_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/time/time.h"
#include "theria/tensor.h"

// Tensors that live on a server, and the type that is either those or local ones.

namespace theria::client {

// The description of a tensor in the server's store.
struct TensorInfo {
  std::string handle;
  DType dtype = DType::kFloat32;
  Shape shape;
  std::size_t size_bytes = 0;
  absl::Duration expires_in;  // until the lease ends
  absl::Duration pinned_for;  // until the pin ends by itself; zero: not pinned
  std::string sha256;         // 32 bytes if content-addressed, else empty
  std::string device;         // where the bytes are: "host", "cuda:0"
  int readers = 0;            // requests that read it right now
};

// Refers to an immutable tensor in the store of one server.
//
// Made by Client::Put, by an attention call with a resident output, or by Client::Attach. A cheap
// value: copies refer to the same tensor. It does not delete the tensor when it goes away; the
// lease, Client::Delete or eviction does. Where Client::Put kept the source, the Client that put
// the tensor uploads it again should it find it gone from the server; all copies then refer to the
// new one. For use with clients of the same server and tenant; to others it is missing.
// Thread-safe.
class ResidentTensor {
 public:
  // The name of the tensor at this moment; an upload anew changes it.
  std::string handle() const;
  DType dtype() const;
  const Shape& shape() const;

  // Shared by all copies. Defined by the library alone.
  struct State;
  explicit ResidentTensor(std::shared_ptr<State> state) : state_(std::move(state)) {}
  const std::shared_ptr<State>& state() const { return state_; }

 private:
  std::shared_ptr<State> state_;
};

// A local tensor, a resident one, or none: what operations take and give.
class AnyTensor {
 public:
  AnyTensor() = default;
  AnyTensor(Tensor tensor) : value_(std::move(tensor)) {}  // NOLINT(google-explicit-constructor)
  AnyTensor(ResidentTensor tensor)                         // NOLINT(google-explicit-constructor)
      : value_(std::move(tensor)) {}

  bool has_value() const { return !std::holds_alternative<std::monostate>(value_); }
  bool is_local() const { return std::holds_alternative<Tensor>(value_); }
  bool is_resident() const { return std::holds_alternative<ResidentTensor>(value_); }

  // REQUIRES: is_local().
  const Tensor& local() const { return std::get<Tensor>(value_); }
  // REQUIRES: is_resident().
  const ResidentTensor& resident() const { return std::get<ResidentTensor>(value_); }

 private:
  std::variant<std::monostate, Tensor, ResidentTensor> value_;
};

}  // namespace theria::client

#endif  // THERIA_RESIDENT_TENSOR_H_
