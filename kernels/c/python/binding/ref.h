#ifndef THERIA_KERNELS_C_PYTHON_BINDING_REF_H_
#define THERIA_KERNELS_C_PYTHON_BINDING_REF_H_

#include <Python.h>

#include <utility>

namespace theria::python {

// An owned reference to a Python object, or nothing. Every use needs the GIL.
class Ref {
 public:
  Ref() = default;
  // Takes the reference over, such as one that the C API returned as new.
  explicit Ref(PyObject* owned) : object_(owned) {}
  static Ref Borrowed(PyObject* object) {
    Py_XINCREF(object);
    return Ref(object);
  }
  Ref(Ref&& other) noexcept : object_(other.release()) {}
  Ref& operator=(Ref&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() { Py_XDECREF(object_); }

  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_ = nullptr;
};

}  // namespace theria::python

#endif  // THERIA_KERNELS_C_PYTHON_BINDING_REF_H_
