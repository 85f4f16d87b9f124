#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

//  Arguments and results may be of any shape: every strategy finds the tensors in them, however they are
//  nested.
//
//     tensor · optional · vector · array · tuple · pair · map · c10::List · c10::Dict · IValue · numbers ·
//     strings
//
//  and any nesting of those. To support a struct of your own, list its members in its own namespace:
//
//     struct Output { at::Tensor tokens; std::vector<at::Tensor> hidden; };
//     auto wanpar_fields(Output& output) { return std::tie(output.tokens, output.hidden); }
//
//  For a struct without tensors, return std::tie().
namespace c10 {
struct IValue;
}

namespace wanpar {
namespace detail {

/// Visits the leaves of a value; path() is the path of the current leaf: "0", "2.mask".
class ValueVisitor {
 public:
  virtual ~ValueVisitor() = default;

  /// A tensor, which may be undefined; the visitor may replace it.
  virtual void tensor(at::Tensor& x) = 0;
  /// An empty optional.
  virtual void none() {}
  /// A value without tensors, as text: equal texts mean equal values.
  virtual void plain(std::string_view) {}

  const std::string& path() const { return path_; }
  template <class Walk>
  void within(std::string_view part, const Walk& walk) {
    auto length = path_.size();
    if (length > 0) path_ += '.';
    path_ += part;
    walk();
    path_.resize(length);
  }

 private:
  std::string path_;
};

void walk_ivalue(c10::IValue& value, ValueVisitor& visitor);
/// Walks the arguments of a TorchScript module: the path of each is its position.
void walk_ivalues(std::vector<c10::IValue>& values, ValueVisitor& visitor);

template <class T>
inline constexpr bool kIsOptional = false;
template <class T>
inline constexpr bool kIsOptional<std::optional<T>> = true;

template <class T>
concept HasFields = requires(T& value) {
  wanpar_fields(value);
};
template <class T>
concept IsTuple = requires {
  std::tuple_size<T>::value;
};
template <class T>
concept IsMap = requires(T& map) {
  typename T::mapped_type;
  map.begin()->second;
};
template <class T>
concept IsDict = requires(T& dict) {  // c10::Dict
  dict.begin()->setValue(dict.begin()->value());
};
template <class T>
concept IsList = requires(T& list) {  // c10::List
  list.set(0, list.get(0));
  list.size();
};
template <class T>
concept IsRange = requires(T& list) {
  list.begin();
  list.end();
  list.size();
};
/// A type with a walk() of its own: Value.
template <class T>
concept Walks = requires(T& value, ValueVisitor& visitor) {
  value.walk(visitor);
};
template <class T>
concept IsText = std::convertible_to<const T&, std::string_view>;
/// A type without tensors: a number, an enum, a string, a device, options.
template <class T>
concept IsPlain = std::is_arithmetic_v<T> || std::is_enum_v<T> || IsText<T> ||
    std::same_as<T, std::nullopt_t> || std::same_as<T, std::nullptr_t> || std::same_as<T, c10::Device> ||
    std::same_as<T, c10::Scalar> || std::same_as<T, c10::TensorOptions> || std::same_as<T, std::vector<bool>>;

template <class T>
inline constexpr bool kNever = false;

std::string text_of_words(const c10::Scalar& number);
std::string text_of_words(const c10::TensorOptions& options);

template <class T>
std::string text_of_plain(const T& value) {
  if constexpr (std::is_pointer_v<T>)
    return value ? std::string(value) : "null";
  else if constexpr (std::same_as<T, c10::Device>)
    return value.str();
  else if constexpr (std::same_as<T, std::vector<bool>>)
    return std::accumulate(value.begin(), value.end(), std::string(),
                           [](std::string text, bool one) { return text + (one ? '1' : '0'); });
  else if constexpr (IsText<T>)
    return std::string(std::string_view(value));
  else if constexpr (std::is_enum_v<T>)
    return std::to_string(static_cast<int64_t>(value));
  else if constexpr (std::is_floating_point_v<T>)
    return std::to_string(std::bit_cast<int64_t>(static_cast<double>(value)));
  else if constexpr (std::is_arithmetic_v<T>)
    return std::to_string(value);
  else if constexpr (std::same_as<T, c10::Scalar> || std::same_as<T, c10::TensorOptions>)
    return text_of_words(value);
  else
    return "none";
}

template <class T>
void walk(T& value, ValueVisitor& visitor) {
  auto each = [&](size_t i, auto& part) { visitor.within(std::to_string(i), [&] { walk(part, visitor); }); };
  auto each_of = [&](auto&& tuple) {
    std::apply(
        [&](auto&... parts) {
          size_t i = 0;
          (each(i++, parts), ...);
        },
        tuple);
  };
  if constexpr (IsPlain<std::remove_cv_t<T>>) {
    visitor.plain(text_of_plain(value));
  } else if constexpr (std::same_as<T, at::Tensor>) {
    visitor.tensor(value);
  } else if constexpr (std::same_as<T, c10::IValue>) {
    walk_ivalue(value, visitor);
  } else if constexpr (std::same_as<T, std::vector<c10::IValue>>) {
    walk_ivalues(value, visitor);
  } else if constexpr (Walks<T>) {
    value.walk(visitor);
  } else if constexpr (HasFields<T>) {
    each_of(wanpar_fields(value));
  } else if constexpr (kIsOptional<T>) {
    if (value)
      walk(*value, visitor);
    else
      visitor.none();
  } else if constexpr (IsTuple<T>) {
    each_of(value);
  } else if constexpr (IsMap<T>) {
    std::vector<std::pair<std::string, typename T::mapped_type*>>
        parts;  // sorted: the same order on every rank
    for (auto& [key, part] : value) parts.push_back({text_of_plain(key), &part});
    std::sort(parts.begin(), parts.end());
    for (auto& [key, part] : parts) visitor.within(key, [&, part = part] { walk(*part, visitor); });
  } else if constexpr (IsDict<T>) {
    value = value.copy();  // a handle that the caller shares
    for (auto& entry : value) {
      auto part = entry.value();
      visitor.within(text_of_plain(entry.key()), [&] { walk(part, visitor); });
      entry.setValue(std::move(part));
    }
  } else if constexpr (IsList<T>) {
    value = value.copy();  // likewise
    for (size_t i = 0; i < value.size(); ++i) {
      auto part = value.get(i);
      each(i, part);
      value.set(i, std::move(part));
    }
  } else if constexpr (IsRange<T>) {
    size_t i = 0;
    for (auto& part : value) each(i++, part);
  } else {
    static_assert(
        kNever<T>,
        "wanpar: this type of argument or result cannot be searched for tensors. Pass tensors, numbers, "
        "strings, optionals, vectors, tuples and maps of them, or let your struct name its members: auto "
        "wanpar_fields(Struct& s) { return std::tie(s.a, s.b); }");
  }
}

/// Whether values of this type can hold tensors.
template <class T>
inline constexpr bool kMayHoldTensors = !IsPlain<T>;

}  // namespace detail
}  // namespace wanpar
