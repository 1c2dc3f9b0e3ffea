#include "theria/attention.h"

namespace theria::client {

std::string_view OperationName(Operation operation) {
  switch (operation) {
    case Operation::kForward:
      return "forward";
    case Operation::kVjp:
      return "vjp";
    case Operation::kJvp:
      return "jvp";
    case Operation::kHvp:
      return "hvp";
  }
  return "unknown";
}

std::string_view ImplementationName(Implementation implementation) {
  switch (implementation) {
    case Implementation::kAuto:
      return "auto";
    case Implementation::kFused:
      return "fused";
    case Implementation::kUnfused:
      return "unfused";
    case Implementation::kReference:
      return "reference";
  }
  return "unknown";
}

std::string_view PrecisionName(Precision precision) {
  return precision == Precision::kFast ? "fast" : "strict";
}

}  // namespace theria::client
