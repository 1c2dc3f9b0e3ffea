#ifndef THERIA_RESIDENT_TENSOR_H_
#define THERIA_RESIDENT_TENSOR_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/time/time.h"
#include "theria/tensor.h"

// Tensors that are resident on a server, and a type for either those or local tensors.

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
  std::string device;         // location of the bytes: "host", "cuda:0"
  int readers = 0;            // requests that are reading it now
};

// A reference to an immutable tensor in the store of one server.
//
// Client::Put, attention calls with resident outputs, and Client::Attach return it. It is cheap to
// copy, and copies refer to the same tensor. Its destructor does not delete the tensor; the end of
// the lease, Client::Delete or eviction does. If Client::Put kept the source and the server has
// lost the tensor, the Client that put it uploads it again, and all copies then refer to the new
// tensor. Use it with clients of the same server and tenant; for others it is missing. Thread-safe.
class ResidentTensor {
 public:
  // The current handle. It changes if the tensor is uploaded again.
  std::string handle() const;
  DType dtype() const;
  const Shape& shape() const;

  // Shared by all copies. Private to the library.
  struct State;
  explicit ResidentTensor(std::shared_ptr<State> state) : state_(std::move(state)) {}
  const std::shared_ptr<State>& state() const { return state_; }

 private:
  std::shared_ptr<State> state_;
};

// A local tensor, a resident tensor, or none: the inputs and outputs of operations.
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
