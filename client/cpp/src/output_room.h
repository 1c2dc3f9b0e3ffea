#ifndef THERIA_CLIENT_CPP_SRC_OUTPUT_ROOM_H_
#define THERIA_CLIENT_CPP_SRC_OUTPUT_ROOM_H_

#include <memory>

#include "absl/status/statusor.h"
#include "client/cpp/src/shared_region_state.h"
#include "client/cpp/src/shared_regions.h"
#include "theria/attention.h"
#include "theria/v1/attention.pb.h"

namespace theria::client {

// Takes room in OutputSpec::region for the outputs that would come inline, and asks for them there.
// Null, and `message` as it was, where the request names no region, or one that the server has lost
// or that is not of `regions`. Errors: RESOURCE_EXHAUSTED, naming the field, without such room.
absl::StatusOr<std::shared_ptr<SharedRoom>> TakeOutputRoom(Operation operation,
                                                           const AttentionRequest& request,
                                                           const SharedRegions& regions,
                                                           v1::OutputSpec* message);

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_OUTPUT_ROOM_H_
