// Extents of 0: empty outputs, and zeros (lse -inf) where rows see no key. head_dim 0 makes all
// scores equal, as in PyTorch.

#include "tests/conformance/conformance_test.h"
#include "tests/conformance/dense_oracle.h"

namespace theria::conformance {
namespace {

std::vector<ProblemCase> EmptyCases() {
  std::vector<ProblemCase> cases;
  const ProblemCase full = {.batch = 2,
                            .heads_q = 4,
                            .heads_kv = 2,
                            .seq_q = 20,
                            .seq_kv = 70,
                            .head_dim = 8,
                            .head_dim_v = 5};
  const auto add = [&](const char* name, auto change) {
    ProblemCase c = full;
    c.name = name;
    change(c);
    cases.push_back(c);
    c.name += "_extended";
    c.extended = true;
    c.mask_kind = MaskKind::kBias;
    c.bias_dimensions = 0b0111;
    c.options.softcap = 2.0;
    c.options.is_causal = true;
    c.key_lengths = true;
    cases.push_back(c);
  };
  add("batch", [](ProblemCase& c) { c.batch = 0; });
  add("heads", [](ProblemCase& c) { c.heads_q = c.heads_kv = 0; });
  add("query_heads", [](ProblemCase& c) { c.heads_q = 0; });
  add("queries", [](ProblemCase& c) { c.seq_q = 0; });
  add("keys", [](ProblemCase& c) { c.seq_kv = 0; });
  add("head_dim", [](ProblemCase& c) { c.head_dim = 0; });
  add("head_dim_v", [](ProblemCase& c) { c.head_dim_v = 0; });
  add("everything", [](ProblemCase& c) {
    c.batch = c.heads_q = c.heads_kv = c.seq_q = c.seq_kv = c.head_dim = c.head_dim_v = 0;
  });
  return cases;
}

class EmptyTest : public ProblemTest {};

TEST_P(EmptyTest, AllOutputsOfAllOperations) {
  for (const DType dtype : kDTypes) {
    const Problem problem = MakeProblem(problem_case(), dtype);
    const Arrays expected = DenseOracle(problem);
    for (const Operation operation : kOperations) {
      SCOPED_TRACE(testing::Message() << OperationName(operation) << " " << DTypeName(dtype));
      for (const auto& [name, array] : RunArrays(target(), operation, problem)) {
        const DType out_dtype = problem.DTypeOf(name);
        EXPECT_TRUE(Near(array, expected.at(name), AgainstOracle(target().arithmetic, out_dtype),
                         HalfSmallest(out_dtype)))
            << name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Conformance, EmptyTest,
                         testing::Combine(testing::ValuesIn(Targets()),
                                          testing::ValuesIn(EmptyCases())),
                         ProblemTestName);

}  // namespace
}  // namespace theria::conformance
