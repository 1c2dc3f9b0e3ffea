#ifndef THERIA_SERVER_RPC_TRANSFER_WATCH_H_
#define THERIA_SERVER_RPC_TRANSFER_WATCH_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "absl/time/time.h"
#include "grpcpp/alarm.h"

// Watches one streamed transfer, so that a peer which stalls, or drips, cannot hold memory for
// ever. Progress costs two relaxed stores; the alarm rings only when a limit may have been passed.
// Thread-safe.

namespace theria::server {

class TransferWatch : public std::enable_shared_from_this<TransferWatch> {
 public:
  struct Limits {
    absl::Duration stall_timeout = absl::Seconds(30);  // without a byte
    // A transfer takes at most stall_timeout and the time of its bytes at this rate.
    std::size_t min_bytes_per_second = std::size_t{256} << 10;
  };

  // Calls `on_stall` at most once, from a thread of gRPC's. It may still be running when Stop
  // returns: what it needs, it owns.
  static std::shared_ptr<TransferWatch> Start(const Limits& limits, std::function<void()> on_stall);

  void Progress(std::size_t size_bytes);
  std::size_t transferred_bytes() const {
    return transferred_bytes_.load(std::memory_order_relaxed);
  }

  // Must be called, by then the transfer is over: frees the alarm and `on_stall`.
  void Stop();

 private:
  TransferWatch(const Limits& limits, std::function<void()> on_stall);
  void Arm(absl::Duration delay);
  void OnAlarm();
  absl::Duration TimeLeft() const;

  const Limits limits_;
  const absl::Duration started_at_;
  std::atomic<std::int64_t> progress_nanoseconds_;
  std::atomic<std::size_t> transferred_bytes_{0};
  std::mutex mutex_;
  std::function<void()> on_stall_;  // guarded by mutex_, as is the next
  std::unique_ptr<grpc::Alarm> alarm_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_TRANSFER_WATCH_H_
