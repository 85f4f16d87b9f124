#pragma once
#include <wanpar/detail/module/forward.hpp>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace wanpar {

class Value;

namespace detail {

/// A list of all arguments, as opposed to one argument.
template <class T>
concept IsArgumentList = std::same_as<T, std::vector<c10::IValue>> || std::same_as<T, std::vector<Value>>;

/// An argument as stored during the call: a copy, whose tensors can be replaced. Types that cannot hold
/// tensors are forwarded.
template <class Arg, class T = std::remove_cvref_t<Arg>>
using Kept =
    std::conditional_t<!kMayHoldTensors<std::decay_t<Arg>>, Arg&&,
                       std::conditional_t<std::same_as<T, at::TensorList>, std::vector<at::Tensor>, T>>;

/// One call of a module: flattens arguments and result for a strategy, and restores their shape for the
/// module.
template <class... Args>
class Call {
  static constexpr bool kIsList = sizeof...(Args) == 1 && (IsArgumentList<std::remove_cvref_t<Args>> && ...);

 public:
  explicit Call(Args&... args) : given_(args...), kept_(keep<Args>(args)...) {
    Collector collector;
    each([&](auto& value, const std::string& path) {
      auto length = collector.numbers.size();
      if constexpr (kIsList)
        walk(value, collector);
      else
        collector.within(path, [&] { walk(value, collector); });
      numbers_.push_back(collector.numbers.substr(length));
    });
    before_ = tensors_alone(collector.tensors);
    arguments_ = {std::move(collector.tensors), sizeof...(Args), std::move(collector.plain_names),
                  std::move(collector.signature), std::move(collector.kinds)};
    if constexpr (kIsList) arguments_.count = static_cast<int64_t>(std::get<0>(kept_).size());
  }

  /// The arguments, flattened; a strategy may replace their tensors before run().
  Arguments& arguments() { return arguments_; }

  /// Calls module(args...).
  template <class Module>
  auto run(const Module& module) {
    entered_ = tensors_alone(arguments_.tensors);
    Replacer replacer(arguments_.tensors);
    each([&](auto& value, const std::string&) { walk(value, replacer); });
    return [&]<size_t... I>(std::index_sequence<I...>) { return module(pass<Args, I>()...); }
    (std::index_sequence_for<Args...>{});
  }

  /// The tensors of the result, and those that the module assigned to the caller's arguments.
  template <class Result>
  NamedTensors results(Result& result) {
    Collector collector;
    walk(result, collector);
    of_result_ = collector.tensors.size();
    each_seen([&]<size_t I>(std::integral_constant<size_t, I>) {
      Collector now;
      now.within(std::to_string(I), [&] { walk(std::get<I>(kept_), now); });
      bool is_written = now.numbers != numbers_[I];
      for (auto& item : now.tensors) {
        if (place_among_entered(item.tensor) >= 0) continue;
        is_written = true;
        collector.tensors.push_back({"argument " + item.name, item.tensor});
      }
      if (is_written) written_[I] = std::move(now.tensors);
    });
    return std::move(collector.tensors);
  }

  /// Puts `results` into the result and into the caller's arguments. Arguments that the module did not assign
  /// to are not written: thread ranks may share them.
  template <class Result>
  void finish(Result& result, NamedTensors results) {
    Replacer replacer(results);
    walk(result, replacer);
    auto next = of_result_;
    each_seen([&]<size_t I>(std::integral_constant<size_t, I>) {
      if (!written_[I]) return;
      for (auto& item : *written_[I]) {
        auto place = place_among_entered(item.tensor);
        item.tensor = place < 0 ? results[next++].tensor : before_[place];
      }
      Replacer put_back(*written_[I]);
      walk(std::get<I>(kept_), put_back);
      std::get<I>(given_) = std::move(std::get<I>(kept_));
    });
  }

 private:
  /// Whether the caller sees assignments to the argument.
  template <class Arg>
  static constexpr bool kIsSeen =
      std::is_lvalue_reference_v<Arg> && !std::is_const_v<std::remove_reference_t<Arg>> &&
      kMayHoldTensors<std::decay_t<Arg>> && std::same_as<Kept<Arg>, std::remove_cvref_t<Arg>>;

  template <class Arg>
  static Kept<Arg> keep(std::remove_reference_t<Arg>& arg) {
    using T = std::remove_cvref_t<Arg>;
    static_assert(
        !std::is_polymorphic_v<T>,
        "wanpar: an argument of a polymorphic class cannot be copied as what it is; pass its tensors");
    if constexpr (std::same_as<T, at::TensorList>)
      return arg.vec();
    else
      return static_cast<Arg&&>(arg);
  }

  template <class Arg, size_t I>
  decltype(auto) pass() {
    auto& kept = std::get<I>(kept_);
    if constexpr (!std::is_lvalue_reference_v<Arg>)
      return std::move(kept);
    else if constexpr (std::is_const_v<std::remove_reference_t<Arg>>)
      return std::as_const(kept);
    else
      return (kept);
  }

  template <class Action>
  void each(const Action& action) {
    std::apply(
        [&](auto&... values) {
          size_t i = 0;
          (action(values, std::to_string(i++)), ...);
        },
        kept_);
  }

  template <class Action>
  void each_seen(const Action& action) {
    [&]<size_t... I>(std::index_sequence<I...>) {
      [[maybe_unused]] auto one = [&]<size_t J>(std::integral_constant<size_t, J> index) {
        if constexpr (kIsSeen<std::tuple_element_t<J, std::tuple<Args...>>>) action(index);
      };
      (one(std::integral_constant<size_t, I>{}), ...);
    }
    (std::index_sequence_for<Args...>{});
  }

  static Tensors tensors_alone(const NamedTensors& named) {
    Tensors tensors;
    for (auto& item : named) tensors.push_back(item.tensor);
    return tensors;
  }

  /// The index of x among the tensors that the module was called with; −1 if the module put it there.
  int64_t place_among_entered(const at::Tensor& x) const {
    auto found =
        std::find_if(entered_.begin(), entered_.end(), [&](auto& other) { return other.is_same(x); });
    return found == entered_.end() ? -1 : found - entered_.begin();
  }

  std::tuple<std::remove_reference_t<Args>&...> given_;
  std::tuple<Kept<Args>...> kept_;
  Arguments arguments_;
  Tensors before_, entered_;          // the caller's tensors, and those the module is called with
  std::vector<std::string> numbers_;  // of each argument: everything but the tensors, as text
  std::array<std::optional<NamedTensors>, sizeof...(Args)> written_;  // arguments that the module assigned to
  size_t of_result_ = 0;                                              // number of tensors in the result
};

}  // namespace detail
}  // namespace wanpar
