#ifndef THERIA_SERVER_IDENTITY_TENANT_METRICS_H_
#define THERIA_SERVER_IDENTITY_TENANT_METRICS_H_

#include "server/cache/tensor_store.h"
#include "server/engine/executor.h"
#include "server/identity/authenticator.h"
#include "server/telemetry/metric_registry.h"

// What each tenant uses, at the time of a scrape: theria_tenant_{store_bytes,store_quota_bytes,
// accepted_requests,accepted_bytes}{tenant}, theria_tenant_requests_total{tenant} and
// theria_tenant_refusals_total{tenant,reason}. The tenants file names the labels, no client does.
// And who is none of them: theria_refused_logins_total{reason}, by LoginRefusalName. Nothing
// without a tenants file: the server's own metrics say it all.

namespace theria::server {

// All must outlive the registry's last scrape.
void AddTenantMetrics(MetricRegistry& registry, const Authenticator& authenticator,
                      const TensorStore& store, const Executor& executor);

}  // namespace theria::server

#endif  // THERIA_SERVER_IDENTITY_TENANT_METRICS_H_
