#include "tests/fuzz/known.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "tests/fuzz/expect.h"
#include "tests/unit/server/fake_device.h"
#include "theria/v1/tensor.pb.h"

namespace theria::server {
namespace {

const TenantId kTenant;
const TenantId kStranger{"stranger"};

constexpr std::size_t kHostBytes = 8192;
constexpr std::size_t kOddBytes = 5000;

absl::Duration Standstill() { return absl::ZeroDuration(); }

void Replace(const std::array<std::string, 4>& names, std::string& name) {
  if (name.size() == 1 && name[0] >= 'a' && name[0] <= 'd') {
    name = names.at(static_cast<std::size_t>(name[0] - 'a'));
  }
}

bool IsFill(char byte) { return byte == Known::kFill; }

}  // namespace

Known::Known(Memory& memory)
    : store_(memory, {.capacity_bytes = std::size_t{1} << 20, .clock = Standstill}),
      regions_({.capacity_bytes = std::size_t{1} << 20, .clock = Standstill}, &memory) {
  tensor_names_ = {
      AddTensor(kTenant, DType::kFloat32, {1, 2, 3, 4}), AddTensor(kTenant, DType::kBool, {3, 3}),
      AddTensor(kStranger, DType::kBool, {3, 3}), AddTensor(kTenant, DType::kBool, {1})};
  THERIA_FUZZ_EXPECT(store_.Delete(kTenant, tensor_names_[3]).ok());

  region_names_ = {AddRegion(kTenant, kHostBytes), "", AddRegion(kStranger, kHostBytes),
                   AddRegion(kTenant, kHostBytes)};
  THERIA_FUZZ_EXPECT(regions_.Delete(kTenant, region_names_[3]).ok());
  if (memory.host_accessible()) {
    region_names_[1] = AddRegion(kTenant, kOddBytes);
  } else {
    auto lent = memory.Allocate(kOddBytes);
    THERIA_FUZZ_EXPECT(lent.ok());
    lent_ = *std::move(lent);
    const auto info = regions_.Import(kTenant, FakeDeviceMemory::Lend(lent_), kOddBytes, {});
    THERIA_FUZZ_EXPECT(info.ok());
    region_names_[1] = info->name;
  }
  for (std::size_t i = 0; i < shared_.size(); ++i) shared_.at(i) = RegionOf(region_names_.at(i));
  Refill();
}

std::string Known::AddTensor(const TenantId& tenant, DType dtype, std::vector<std::int64_t> shape) {
  // Pinned: no upload evicts it.
  auto pending = store_.Create(tenant, {dtype, std::move(shape)}, {}, absl::Hours(1));
  THERIA_FUZZ_EXPECT(pending.ok());
  std::string bytes(pending->spec().SizeBytes(), kFill);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] ^= static_cast<char>(i % 64 + 1);
  THERIA_FUZZ_EXPECT(
      store_.memory().CopyFromHost(pending->data(), bytes.data(), bytes.size()).ok());
  return std::move(*pending).Commit().handle;
}

std::string Known::AddRegion(const TenantId& tenant, std::size_t size_bytes) {
  const auto info = regions_.Create(tenant, size_bytes, {});
  THERIA_FUZZ_EXPECT(info.ok());
  return info->name;
}

void Known::Name(google::protobuf::Message& message) const {
  using google::protobuf::FieldDescriptor;
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->is_repeated()) continue;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      Name(*reflection.MutableMessage(&message, field));
    } else if (field->name() == "handle" || field->name() == "region") {
      std::string name = reflection.GetString(message, field);
      Replace(field->name() == "handle" ? tensor_names_ : region_names_, name);
      reflection.SetString(&message, field, std::move(name));
    }
  }
}

bool Known::HasTensor(const std::string& handle) const {
  return std::find(tensor_names_.begin(), tensor_names_.end(), handle) != tensor_names_.end();
}

SharedRegionPtr Known::RegionOf(const std::string& name) {
  auto region = regions_.Acquire(kTenant, name);
  return region.ok() ? *std::move(region) : nullptr;
}

bool Known::IsUntouchedBut(const SharedPart& part) const {
  for (const SharedRegionPtr& region : shared_) {
    const std::string bytes = Read(SharedPart{region, 0, region->size_bytes()});
    auto begin = bytes.begin();
    if (region == part.region) {
      const auto part_begin = begin + static_cast<std::ptrdiff_t>(part.offset_bytes);
      if (!std::all_of(begin, part_begin, IsFill)) return false;
      begin = part_begin + static_cast<std::ptrdiff_t>(part.size_bytes);
    }
    if (!std::all_of(begin, bytes.end(), IsFill)) return false;
  }
  return true;
}

void Known::Refill() {
  for (const SharedRegionPtr& region : shared_) {
    const std::string bytes(region->size_bytes(), kFill);
    Memory& memory = region->is_on_device() ? store_.memory() : HostMemory();
    THERIA_FUZZ_EXPECT(memory.CopyFromHost(region->data(), bytes.data(), bytes.size()).ok());
  }
}

std::string Known::Read(const SharedPart& part) const {
  std::string bytes(part.size_bytes, '\0');
  Memory& memory = part.region->is_on_device() ? store_.memory() : HostMemory();
  THERIA_FUZZ_EXPECT(memory.CopyToHost(bytes.data(), part.data(), bytes.size()).ok());
  return bytes;
}

std::string Known::Read(const TensorLease& lease) const {
  std::string bytes(lease.spec().SizeBytes(), '\0');
  THERIA_FUZZ_EXPECT(store_.memory().CopyToHost(bytes.data(), lease.data(), bytes.size()).ok());
  return bytes;
}

}  // namespace theria::server
