#include "client/cli/parity/compare.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "absl/strings/str_format.h"

namespace theria::cli {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::string DescribeMismatch(const client::AnyTensor& actual, const client::Tensor& reference,
                             client::DType dtype) {
  if (!actual.is_local()) return "is absent";
  const client::Tensor& tensor = actual.local();
  if (tensor.shape() != reference.shape()) {
    return absl::StrFormat("has shape %s, must have %s", client::ShapeString(tensor.shape()),
                           client::ShapeString(reference.shape()));
  }
  if (tensor.dtype() != dtype) {
    return absl::StrFormat("is %s, must be %s", std::string(client::DTypeName(tensor.dtype())),
                           std::string(client::DTypeName(dtype)));
  }
  return "";
}

// Whether the output has one row for each element of lse.
bool HasRowsOfLse(std::string_view output) {
  return output == "o" || output == "o_dot" || output == "lse_dot" || output == "q_bar" ||
         output == "q_bar_dot";
}

// The violation of a nonzero element in a row that sees no key, or none.
std::string DescribeMaskedRow(const client::Tensor& actual, const std::vector<double>& lse) {
  const std::vector<double> values = actual.ToDoubles();
  const std::size_t row_size = values.size() / lse.size();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (lse[i / row_size] == -kInfinity && values[i] != 0.0) {
      return absl::StrFormat("is %g in row %d, which sees no key: must be 0", values[i],
                             i / row_size);
    }
  }
  return "";
}

}  // namespace

double Comparison::Ratio() const {
  if (!violation.empty()) return kInfinity;
  return std::max(norm_error / tolerance.norm, max_error / tolerance.max);
}

Comparison CompareTensors(const std::string& name, const client::AnyTensor& actual,
                          const client::Tensor& reference, client::DType dtype,
                          const Tolerance& tolerance, double magnitude) {
  Comparison result{.name = name, .tolerance = tolerance};
  result.violation = DescribeMismatch(actual, reference, dtype);
  if (!result.violation.empty()) return result;

  const std::vector<double> x = actual.local().ToDoubles();
  const std::vector<double> exact = reference.ToDoubles();
  double error_squares = 0.0;
  double exact_squares = 0.0;
  double error_max = 0.0;
  double exact_max = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::isinf(exact[i]) && x[i] == exact[i]) continue;
    if (std::isnan(exact[i]) && std::isnan(x[i])) continue;
    const double error = std::fabs(x[i] - exact[i]);
    if (!std::isfinite(error)) {
      result.violation = absl::StrFormat("is %g at element %d, must be %g", x[i], i, exact[i]);
      return result;
    }
    error_squares += error * error;
    exact_squares += exact[i] * exact[i];
    error_max = std::max(error_max, error);
    exact_max = std::max(exact_max, std::fabs(exact[i]));
  }
  if (x.empty()) return result;
  const double floor_max = kMagnitudeFloor * magnitude;
  const double floor_norm = floor_max * std::sqrt(static_cast<double>(x.size()));
  result.norm_error = std::sqrt(error_squares) / std::max(std::sqrt(exact_squares), floor_norm);
  result.max_error = error_max / std::max(exact_max, floor_max);
  return result;
}

std::vector<Comparison> CompareResults(const client::AttentionResult& actual,
                                       const Expectation& expected, const Problem& problem,
                                       client::DType dtype, const Tolerance& tolerance) {
  const client::AnyTensor& exact_lse = expected.exact.lse;
  const std::vector<double> lse =
      exact_lse.is_local() ? exact_lse.local().ToDoubles() : std::vector<double>();
  std::vector<Comparison> comparisons;
  for (const client::OutputField& field : client::kOutputFields) {
    const client::AnyTensor& exact = expected.exact.*field.member;
    if (!exact.has_value() || (field.name.starts_with("bias") && !problem.bias)) continue;
    const std::string name(field.name);
    const client::DType output_dtype = OutputDType(problem, name, dtype);
    const auto compare = [&](const client::AttentionResult& result, const Tolerance& allowed) {
      return CompareTensors(name, result.*field.member, exact.local(), output_dtype, allowed,
                            problem.MagnitudeOf(name));
    };

    Comparison inherent;  // the largest error that the dtype makes explicit math commit
    for (const client::AttentionResult& result : expected.same_dtype) {
      const Comparison comparison = compare(result, tolerance);
      inherent.norm_error = std::max(inherent.norm_error, comparison.norm_error);
      inherent.max_error = std::max(inherent.max_error, comparison.max_error);
    }
    Comparison comparison = compare(actual, {.norm = tolerance.norm + 2 * inherent.norm_error,
                                             .max = tolerance.max + 2 * inherent.max_error});
    if (comparison.violation.empty() && HasRowsOfLse(name) && !lse.empty()) {
      comparison.violation = DescribeMaskedRow((actual.*field.member).local(), lse);
    }
    comparisons.push_back(std::move(comparison));
  }
  return comparisons;
}

void RequireSameBits(const client::AttentionResult& first, const client::AttentionResult& second,
                     std::vector<Comparison>& comparisons) {
  for (const client::OutputField& field : client::kOutputFields) {
    const auto compared =
        std::find_if(comparisons.begin(), comparisons.end(),
                     [&](const Comparison& comparison) { return comparison.name == field.name; });
    if (compared == comparisons.end() || !compared->violation.empty()) continue;
    const client::Tensor& a = (first.*field.member).local();
    const client::AnyTensor& b = second.*field.member;
    const bool same =
        b.is_local() && b.local().size_bytes() == a.size_bytes() &&
        (a.size_bytes() == 0 || std::memcmp(a.data(), b.local().data(), a.size_bytes()) == 0);
    if (!same)
      compared->violation = "differs between two equal calls that were to be deterministic";
  }
}

}  // namespace theria::cli
