#ifndef THERIA_KERNELS_C_PYTHON_BINDING_ARRAYS_H_
#define THERIA_KERNELS_C_PYTHON_BINDING_ARRAYS_H_

#include <Python.h>

#include <cstdint>

#include "kernels/c/include/theria/kernels.h"
#include "kernels/c/python/binding/dlpack_exchange.h"
#include "kernels/c/python/binding/ref.h"

// Arrays of Python's frameworks as theria_tensor: views, nothing is copied. All functions need the
// GIL.

namespace theria::python {

// The classes whose instances are read directly. Members are null until a framework is in use, and
// live as long as the process.
struct Frameworks {
  PyTypeObject* ndarray = nullptr;  // numpy.ndarray
  PyTypeObject* tensor = nullptr;   // torch.Tensor
  PyTypeObject* parameter = nullptr;
  const DlpackExchange* exchange = nullptr;  // null for a torch without it
  PyObject* is_grad_enabled = nullptr;
  PyObject* empty_like = nullptr;
  PyObject* as_float32 = nullptr;  // {"dtype": torch.float32}
};
Frameworks& frameworks();

struct Place {
  theria_device_type type = THERIA_CPU;
  std::int32_t ordinal = 0;

  bool operator==(const Place&) const = default;
};

// Whether `value` is exactly a torch.Tensor or a Parameter, not a subclass of either.
bool IsTorchTensor(PyObject* value);

// Describes a tensor with memory of its own. False, without a Python exception, for any other: one
// of a subclass, without storage (fake, batched, functional, sparse), negated lazily, on a device
// that is neither CPU nor CUDA, or of a dtype that the contract does not have.
bool DescribeTorch(PyObject* value, theria_tensor* tensor, Place* place);

// Describes a numpy array of native byte order and non-negative strides; else as DescribeTorch.
// `opaque_is_bfloat16`: takes 2-byte void elements, as numpy calls those of ml_dtypes.
bool DescribeNumpy(PyObject* value, bool opaque_is_bfloat16, theria_tensor* tensor);

// Describes a tuple (address, dtype, shape, strides in elements). False with a Python exception if
// it is malformed. A rank above 4 is kept, without extents, for the library to refuse.
bool DescribeTuple(PyObject* value, theria_tensor* tensor);

// The inverse of DescribeTuple.
Ref TupleOf(const theria_tensor& tensor);

// (shape[0], ..., shape[rank - 1])
Ref ShapeTuple(const std::int64_t* shape, int rank);

bool IsRowMajor(const theria_tensor& tensor);

}  // namespace theria::python

#endif  // THERIA_KERNELS_C_PYTHON_BINDING_ARRAYS_H_
