#include "kernels/c/python/binding/call.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

namespace theria::python {
namespace {

constexpr std::size_t kMaxKinds = 1024;

PyObject* Interned(const char* name) { return PyUnicode_InternFromString(name); }

const char* NameOfInput(int index) {
  return index < kInputCount ? kInputTensors[index].name : kOptionTensors[index - kInputCount].path;
}

// The input whose shape and dtype an output has, but for statistics and head_dim_v.
int BaseOf(const char* output) {
  switch (output[0]) {
    case 'k':
      return kK;
    case 'v':
      return kV;
    case 'b':
      return kMask;
    default:
      return kQ;
  }
}

void* AddressOf(PyObject* torch_tensor) {
  static PyObject* const name = Interned("data_ptr");
  const Ref address(PyObject_CallMethodObjArgs(torch_tensor, name, nullptr));
  return address ? PyLong_AsVoidPtr(address.get()) : nullptr;
}

// Whether autograd would record what is done with `tensor`.
bool IsDifferentiated(PyObject* tensor) {
  static PyObject* const name = Interned("requires_grad");
  const Ref requires_grad(PyObject_GetAttr(tensor, name));
  if (requires_grad.get() != Py_True) return false;
  const Ref enabled(PyObject_CallObject(frameworks().is_grad_enabled, nullptr));
  return enabled.get() == Py_True;
}

}  // namespace

void Target::Raise(theria_code code) const {
  const Ref ignored(PyObject_CallFunction(fail.get(), "iss", static_cast<int>(code),
                                          library.error_message(), library.error_field()));
  if (ignored) PyErr_SetString(PyExc_SystemError, "the binding's `fail` returned");
}

bool Call::Describe(PyObject* inputs, PyObject* options) {
  char* bytes = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(options, &bytes, &size) != 0) return false;
  const auto count = static_cast<int>(PyTuple_Size(inputs));
  if (size != sizeof(theria_options) || count < kV + 1 || count > kTensorCount) {
    PyErr_SetString(PyExc_ValueError, "inputs or options of the wrong size");
    return false;
  }
  std::memcpy(&options_, bytes, sizeof(theria_options));
  for (int index = 0; index < count; ++index) {
    PyObject* value = PyTuple_GetItem(inputs, index);
    if (value != Py_None && !DescribeInput(index, value)) return false;
  }
  return true;
}

bool Call::DescribeInput(int index, PyObject* value) {
  theria_tensor& tensor = tensors_[index];
  if (!DescribeAny(value, NameOfInput(index), index > kMask, &tensor)) return false;
  arrays_[index] = value;
  if (index < kInputCount) {
    inputs_.*kInputTensors[index].member = &tensor;
  } else {
    options_.*kOptionTensors[index - kInputCount].member = &tensor;
  }
  return true;
}

bool Call::DescribeAny(PyObject* value, const char* name, bool may_be_integer,
                       theria_tensor* tensor) {
  if (PyTuple_Check(value)) return DescribeTuple(value, tensor);
  if (target_->reads_arrays && !(IsTorchTensor(value) && IsDifferentiated(value)) &&
      DescribeInPlace(value, false, tensor) && (may_be_integer || tensor->dtype != THERIA_INT32)) {
    return true;
  }
  Ref converted(PyObject_CallFunction(target_->convert.get(), "Os", value, name));
  if (!converted) return false;
  value = converted.get();
  kept_.push_back(std::move(converted));
  if (PyTuple_Check(value)) return DescribeTuple(value, tensor);
  if (DescribeInPlace(value, true, tensor)) return true;
  PyErr_Format(PyExc_TypeError, "%s is an array without memory that can be read", name);
  return false;
}

bool Call::DescribeInPlace(PyObject* value, bool converted, theria_tensor* tensor) const {
  Place place;
  if (DescribeTorch(value, tensor, &place)) return place == target_->place;
  return target_->place.type == THERIA_CPU && DescribeNumpy(value, converted, tensor);
}

bool Call::Validate(theria_operation operation) {
  const theria_code code = target_->library.validate(operation, &inputs_, &options_);
  if (code != THERIA_OK) target_->Raise(code);
  return code == THERIA_OK;
}

bool Call::MakeOutputs(theria_operation operation, PyObject* wanted) {
  for (const int index : {kQ, kK, kV}) {
    const theria_tensor* tensor = inputs_.*kInputTensors[index].member;
    if (tensor == nullptr || tensor->rank != 4) {
      if (Validate(operation)) PyErr_SetString(PyExc_SystemError, "q, k or v is not of rank 4");
      return false;
    }
  }
  const auto count = static_cast<int>(PyTuple_Size(wanted));
  made_.reserve(static_cast<std::size_t>(std::max(count, 0)));
  for (int place = 0; place < count; ++place) {
    const long index = PyLong_AsLong(PyTuple_GetItem(wanted, place));
    if (index < 0 || index >= kOutputCount) {
      if (PyErr_Occurred() == nullptr) PyErr_SetString(PyExc_ValueError, "no such output");
      return false;
    }
    if (!MakeOutput(static_cast<int>(index))) {
      // A shape that no array can have is an input's fault, which says more.
      PyObject *type = nullptr, *error = nullptr, *traceback = nullptr;
      PyErr_Fetch(&type, &error, &traceback);
      if (Validate(operation)) {
        PyErr_Restore(type, error, traceback);
      } else {
        const Ref dropped[] = {Ref(type), Ref(error), Ref(traceback)};
      }
      return false;
    }
  }
  return true;
}

bool Call::MakeOutput(int index) {
  const char* name = kOutputTensors[index].name;
  const bool is_statistics = std::string_view(name).starts_with("lse");
  const int base = BaseOf(name);
  const theria_tensor& like = tensors_[base];
  theria_tensor& tensor = results_[index];
  outputs_.*kOutputTensors[index].member = &tensor;
  if (arrays_[base] == nullptr) {  // which the library refuses
    tensor = tensors_[kQ];
    return true;
  }
  const int rank = is_statistics ? 3 : std::min(like.rank, 4);
  std::int64_t extents[4];
  std::copy_n(like.shape, 4, extents);
  if (name[0] == 'o') extents[3] = tensors_[kV].shape[3];
  const bool is_alike =
      !is_statistics && (base == kMask || extents[3] == like.shape[3]) && IsRowMajor(like);
  int dtype = base == kMask ? like.dtype : tensors_[kQ].dtype;
  if (is_statistics && dtype != THERIA_FLOAT64) dtype = THERIA_FLOAT32;

  Ref array;
  const bool is_torch = target_->reads_arrays && frameworks().exchange != nullptr &&
                        IsTorchTensor(arrays_[kQ]);  // else an output is not where q is
  if (is_torch && is_alike && IsTorchTensor(arrays_[base])) {
    // Takes two thirds of the time of new_empty.
    array = Ref(PyObject_CallFunctionObjArgs(frameworks().empty_like, arrays_[base], nullptr));
  } else {
    const Ref shape = ShapeTuple(extents, rank);
    if (!shape) return false;
    static PyObject* const new_empty = Interned("new_empty");
    if (is_torch && dtype == tensors_[kQ].dtype) {
      array = Ref(PyObject_CallMethodObjArgs(arrays_[kQ], new_empty, shape.get(), nullptr));
    } else if (is_torch && dtype == THERIA_FLOAT32) {
      const Ref method(PyObject_GetAttr(arrays_[kQ], new_empty));
      const Ref arguments(PyTuple_Pack(1, shape.get()));
      if (!method || !arguments) return false;
      array = Ref(PyObject_Call(method.get(), arguments.get(), frameworks().as_float32));
    } else {
      array = Ref(
          PyObject_CallFunction(target_->allocate.get(), "OiO", arrays_[kQ], dtype, shape.get()));
    }
  }
  if (!array || !DescribeAny(array.get(), name, false, &tensor)) return false;
  // Frameworks give arrays without elements strides of 0, which the library refuses of outputs.
  const bool is_empty = std::find(tensor.shape, tensor.shape + rank, 0) != tensor.shape + rank;
  if (is_empty) std::fill_n(tensor.strides, rank, 1);
  made_.push_back(std::move(array));
  return true;
}

std::string Call::Kind(theria_operation operation) const {
  std::string kind(1, static_cast<char>(operation));
  theria_options options = options_;
  for (const auto& field : kOptionTensors) options.*field.member = nullptr;
  options.dropout_seed = options.dropout_offset = 0;
  kind.append(reinterpret_cast<const char*>(&options), sizeof options);
  for (int index = 0; index < kTensorCount; ++index) {
    if (arrays_[index] == nullptr) continue;
    theria_tensor tensor = tensors_[index];
    tensor.data = nullptr;
    kind.push_back(static_cast<char>(index));
    kind.append(reinterpret_cast<const char*>(&tensor), sizeof tensor);
  }
  for (const auto& field : kOutputTensors) kind.push_back(outputs_.*field.member != nullptr);
  return kind;
}

bool Call::SetWorkspace(theria_launch* launch, std::size_t size) {
  const DlpackExchange* exchange = frameworks().exchange;
  const std::int32_t ordinal = target_->place.ordinal;
  if (exchange != nullptr) {
    if (exchange->current_stream(kDlCuda, ordinal, &launch->stream) != 0) return false;
  } else {
    const Ref stream(PyObject_CallFunction(target_->current_stream.get(), "i", ordinal));
    if (!stream) return false;
    launch->stream = PyLong_AsVoidPtr(stream.get());
  }
  launch->allocate = &AllocateBlock;
  launch->user = this;
  if (size == 0) return true;
  Ref block(PyObject_CallFunction(target_->workspace.get(), "n", static_cast<Py_ssize_t>(size)));
  if (!block) return false;
  launch->workspace = AddressOf(block.get());
  launch->workspace_bytes = size;
  blocks_.push_back(std::move(block));
  return launch->workspace != nullptr;
}

// theria_launch.allocate: memory of the caller's allocator until the call returns. The allocator
// knows the stream: a block that is freed then serves only later work of the same stream.
void* Call::AllocateBlock(void* user, std::size_t size, void* /*stream*/) {
  const PyGILState_STATE state = PyGILState_Ensure();
  auto* call = static_cast<Call*>(user);
  void* data = nullptr;
  Ref block(
      PyObject_CallFunction(call->target_->workspace.get(), "n", static_cast<Py_ssize_t>(size)));
  if (block) {
    data = AddressOf(block.get());
    call->blocks_.push_back(std::move(block));
  }
  PyErr_Clear();  // the library reports what it lacks
  PyGILState_Release(state);
  return data;
}

bool Call::Run(theria_operation operation, double timeout_seconds) {
  theria_launch launch = {sizeof(theria_launch)};
  launch.timeout_seconds = timeout_seconds;
  std::string kind;
  std::size_t known = 0;
  const bool has_workspace = target_->workspace.get() != Py_None;
  if (has_workspace) {
    kind = Kind(operation);
    const auto found = target_->workspace_bytes.find(kind);
    if (found != target_->workspace_bytes.end()) known = found->second;
    if (!SetWorkspace(&launch, known)) return false;
  }
  PyThreadState* thread = PyEval_SaveThread();
  const theria_code code = target_->library.run(target_->context, operation, &inputs_, &options_,
                                                &outputs_, &launch, &report_);
  PyEval_RestoreThread(thread);
  if (code != THERIA_OK) {
    target_->Raise(code);
    return false;
  }
  if (has_workspace && report_.workspace_bytes != known) {
    if (target_->workspace_bytes.size() >= kMaxKinds) target_->workspace_bytes.clear();
    target_->workspace_bytes[std::move(kind)] = report_.workspace_bytes;
  }
  return true;
}

bool Call::Flops(theria_operation operation, double* flops) {
  const theria_code code = target_->library.flops(operation, &inputs_, &options_, flops);
  if (code != THERIA_OK) target_->Raise(code);
  return code == THERIA_OK;
}

Ref Call::Result() const {
  Ref outputs(PyTuple_New(static_cast<Py_ssize_t>(made_.size())));
  if (!outputs) return outputs;
  for (std::size_t index = 0; index < made_.size(); ++index) {
    PyTuple_SetItem(outputs.get(), static_cast<Py_ssize_t>(index),
                    Ref::Borrowed(made_[index].get()).release());
  }
  return Ref(Py_BuildValue("N(isd)", outputs.release(), static_cast<int>(report_.implementation),
                           report_.kernel, report_.compute_seconds));
}

Ref Call::Description() const {
  Ref result(PyTuple_New(kTensorCount));
  for (int index = 0; result && index < kTensorCount; ++index) {
    Ref item = arrays_[index] == nullptr ? Ref::Borrowed(Py_None) : TupleOf(tensors_[index]);
    if (!item) return item;
    PyTuple_SetItem(result.get(), index, item.release());
  }
  return result;
}

}  // namespace theria::python
