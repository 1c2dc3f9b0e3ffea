#include "kernels/api/backend.h"

namespace theria {
namespace {

class NeverInterrupt final : public Interrupt {
 public:
  absl::Status Check() const override { return absl::OkStatus(); }
};

}  // namespace

const Interrupt& NoInterrupt() {
  static const NeverInterrupt interrupt;
  return interrupt;
}

}  // namespace theria
