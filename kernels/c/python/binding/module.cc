#include <Python.h>

#include <cstring>
#include <exception>
#include <memory>
#include <new>

#include "kernels/c/python/binding/arrays.h"
#include "kernels/c/python/binding/call.h"
#include "kernels/c/python/binding/fields.h"

// The module theria_kernels._binding: calls of libtheria_kernels.so from Python without ctypes. Its
// manual is _binding.pyi. It is built with Python's stable ABI and links no framework, so that one
// build serves every Python 3.10 or later and every release of numpy and PyTorch.

namespace {

using theria::python::Call;
using theria::python::frameworks;
using theria::python::Ref;
using theria::python::Target;

struct Runner {
  PyObject_HEAD Target* target;
};

// No C++ exception enters the interpreter.
template <typename Body>
PyObject* Guarded(Body&& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_SystemError, error.what());
    return nullptr;
  }
}

template <typename Function>
bool ReadFunction(PyObject* addresses, int index, Function* function) {
  PyObject* item = PyTuple_GetItem(addresses, index);
  if (item == nullptr) return false;
  *function = reinterpret_cast<Function>(PyLong_AsVoidPtr(item));
  return *function != nullptr;
}

PyObject* RunnerNew(PyTypeObject* type, PyObject* arguments, PyObject* keywords) {
  static const char* names[] = {"functions",    "context",        "is_cuda",  "ordinal",
                                "reads_arrays", "convert",        "allocate", "fail",
                                "workspace",    "current_stream", nullptr};
  PyObject *functions, *context, *convert, *allocate, *fail;
  PyObject *workspace = Py_None, *current_stream = Py_None;
  int is_cuda, ordinal, reads_arrays;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!OpipOOO|OO", const_cast<char**>(names),
                                   &PyTuple_Type, &functions, &context, &is_cuda, &ordinal,
                                   &reads_arrays, &convert, &allocate, &fail, &workspace,
                                   &current_stream)) {
    return nullptr;
  }
  return Guarded([&]() -> PyObject* {
    auto target = std::make_unique<Target>();
    theria::python::Library& library = target->library;
    if (!ReadFunction(functions, 0, &library.run) ||
        !ReadFunction(functions, 1, &library.validate) ||
        !ReadFunction(functions, 2, &library.flops) ||
        !ReadFunction(functions, 3, &library.error_message) ||
        !ReadFunction(functions, 4, &library.error_field)) {
      if (PyErr_Occurred() == nullptr) PyErr_SetString(PyExc_ValueError, "a function is NULL");
      return nullptr;
    }
    target->context = static_cast<theria_context*>(PyLong_AsVoidPtr(context));
    if (PyErr_Occurred() != nullptr) return nullptr;
    target->place = {is_cuda != 0 ? THERIA_CUDA : THERIA_CPU, ordinal};
    target->reads_arrays = reads_arrays != 0;
    target->convert = Ref::Borrowed(convert);
    target->allocate = Ref::Borrowed(allocate);
    target->fail = Ref::Borrowed(fail);
    target->workspace = Ref::Borrowed(workspace);
    target->current_stream = Ref::Borrowed(current_stream);
    const auto create = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    PyObject* self = create(type, 0);
    if (self != nullptr) reinterpret_cast<Runner*>(self)->target = target.release();
    return self;
  });
}

void RunnerFree(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<Runner*>(self)->target;
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

Target* TargetOf(PyObject* self) { return reinterpret_cast<Runner*>(self)->target; }

bool CheckCount(Py_ssize_t count, Py_ssize_t expected) {
  if (count == expected) return true;
  PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", expected, count);
  return false;
}

bool CheckTuple(PyObject* value) {
  if (PyTuple_Check(value)) return true;
  PyErr_SetString(PyExc_TypeError, "inputs and outputs are tuples");
  return false;
}

// run(operation, inputs, outputs, options, timeout_seconds)
PyObject* RunnerRun(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  if (!CheckCount(count, 5) || !CheckTuple(arguments[1]) || !CheckTuple(arguments[2])) {
    return nullptr;
  }
  const auto operation = static_cast<theria_operation>(PyLong_AsLong(arguments[0]));
  const double timeout = PyFloat_AsDouble(arguments[4]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  return Guarded([&]() -> PyObject* {
    Call call(TargetOf(self));
    if (!call.Describe(arguments[1], arguments[3])) return nullptr;
    if (!call.MakeOutputs(operation, arguments[2])) return nullptr;
    if (!call.Run(operation, timeout)) return nullptr;
    return call.Result().release();
  });
}

// flops(operation, inputs, options)
PyObject* RunnerFlops(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  if (!CheckCount(count, 3) || !CheckTuple(arguments[1])) return nullptr;
  const auto operation = static_cast<theria_operation>(PyLong_AsLong(arguments[0]));
  if (PyErr_Occurred() != nullptr) return nullptr;
  return Guarded([&]() -> PyObject* {
    Call call(TargetOf(self));
    double flops = 0;
    if (!call.Describe(arguments[1], arguments[2])) return nullptr;
    return call.Flops(operation, &flops) ? PyFloat_FromDouble(flops) : nullptr;
  });
}

// describe(inputs, options)
PyObject* RunnerDescribe(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  if (!CheckCount(count, 2) || !CheckTuple(arguments[0])) return nullptr;
  return Guarded([&]() -> PyObject* {
    Call call(TargetOf(self));
    return call.Describe(arguments[0], arguments[1]) ? call.Description().release() : nullptr;
  });
}

PyObject* UseNumpy(PyObject* /*module*/, PyObject* ndarray) {
  frameworks().ndarray = reinterpret_cast<PyTypeObject*>(Ref::Borrowed(ndarray).release());
  return Ref::Borrowed(Py_None).release();
}

// use_torch(Tensor, Parameter, exchange, is_grad_enabled, empty_like, float32)
PyObject* UseTorch(PyObject* /*module*/, PyObject* const* arguments, Py_ssize_t count) {
  if (!CheckCount(count, 6)) return nullptr;
  Ref as_float32(Py_BuildValue("{sO}", "dtype", arguments[5]));
  if (!as_float32) return nullptr;
  if (arguments[2] != Py_None) {
    void* pointer = PyCapsule_GetPointer(arguments[2], theria::python::kDlpackExchangeName);
    if (pointer == nullptr) return nullptr;
    const auto* exchange = static_cast<const theria::python::DlpackExchange*>(pointer);
    if (exchange->major_version == theria::python::kDlpackMajorVersion &&
        exchange->tensor_from_object != nullptr) {
      frameworks().exchange = exchange;
    }
  }
  for (Py_ssize_t index = 0; index < count; ++index) Py_INCREF(arguments[index]);
  frameworks().parameter = reinterpret_cast<PyTypeObject*>(arguments[1]);
  frameworks().is_grad_enabled = arguments[3];
  frameworks().empty_like = arguments[4];
  frameworks().as_float32 = as_float32.release();
  frameworks().tensor = reinterpret_cast<PyTypeObject*>(arguments[0]);
  return PyBool_FromLong(frameworks().exchange != nullptr);
}

// are_plain(tensors): whether each is None, or read directly; all on one device
PyObject* ArePlain(PyObject* /*module*/, PyObject* tensors) {
  if (!CheckTuple(tensors)) return nullptr;
  theria::python::Place first;
  bool has_first = false;
  const Py_ssize_t count = PyTuple_Size(tensors);
  for (Py_ssize_t index = 0; index < count; ++index) {
    PyObject* value = PyTuple_GetItem(tensors, index);
    if (value == Py_None) continue;
    theria_tensor tensor;
    theria::python::Place place;
    if (!theria::python::DescribeTorch(value, &tensor, &place)) return PyBool_FromLong(0);
    if (has_first && place != first) return PyBool_FromLong(0);
    first = place;
    has_first = true;
  }
  return PyBool_FromLong(1);
}

bool ReadNumber(PyObject* value, std::int32_t* is_given, std::int64_t* number) {
  if (value == Py_None) return true;
  *is_given = 1;
  *number = PyLong_AsLongLong(value);
  return PyErr_Occurred() == nullptr;
}

PyObject* PackOptions(PyObject* /*module*/, PyObject* arguments, PyObject* keywords) {
  static const char* names[] = {
      "is_causal",      "precision",        "implementation",      "scale",
      "window_left",    "window_right",     "dropout_probability", "dropout_seed",
      "dropout_offset", "causal_alignment", "deterministic",       "softcap",
      nullptr};
  theria_options options;
  std::memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  PyObject *scale = Py_None, *left = Py_None, *right = Py_None;
  unsigned long long seed = 0, offset = 0;
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "|$piiOOOdKKipd", const_cast<char**>(names),
                                   &options.is_causal, &options.precision, &options.implementation,
                                   &scale, &left, &right, &options.dropout_probability, &seed,
                                   &offset, &options.causal_alignment, &options.deterministic,
                                   &options.softcap)) {
    return nullptr;
  }
  options.dropout_seed = seed;
  options.dropout_offset = offset;
  if (scale != Py_None) {
    options.has_scale = 1;
    options.scale = PyFloat_AsDouble(scale);
    if (PyErr_Occurred() != nullptr) return nullptr;
  }
  if (!ReadNumber(left, &options.has_window_left, &options.window_left) ||
      !ReadNumber(right, &options.has_window_right, &options.window_right)) {
    return nullptr;
  }
  return PyBytes_FromStringAndSize(reinterpret_cast<const char*>(&options), sizeof options);
}

template <typename Function>
PyCFunction AsMethod(Function function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef runner_methods[] = {
    {"run", AsMethod(&RunnerRun), METH_FASTCALL, nullptr},
    {"flops", AsMethod(&RunnerFlops), METH_FASTCALL, nullptr},
    {"describe", AsMethod(&RunnerDescribe), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyType_Slot runner_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(&RunnerNew)},
    {Py_tp_dealloc, reinterpret_cast<void*>(&RunnerFree)},
    {Py_tp_methods, runner_methods},
    {0, nullptr},
};
PyType_Spec runner_spec = {"theria_kernels._binding.Runner", sizeof(Runner), 0, Py_TPFLAGS_DEFAULT,
                           runner_slots};

bool AddNames(PyObject* module, const char* attribute, Ref list) {
  if (!list) return false;
  const Ref tuple(PyList_AsTuple(list.get()));
  return tuple && PyObject_SetAttrString(module, attribute, tuple.get()) == 0;
}

bool Append(const Ref& list, const char* name) {
  const Ref text(PyUnicode_FromString(name));
  return list && text && PyList_Append(list.get(), text.get()) == 0;
}

int Execute(PyObject* module) {
  Ref inputs(PyList_New(0));
  Ref outputs(PyList_New(0));
  for (const auto& field : theria::python::kInputTensors) {
    if (!Append(inputs, field.name)) return -1;
  }
  for (const auto& field : theria::python::kOptionTensors) {
    if (!Append(inputs, field.path)) return -1;
  }
  for (const auto& field : theria::python::kOutputTensors) {
    if (!Append(outputs, field.name)) return -1;
  }
  if (!AddNames(module, "INPUTS", std::move(inputs))) return -1;
  if (!AddNames(module, "OUTPUTS", std::move(outputs))) return -1;
  if (PyModule_AddIntConstant(module, "ABI", THERIA_KERNELS_ABI) != 0) return -1;
  const Ref runner(PyType_FromModuleAndSpec(module, &runner_spec, nullptr));
  return runner && PyObject_SetAttrString(module, "Runner", runner.get()) == 0 ? 0 : -1;
}

PyMethodDef module_methods[] = {
    {"use_numpy", &UseNumpy, METH_O, nullptr},
    {"use_torch", AsMethod(&UseTorch), METH_FASTCALL, nullptr},
    {"are_plain", &ArePlain, METH_O, nullptr},
    {"pack_options", AsMethod(&PackOptions), METH_VARARGS | METH_KEYWORDS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef_Slot module_slots[] = {{Py_mod_exec, reinterpret_cast<void*>(&Execute)}, {0, nullptr}};
PyModuleDef module_definition = {PyModuleDef_HEAD_INIT, "_binding", nullptr, 0,      module_methods,
                                 module_slots,          nullptr,    nullptr, nullptr};

}  // namespace

// The name is what Python looks for.
PyMODINIT_FUNC PyInit__binding() {  // NOLINT(bugprone-reserved-identifier)
  return PyModuleDef_Init(&module_definition);
}
