#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/unit/server/cache/store_fixture.h"

namespace theria::server {
namespace {

constexpr int kThreads = 4;
constexpr int kSteps = 4000;
constexpr std::int64_t kMaxBytes = 4096;

// Handles that the threads pass among each other, so that they meet on the same tensors.
class SharedHandles {
 public:
  void Add(std::string handle) {
    const std::lock_guard lock(mutex_);
    handles_[next_++ % handles_.size()] = std::move(handle);
  }
  std::string Pick(std::mt19937& random) {
    const std::lock_guard lock(mutex_);
    return handles_[random() % handles_.size()];
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> handles_ = std::vector<std::string>(24);
  std::size_t next_ = 0;
};

class ConcurrencyTest : public StoreTest {
 protected:
  ConcurrencyTest() {
    TensorStore::Options options = DefaultOptions();
    options.capacity_bytes = 64 * 1024;
    options.tenant_quota_bytes = 48 * 1024;
    Reset(options);
  }

  // All bytes of a tensor have the value of its size, so that a reader sees any damage.
  static std::uint8_t FillOf(std::int64_t size) { return static_cast<std::uint8_t>(size * 31); }

  void Create(std::mt19937& random, const TenantId& tenant) {
    const auto size = static_cast<std::int64_t>(random() % kMaxBytes + 1);
    auto pending = store_->Create(tenant, Bytes(size), absl::Seconds(random() % 20 + 1),
                                  absl::Seconds(random() % 8 == 0 ? 3 : 0));
    if (!pending.ok()) {
      EXPECT_EQ(pending.status().code(), absl::StatusCode::kResourceExhausted);
      return;
    }
    std::memset(pending->data(), FillOf(size), static_cast<std::size_t>(size));
    if (random() % 5 == 0) return;  // cut
    std::optional<Sha256Digest> sha256;
    if (random() % 3 == 0) {
      sha256.emplace().fill(FillOf(size));  // equal for equal specs
    }
    handles_.Add((*std::move(pending)).Commit(sha256).handle);
  }

  void Read(const TenantId& tenant, const std::string& handle) {
    const auto lease = store_->Acquire(tenant, handle);
    if (!lease.ok()) {
      EXPECT_EQ(lease.status().code(), absl::StatusCode::kNotFound);
      return;
    }
    const std::int64_t size = lease->spec().shape[0];
    const auto* bytes = static_cast<const std::uint8_t*>(lease->data());
    std::this_thread::yield();
    EXPECT_EQ(bytes[0], FillOf(size));
    EXPECT_EQ(bytes[size - 1], FillOf(size));
    EXPECT_GE(lease->info().readers, 1);
  }

  void Run(int thread) {
    std::mt19937 random(static_cast<std::uint32_t>(thread) + 1);
    const TenantId tenant{thread % 2 == 0 ? "even" : "odd"};
    for (int step = 0; step < kSteps; ++step) {
      const std::string handle = handles_.Pick(random);
      switch (random() % 10) {
        case 0:
        case 1:
        case 2:
          Create(random, tenant);
          break;
        case 3:
        case 4:
          Read(tenant, handle);
          break;
        case 5:
          store_->Renew(tenant, handle, absl::Seconds(random() % 30)).status().IgnoreError();
          break;
        case 6:
          store_->Pin(tenant, handle, absl::Seconds(random() % 5)).status().IgnoreError();
          break;
        case 7:
          store_->Unpin(tenant, handle).status().IgnoreError();
          break;
        case 8:
          store_->Delete(tenant, handle).IgnoreError();
          break;
        default:
          Advance(absl::Milliseconds(100));
          CheckInvariants(tenant);
      }
    }
  }

  void CheckInvariants(const TenantId& tenant) {
    const TensorStoreStats stats = store_->stats();
    EXPECT_LE(stats.used_bytes, stats.capacity_bytes);
    EXPECT_LE(stats.pending_bytes + stats.pinned_bytes, stats.used_bytes);
    std::size_t listed_bytes = 0;
    std::string token;
    do {
      const auto page = store_->List(tenant, 7, token);
      ASSERT_TRUE(page.ok());
      for (const TensorInfo& info : page->tensors) listed_bytes += info.spec.SizeBytes();
      token = page->next_page_token;
    } while (!token.empty());
    EXPECT_LE(listed_bytes, 2 * store_->options().tenant_quota_bytes);
  }

  SharedHandles handles_;
};

TEST_F(ConcurrencyTest, AccountsAddUpAfterEverythingAtOnceAndEndAtZero) {
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([this, thread] { Run(thread); });
  }
  for (std::thread& thread : threads) thread.join();

  std::size_t listed_bytes = 0;
  std::size_t listed = 0;
  std::size_t pinned_bytes = 0;
  for (const char* name : {"even", "odd"}) {
    const auto page = store_->List(TenantId{name}, 100000, "");
    for (const TensorInfo& info : page->tensors) {
      listed_bytes += info.spec.SizeBytes();
      ++listed;
      if (info.pinned_for > absl::ZeroDuration()) pinned_bytes += info.spec.SizeBytes();
      EXPECT_EQ(info.readers, 0);
    }
  }
  const TensorStoreStats stats = store_->stats();
  EXPECT_EQ(stats.used_bytes, listed_bytes);
  EXPECT_EQ(stats.entries, listed);
  EXPECT_EQ(stats.pinned_bytes, pinned_bytes);
  EXPECT_EQ(stats.pending_bytes, 0);
  EXPECT_EQ(memory_.live_bytes, listed_bytes);
  EXPECT_GT(stats.hits, 0);
  for (const std::uint64_t count : stats.evictions) EXPECT_GT(count, 0);

  Advance(absl::Hours(1));
  store_->CollectExpired();
  const TensorStoreStats end = store_->stats();
  EXPECT_EQ(end.used_bytes, 0);
  EXPECT_EQ(end.entries, 0);
  EXPECT_EQ(end.pinned_bytes, 0);
  EXPECT_EQ(memory_.live_bytes, 0);
}

// Many writers of one content end with one tensor.
TEST_F(ConcurrencyTest, TheSameContentAtOnceIsStoredOnce) {
  std::vector<std::string> handles(kThreads);
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  std::atomic<int> waiting{kThreads};
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      auto pending = *store_->Create(me_, Bytes(1000));
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      handles[static_cast<std::size_t>(thread)] = std::move(pending).Commit(Sha256Digest{}).handle;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(handles, ::testing::Each(handles[0]));
  EXPECT_EQ(store_->stats().used_bytes, 1000);
  EXPECT_EQ(memory_.live_bytes, 1000);
}

}  // namespace
}  // namespace theria::server
