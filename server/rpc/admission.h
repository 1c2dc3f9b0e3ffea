#ifndef THERIA_SERVER_RPC_ADMISSION_H_
#define THERIA_SERVER_RPC_ADMISSION_H_

#include "absl/status/status.h"
#include "server/identity/authenticator.h"
#include "server/rpc/drain_gate.h"
#include "server/rpc/request_context.h"

// The first thing that every method of every service of ours asks: is the server open, who calls,
// may he call now? Thread-safe.

namespace theria::server {

// Metadata by which a client ranks a call among its tenant's own: "high", "normal", "low".
inline constexpr char kPriorityKey[] = "theria-priority";

class Admission {
 public:
  // Both must outlive this.
  Admission(const DrainGate& gate, Authenticator& authenticator)
      : gate_(gate), authenticator_(authenticator) {}

  // On OK the context has its account and priority. Errors: UNAVAILABLE (draining);
  // UNAUTHENTICATED; RESOURCE_EXHAUSTED with RetryAfterOf (the tenant's rate); INVALID_ARGUMENT
  // with FieldOf kPriorityKey.
  absl::Status Admit(RequestContext& context) const;

 private:
  const DrainGate& gate_;
  Authenticator& authenticator_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_ADMISSION_H_
