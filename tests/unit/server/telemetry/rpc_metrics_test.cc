#include "server/telemetry/rpc_metrics.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

using testing::HasSubstr;

TEST(RpcMetricsTest, CountsByServiceMethodAndCode) {
  MetricRegistry registry;
  RpcMetrics metrics(registry);
  RpcMetrics::Method& method = metrics.ForMethod("/theria.v1.AttentionService/Forward");
  EXPECT_EQ(&method, &metrics.ForMethod("/theria.v1.AttentionService/Forward"));
  for (const int code : {0, 0, 3, 99}) {
    method.Started();
    method.Handled(code, absl::Milliseconds(500));
  }
  const std::string text = registry.Text();
  constexpr char kMethod[] =
      "grpc_method=\"Forward\",grpc_service=\"theria.v1.AttentionService\"} ";
  EXPECT_THAT(text, HasSubstr(std::string("grpc_server_started_total{") + kMethod + "4\n"));
  for (const char* handled : {"\"OK\"", "\"InvalidArgument\"", "\"Unknown\""}) {
    const char* count = std::string(handled) == "\"OK\"" ? "2\n" : "1\n";
    EXPECT_THAT(text, HasSubstr(std::string("grpc_server_handled_total{grpc_code=") + handled +
                                "," + kMethod + count));
  }
  EXPECT_THAT(text,
              HasSubstr(std::string("grpc_server_handling_seconds_count{") + kMethod + "4\n"));
  EXPECT_THAT(text, HasSubstr(std::string("grpc_server_handling_seconds_sum{") + kMethod + "2\n"));
}

TEST(RpcMetricsTest, NamesCodes) {
  EXPECT_EQ(RpcCodeName(0), "OK");
  EXPECT_EQ(RpcCodeName(8), "ResourceExhausted");
  EXPECT_EQ(RpcCodeName(16), "Unauthenticated");
  EXPECT_EQ(RpcCodeName(-1), "Unknown");
  EXPECT_EQ(RpcCodeName(17), "Unknown");
}

TEST(RpcMetricsTest, AcceptsANameThatIsNoPath) {
  MetricRegistry registry;
  RpcMetrics metrics(registry);
  metrics.ForMethod("unknown").Started();
  EXPECT_THAT(registry.Text(), HasSubstr("{grpc_method=\"unknown\",grpc_service=\"\"} 1\n"));
}

}  // namespace
}  // namespace theria::server
