#include "server/telemetry/metric_registry.h"

#include <mutex>

#include "prometheus/text_serializer.h"

namespace theria::server {

class MetricRegistry::Sources : public prometheus::Collectable {
 public:
  void Add(Source source) {
    const std::lock_guard lock(mutex_);
    sources_.push_back(std::move(source));
  }

  std::vector<prometheus::MetricFamily> Collect() const override {
    const std::lock_guard lock(mutex_);
    std::vector<prometheus::MetricFamily> families;
    for (const Source& source : sources_) {
      for (const MetricSample& sample : source()) Append(sample, families);
    }
    return families;
  }

 private:
  static void Append(const MetricSample& sample, std::vector<prometheus::MetricFamily>& families) {
    const bool is_counter = sample.kind == MetricSample::Kind::kCounter;
    if (families.empty() || families.back().name != sample.name) {
      prometheus::MetricFamily& family = families.emplace_back();
      family.name = sample.name;
      family.help = sample.help;
      family.type = is_counter ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge;
    }
    prometheus::ClientMetric& metric = families.back().metric.emplace_back();
    for (const auto& [name, value] : sample.labels) metric.label.push_back({name, value});
    (is_counter ? metric.counter.value : metric.gauge.value) = sample.value;
  }

  mutable std::mutex mutex_;
  std::vector<Source> sources_;
};

MetricRegistry::MetricRegistry()
    : families_(std::make_shared<prometheus::Registry>()), sources_(std::make_shared<Sources>()) {}

void MetricRegistry::AddSource(Source source) { sources_->Add(std::move(source)); }

std::vector<std::shared_ptr<prometheus::Collectable>> MetricRegistry::collectables() const {
  return {families_, sources_};
}

std::string MetricRegistry::Text() const {
  std::vector<prometheus::MetricFamily> all;
  for (const auto& collectable : collectables()) {
    for (prometheus::MetricFamily& family : collectable->Collect())
      all.push_back(std::move(family));
  }
  return prometheus::TextSerializer().Serialize(all);
}

}  // namespace theria::server
