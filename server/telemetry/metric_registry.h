#ifndef THERIA_SERVER_TELEMETRY_METRIC_REGISTRY_H_
#define THERIA_SERVER_TELEMETRY_METRIC_REGISTRY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/registry.h"

// All metrics of the process: those that are counted as things happen, and sources, asked for their
// samples at each scrape. Names follow Prometheus' conventions: base units (seconds, bytes),
// `_total` on counters; every label takes a bounded set of values. Thread-safe.

namespace theria::server {

// One value at the time of a scrape.
struct MetricSample {
  enum class Kind : std::uint8_t { kGauge, kCounter };
  std::string name;
  std::string help;
  Kind kind = Kind::kGauge;
  std::vector<std::pair<std::string, std::string>> labels;
  double value = 0.0;
};

class MetricRegistry {
 public:
  using Source = std::function<std::vector<MetricSample>()>;

  MetricRegistry();
  MetricRegistry(const MetricRegistry&) = delete;
  MetricRegistry& operator=(const MetricRegistry&) = delete;

  // Where families of counters and histograms are made.
  prometheus::Registry& families() { return *families_; }

  // `source` is called on the scraping thread, as long as the registry lives; samples of one name
  // must follow each other.
  void AddSource(Source source);

  // What an HTTP endpoint serves.
  std::vector<std::shared_ptr<prometheus::Collectable>> collectables() const;

  // Everything in Prometheus' text format.
  std::string Text() const;

 private:
  class Sources;
  std::shared_ptr<prometheus::Registry> families_;
  std::shared_ptr<Sources> sources_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_TELEMETRY_METRIC_REGISTRY_H_
