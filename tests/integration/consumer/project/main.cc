// Uses the installed client library: forward, a resident tensor, JVP against a finite difference,
// an error. Exits with 0 if all is as it must be.

#include <cmath>
#include <cstdio>
#include <vector>

#include "theria/client.h"

namespace {

using theria::client::Client;
using theria::client::Tensor;

int failures = 0;

void Expect(bool holds, const char* what) {
  std::printf("%s: %s\n", holds ? "ok" : "FAILED", what);
  if (!holds) ++failures;
}

Tensor Waves(double phase) {
  std::vector<double> values(2 * 3 * 5 * 4);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(0.7 * i + phase);
  return Tensor::FromValues(values, {2, 3, 5, 4});
}

// base + step * slope.
Tensor Moved(const Tensor& base, const Tensor& slope, double step) {
  std::vector<double> values = base.ToDoubles();
  const std::vector<double> direction = slope.ToDoubles();
  for (std::size_t i = 0; i < values.size(); ++i) values[i] += step * direction[i];
  return Tensor::FromValues(values, base.shape());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  // The server may still be starting.
  Client client(argv[1], {.timeout = absl::Seconds(60), .retry = {.max_attempts = 100}});
  const auto health = client.CheckHealth();
  Expect(health.ok() && *health == theria::client::Health::kServing, "the server serves");
  const auto unknown = client.CheckHealth("no.such.Service");
  Expect(unknown.ok() && *unknown == theria::client::Health::kServiceUnknown,
         "an unknown service is unknown");
  const auto info = client.GetServerInfo();
  Expect(info.ok() && !info->kernels.empty(), "the server lists kernels");

  const Tensor q = Waves(0.0);
  const Tensor k = Waves(1.0);
  const Tensor v = Waves(2.0);
  const Tensor q_dot = Waves(3.0);
  const auto put = client.Put(k);
  Expect(put.ok(), "a tensor can be put");
  if (!put.ok()) return 1;
  const auto jvp =
      client.Jvp({.q = q, .k = *put, .v = v, .q_dot = q_dot, .options = {.is_causal = true}});
  Expect(jvp.ok(), "JVP with a resident tensor");

  const double step = 1e-5;
  const auto forward = [&](double signed_step) {
    return client.Forward(
        {.q = Moved(q, q_dot, signed_step), .k = k, .v = v, .options = {.is_causal = true}});
  };
  const auto above = forward(step);
  const auto below = forward(-step);
  Expect(above.ok() && below.ok(), "forward");
  if (!jvp.ok() || !above.ok() || !below.ok()) return 1;
  double error = 0.0;
  const auto o_dot = jvp->o_dot.local().values<double>();
  for (std::size_t i = 0; i < o_dot.size(); ++i) {
    const double difference =
        (above->o.local().values<double>()[i] - below->o.local().values<double>()[i]) / (2 * step);
    error = std::fmax(error, std::fabs(difference - o_dot[i]));
  }
  Expect(error < 1e-8, "JVP equals the central difference of forward");

  const auto back = client.Get(*put);
  Expect(back.ok() && back->ToDoubles() == k.ToDoubles(), "what was put comes back");
  const auto listed = client.List();
  Expect(listed.ok() && listed->size() == 1, "the store lists one tensor");
  Expect(client.Pin(*put, absl::Seconds(5)).ok() && client.Unpin(*put).ok() &&
             client.Renew(*put, absl::Minutes(1)).ok(),
         "pin, unpin, renew");

  // Somebody else deletes the tensor; the client uploads it again by itself.
  const auto attached = client.Attach(put->handle());
  Expect(attached.ok() && client.Delete(*attached).ok(), "delete by handle");
  const auto again = client.Forward({.q = q, .k = *put, .v = v});
  Expect(again.ok() && put->handle() != attached->handle(), "a lost tensor is uploaded again");
  Expect(client.Delete(*put).ok(), "delete");
  const auto gone = client.Forward({.q = q, .k = *put, .v = v});
  Expect(theria::client::DetailsOf(gone.status()).missing_handles.size() == 1,
         "a deleted tensor is named as missing");

  const auto wrong = client.Forward({.q = q, .k = q.Transposed(2, 3), .v = v});
  Expect(absl::IsInvalidArgument(wrong.status()) &&
             !theria::client::DetailsOf(wrong.status()).field_violations.empty(),
         "an error names its field");
  return failures == 0 ? 0 : 1;
}
