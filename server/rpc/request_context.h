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
// the request, and for the log what it moved and cost.

namespace theria::server {

// 16 hexadecimal digits, all but certainly unique.
std::string NewRequestId();

// Written by the method before it finishes the call, read by the interceptor after that.
struct RequestRecord {
  Account* account = nullptr;  // lives as long as the server; null: the call was not admitted
  Priority priority = Priority::kNormal;
  std::uint64_t request_bytes = 0;
  std::optional<absl::Duration> queue_time;
  std::optional<absl::Duration> compute_time;
};

class RequestContext : public grpc::CallbackServerContext {
 public:
  // The context that a method of a server built with MakeContextAllocator got.
  static RequestContext& Of(grpc::CallbackServerContext* context) {
    return *static_cast<RequestContext*>(context);
  }

  const std::string& id() const { return id_; }

  // Shared, because gRPC destroys the interceptors when this class's part of the context is gone.
  const std::shared_ptr<RequestRecord>& record() const { return record_; }

  // Who calls, and how urgently. REQUIRES: Admission admitted the call.
  Account& account() const { return *record_->account; }
  const TenantId& tenant() const { return record_->account->tenant(); }
  Priority priority() const { return record_->priority; }

 private:
  const std::string id_ = NewRequestId();
  const std::shared_ptr<RequestRecord> record_ = std::make_shared<RequestRecord>();
};

// For grpc::ServerBuilder::SetContextAllocator.
std::unique_ptr<grpc::ContextAllocator> MakeContextAllocator();

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_REQUEST_CONTEXT_H_
