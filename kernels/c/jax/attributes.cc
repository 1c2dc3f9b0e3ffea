#include "kernels/c/jax/attributes.h"

#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

namespace theria::jax {
namespace {

namespace ffi = xla::ffi;

constexpr std::string_view kInputs = "inputs";
constexpr std::string_view kOutputs = "outputs";
constexpr std::string_view kThreads = "threads";

// An attribute has the name of its field. Integers are int64 attributes, doubles float64 ones.
struct OptionAttribute {
  std::string_view name;
  std::variant<int32_t theria_options::*, int64_t theria_options::*, uint64_t theria_options::*,
               double theria_options::*>
      field;
  int32_t theria_options::*presence = nullptr;  // set to 1 if the attribute is there
};

// client/python/src/theria/jax/_attributes.py has a row of the same name for each it can send.
constexpr OptionAttribute kOptions[] = {
    {"is_causal", &theria_options::is_causal},
    {"precision", &theria_options::precision},
    {"implementation", &theria_options::implementation},
    {"scale", &theria_options::scale, &theria_options::has_scale},
    {"window_left", &theria_options::window_left, &theria_options::has_window_left},
    {"window_right", &theria_options::window_right, &theria_options::has_window_right},
    {"dropout_probability", &theria_options::dropout_probability},
    {"dropout_offset", &theria_options::dropout_offset},
    {"causal_alignment", &theria_options::causal_alignment},
    {"deterministic", &theria_options::deterministic},
    {"softcap", &theria_options::softcap},
};

ffi::Error Invalid(std::string_view attribute, std::string_view what) {
  return ffi::Error::InvalidArgument(
      std::string("attribute ").append(attribute).append(" ").append(what));
}

std::vector<std::string_view> Split(std::string_view names) {
  std::vector<std::string_view> split;
  while (!names.empty()) {
    const std::size_t comma = names.find(',');
    split.push_back(names.substr(0, comma));
    names = comma == std::string_view::npos ? std::string_view() : names.substr(comma + 1);
  }
  return split;
}

ffi::Error ReadNames(const ffi::Dictionary& attributes, std::string_view attribute,
                     std::vector<std::string_view>* names) {
  if (!attributes.contains<std::string_view>(attribute)) {
    return Invalid(attribute, "must be a string");
  }
  *names = Split(*attributes.get<std::string_view>(attribute));
  return ffi::Error::Success();
}

ffi::Error ReadOption(const ffi::Dictionary& attributes, const OptionAttribute& row,
                      theria_options* options) {
  return std::visit(
      [&](auto field) {
        using Field = std::remove_reference_t<decltype(options->*field)>;
        using Attribute = std::conditional_t<std::is_same_v<Field, double>, double, int64_t>;
        if (!attributes.contains<Attribute>(row.name)) {
          return Invalid(row.name, "has another type than its option");
        }
        options->*field = static_cast<Field>(*attributes.get<Attribute>(row.name));
        if (row.presence != nullptr) options->*row.presence = 1;
        return ffi::Error::Success();
      },
      row.field);
}

const OptionAttribute* FindOption(std::string_view name) {
  for (const OptionAttribute& row : kOptions) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

}  // namespace

ffi::ErrorOr<Attributes> ReadAttributes(const ffi::Dictionary& attributes) {
  Attributes read;
  read.options.struct_size = sizeof(theria_options);
  ffi::Error error = ReadNames(attributes, kInputs, &read.inputs);
  if (error.success()) error = ReadNames(attributes, kOutputs, &read.outputs);
  for (auto name = attributes.begin(); name != attributes.end() && error.success(); ++name) {
    if (*name == kInputs || *name == kOutputs) continue;
    if (*name == kThreads && attributes.contains<int64_t>(kThreads)) {
      read.threads = static_cast<int32_t>(*attributes.get<int64_t>(kThreads));
    } else if (const OptionAttribute* row = FindOption(*name); row != nullptr) {
      error = ReadOption(attributes, *row, &read.options);
    } else {
      error = Invalid(*name, "is unknown: install theria and theria-kernels of one release");
    }
  }
  if (error.failure()) return ffi::Unexpected(std::move(error));
  return read;
}

}  // namespace theria::jax
