#include <string>

#include "absl/time/time.h"
#include "client/cli/info_command.h"
#include "client/cli/progress_bar.h"
#include "client/cli/table.h"
#include "client/cli/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::cli {
namespace {

using testing::HasSubstr;

TEST(TableTest, AlignsColumns) {
  Table table({{"name"}, {"value", Align::kRight}, {"note"}});
  table.AddRow({"a", "1", ""});
  table.AddRow({"longer", "1000", "x"});
  EXPECT_EQ(table.ToString(),
            "name    value  note\n"
            "------  -----  ----\n"
            "a           1\n"
            "longer   1000  x\n");
}

TEST(UnitsTest, Bytes) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1536), "1.500 KiB");
  EXPECT_EQ(FormatBytes(std::size_t{64} << 20), "64.00 MiB");
  EXPECT_EQ(FormatBytes(std::size_t{3} << 40), "3.000 TiB");
}

TEST(UnitsTest, DurationsAndRates) {
  EXPECT_EQ(cli::FormatDuration(absl::Nanoseconds(84100)), "84.10 us");
  EXPECT_EQ(cli::FormatDuration(absl::Microseconds(1250)), "1.250 ms");
  EXPECT_EQ(cli::FormatDuration(absl::Seconds(3)), "3.000 s");
  EXPECT_EQ(FormatFlops(12.5e9), "12.50 GFLOP/s");
  EXPECT_EQ(FormatFlops(0.6e15), "600.0 TFLOP/s");
}

TEST(ProgressBarTest, ShowsShareRestAndNote) {
  EXPECT_EQ(ProgressBar::Line("parity", 12, 48, absl::Seconds(20), "vjp", 200),
            "parity  [======>                 ]  12/48  1:00 left  vjp");
  EXPECT_EQ(ProgressBar::Line("parity", 48, 48, absl::Seconds(20), "", 200),
            "parity  [========================]  48/48  0:00 left  ");
  EXPECT_EQ(ProgressBar::Line("parity", 1, 2, absl::Seconds(1), "note", 10), "parity  [=");
}

TEST(InfoTest, TellsAllOfAServer) {
  client::ServerInfo info;
  info.version = "0.1.0";
  info.backend = "cuda";
  info.uptime = absl::Seconds(61.5);
  info.devices.push_back({"cuda:0", "A device", std::size_t{80} << 30, "sm_90"});
  info.kernels.push_back({client::Operation::kHvp, client::Implementation::kFused,
                          client::DType::kBFloat16, 8, 256, 8});
  info.limits.max_message_bytes = std::size_t{64} << 20;
  info.store.capacity_bytes = std::size_t{1} << 30;
  const std::string text = FormatInfo("host:1", info);
  EXPECT_THAT(text, HasSubstr("theria 0.1.0 at host:1\nbackend cuda, up 1m1s\n"));
  EXPECT_THAT(text, HasSubstr("cuda:0  A device  sm_90         80.00 GiB"));
  EXPECT_THAT(text, HasSubstr("hvp        fused           bfloat16  8 to 256, multiples of 8"));
  EXPECT_THAT(text, HasSubstr("tensor store: 0 B of 1.000 GiB in 0 tensors"));
  const nlohmann::ordered_json json = InfoJson("host:1", info);
  EXPECT_EQ(json["kernels"][0]["dtype"], "bfloat16");
  EXPECT_EQ(json["limits"]["max_message_bytes"], 64 << 20);
}

}  // namespace
}  // namespace theria::cli
