#pragma once
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/invoke.hpp>
#include <wanpar/extend/module/module_kinds.hpp>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/module/parameters.hpp>
#include <wanpar/module/value.hpp>

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace wanpar {

template <class Module, class Strategy>
class Wrapped;

namespace detail {

/// A module that takes type-erased values itself.
template <class M>
concept TakesValues = requires(M& module, Values values) {
  { module.call_values(std::move(values)) } -> std::same_as<Value>;
};

/// The parameter types of a module's forward as a tuple; void if they cannot be deduced (templates,
/// overloads).
template <class F>
struct ParametersOfFunction {
  using Type = void;
};
template <class R, class... P>
struct ParametersOfFunction<R (*)(P...)> {
  using Type = std::tuple<P...>;
};
template <class C, class R, class... P>
struct ParametersOfFunction<R (C::*)(P...)> {
  using Type = std::tuple<P...>;
};
template <class C, class R, class... P>
struct ParametersOfFunction<R (C::*)(P...) const> {
  using Type = std::tuple<P...>;
};

template <class M>
auto* parameters_of() {
  if constexpr (std::is_pointer_v<M>) {
    return static_cast<typename ParametersOfFunction<M>::Type*>(nullptr);
  } else if constexpr (Held<M>) {
    using Inner = std::remove_pointer_t<decltype(std::declval<M&>().operator->())>;
    if constexpr (requires { &Inner::forward; })
      return static_cast<typename ParametersOfFunction<decltype(&Inner::forward)>::Type*>(nullptr);
    else
      return static_cast<void*>(nullptr);
  } else if constexpr (requires { &M::operator(); }) {
    return static_cast<typename ParametersOfFunction<decltype(&M::operator())>::Type*>(nullptr);
  } else {
    return static_cast<void*>(nullptr);
  }
}
template <class M>
struct ParametersOf {
  using Type = std::remove_pointer_t<decltype(parameters_of<M>())>;
};
template <class Module, class Strategy>
struct ParametersOf<Wrapped<Module, Strategy>> : ParametersOf<Module> {};
template <class Before, class Block, class After>
struct ParametersOf<StackOf<Before, Block, After>> : ParametersOf<Before> {};

constexpr size_t kMostArguments = 8;
template <size_t>
using TensorOf = at::Tensor;

[[noreturn]] void refuse_count(size_t count);

/// Calls module(p...) if there are sizeof...(I) values, converted to the first of Parameters. Returns whether
/// it did.
template <class M, class Parameters, class Run, size_t... I>
bool try_call(M& module, const Run& run, const Values& values, Value& result, std::index_sequence<I...>) {
  if (values.size() != sizeof...(I)) return false;
  if constexpr (requires { run(module, std::declval<std::tuple_element_t<I, Parameters>>()...); }) {
    // In braces, so that values are converted in order; stored, since a module may take references.
    std::tuple<std::remove_cvref_t<std::tuple_element_t<I, Parameters>>...> kept{
        values[I].template as<std::remove_cvref_t<std::tuple_element_t<I, Parameters>>>()...};
    result = run(module, static_cast<std::tuple_element_t<I, Parameters>&&>(std::get<I>(kept))...);
    return true;
  }
  return false;
}

template <class M, class Parameters, class Run, size_t... N>
Value call_with(M& module, const Run& run, const Values& values, std::index_sequence<N...>) {
  Value result;
  bool called = (try_call<M, Parameters>(module, run, values, result, std::make_index_sequence<N>{}) || ...);
  if (!called) refuse_count(values.size());
  return result;
}

/// The module takes the tensors as one list.
template <class M, class Parameters = typename ParametersOf<M>::Type>
inline constexpr bool kTakesTensorList =
    std::is_same_v<Parameters, std::tuple<Tensors>> || std::is_same_v<Parameters, std::tuple<const Tensors&>>;

std::vector<at::Tensor> tensors_of_values(const Values& values);
std::vector<c10::IValue> ivalues_of(const Values& values);

template <class M>
struct IsWrapped : std::false_type {};
template <class Module, class Strategy>
struct IsWrapped<Wrapped<Module, Strategy>> : std::true_type {
  using Inner = Module;
};

/// Whether the innermost module is TorchScript.
template <class M>
constexpr bool is_script() {
  if constexpr (IsWrapped<M>::value)
    return is_script<typename IsWrapped<M>::Inner>();
  else
    return ScriptModule<M>;
}
/// Whether the innermost module takes type-erased values.
template <class M>
constexpr bool takes_values() {
  if constexpr (IsWrapped<M>::value)
    return takes_values<typename IsWrapped<M>::Inner>();
  else
    return TakesValues<M>;
}

/// Calls a module of any kind with type-erased values, by run(module, arguments…).
template <class M, class Run = AsItStands<M>>
Value call_values(M& module, Values values, const Run& run = {}) {
  using Parameters = typename ParametersOf<M>::Type;
  if constexpr (is_script<M>()) {
    return Value(run(module, ivalues_of(values)));
  } else if constexpr (takes_values<M>()) {
    return Value(run(module, std::move(values)));
  } else if constexpr (kTakesTensorList<M>) {
    if (values.size() == 1 && values[0].template find<std::vector<at::Tensor>>())
      return Value(run(module, values[0].template as<std::vector<at::Tensor>>()));
    return Value(run(module, tensors_of_values(values)));
  } else if constexpr (std::same_as<Parameters, std::tuple<Values>>) {
    return Value(run(module, std::move(values)));
  } else if constexpr (std::is_void_v<Parameters>) {
    return [&]<size_t... I>(std::index_sequence<I...>) {
      return call_with<M, std::tuple<TensorOf<I>...>>(module, run, values,
                                                      std::make_index_sequence<kMostArguments + 1>{});
    }
    (std::make_index_sequence<kMostArguments>{});
  } else {
    return call_with<M, Parameters>(module, run, values,
                                    std::make_index_sequence<std::tuple_size_v<Parameters> + 1>{});
  }
}

[[noreturn]] void refuse_function(const char* what);

}  // namespace detail

/// A type-erased module: called with any arguments, it returns a Result.
///
/// It can be used wherever a module can, so that strategies are chosen at run time:
///
///     wanpar::Model model(transformer);
///     if (sharded) model = model | wanpar::sharded_params({.group = world});
///
/// Cheap to copy; copies share the module. An undefined tensor means an omitted argument. Arguments are
/// passed by value: the caller does not see what the module assigns to them. A call throws Error if the
/// module does not accept the arguments or does not return a Result.
template <class Result>
class ModelOf {
 public:
  template <Wrappable Module>
  requires(!std::same_as<std::remove_cvref_t<Module>, ModelOf>) explicit(false) ModelOf(Module module)
      : held_(std::make_shared<Held<Module>>(std::move(module))) {}
  template <class Other>
  requires(!Wrappable<Other>) explicit ModelOf(const Other&) {
    static_assert(detail::kNever<Other>,
                  "wanpar: a Model is made of a module: a ModuleHolder, a std::shared_ptr of a module, a "
                  "torch::jit::Module, a wrapped module, or anything callable");
  }

  Result call(const std::vector<at::Tensor>& arguments) const {
    return call_values(Values(arguments.begin(), arguments.end())).template as<Result>();
  }
  Value call_values(Values arguments) const { return held_->call(std::move(arguments)); }

  template <class... Arguments>
  Result operator()(Arguments&&... arguments) const {
    if constexpr (sizeof...(Arguments) == 1 && (std::same_as<std::remove_cvref_t<Arguments>, Values> && ...))
      return call_values(std::forward<Arguments>(arguments)...).template as<Result>();
    else
      return call_values(list(Value(std::forward<Arguments>(arguments))...)).template as<Result>();
  }

  NamedTensors named_parameters() const { return held_->named_parameters(); }
  std::vector<at::Tensor> parameters() const { return tensors_in(named_parameters()); }
  NamedTensors module_parameters() const { return held_->module_parameters(); }
  NamedTensors named_buffers() const { return held_->named_buffers(); }
  void zero_grad(bool set_to_none = true) { clear_gradients(parameters(), set_to_none); }
  /// The following throw Error for a function, which has no training mode, dtype or device.
  void train(bool on = true) { held_->train(on); }
  void eval() { train(false); }
  bool is_training() const {
    auto mode = training_mode();
    if (!mode) detail::refuse_function("is_training");
    return *mode;
  }
  /// nullopt for a function.
  std::optional<bool> training_mode() const { return held_->training_mode(); }
  void to(at::ScalarType dtype) { held_->to(dtype); }
  void to(at::Device device) { held_->to(device); }

 private:
  struct Any {
    virtual ~Any() = default;
    virtual Value call(Values arguments) = 0;
    virtual NamedTensors named_parameters() = 0;
    virtual NamedTensors module_parameters() = 0;
    virtual NamedTensors named_buffers() = 0;
    virtual void train(bool on) = 0;
    virtual std::optional<bool> training_mode() = 0;
    virtual void to(at::ScalarType dtype) = 0;
    virtual void to(at::Device device) = 0;
  };

  template <class Module>
  struct Held : Any {
    explicit Held(Module m) : module(std::move(m)) {}
    Value call(Values arguments) override { return detail::call_values(module, std::move(arguments)); }
    NamedTensors named_parameters() override { return wanpar::named_parameters(module); }
    NamedTensors module_parameters() override { return wanpar::module_parameters(module); }
    NamedTensors named_buffers() override { return wanpar::named_buffers(module); }
    void train(bool on) override {
      if constexpr (HasMode<Module>)
        module_of(module).train(on);
      else
        detail::refuse_function("train");
    }
    std::optional<bool> training_mode() override { return mode_of(module); }
    void to(at::ScalarType dtype) override { move_to(dtype); }
    void to(at::Device device) override { move_to(device); }
    template <class To>
    void move_to(To to) {
      if constexpr (HasTo<Module, To>)
        module_of(module).to(to);
      else
        detail::refuse_function("to");
    }
    Module module;
  };

  template <class... Each>
  static Values list(Each&&... each) {
    Values values;
    values.reserve(sizeof...(Each));
    (values.push_back(std::move(each)), ...);
    return values;
  }

  std::shared_ptr<Any> held_;
};

/// A type-erased module that returns a tensor.
using Model = ModelOf<at::Tensor>;

}  // namespace wanpar
