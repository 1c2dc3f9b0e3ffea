#ifndef THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_BARRIER_CUH_
#define THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_BARRIER_CUH_

#include <cstdint>
#ifdef THERIA_BARRIER_WATCHDOG
#include <cstdio>
#endif

// Barriers in shared memory (mbarrier), by 32-bit shared addresses, and the registers of a
// warpgroup. A barrier's phase ends when all its arrivals and all its expected bytes have come.

namespace theria::cuda::sm90a {

__device__ __forceinline__ void InitBarrier(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine; one thread calls it, before the block's
// own barrier.
__device__ __forceinline__ void PublishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void Arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives, and adds `bytes` to what asynchronous copies must bring before the phase ends.
__device__ __forceinline__ void ArriveExpecting(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Waits until the phase of that parity has ended. A new barrier is in phase 0, and the phase before
// it, of parity 1, counts as ended.
//
// With THERIA_BARRIER_WATCHDOG defined, a wait of more than two seconds says so and traps.
__device__ __forceinline__ void WaitForPhase(std::uint32_t barrier, std::uint32_t parity) {
  std::uint32_t done = 0;
#ifdef THERIA_BARRIER_WATCHDOG
  std::uint64_t started;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(started));
#endif
  while (done == 0) {
#ifdef THERIA_BARRIER_WATCHDOG
    std::uint64_t now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    if (now - started > 2000000000) {
      printf("block %d thread %d: barrier at %#x, parity %u does not end\n",
             static_cast<int>(blockIdx.x), static_cast<int>(threadIdx.x), barrier, parity);
      __trap();
    }
#endif
    asm volatile(
        "{\n.reg .pred done;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
}

// Makes the calling thread's earlier writes to shared memory visible to wgmma and TMA; before a
// barrier that the reader waits for.
__device__ __forceinline__ void PublishSharedWrites() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A word of shared memory that another thread reads after a barrier.
__device__ __forceinline__ void StoreWord(std::uint32_t address, std::uint32_t x) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}
__device__ __forceinline__ std::uint32_t LoadWord(std::uint32_t address) {
  std::uint32_t x;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
  return x;
}

// The named barrier `barrier`, from 1 on, of `kThreads` threads.
template <int kThreads>
__device__ __forceinline__ void SyncThreads(int barrier) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(kThreads) : "memory");
}

// Turns that `kCount` warpgroups take, each as often as the others: Begin, then Wait and Pass in
// pairs, then End. All threads of the warpgroups take part. With one there is no order.
template <int kCount>
class Turns {
 public:
  __device__ __forceinline__ explicit Turns(int index) : index_(index) {}

  __device__ __forceinline__ void Begin() const {
    if (index_ == kCount - 1) ArriveAt(0);
  }
  __device__ __forceinline__ void Wait() const {
    asm volatile("bar.sync %0, 256;" ::"r"(kFirstBarrier + index_) : "memory");
  }
  __device__ __forceinline__ void Pass() const { ArriveAt(index_ < kCount - 1 ? index_ + 1 : 0); }
  // Takes the turn that is left, so that no barrier ends half full.
  __device__ __forceinline__ void End() const {
    if (index_ == 0) Wait();
  }

 private:
  static constexpr int kFirstBarrier = 1;  // 0 is the block's own

  static __device__ __forceinline__ void ArriveAt(int index) {
    asm volatile("bar.arrive %0, 256;" ::"r"(kFirstBarrier + index) : "memory");
  }

  int index_;
};

// Registers of each thread of the calling warpgroup. REQUIRES: all its warps call it; the kernel
// has launch bounds.
template <int kCount>
__device__ __forceinline__ void ReleaseRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void AcquireRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_BARRIER_CUH_
