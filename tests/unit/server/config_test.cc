#include "server/config.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

CommandLine Parse(std::vector<const char*> flags) {
  flags.insert(flags.begin(), "theria-server");
  return ParseCommandLine(static_cast<int>(flags.size()), flags.data());
}

TEST(ConfigTest, ADeviceSpills) {
  const CommandLine line =
      Parse({"--backend=cuda", "--device=3", "--cache-bytes=4GiB", "--spill-bytes=2GiB"});
  ASSERT_TRUE(line.is_to_serve) << line.text;
  EXPECT_EQ(line.config.device, 3);
  EXPECT_EQ(line.config.spill_bytes, std::size_t{2} << 30);
  EXPECT_EQ(line.config.tenant_quota_bytes, std::size_t{6} << 30);
  EXPECT_EQ(line.config.max_tensor_bytes, std::size_t{4} << 30);
  EXPECT_EQ(Parse({"--device=-1"}).exit_status, 2);
}

TEST(ConfigTest, HasDefaults) {
  const CommandLine line = Parse({});
  ASSERT_TRUE(line.is_to_serve) << line.text;
  EXPECT_THAT(line.config.listen, ElementsAre("127.0.0.1:50051"));
  EXPECT_EQ(line.config.backend, "cpu");
  EXPECT_GE(line.config.compute_slots, 1);
  EXPECT_EQ(line.config.tenant_quota_bytes, line.config.cache_bytes);
  EXPECT_EQ(line.config.spill_bytes, 0);  // a CPU server has nowhere to spill from
  EXPECT_EQ(line.config.max_tensor_bytes, line.config.cache_bytes);
  EXPECT_GT(line.config.max_transport_bytes, line.config.max_message_bytes);
}

TEST(ConfigTest, TakesFlags) {
  const CommandLine line = Parse({"--listen",
                                  "0.0.0.0:1,unix:/tmp/a.sock",
                                  "--metrics-listen",
                                  "none",
                                  "--cache-bytes",
                                  "3GiB",
                                  "--max-tensor-bytes",
                                  "4096",
                                  "--drain-timeout",
                                  "1.5s",
                                  "--keepalive-interval",
                                  "10s",
                                  "--keepalive-timeout",
                                  "3s",
                                  "--min-ping-interval",
                                  "100ms",
                                  "--default-ttl",
                                  "7",
                                  "--max-call-time",
                                  "10m",
                                  "--log-level",
                                  "debug",
                                  "--log-format",
                                  "json",
                                  "--channelz",
                                  "--port-file",
                                  "p"});
  ASSERT_TRUE(line.is_to_serve) << line.text;
  EXPECT_THAT(line.config.listen, ElementsAre("0.0.0.0:1", "unix:/tmp/a.sock"));
  EXPECT_EQ(line.config.keepalive_interval, absl::Seconds(10));
  EXPECT_EQ(line.config.keepalive_timeout, absl::Seconds(3));
  EXPECT_EQ(line.config.min_ping_interval, absl::Milliseconds(100));
  EXPECT_EQ(line.config.metrics_listen, kNone);
  EXPECT_EQ(line.config.cache_bytes, std::size_t{3} << 30);
  EXPECT_EQ(line.config.max_tensor_bytes, 4096u);
  EXPECT_EQ(line.config.drain_timeout, absl::Milliseconds(1500));
  EXPECT_EQ(line.config.default_ttl, absl::Seconds(7));
  EXPECT_EQ(line.config.max_call_time, absl::Minutes(10));
  EXPECT_EQ(line.config.log_level, "debug");
  EXPECT_EQ(line.config.log_format, "json");
  EXPECT_TRUE(line.config.channelz);
  EXPECT_EQ(line.config.port_file, "p");
}

TEST(ConfigTest, ReadsAFileThatFlagsOverride) {
  const std::string path =
      testing::TempDir() + "theria-config-test-" + std::to_string(getpid()) + ".toml";
  std::ofstream(path) << "listen = [\"127.0.0.1:0\", \"[::1]:0\"]\n"
                         "cache-bytes = \"64MiB\"\n"
                         "max-queued-requests = 5\n"
                         "drain-timeout = \"2s\"\n";
  const CommandLine line = Parse({"--config", path.c_str(), "--max-queued-requests", "6"});
  std::filesystem::remove(path);
  ASSERT_TRUE(line.is_to_serve) << line.text;
  EXPECT_THAT(line.config.listen, ElementsAre("127.0.0.1:0", "[::1]:0"));
  EXPECT_EQ(line.config.cache_bytes, std::size_t{64} << 20);
  EXPECT_EQ(line.config.max_queued_requests, 6u);
  EXPECT_EQ(line.config.drain_timeout, absl::Seconds(2));
}

// What a server says to a --config of that text.
CommandLine ParseFile(const std::string& text) {
  const std::string path =
      testing::TempDir() + "theria-config-test-" + std::to_string(getpid()) + ".toml";
  std::ofstream(path) << text;
  CommandLine line = Parse({"--config", path.c_str()});
  std::filesystem::remove(path);
  return line;
}

TEST(ConfigTest, AFileMayNameItsSectionAsIniFilesDo) {
  EXPECT_TRUE(ParseFile("# none\n").is_to_serve);
  EXPECT_EQ(ParseFile("[default]\nbackend = \"cpu\"\ncache-bytes=2MiB\n").config.cache_bytes,
            std::size_t{2} << 20);
}

TEST(ConfigTest, RefusesAFileWhoseKeysWouldCountForNothing) {
  const std::pair<std::string, std::string> cases[] = {
      {"tls_cert = \"a.pem\"\n", "'tls_cert'"},
      {"tenant = \"a.json\"\n", "'tenant'"},
      {"backend = \"cpu\"\nlistn = \"127.0.0.1:1\"\n", "'listn'"},
      {"[security]\ntls-cert = \"a.pem\"\n", "section 'security'"},
      {"[security]\n", "section 'security'"},
      {"security.tls-cert = \"a.pem\"\n", "section 'security'"},
      {"tenants = \"a.json\"\nbackend = \"cpu\"\ntenants = \"b.json\"\n", "'tenants' twice"},
      {"tenants = \"a.json\"\ntenants = \"b.json\"\n", "--tenants"},
      {"help = true\n", "help"},
      {"cache-bytes = -5\n", "--cache-bytes"},
  };
  for (const auto& [text, named] : cases) {
    const CommandLine line = ParseFile(text);
    EXPECT_FALSE(line.is_to_serve) << text;
    EXPECT_EQ(line.exit_status, 2) << text;
    EXPECT_THAT(line.text, HasSubstr(named));
  }
  EXPECT_EQ(Parse({"--config", "/tmp"}).exit_status, 2);
}

TEST(ConfigTest, HelpAndVersionEndWell) {
  const CommandLine help = Parse({"--help"});
  EXPECT_FALSE(help.is_to_serve);
  EXPECT_EQ(help.exit_status, 0);
  EXPECT_THAT(help.text, HasSubstr("--metrics-listen"));
  const CommandLine version = Parse({"--version"});
  EXPECT_FALSE(version.is_to_serve);
  EXPECT_EQ(version.exit_status, 0);
  EXPECT_THAT(version.text, testing::MatchesRegex("[0-9]+.[0-9]+.[0-9]+\n"));
}

struct WrongUsage {
  std::string name;
  std::vector<const char*> flags;
  std::string named;  // in the message
};

class WrongUsageTest : public testing::TestWithParam<WrongUsage> {};

TEST_P(WrongUsageTest, EndsWithTwoAndNamesTheFlag) {
  const CommandLine line = Parse(GetParam().flags);
  EXPECT_FALSE(line.is_to_serve);
  EXPECT_EQ(line.exit_status, 2);
  EXPECT_THAT(line.text, HasSubstr(GetParam().named));
  EXPECT_EQ(line.text.back(), '\n');
}

INSTANTIATE_TEST_SUITE_P(
    All, WrongUsageTest,
    testing::Values(
        WrongUsage{"UnknownFlag", {"--nonsense"}, "--nonsense"},
        WrongUsage{"Backend", {"--backend", "tpu"}, "--backend"},
        WrongUsage{"NoPort", {"--listen", "localhost"}, "--listen is 'localhost'"},
        WrongUsage{"BadPort", {"--listen", "localhost:70000"}, "--listen"},
        WrongUsage{"BadMetrics", {"--metrics-listen", "x:y"}, "--metrics-listen"},
        WrongUsage{"UnixMetrics", {"--metrics-listen", "unix:/a"}, "--metrics-listen"},
        WrongUsage{"Duration", {"--drain-timeout", "soon"}, "--drain-timeout"},
        WrongUsage{"KeepaliveInterval", {"--keepalive-interval", "1ms"}, "keepalive-interval"},
        WrongUsage{"KeepaliveTimeout", {"--keepalive-timeout", "0s"}, "keepalive-timeout"},
        WrongUsage{"NegativeDuration", {"--drain-timeout", "-1s"}, "--drain-timeout"},
        WrongUsage{"Bytes", {"--cache-bytes", "many"}, "--cache-bytes"},
        WrongUsage{"SmallCache", {"--cache-bytes", "10"}, "--cache-bytes is 10, must be"},
        WrongUsage{"NegativeBytes", {"--cache-bytes", "-5"}, "--cache-bytes: is -5, must not be"},
        WrongUsage{"NegativeUnits", {"--spill-bytes=-1GiB"}, "--spill-bytes: is -1GiB"},
        WrongUsage{"NegativeCount", {"--max-queued-requests=-5"}, "--max-queued-requests"},
        WrongUsage{"LargeMessage", {"--max-message-bytes", "4GiB"}, "--max-message-bytes"},
        WrongUsage{"TensorOverCache",
                   {"--cache-bytes", "2MiB", "--max-tensor-bytes", "3MiB"},
                   "--max-tensor-bytes"},
        WrongUsage{"TtlOverMaximum", {"--default-ttl", "25h"}, "--default-ttl"},
        WrongUsage{"NoQueue", {"--max-queued-requests", "0"}, "--max-queued-requests"},
        WrongUsage{"LogLevel", {"--log-level", "loud"}, "--log-level"},
        WrongUsage{"NoConfigFile", {"--config", "/nowhere/at/all"}, "/nowhere/at/all"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace theria::server
