// Every operation, dtype and problem of the table against the dense oracle.

#include "tests/conformance/conformance_test.h"
#include "tests/conformance/dense_oracle.h"

namespace theria::conformance {
namespace {

class OracleTest : public ProblemTest {};

TEST_P(OracleTest, AllOutputsOfAllOperations) {
  for (const DType dtype : kDTypes) {
    const Problem problem = MakeProblem(problem_case(), dtype);
    const Arrays expected = DenseOracle(problem);
    for (const Operation operation : kOperations) {
      SCOPED_TRACE(std::string(OperationName(operation)) + " " + std::string(DTypeName(dtype)));
      const Arrays actual = RunArrays(target(), operation, problem);
      for (const OutputField& field : kOutputFields) {
        const std::string name(field.name);
        ASSERT_EQ(actual.count(name) == 1, IsComputed(problem, operation, name)) << name;
        if (!IsComputed(problem, operation, name)) continue;
        const DType out_dtype = problem.DTypeOf(name);
        EXPECT_TRUE(Near(actual.at(name), expected.at(name),
                         AgainstOracle(target().arithmetic, out_dtype), HalfSmallest(out_dtype)))
            << name;
      }
    }
  }
}

// A single output, alone, is what it is among all others; the reference's to the bit.
TEST_P(OracleTest, OneOutputAtATime) {
  const Problem problem = MakeProblem(problem_case(), DType::kFloat32);
  for (const Operation operation : kOperations) {
    const absl::StatusOr<HostTensors> all = RunTensors(target(), operation, problem);
    ASSERT_TRUE(all.ok()) << all.status();
    for (const auto& [name, tensor] : *all) {
      const absl::StatusOr<HostTensors> alone = RunTensors(target(), operation, problem, {name});
      ASSERT_TRUE(alone.ok()) << alone.status();
      EXPECT_EQ(alone->size(), 1u);
      if (target().is_reference()) {
        EXPECT_EQ(alone->at(name).bytes, tensor.bytes) << OperationName(operation) << " " << name;
      } else {
        EXPECT_TRUE(Near(Decode(alone->at(name)), Decode(tensor),
                         AgainstOracle(target().arithmetic, tensor.dtype)))
            << OperationName(operation) << " " << name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Conformance, OracleTest,
                         testing::Combine(testing::ValuesIn(Targets()),
                                          testing::ValuesIn(ProblemCases())),
                         ProblemTestName);

}  // namespace
}  // namespace theria::conformance
