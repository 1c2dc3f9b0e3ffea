#ifndef THERIA_TESTS_INTEGRATION_SOAK_SCRAPE_H_
#define THERIA_TESTS_INTEGRATION_SOAK_SCRAPE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

// What a Prometheus server would read from /metrics. Plain values.

namespace theria::soak {

struct Sample {
  std::string name;
  std::map<std::string, std::string> labels;
  double value = 0.0;
};

class Metrics {
 public:
  explicit Metrics(std::vector<Sample> samples) : samples_(std::move(samples)) {}

  // The sum of the samples of that name that have all these labels; 0 if there is none.
  double Sum(const std::string& name, const std::map<std::string, std::string>& labels = {}) const;

  const std::vector<Sample>& samples() const { return samples_; }

 private:
  std::vector<Sample> samples_;
};

// GET http://address/metrics. `address` is IPv4:port. Errors: UNAVAILABLE, INTERNAL for a reply
// that is not what Prometheus reads.
absl::StatusOr<Metrics> Scrape(const std::string& address);

// The text exposition format, version 0.0.4. Errors: INTERNAL, naming the line.
absl::StatusOr<Metrics> ParseMetrics(const std::string& text);

}  // namespace theria::soak

#endif  // THERIA_TESTS_INTEGRATION_SOAK_SCRAPE_H_
