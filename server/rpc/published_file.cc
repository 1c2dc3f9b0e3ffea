#include "server/rpc/published_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "kernels/api/message.h"

namespace theria::server {
namespace {

bool WriteAll(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = write(descriptor, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
  return true;
}

}  // namespace

PublishedFile::~PublishedFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status PublishedFile::Publish(std::string_view text) {
  const int next = memfd_create("theria", MFD_CLOEXEC);
  const timespec time = {.tv_sec = ++version_, .tv_nsec = 0};
  const std::array<timespec, 2> times = {time, time};
  const bool is_written = next >= 0 && fchmod(next, S_IRUSR | S_IWUSR) == 0 &&
                          WriteAll(next, text) && futimens(next, times.data()) == 0;
  // The number stays, and changes its file at once.
  const bool is_placed =
      is_written && (descriptor_ < 0 || dup3(next, descriptor_, O_CLOEXEC) == descriptor_);
  const int error = errno;
  if (is_placed && descriptor_ < 0) {
    descriptor_ = next;
  } else if (next >= 0) {
    close(next);
  }
  if (is_placed) return absl::OkStatus();
  return absl::InternalError(
      Message("cannot keep a file in memory: ", std::generic_category().message(error)));
}

std::string PublishedFile::path() const { return Message("/proc/self/fd/", descriptor_); }

}  // namespace theria::server
