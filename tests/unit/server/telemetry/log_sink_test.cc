#include "server/telemetry/log_sink.h"

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

using testing::StartsWith;

// A descriptor to write to, and its other end.
class LogSinkTest : public testing::TestWithParam<bool> {
 protected:
  LogSinkTest() {
    const bool is_socket = GetParam();
    std::array<int, 2> ends{};
    EXPECT_EQ(is_socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) : pipe(ends.data()), 0);
    reader_ = ends[0];
    writer_ = ends[1];
  }
  ~LogSinkTest() override {
    close(reader_);
    close(writer_);
  }

  static void Log(LogSink& sink, const std::string& text) {
    sink.log(spdlog::details::log_msg("theria", spdlog::level::info, text));
  }

  // Until the writer's end is closed.
  std::string ReadAll() {
    std::string text;
    std::array<char, 65536> block{};
    for (ssize_t count = 0; (count = read(reader_, block.data(), block.size())) > 0;) {
      text.append(block.data(), static_cast<std::size_t>(count));
    }
    return text;
  }

  int reader_ = -1;
  int writer_ = -1;
};

INSTANTIATE_TEST_SUITE_P(PipeAndSocket, LogSinkTest, testing::Bool());

TEST_P(LogSinkTest, KeepsABacklogAndCountsWhatItDrops) {
  constexpr std::size_t kLineBytes = 1000;
  constexpr std::size_t kLines = 3000;
  LogSink sink(writer_);
  sink.set_pattern("%v");
  const absl::Time start = absl::Now();
  for (std::size_t i = 0; i < kLines; ++i) {
    std::string line = std::to_string(i);
    line.resize(kLineBytes - 1, '.');
    Log(sink, line);
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));  // nobody read
  const std::uint64_t dropped = sink.dropped_lines();
  EXPECT_GT(dropped, 0u);
  EXPECT_LE(dropped, kLines - LogSink::kMaxBacklogBytes / kLineBytes);

  std::string text;
  std::thread reader([&] { text = ReadAll(); });
  sink.Drain(absl::Seconds(20));
  Log(sink, "last");
  close(std::exchange(writer_, -1));
  reader.join();
  ASSERT_EQ(text.size(), (kLines - dropped) * kLineBytes + 5);
  for (std::size_t i = 0; i < kLines - dropped; ++i) {
    ASSERT_THAT(text.substr(i * kLineBytes, 10), StartsWith(std::to_string(i) + "."));
  }
  EXPECT_EQ(text.substr(text.size() - 5), "last\n");
}

TEST_P(LogSinkTest, DoesNotWaitForAReaderThatNeverComes) {
  LogSink sink(writer_);
  Log(sink, std::string(LogSink::kMaxBacklogBytes - 100, '.'));
  const absl::Time start = absl::Now();
  sink.Drain(absl::Milliseconds(50));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

TEST_P(LogSinkTest, CountsTheLinesOfABrokenDescriptor) {
  signal(SIGPIPE, SIG_IGN);
  LogSink sink(writer_);
  close(std::exchange(reader_, -1));
  Log(sink, "one");
  Log(sink, "two");
  EXPECT_EQ(sink.dropped_lines(), 2u);
}

}  // namespace
}  // namespace theria::server
