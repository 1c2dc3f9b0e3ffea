#include "kernels/c/last_error.h"

#include <exception>
#include <new>
#include <string>

#include "kernels/api/attention.h"

namespace theria::c {
namespace {

struct LastError {
  std::string message;
  std::string field;
};

LastError& OfThisThread() {
  thread_local LastError error;
  return error;
}

}  // namespace

theria_code Record(const absl::Status& status) {
  LastError& error = OfThisThread();
  if (status.ok()) {
    error.message.clear();
    error.field.clear();
    return THERIA_OK;
  }
  error.message = std::string(status.message());
  error.field = FieldOf(status).value_or("");
  return static_cast<theria_code>(status.raw_code());
}

theria_code RecordException() noexcept {
  LastError& error = OfThisThread();
  error.field.clear();
  try {
    throw;
  } catch (const std::bad_alloc&) {
    error.message = "out of memory";  // short enough to need no allocation
    return THERIA_RESOURCE_EXHAUSTED;
  } catch (const std::exception& exception) {
    error.message = exception.what();
    return THERIA_INTERNAL;
  } catch (...) {
    error.message = "unknown error";
    return THERIA_INTERNAL;
  }
}

const char* LastMessage() { return OfThisThread().message.c_str(); }
const char* LastField() { return OfThisThread().field.c_str(); }

}  // namespace theria::c
