#ifndef THERIA_SERVER_CACHE_BYTE_BUDGET_H_
#define THERIA_SERVER_CACHE_BYTE_BUDGET_H_

#include <cassert>
#include <cstddef>

// An account of bytes against a limit: the store's capacity or a tenant's quota. What is reserved
// is released exactly once, so that an idle account stands at zero. Not thread-safe.

namespace theria::server {

class ByteBudget {
 public:
  explicit ByteBudget(std::size_t limit_bytes) : limit_bytes_(limit_bytes) {}

  std::size_t limit_bytes() const { return limit_bytes_; }
  std::size_t used_bytes() const { return used_bytes_; }

  // May be less than what is in use: nothing fits then until enough is released.
  void SetLimit(std::size_t limit_bytes) { limit_bytes_ = limit_bytes; }

  // Whether `size_bytes` more would stay within `limit_bytes` once `released_bytes` of those in use
  // are released. Never overflows. REQUIRES: as much is reserved.
  bool FitsWithin(std::size_t limit_bytes, std::size_t size_bytes,
                  std::size_t released_bytes = 0) const {
    assert(released_bytes <= used_bytes_);
    const std::size_t kept_bytes = used_bytes_ - released_bytes;
    return kept_bytes <= limit_bytes && size_bytes <= limit_bytes - kept_bytes;
  }

  // Whether `size_bytes` more would stay within the account's own limit.
  bool Fits(std::size_t size_bytes) const { return FitsWithin(limit_bytes_, size_bytes); }

  // REQUIRES: Fits(size_bytes).
  void Reserve(std::size_t size_bytes) {
    assert(Fits(size_bytes));
    used_bytes_ += size_bytes;
  }

  // REQUIRES: as much is reserved.
  void Release(std::size_t size_bytes) {
    assert(size_bytes <= used_bytes_);
    used_bytes_ -= size_bytes;
  }

 private:
  std::size_t limit_bytes_;
  std::size_t used_bytes_ = 0;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_BYTE_BUDGET_H_
