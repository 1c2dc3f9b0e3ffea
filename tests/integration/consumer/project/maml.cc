// The example of docs/api_cpp.md: trains initial parameters with exact meta-gradients. The argument
// is the address of a server.

#include <iostream>

#include "theria/client.h"
#include "theria/maml_remote_attention.h"
#include "theria/maml_train.h"

int main(int argc, char** argv) {
  using namespace theria;
  client::Client client(argc > 1 ? argv[1] : "localhost:50051");
  maml::RemoteAttention attention(client, {});  // every attention call goes to the server

  const maml::TaskSpec tasks{.length = 12, .d_model = 16, .noise = 0.5};
  const maml::AttentionClassifier model(tasks.d_model, tasks.classes, attention);
  const maml::InnerLoop inner{.steps = 5, .learning_rate = 0.5};
  const maml::OuterLoop outer{.steps = 20, .meta_batch = 4, .learning_rate = 2e-2};

  const maml::Vector initial = maml::MakeParameters(tasks, /*seed=*/0);
  const auto trained =
      maml::MetaTrain(model, tasks, /*seed=*/0, inner, outer, maml::Mode::kFull, initial);
  if (!trained.ok()) {
    std::cerr << trained.status() << '\n';
    return 1;
  }

  const maml::Task held_out = maml::MakeTask(tasks, /*seed=*/1, /*index=*/0);
  for (const maml::Vector& parameters : {initial, *trained}) {
    const auto result =
        maml::ComputeMetaGradient(model, held_out, inner, maml::Mode::kFull, parameters);
    if (!result.ok()) {
      std::cerr << result.status() << '\n';
      return 1;
    }
    std::cout << "query loss: " << result->before.loss << " before adaptation, "
              << result->after.loss << " after\n";
  }
}
