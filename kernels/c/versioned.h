#ifndef THERIA_KERNELS_C_VERSIONED_H_
#define THERIA_KERNELS_C_VERSIONED_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/api/attention.h"
#include "kernels/api/message.h"

// Structs of callers that were compiled against an older or a newer header.

namespace theria::c {

// The caller's struct in this library's layout; fields that the caller does not know are zero.
// `name` is the struct in errors. Errors: INVALID_ARGUMENT where struct_size cannot be right,
// UNIMPLEMENTED where the caller uses a field that this library does not know.
template <typename Struct>
absl::StatusOr<Struct> Read(const Struct* given, std::string_view name) {
  if (given == nullptr) return InvalidField(name, "is NULL");
  std::uint32_t size = 0;
  std::memcpy(&size, given, sizeof(size));
  if (size < sizeof(size)) {
    return InvalidField(Message(name, ".struct_size"),
                        Message("is ", size, ", must be sizeof the struct, ", sizeof(Struct)));
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  if (size > sizeof(Struct) && std::any_of(bytes + sizeof(Struct), bytes + size,
                                           [](unsigned char byte) { return byte != 0; })) {
    return absl::UnimplementedError(
        Message(name, " sets a field that this version of the library does not know"));
  }
  Struct known = {};
  std::memcpy(&known, given, std::min<std::size_t>(size, sizeof(Struct)));
  return known;
}

// Copies `value` into the caller's struct, but for what the caller has no room for. Errors: as
// Read.
template <typename Struct>
absl::Status Write(const Struct& value, Struct* given, std::string_view name) {
  if (given == nullptr) return InvalidField(name, "is NULL");
  std::uint32_t size = 0;
  std::memcpy(&size, given, sizeof(size));
  if (size < sizeof(size)) {
    return InvalidField(Message(name, ".struct_size"),
                        Message("is ", size, ", must be sizeof the struct, ", sizeof(Struct)));
  }
  std::memcpy(given, &value, std::min<std::size_t>(size, sizeof(Struct)));
  std::memcpy(given, &size, sizeof(size));
  return absl::OkStatus();
}

}  // namespace theria::c

#endif  // THERIA_KERNELS_C_VERSIONED_H_
