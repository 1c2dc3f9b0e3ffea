#ifndef THERIA_SERVER_CACHE_MEMORY_FILE_H_
#define THERIA_SERVER_CACHE_MEMORY_FILE_H_

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"

// Memory behind a file descriptor that another process may map: anonymous, so that nothing is left
// of it when the last descriptor and mapping are gone, and sealed, so that nobody can take away
// pages that this process has mapped. Every page is there from the start. Thread-safe.

namespace theria::server {

class MemoryFile {
 public:
  // Zeros. Errors: RESOURCE_EXHAUSTED. REQUIRES: size_bytes > 0.
  static absl::StatusOr<std::unique_ptr<MemoryFile>> Create(std::size_t size_bytes);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void* data() const { return data_; }
  std::size_t size_bytes() const { return size_bytes_; }
  int descriptor() const { return descriptor_; }  // stays the file's

 private:
  MemoryFile(int descriptor, std::size_t size_bytes);

  const int descriptor_;
  const std::size_t size_bytes_;
  void* data_ = nullptr;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_MEMORY_FILE_H_
