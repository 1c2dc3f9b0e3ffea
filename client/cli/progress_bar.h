#ifndef THERIA_CLIENT_CLI_PROGRESS_BAR_H_
#define THERIA_CLIENT_CLI_PROGRESS_BAR_H_

#include <cstddef>
#include <cstdio>
#include <string>

#include "absl/time/time.h"

namespace theria::cli {

// One line on stderr that shows how far a run is and how long the rest will take. Shows nothing
// where stderr is no terminal. Not thread-safe.
class ProgressBar {
 public:
  ProgressBar(std::string label, std::size_t total);
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar();  // clears the line

  // One more step is done; `note` says which.
  void Advance(const std::string& note);

  // "parity  [=====>    ]  12/24  0:03 left  float32 vjp causal", at most `width` columns.
  static std::string Line(const std::string& label, std::size_t done, std::size_t total,
                          absl::Duration elapsed, const std::string& note, std::size_t width);

 private:
  const std::string label_;
  const std::size_t total_;
  const bool visible_;
  const absl::Time start_;
  absl::Time drawn_ = absl::InfinitePast();
  std::size_t done_ = 0;
};

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PROGRESS_BAR_H_
