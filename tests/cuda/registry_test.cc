#include "kernels/cuda/registry.h"

#include <cstddef>
#include <cstdio>
#include <string>

#include "kernels/cuda/tuning.h"

// Which kernels are chosen, on devices that need not be there. Needs no GPU:
//   build/cuda/bin/theria_cuda_registry_test

namespace theria::cuda {
namespace {

int failures = 0;

void Expect(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::printf("FAILED %s\n", what.c_str());
}

constexpr DeviceLimits kA100 = {80, 163 * 1024};
constexpr DeviceLimits kL40 = {89, 99 * 1024};
constexpr DeviceLimits kH200 = {90, 227 * 1024};
constexpr DeviceLimits kB200 = {100, 227 * 1024};

std::string Name(const KernelVariant* variant) { return variant == nullptr ? "" : variant->name; }

void TestTuningTables() {
  const absl::StatusOr<Tuning> tuning = Tuning::Parse(
      "# a comment\n\nforward_bfloat16_d64 long one   # another\nforward_bfloat16_d64 short two\n"
      "forward_bfloat16_d64 long causal three\n");
  Expect(tuning.ok(), "a good table parses");
  if (!tuning.ok()) return;
  const auto choice = [&](LengthClass length, bool is_causal) {
    return tuning->Choice("forward_bfloat16_d64", length, is_causal);
  };
  Expect(choice(LengthClass::kLong, false) == "one", "long");
  Expect(choice(LengthClass::kLong, true) == "three", "long and causal");
  Expect(choice(LengthClass::kShort, false) == "two", "short");
  Expect(choice(LengthClass::kShort, true) == "two", "short, nothing said of causal");
  Expect(choice(LengthClass::kMedium, true).empty(), "no choice");
  const absl::StatusOr<Tuning> again = Tuning::Parse(tuning->ToString());
  Expect(again.ok() && again->ToString() == tuning->ToString(), "what is written is read");
  for (const char* bad : {"forward_bfloat16_d64 long", "a longest b", "a long b c", "a long causal",
                          "a long causal b c"}) {
    const absl::Status status = Tuning::Parse(std::string("# first\n") + bad).status();
    Expect(status.code() == absl::StatusCode::kInvalidArgument &&
               status.message().find("line 2") != std::string::npos,
           std::string("refuses '") + bad + "'");
  }
  Expect(Tuning::Read("/no/such/file").status().code() == absl::StatusCode::kNotFound,
         "a missing file is NOT_FOUND");
}

// What a table or a test names exists once.
void TestNames() {
  for (const KernelVariant& a : KernelVariants()) {
    int count = 0;
    for (const KernelVariant& b : KernelVariants()) count += a.name == b.name ? 1 : 0;
    Expect(count == 1, "one kernel is named " + a.name);
  }
  const Tuning shipped = Tuning::Default("NVIDIA H200");
  for (const KernelVariant& variant : KernelVariants()) {
    for (const LengthClass length :
         {LengthClass::kShort, LengthClass::kMedium, LengthClass::kLong}) {
      for (const bool is_causal : {false, true}) {
        const std::string choice(shipped.Choice(variant.group, length, is_causal));
        bool found = choice.empty();
        for (const KernelVariant& other : KernelVariants()) {
          found |= other.group == variant.group && other.name == choice;
        }
        Expect(found, "the H200's choice exists: " + choice);
      }
    }
  }
}

// Every group is served on every device, but for the VJP in one pass: that exists for compute
// capability 9.0 alone, and only in place of two kernels that are served.
void TestDevices() {
  for (const DeviceLimits& device : {kA100, kL40, kH200, kB200}) {
    const KernelChooser kernels(device, Tuning());
    for (const KernelVariant& variant : KernelVariants()) {
      if (variant.key.kind == KernelKind::kVjp && device.compute_capability != 90) continue;
      const KernelVariant* found =
          kernels.Find(variant.key, {.length = 1000, .is_causal = false, .mapped = true});
      Expect(found == nullptr || CanRun(device, *found), "runs: " + Name(found));
      Expect(found != nullptr && found->key == variant.key,
             "at " + std::to_string(device.compute_capability) + " is served: " + variant.group);
      if (found != nullptr && device.compute_capability != 90) {
        Expect(found->generation == Generation::kSm80, "no wgmma elsewhere: " + found->name);
      }
    }
  }
}

void TestChoices() {
  const KernelKey key = {KernelKind::kForward, Arithmetic::kBFloat16, 128, false, TangentSet::kAll};
  const KernelChooser plain(kH200, Tuning());
  const KernelVariant* first =
      plain.Find(key, {.length = 4096, .is_causal = false, .mapped = true});
  const KernelVariant* unmapped =
      plain.Find(key, {.length = 4096, .is_causal = false, .mapped = false});
  if (first == nullptr || unmapped == nullptr) {
    Expect(false, "the forward pass at head dimension 128 is compiled");
    return;
  }
  Expect(unmapped->generation == Generation::kSm80, "the copy engine is not forced");
  KernelKey smaller = key;
  smaller.dim = 100;
  Expect(plain.Find(smaller, {.length = 4096, .is_causal = false, .mapped = true}) == first,
         "a head dimension of 100 is padded");
  Tuning tuning;
  tuning.Choose(first->group, LengthClass::kMedium, false, unmapped->name);
  tuning.Choose(first->group, LengthClass::kShort, false, "no_such_kernel");
  const KernelChooser tuned(kH200, tuning);
  Expect(tuned.Find(key, {.length = 197, .is_causal = false, .mapped = true}) == unmapped,
         "a choice is followed");
  Expect(tuned.Find(key, {.length = 4096, .is_causal = false, .mapped = true}) == first,
         "only at its length");
  Expect(tuned.Find(key, {.length = 64, .is_causal = false, .mapped = true}) == first,
         "a choice that does not exist is ignored");
}

int Main() {
  TestTuningTables();
  TestNames();
  TestDevices();
  TestChoices();
  std::printf("%zu kernels, %d failures\n", KernelVariants().size(), failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace theria::cuda

int main() { return theria::cuda::Main(); }
