#include "kernels/c/python/binding/arrays.h"

#include <algorithm>
#include <optional>

namespace theria::python {
namespace {

constexpr int kMaxRank = 4;

// numpy's array interface, protocol 3, which `__array_struct__` gives in a capsule.
struct ArrayInterface {
  int two;
  int rank;
  char kind;
  int itemsize;
  int flags;
  Py_ssize_t* shape;
  Py_ssize_t* strides;  // in bytes
  void* data;
  PyObject* description;
};
constexpr int kNotSwapped = 0x200;

PyObject* Interned(const char* name) { return PyUnicode_InternFromString(name); }

std::optional<theria_dtype> DtypeOf(DlDtype dtype) {
  if (dtype.lanes != 1) return std::nullopt;
  if (dtype.code == kDlFloat && dtype.bits == 64) return THERIA_FLOAT64;
  if (dtype.code == kDlFloat && dtype.bits == 32) return THERIA_FLOAT32;
  if (dtype.code == kDlFloat && dtype.bits == 16) return THERIA_FLOAT16;
  if (dtype.code == kDlBfloat && dtype.bits == 16) return THERIA_BFLOAT16;
  if (dtype.code == kDlBool && dtype.bits == 8) return THERIA_BOOL;
  if (dtype.code == kDlInt && dtype.bits == 32) return THERIA_INT32;
  return std::nullopt;
}

std::optional<theria_dtype> DtypeOf(char kind, int itemsize, bool opaque_is_bfloat16) {
  if (kind == 'f' && itemsize == 8) return THERIA_FLOAT64;
  if (kind == 'f' && itemsize == 4) return THERIA_FLOAT32;
  if (kind == 'f' && itemsize == 2) return THERIA_FLOAT16;
  if (kind == 'V' && itemsize == 2 && opaque_is_bfloat16) return THERIA_BFLOAT16;
  if (kind == 'b' && itemsize == 1) return THERIA_BOOL;
  if (kind == 'i' && itemsize == 4) return THERIA_INT32;
  return std::nullopt;
}

std::optional<Place> PlaceOf(DlDevice device) {
  if (device.type == kDlCpu) return Place{THERIA_CPU, 0};
  if (device.type == kDlCuda) return Place{THERIA_CUDA, device.ordinal};
  return std::nullopt;
}

bool IsNegated(PyObject* tensor) {
  static PyObject* const name = Interned("is_neg");
  const Ref negated(PyObject_CallMethodObjArgs(tensor, name, nullptr));
  if (!negated) PyErr_Clear();
  return negated.get() != Py_False;
}

bool ReadExtents(PyObject* tuple, int rank, std::int64_t* extents) {
  for (int axis = 0; axis < rank; ++axis) {
    PyObject* item = PyTuple_GetItem(tuple, axis);
    if (item == nullptr) return false;
    extents[axis] = PyLong_AsLongLong(item);
    if (extents[axis] == -1 && PyErr_Occurred() != nullptr) return false;
  }
  return true;
}

}  // namespace

Frameworks& frameworks() {
  static Frameworks instance;
  return instance;
}

bool IsTorchTensor(PyObject* value) {
  const PyTypeObject* type = Py_TYPE(value);
  return frameworks().tensor != nullptr &&
         (type == frameworks().tensor || type == frameworks().parameter);
}

bool DescribeTorch(PyObject* value, theria_tensor* tensor, Place* place) {
  const DlpackExchange* exchange = frameworks().exchange;
  if (exchange == nullptr || !IsTorchTensor(value)) return false;
  DlTensor view;
  if (exchange->tensor_from_object(value, &view) != 0) {
    PyErr_Clear();
    return false;
  }
  const std::optional<theria_dtype> dtype = DtypeOf(view.dtype);
  const std::optional<Place> found = PlaceOf(view.device);
  if (!dtype || !found || IsNegated(value)) return false;
  *tensor = {sizeof(theria_tensor), *dtype, view.rank, 0, {}, {}, {}};
  tensor->data = static_cast<char*>(view.data) + view.byte_offset;
  const int rank = std::min(view.rank, kMaxRank);
  std::copy_n(view.shape, rank, tensor->shape);
  std::copy_n(view.strides, rank, tensor->strides);
  const bool is_empty = std::find(view.shape, view.shape + view.rank, 0) != view.shape + view.rank;
  if (view.data == nullptr && !is_empty) return false;
  *place = *found;
  return true;
}

bool DescribeNumpy(PyObject* value, bool opaque_is_bfloat16, theria_tensor* tensor) {
  static PyObject* const name = Interned("__array_struct__");
  if (frameworks().ndarray == nullptr || Py_TYPE(value) != frameworks().ndarray) return false;
  const Ref capsule(PyObject_GetAttr(value, name));
  void* pointer = capsule ? PyCapsule_GetPointer(capsule.get(), nullptr) : nullptr;
  if (pointer == nullptr) {
    PyErr_Clear();
    return false;
  }
  const auto& array = *static_cast<const ArrayInterface*>(pointer);
  const auto dtype = DtypeOf(array.kind, array.itemsize, opaque_is_bfloat16);
  if (!dtype || (array.flags & kNotSwapped) == 0) return false;
  *tensor = {sizeof(theria_tensor), *dtype, array.rank, 0, array.data, {}, {}};
  for (int axis = 0; axis < array.rank; ++axis) {
    const Py_ssize_t stride = array.strides[axis];
    if (stride < 0 || stride % array.itemsize != 0) return false;
    if (axis >= kMaxRank) continue;
    tensor->shape[axis] = array.shape[axis];
    tensor->strides[axis] = stride / array.itemsize;
  }
  return true;
}

bool DescribeTuple(PyObject* value, theria_tensor* tensor) {
  PyObject* address = nullptr;
  PyObject* shape = nullptr;
  PyObject* strides = nullptr;
  int dtype = 0;
  if (!PyArg_ParseTuple(value, "OiO!O!", &address, &dtype, &PyTuple_Type, &shape, &PyTuple_Type,
                        &strides)) {
    return false;
  }
  const auto rank = static_cast<std::int32_t>(PyTuple_Size(shape));
  *tensor = {sizeof(theria_tensor), dtype, rank, 0, PyLong_AsVoidPtr(address), {}, {}};
  if (PyErr_Occurred() != nullptr) return false;
  const int kept = std::min(rank, kMaxRank);
  return ReadExtents(shape, kept, tensor->shape) && ReadExtents(strides, kept, tensor->strides);
}

Ref ShapeTuple(const std::int64_t* shape, int rank) {
  Ref tuple(PyTuple_New(rank));
  for (int axis = 0; tuple && axis < rank; ++axis) {
    PyObject* extent = PyLong_FromLongLong(shape[axis]);
    if (extent == nullptr) return Ref();
    PyTuple_SetItem(tuple.get(), axis, extent);
  }
  return tuple;
}

Ref TupleOf(const theria_tensor& tensor) {
  const Ref shape = ShapeTuple(tensor.shape, tensor.rank);
  const Ref strides = ShapeTuple(tensor.strides, tensor.rank);
  if (!shape || !strides) return Ref();
  return Ref(Py_BuildValue("NiOO", PyLong_FromVoidPtr(tensor.data), tensor.dtype, shape.get(),
                           strides.get()));
}

bool IsRowMajor(const theria_tensor& tensor) {
  std::int64_t stride = 1;
  for (int axis = tensor.rank - 1; axis >= 0; --axis) {
    if (tensor.strides[axis] != stride) return false;
    stride *= tensor.shape[axis];
  }
  return true;
}

}  // namespace theria::python
