// Uses the installed kernels in its own process: rows of equal values average to themselves, and an
// error names its field. Exits with 0 if all is as it must be.

#include <cstdio>
#include <vector>

#include "theria/kernels_context.h"

int main() {
  using theria::kernels::RowMajor;
  using theria::kernels::Sized;

  theria::kernels::Context context;
  if (!theria::kernels::Context::Create({.threads = 2}, &context).ok()) return 1;
  std::vector<float> values(2 * 3 * 4, 0.25f);
  std::vector<float> result(values.size());
  theria_tensor q = RowMajor(values.data(), THERIA_FLOAT32, {1, 2, 3, 4});
  const theria_tensor k = q;
  const theria_tensor o = RowMajor(result.data(), THERIA_FLOAT32, {1, 2, 3, 4});
  auto inputs = Sized<theria_inputs>();
  inputs.q = &q;
  inputs.k = inputs.v = &k;
  auto outputs = Sized<theria_outputs>();
  outputs.o = &o;
  auto options = Sized<theria_options>();
  options.is_causal = 1;
  theria::kernels::Status status = context.Run(THERIA_FORWARD, inputs, options, outputs);
  if (!status.ok() || result != values) return 2;

  q.shape[3] = 3;
  status = context.Run(THERIA_FORWARD, inputs, options, outputs);
  std::printf("%s\n", status.message.c_str());
  return status.code == THERIA_INVALID_ARGUMENT && status.field == "k.shape[3]" ? 0 : 3;
}
