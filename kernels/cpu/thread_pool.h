#ifndef THERIA_KERNELS_CPU_THREAD_POOL_H_
#define THERIA_KERNELS_CPU_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <thread>
#include <vector>

// Threads that help whoever calls Run. The caller always takes part, so that a call can neither
// starve nor deadlock; helpers join while fewer than `threads` threads compute in all calls
// together, and leave when new callers take the cores. With as many callers as cores, each call
// runs on its caller's thread alone.
//
// Thread-safe. Destroy it only when no call is under way.

namespace theria::cpu {

class ThreadPool {
 public:
  // A thread's part in a call.
  class Seat {
   public:
    // True once a helper should return, its part undone, to free its core; never for the caller.
    bool ShouldLeave();

   private:
    friend class ThreadPool;
    Seat(ThreadPool* pool, bool is_helper) : pool_(pool), is_helper_(is_helper) {}
    ThreadPool* pool_;
    bool is_helper_;
    bool left_ = false;
  };
  using Body = std::function<void(Seat&)>;

  // REQUIRES: threads >= 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls `body` on this thread and on up to `max_helpers` others at once, and returns when all
  // have returned. A body returns when it finds no more work.
  void Run(int max_helpers, const Body& body);

 private:
  struct Call {
    const Body* body;
    int open_places;      // helpers that may still join
    int helpers = 0;      // helpers inside
    bool closed = false;  // no work left to join for
  };

  void Help();

  const int threads_;
  std::atomic<int> computing_{0};  // callers and helpers

  std::mutex mutex_;
  std::condition_variable work_;        // a call, a free core, or the end
  std::condition_variable helper_out_;  // a helper has returned
  std::list<Call*> calls_;              // with work left for helpers, the next to be helped first
  bool ending_ = false;
  std::vector<std::thread> helpers_;
};

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_THREAD_POOL_H_
