#include "server/telemetry/metric_registry.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/counter.h"

namespace theria::server {
namespace {

using testing::HasSubstr;

TEST(MetricRegistryTest, HoldsFamiliesAndSources) {
  MetricRegistry registry;
  prometheus::BuildCounter()
      .Name("made_total")
      .Help("Made.")
      .Register(registry.families())
      .Add({{"kind", "a"}})
      .Increment(3);
  double level = 1;
  registry.AddSource([&level]() -> std::vector<MetricSample> {
    return {{"level", "Level.", MetricSample::Kind::kGauge, {{"side", "left"}}, level},
            {"level", "Level.", MetricSample::Kind::kGauge, {{"side", "right"}}, 2 * level},
            {"taken_total", "Taken.", MetricSample::Kind::kCounter, {}, 7}};
  });
  level = 4;  // samples are taken when asked for
  const std::string text = registry.Text();
  EXPECT_THAT(text, HasSubstr("# HELP made_total Made.\n# TYPE made_total counter\n"
                              "made_total{kind=\"a\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("# HELP level Level.\n# TYPE level gauge\n"
                              "level{side=\"left\"} 4\nlevel{side=\"right\"} 8\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE taken_total counter\ntaken_total 7\n"));
}

}  // namespace
}  // namespace theria::server
