#ifndef THERIA_KERNELS_C_PYTHON_BINDING_CALL_H_
#define THERIA_KERNELS_C_PYTHON_BINDING_CALL_H_

#include <Python.h>

#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/c/include/theria/kernels.h"
#include "kernels/c/python/binding/arrays.h"
#include "kernels/c/python/binding/fields.h"
#include "kernels/c/python/binding/ref.h"

namespace theria::python {

// The library's functions, by their addresses: the caller has loaded it.
struct Library {
  decltype(&theria_run) run = nullptr;
  decltype(&theria_validate) validate = nullptr;
  decltype(&theria_flops) flops = nullptr;
  decltype(&theria_error_message) error_message = nullptr;
  decltype(&theria_error_field) error_field = nullptr;
};

// What calls on one context have in common.
struct Target {
  Library library;
  theria_context* context = nullptr;
  Place place;
  bool reads_arrays = true;  // in place; false: `convert` gets every array
  Ref convert;               // (array, field) -> an array that is read directly, or a tuple
  Ref allocate;              // (q, dtype, shape) -> array or tuple
  Ref fail;                  // (code, message, field): raises
  Ref workspace;             // (bytes) -> torch tensor; None: the library's pool
  Ref current_stream;        // (ordinal) -> int; for a torch without the exchange interface
  // Bytes of workspace by the kind of call, from the reports of earlier calls. Guarded by the GIL.
  std::unordered_map<std::string, std::size_t> workspace_bytes;

  // Raises the error of this thread's last call of the library.
  void Raise(theria_code code) const;
};

// One call of the library: the structs, and the references that keep its arrays alive. Used by one
// thread, with the GIL. Functions that return false have set a Python exception.
class Call {
 public:
  explicit Call(Target* target) : target_(target) {}

  // `inputs`: tuple in the order of INPUTS, None for an absent one, or shorter. `options`: bytes of
  // theria_options without tensors.
  bool Describe(PyObject* inputs, PyObject* options);
  // Makes an array for each index of kOutputTensors in the tuple `wanted`.
  bool MakeOutputs(theria_operation operation, PyObject* wanted);
  // Releases the GIL while the library runs.
  bool Run(theria_operation operation, double timeout_seconds);
  bool Flops(theria_operation operation, double* flops);

  // ((array, ...), (implementation, kernel, compute_seconds)) after Run.
  Ref Result() const;
  // A tuple for each present input, None for the others.
  Ref Description() const;

 private:
  bool DescribeInput(int index, PyObject* value);
  // Integers where they are not expected go to `convert`, which says so.
  bool DescribeAny(PyObject* value, const char* name, bool may_be_integer, theria_tensor* tensor);
  bool DescribeInPlace(PyObject* value, bool converted, theria_tensor* tensor) const;
  bool MakeOutput(int index);
  bool Validate(theria_operation operation);
  bool SetWorkspace(theria_launch* launch, std::size_t size);
  std::string Kind(theria_operation operation) const;
  static void* AllocateBlock(void* user, std::size_t size, void* stream);

  Target* target_;
  theria_inputs inputs_ = {sizeof(theria_inputs)};
  theria_outputs outputs_ = {sizeof(theria_outputs)};
  theria_options options_ = {sizeof(theria_options)};
  theria_report report_ = {sizeof(theria_report)};
  theria_tensor tensors_[kTensorCount];
  theria_tensor results_[kOutputCount];
  PyObject* arrays_[kTensorCount] = {};  // borrowed from the caller's tuple
  std::vector<Ref> kept_;
  std::vector<Ref> made_;
  std::vector<Ref> blocks_;
};

}  // namespace theria::python

#endif  // THERIA_KERNELS_C_PYTHON_BINDING_CALL_H_
