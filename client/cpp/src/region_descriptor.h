#ifndef THERIA_CLIENT_CPP_SRC_REGION_DESCRIPTOR_H_
#define THERIA_CLIENT_CPP_SRC_REGION_DESCRIPTOR_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/src/shared_region_state.h"
#include "theria/v1/shared_memory.pb.h"

namespace theria::client {

// Gets the file descriptor of a new region at its unix socket, and maps it. Errors: UNAVAILABLE if
// the socket cannot be reached: another host, another container, no permission; DEADLINE_EXCEEDED;
// INTERNAL if the server gives none; those of State::Map.
absl::StatusOr<std::shared_ptr<SharedRegion::State>> MapRegion(const v1::RegionInfo& info,
                                                               absl::Time deadline);

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_REGION_DESCRIPTOR_H_
