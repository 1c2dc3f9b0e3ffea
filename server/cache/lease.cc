#include <cassert>
#include <utility>

#include "server/cache/entry.h"
#include "server/cache/tensor_store.h"
#include "server/cache/tensor_store_impl.h"

// The two RAII holders of an entry.

namespace theria::server {

TensorLease::TensorLease(TensorStore* store, std::shared_ptr<internal::Entry> entry)
    : store_(store), entry_(std::move(entry)) {}

TensorLease::TensorLease(TensorLease&&) noexcept = default;

TensorLease& TensorLease::operator=(TensorLease&& other) noexcept {
  TensorLease(std::move(other)).Swap(*this);
  return *this;
}

TensorLease::~TensorLease() {
  if (entry_ != nullptr) store_->impl_->Release(entry_);
}

void TensorLease::Swap(TensorLease& other) noexcept {
  std::swap(store_, other.store_);
  entry_.swap(other.entry_);
}

const TensorSpec& TensorLease::spec() const { return entry_->spec; }

const void* TensorLease::data() const { return entry_->buffer.data(); }

TensorInfo TensorLease::info() const { return store_->impl_->Info(*entry_); }

PendingTensor::PendingTensor(TensorStore* store, std::shared_ptr<internal::Entry> entry)
    : store_(store), entry_(std::move(entry)) {}

PendingTensor::PendingTensor(PendingTensor&&) noexcept = default;

PendingTensor& PendingTensor::operator=(PendingTensor&& other) noexcept {
  PendingTensor(std::move(other)).Swap(*this);
  return *this;
}

PendingTensor::~PendingTensor() {
  if (entry_ != nullptr) store_->impl_->Abort(entry_);
}

void PendingTensor::Swap(PendingTensor& other) noexcept {
  std::swap(store_, other.store_);
  entry_.swap(other.entry_);
}

const TensorSpec& PendingTensor::spec() const { return entry_->spec; }

void* PendingTensor::data() const { return entry_->buffer.data(); }

TensorInfo PendingTensor::Commit(std::optional<Sha256Digest> sha256) && {
  assert(entry_ != nullptr);
  return store_->impl_->Commit(std::move(entry_), sha256);
}

}  // namespace theria::server
