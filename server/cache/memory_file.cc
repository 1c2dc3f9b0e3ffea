#include "server/cache/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "kernels/api/message.h"

namespace theria::server {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

absl::Status Failed(const char* call, std::size_t size_bytes) {
  return absl::ResourceExhaustedError(
      Message("cannot share ", size_bytes, " bytes of memory: ", call, ": ", std::strerror(errno)));
}

}  // namespace

MemoryFile::MemoryFile(int descriptor, std::size_t size_bytes)
    : descriptor_(descriptor), size_bytes_(size_bytes) {}

MemoryFile::~MemoryFile() {
  if (data_ != nullptr) munmap(data_, size_bytes_);
  close(descriptor_);
}

absl::StatusOr<std::unique_ptr<MemoryFile>> MemoryFile::Create(std::size_t size_bytes) {
  const int descriptor = memfd_create("theria", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) return Failed("memfd_create", size_bytes);
  std::unique_ptr<MemoryFile> file(new MemoryFile(descriptor, size_bytes));
  const auto length = static_cast<off_t>(size_bytes);
  if (ftruncate(descriptor, length) != 0) return Failed("ftruncate", size_bytes);
  // A page that there is no memory for would kill who touches it; this tells now.
  int allocated = 0;
  while ((allocated = posix_fallocate(descriptor, 0, length)) == EINTR) {
  }
  if (allocated != 0) {
    errno = allocated;
    return Failed("fallocate", size_bytes);
  }
  if (fcntl(descriptor, F_ADD_SEALS, kSeals) != 0) return Failed("seal", size_bytes);
  void* const data =
      mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, descriptor, 0);
  if (data == MAP_FAILED) return Failed("mmap", size_bytes);
  file->data_ = data;
  return file;
}

}  // namespace theria::server
