#ifndef THERIA_SERVER_RPC_REQUEST_CONTEXT_H_
#define THERIA_SERVER_RPC_REQUEST_CONTEXT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/engine/account.h"
#include "server/engine/job.h"

// gRPC's context of one callback RPC, with what interceptor and method tell each other: the id of
// the request, and for the log what it moved and cost. The fields are written by the method before
// it finishes the call and read by the interceptor after that.

namespace theria::server {

// 16 hexadecimal digits, all but certainly unique.
std::string NewRequestId();

class RequestContext : public grpc::CallbackServerContext {
 public:
  // The context that a method of a server built with MakeContextAllocator got.
  static RequestContext& Of(grpc::CallbackServerContext* context) {
    return *static_cast<RequestContext*>(context);
  }

  const std::string& id() const { return id_; }

  // Who calls. REQUIRES of account: Admission admitted the call.
  void SetAccount(Account& account) { account_ = &account; }
  bool has_account() const { return account_ != nullptr; }
  Account& account() const { return *account_; }
  const TenantId& tenant() const { return account_->tenant(); }

  Priority priority = Priority::kNormal;
  std::uint64_t request_bytes = 0;
  std::optional<absl::Duration> queue_time;
  std::optional<absl::Duration> compute_time;

 private:
  const std::string id_ = NewRequestId();
  Account* account_ = nullptr;
};

// For grpc::ServerBuilder::SetContextAllocator.
std::unique_ptr<grpc::ContextAllocator> MakeContextAllocator();

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_REQUEST_CONTEXT_H_
