#ifndef THERIA_KERNELS_C_PYTHON_BINDING_DLPACK_EXCHANGE_H_
#define THERIA_KERNELS_C_PYTHON_BINDING_DLPACK_EXCHANGE_H_

#include <cstdint>

// The part of DLPack 1's C exchange interface that the binding calls. PyTorch publishes it as
// `torch.Tensor.__dlpack_c_exchange_api__`, a capsule named kDlpackExchangeName. The layouts are
// those of dlpack/dlpack.h, which keeps them for all of version 1.

namespace theria::python {

inline constexpr char kDlpackExchangeName[] = "dlpack_exchange_api";
inline constexpr std::uint32_t kDlpackMajorVersion = 1;

enum DlDeviceType : std::int32_t { kDlCpu = 1, kDlCuda = 2 };
enum DlDtypeCode : std::uint8_t { kDlInt = 0, kDlFloat = 2, kDlBfloat = 4, kDlBool = 6 };

struct DlDevice {
  std::int32_t type;
  std::int32_t ordinal;
};

struct DlDtype {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

// A view; shape and strides belong to the exporting tensor.
struct DlTensor {
  void* data;
  DlDevice device;
  std::int32_t rank;
  DlDtype dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements
  std::uint64_t byte_offset;
};

struct DlpackExchange {
  std::uint32_t major_version;
  std::uint32_t minor_version;
  DlpackExchange* previous;
  void* allocate_managed;
  void* managed_from_object;
  void* managed_to_object;
  // 0, or -1 with a Python exception. May be null.
  int (*tensor_from_object)(void* object, DlTensor* tensor);
  int (*current_stream)(std::int32_t device_type, std::int32_t ordinal, void** stream);
};

}  // namespace theria::python

#endif  // THERIA_KERNELS_C_PYTHON_BINDING_DLPACK_EXCHANGE_H_
