#include "theria/resident_tensor.h"

#include "client/cpp/src/resident_tensor_state.h"

namespace theria::client {

std::string ResidentTensor::handle() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->handle;
}

DType ResidentTensor::dtype() const { return state_->dtype; }

const Shape& ResidentTensor::shape() const { return state_->shape; }

}  // namespace theria::client
