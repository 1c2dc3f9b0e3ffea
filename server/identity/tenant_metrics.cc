#include "server/identity/tenant_metrics.h"

#include <functional>
#include <string>
#include <vector>

namespace theria::server {
namespace {

using Kind = MetricSample::Kind;

struct Metric {
  std::string name;
  std::string help;
  Kind kind;
  std::function<double(const Account&)> value;
};

template <typename Number>
double Value(Number number) {
  return static_cast<double>(number);
}

std::vector<Metric> Metrics(const TensorStore& store, const Executor& executor) {
  return {
      {"theria_tenant_store_bytes", "Bytes that the tenant's tensors hold.", Kind::kGauge,
       [&store](const Account& account) {
         return Value(store.tenant_stats(account.tenant()).used_bytes);
       }},
      {"theria_tenant_store_quota_bytes", "Bytes that they may hold.", Kind::kGauge,
       [&store](const Account& account) {
         return Value(store.tenant_stats(account.tenant()).quota_bytes);
       }},
      {"theria_tenant_accepted_requests", "Requests accepted and not yet answered.", Kind::kGauge,
       [&executor](const Account& account) { return Value(executor.usage(account).jobs); }},
      {"theria_tenant_accepted_bytes", "Bytes of their inputs and outputs.", Kind::kGauge,
       [&executor](const Account& account) { return Value(executor.usage(account).bytes); }},
      {"theria_tenant_requests_total", "Requests that named the tenant.", Kind::kCounter,
       [](const Account& account) { return Value(account.requests()); }},
  };
}

}  // namespace

void AddTenantMetrics(MetricRegistry& registry, const Authenticator& authenticator,
                      const TensorStore& store, const Executor& executor) {
  if (!authenticator.has_tenants()) return;
  registry.AddSource([&authenticator, metrics = Metrics(store, executor)] {
    const std::vector<const Account*> accounts = authenticator.accounts();
    std::vector<MetricSample> samples;
    for (const Metric& metric : metrics) {
      for (const Account* account : accounts) {
        samples.push_back({metric.name,
                           metric.help,
                           metric.kind,
                           {{"tenant", account->tenant().name}},
                           metric.value(*account)});
      }
    }
    for (const Account* account : accounts) {
      for (const Refusal refusal : {Refusal::kRate, Refusal::kQueue, Refusal::kServerFull}) {
        samples.push_back(
            {"theria_tenant_refusals_total",
             "Requests refused with RESOURCE_EXHAUSTED before they were accepted.",
             Kind::kCounter,
             {{"tenant", account->tenant().name}, {"reason", std::string(RefusalName(refusal))}},
             Value(account->refusals(refusal))});
      }
    }
    for (std::size_t refusal = 0; refusal < kLoginRefusals; ++refusal) {
      const auto reason = static_cast<LoginRefusal>(refusal);
      samples.push_back({"theria_refused_logins_total",
                         "Calls refused with UNAUTHENTICATED for their credentials.",
                         Kind::kCounter,
                         {{"reason", std::string(LoginRefusalName(reason))}},
                         Value(authenticator.refused_logins().count(reason))});
    }
    return samples;
  });
}

}  // namespace theria::server
