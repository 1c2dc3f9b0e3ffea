#ifndef THERIA_TESTS_UNIT_CLIENT_MAML_COMPLEX_TAPE_H_
#define THERIA_TESTS_UNIT_CLIENT_MAML_COMPLEX_TAPE_H_

#include <array>
#include <complex>
#include <cstddef>
#include <vector>

// Reverse-mode differentiation of scalar programs over complex numbers. With an imaginary part of
// 1e-100 on an input, imaginary parts carry exact derivatives (the complex step method: Squire and
// Trapp 1998), those of gradients included: reverse mode gives the gradient, the imaginary part its
// tangent. Independent of every formula under test. Not thread-safe.

namespace theria::maml {

using Complex = std::complex<double>;
inline constexpr double kComplexStep = 1e-100;

class Tape {
 public:
  struct Variable {
    Tape* tape;
    std::size_t index;
    Complex value;
  };

  Variable Input(Complex value) { return Record(value, 0, 0.0, 0, 0.0); }

  // value = f(a, b) with the partial derivatives by a and b.
  Variable Record(Complex value, std::size_t a, Complex by_a, std::size_t b, Complex by_b) {
    nodes_.push_back({{a, b}, {by_a, by_b}});
    return {this, nodes_.size() - 1, value};
  }

  // The derivatives of `output` by the first `count` inputs. REQUIRES: these were recorded first.
  std::vector<Complex> Gradient(const Variable& output, std::size_t count) const {
    std::vector<Complex> bar(nodes_.size());
    bar[output.index] = 1.0;
    for (std::size_t i = output.index + 1; i-- > count;) {
      for (int side = 0; side < 2; ++side) {
        bar[nodes_[i].parents[side]] += bar[i] * nodes_[i].partials[side];
      }
    }
    bar.resize(count);
    return bar;
  }

 private:
  struct Node {
    std::array<std::size_t, 2> parents;
    std::array<Complex, 2> partials;
  };
  std::vector<Node> nodes_;
};

using Variable = Tape::Variable;

inline Variable operator+(const Variable& a, const Variable& b) {
  return a.tape->Record(a.value + b.value, a.index, 1.0, b.index, 1.0);
}
inline Variable operator-(const Variable& a, const Variable& b) {
  return a.tape->Record(a.value - b.value, a.index, 1.0, b.index, -1.0);
}
inline Variable operator*(const Variable& a, const Variable& b) {
  return a.tape->Record(a.value * b.value, a.index, b.value, b.index, a.value);
}
inline Variable operator*(double a, const Variable& b) {
  return b.tape->Record(a * b.value, b.index, a, b.index, 0.0);
}
inline Variable operator/(const Variable& a, const Variable& b) {
  const Complex quotient = a.value / b.value;
  return a.tape->Record(quotient, a.index, 1.0 / b.value, b.index, -quotient / b.value);
}
inline Variable Exp(const Variable& a) {
  const Complex value = std::exp(a.value);
  return a.tape->Record(value, a.index, value, a.index, 0.0);
}
inline Variable Log(const Variable& a) {
  return a.tape->Record(std::log(a.value), a.index, 1.0 / a.value, a.index, 0.0);
}

}  // namespace theria::maml

#endif  // THERIA_TESTS_UNIT_CLIENT_MAML_COMPLEX_TAPE_H_
