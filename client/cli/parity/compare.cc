#include "client/cli/parity/compare.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
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
                          const Tolerance& tolerance) {
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
  const double floor_norm = kMagnitudeFloor * std::sqrt(static_cast<double>(x.size()));
  result.norm_error = std::sqrt(error_squares) / std::max(std::sqrt(exact_squares), floor_norm);
  result.max_error = error_max / std::max(exact_max, kMagnitudeFloor);
  return result;
}

std::vector<Comparison> CompareResults(const client::AttentionResult& actual,
                                       const client::AttentionResult& reference,
                                       client::DType dtype, const Tolerance& tolerance) {
  const std::vector<double> lse =
      reference.lse.is_local() ? reference.lse.local().ToDoubles() : std::vector<double>();
  std::vector<Comparison> comparisons;
  for (const client::OutputField& field : client::kOutputFields) {
    const client::AnyTensor& expected = reference.*field.member;
    if (!expected.has_value()) continue;
    const bool is_statistic = field.name == "lse" || field.name == "lse_dot";
    const client::AnyTensor& tensor = actual.*field.member;
    Comparison comparison =
        CompareTensors(std::string(field.name), tensor, expected.local(),
                       is_statistic ? client::StatisticsDType(dtype) : dtype, tolerance);
    if (comparison.violation.empty() && HasRowsOfLse(field.name) && !lse.empty()) {
      comparison.violation = DescribeMaskedRow(tensor.local(), lse);
    }
    comparisons.push_back(std::move(comparison));
  }
  return comparisons;
}

}  // namespace theria::cli
