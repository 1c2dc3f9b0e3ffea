// Uses the installed meta-learning library, which needs no server for this.

#include "theria/maml_task.h"

int main() {
  const theria::maml::TaskSpec spec;
  const theria::maml::Vector parameters = theria::maml::MakeParameters(spec, 0);
  const auto expected = 3 * spec.d_model * spec.d_model + (spec.d_model + 1) * spec.classes;
  return parameters.size() == expected ? 0 : 1;
}
