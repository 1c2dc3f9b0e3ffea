#include "server/rpc/admission.h"

#include <optional>
#include <string>
#include <string_view>

#include "grpc/grpc_security_constants.h"
#include "grpcpp/security/auth_context.h"
#include "kernels/api/attention.h"
#include "kernels/api/message.h"

namespace theria::server {
namespace {

std::string_view View(const grpc::string_ref& text) { return {text.data(), text.size()}; }

// `peer_name` must outlive them.
Credentials CredentialsOf(const RequestContext& context, const grpc::AuthContext* peer,
                          const std::string& peer_name) {
  Credentials credentials;
  credentials.peer = peer_name;
  const auto [first, last] = context.client_metadata().equal_range("authorization");
  for (auto header = first; header != last; ++header) {
    credentials.authorization.push_back(View(header->second));
  }
  // Names are there only if the listener verified the certificate against its authority.
  if (peer != nullptr && peer->IsPeerAuthenticated()) {
    for (const char* property : {GRPC_X509_SAN_PROPERTY_NAME, GRPC_X509_CN_PROPERTY_NAME}) {
      for (const grpc::string_ref& name : peer->FindPropertyValues(property)) {
        credentials.certificate.push_back(View(name));
      }
    }
  }
  return credentials;
}

absl::StatusOr<Priority> PriorityOf(const RequestContext& context) {
  const auto [first, last] = context.client_metadata().equal_range(kPriorityKey);
  if (first == last) return Priority::kNormal;
  const std::string_view name = View(first->second);
  if (name == "high") return Priority::kHigh;
  if (name == "normal") return Priority::kNormal;
  if (name == "low") return Priority::kLow;
  return InvalidField(kPriorityKey, "must be high, normal or low");
}

}  // namespace

absl::Status Admission::Admit(RequestContext& context) const {
  if (absl::Status open = gate_.Check(); !open.ok()) return open;
  const std::shared_ptr<const grpc::AuthContext> peer = context.auth_context();
  const std::string peer_name = context.peer();
  const absl::StatusOr<Account*> account =
      authenticator_.Authenticate(CredentialsOf(context, peer.get(), peer_name));
  if (!account.ok()) return account.status();
  context.record()->account = *account;
  const absl::StatusOr<Priority> priority = PriorityOf(context);
  if (!priority.ok()) return priority.status();
  context.record()->priority = *priority;
  return (*account)->TakeRequest();
}

}  // namespace theria::server
