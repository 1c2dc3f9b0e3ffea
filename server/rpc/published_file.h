#ifndef THERIA_SERVER_RPC_PUBLISHED_FILE_H_
#define THERIA_SERVER_RPC_PUBLISHED_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

// A file in memory for a library that takes paths: nothing of it lies on a disk, and it goes with
// the process. Not thread-safe, but others may open path() at any time.

namespace theria::server {

class PublishedFile {
 public:
  PublishedFile() = default;
  ~PublishedFile();
  PublishedFile(const PublishedFile&) = delete;
  PublishedFile& operator=(const PublishedFile&) = delete;

  // Whoever opens path() from now on reads `text`, whoever did before reads on what he opened. Each
  // text has a modification time of its own, in whole seconds. Errors: INTERNAL; the old text
  // stays.
  absl::Status Publish(std::string_view text);

  // For this process alone. REQUIRES: a text was published.
  std::string path() const;

 private:
  int descriptor_ = -1;
  std::int64_t version_ = 0;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_PUBLISHED_FILE_H_
