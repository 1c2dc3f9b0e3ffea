#include "client/cli/progress_bar.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace theria::cli {
namespace {

constexpr std::size_t kBarColumns = 24;
constexpr absl::Duration kRedrawInterval = absl::Milliseconds(50);

std::size_t TerminalColumns() {
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col - std::size_t{1} : 79;
}

}  // namespace

ProgressBar::ProgressBar(std::string label, std::size_t total)
    : label_(std::move(label)),
      total_(total),
      visible_(isatty(STDERR_FILENO) != 0),
      start_(absl::Now()) {}

ProgressBar::~ProgressBar() {
  if (visible_) std::fputs("\r\033[K", stderr);
}

void ProgressBar::Advance(const std::string& note) {
  ++done_;
  const absl::Time now = absl::Now();
  if (!visible_ || (now - drawn_ < kRedrawInterval && done_ < total_)) return;
  drawn_ = now;
  std::fprintf(stderr, "\r\033[K%s",
               Line(label_, done_, total_, now - start_, note, TerminalColumns()).c_str());
  std::fflush(stderr);
}

std::string ProgressBar::Line(const std::string& label, std::size_t done, std::size_t total,
                              absl::Duration elapsed, const std::string& note, std::size_t width) {
  const double share = total == 0 ? 1.0 : static_cast<double>(std::min(done, total)) / total;
  const auto filled = static_cast<std::size_t>(share * kBarColumns);
  std::string bar(filled, '=');
  if (filled < kBarColumns) bar += '>';
  bar.resize(kBarColumns, ' ');
  const auto left = static_cast<int>(
      share > 0.0 ? absl::ToDoubleSeconds(elapsed) * (1.0 - share) / share + 0.5 : 0.0);
  std::string line = absl::StrFormat("%s  [%s]  %d/%d  %d:%02d left  %s", label, bar, done, total,
                                     left / 60, left % 60, note);
  if (line.size() > width) line.resize(width);
  return line;
}

}  // namespace theria::cli
