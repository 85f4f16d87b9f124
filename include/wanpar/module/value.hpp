#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/module/values.hpp>

#include <concepts>
#include <memory>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

namespace wanpar {

/// A type-erased argument or result, of any type that values.hpp can walk.
class Value {
 public:
  Value() : Value(std::nullopt) {}
  template <class T>
  requires(!std::same_as<std::remove_cvref_t<T>, Value>) Value(T&& value)
      : held_(std::make_unique<Holder<Stored<T>>>(Stored<T>(std::forward<T>(value)))) {}
  Value(const Value& other) : held_(other.held_->clone()) {}
  Value(Value&&) noexcept = default;
  Value& operator=(const Value& other) { return *this = Value(other); }
  Value& operator=(Value&&) noexcept = default;

  /// Converts to T: numbers to other numbers, a tensor or an empty value to an optional; numbers, tensors and
  /// lists of tensors to IValues. Throws Error, which names both types, if there is no conversion.
  template <class T>
  T as() const {
    if (auto* exact = find<T>()) return *exact;
    if constexpr (std::same_as<T, at::Tensor>) {
      return tensor();
    } else if constexpr (detail::kIsOptional<T>) {
      using Inner = typename T::value_type;
      if (is_none()) return std::nullopt;
      return as<Inner>();
    } else if constexpr (std::is_arithmetic_v<T>) {
      if (auto* number = find<int64_t>()) return static_cast<T>(*number);
      if (auto* number = find<double>()) return static_cast<T>(*number);
      if (auto* number = find<bool>()) return static_cast<T>(*number);
    } else if constexpr (std::same_as<T, c10::IValue>) {
      return ivalue_of(*this);
    }
    refuse(typeid(T));
  }

  template <class T>
  const T* find() const {
    auto* holder = dynamic_cast<const Holder<T>*>(held_.get());
    return holder ? &holder->value : nullptr;
  }

  void walk(detail::ValueVisitor& visitor) { held_->walk(visitor); }

 private:
  struct Any {
    virtual ~Any() = default;
    virtual std::unique_ptr<Any> clone() const = 0;
    virtual void walk(detail::ValueVisitor& visitor) = 0;
    virtual const std::type_info& type() const = 0;
  };
  template <class T>
  struct Holder : Any {
    explicit Holder(T v) : value(std::move(v)) {}
    std::unique_ptr<Any> clone() const override { return std::make_unique<Holder>(value); }
    void walk(detail::ValueVisitor& visitor) override { detail::walk(value, visitor); }
    const std::type_info& type() const override { return typeid(T); }
    T value;
  };

  /// Integers are stored as int64_t, floating-point numbers as double, text as std::string.
  template <class T, class D = std::decay_t<T>>
  using Stored = std::conditional_t<
      std::same_as<D, bool> || std::is_enum_v<D>, D,
      std::conditional_t<std::integral<D>, int64_t,
                         std::conditional_t<std::floating_point<D>, double,
                                            std::conditional_t<detail::IsText<D>, std::string, D>>>>;

  bool is_none() const;
  at::Tensor tensor() const;
  static c10::IValue ivalue_of(const Value& value);
  [[noreturn]] void refuse(const std::type_info& wanted) const;

  std::unique_ptr<Any> held_;
};

using Values = std::vector<Value>;

}  // namespace wanpar
