#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/detail/module/call.hpp>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/extend/module/invoke.hpp>
#include <wanpar/extend/module/module_kinds.hpp>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/module/parameters.hpp>

#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace wanpar {

/// A module wrapped in a strategy. It is called like the module, with arguments and results of any shape
/// (values.hpp), and can be wrapped again. `Strategy` is the part that does not depend on the module's type:
///
///     using Options;  Strategy(Options, const ModuleTensors&);
///     static constexpr bool kByBlocks;           // run the module by its blocks (by_blocks.hpp), so that a
///                                                // BlocksHandler intercepts those of any kind of module
///     bool is_alone() const;                     // calls may bypass the strategy
///     std::vector<Communicator> groups() const;  // the groups that a call communicates over
///     std::unique_ptr<ForwardScope> begin_forward(const Arguments&, std::shared_ptr<void> module);
///
/// and optionally
///
///     NamedTensors named_shards() const;               // what an optimizer steps instead of the parameters
///     void set_placement(NamedTensors& parameters);    // sets the Placement of the module's own parameters
///     void check_to(To...);                            // throws Error if parameters cannot be moved
///
/// Copies share the module and the state of the strategy.
template <class Module, class Strategy>
class Wrapped : public Strategy {
 public:
  static constexpr bool kIsModule = true;
  Wrapped(Module module, typename Strategy::Options options)
      : Strategy(std::move(options), tensors_by_kind(module)),
        module_(std::make_shared<Module>(std::move(module))),
        runner_(*module_) {
    initialize();
  }

  template <class... Args>
  requires RunsWith<Strategy, Module, Args...>
  auto operator()(Args&&... args) {
    detail::Forward forward(Strategy::groups());
    try {
      if (Strategy::is_alone()) return invoke(*module_, std::forward<Args>(args)...);
      detail::Call<Args...> call(args...);
      if (auto mode = training_mode())
        for (auto* words : {&call.arguments().signature, &call.arguments().kinds})
          *words += *mode ? "training" : "evaluation";
      forward.begin(Strategy::begin_forward(call.arguments(), module_), call.arguments());
      auto result = call.run(
          [&](auto&&... given) { return runner_(*module_, std::forward<decltype(given)>(given)...); });
      auto results = call.results(result);
      forward.end(results);
      call.finish(result, std::move(results));
      return result;
    } catch (...) {
      forward.fail();
    }
  }

  template <class... Args>
  requires RunsWith<Strategy, Module, Args...>
  auto forward(Args&&... args) { return (*this)(std::forward<Args>(args)...); }

  /// The wrapped module.
  Module& inner() { return *module_; }
  const Module& inner() const { return *module_; }

  /// The parameters to pass to an optimizer, under the module's names: this rank's shards if they are
  /// sharded.
  NamedTensors named_parameters() const {
    if constexpr (requires { Strategy::named_shards(); })
      return Strategy::named_shards();
    else
      return wanpar::named_parameters(*module_);
  }
  std::vector<at::Tensor> parameters() const { return tensors_in(named_parameters()); }
  /// The module's own parameters, with the placement that this strategy gives them: for an enclosing
  /// strategy.
  NamedTensors module_parameters() const {
    auto parameters = wanpar::module_parameters(*module_);
    if constexpr (requires { Strategy::set_placement(parameters); }) Strategy::set_placement(parameters);
    return parameters;
  }
  NamedTensors named_buffers() const { return wanpar::named_buffers(*module_); }

  /// As in torch::nn::Module.
  void zero_grad(bool set_to_none = true) { clear_gradients(parameters(), set_to_none); }
  void train(bool on = true) requires HasMode<Module> { module_of(*module_).train(on); }
  void eval() requires HasMode<Module> { train(false); }
  bool is_training() const requires HasMode<Module> { return module_of(*module_).is_training(); }
  std::optional<bool> training_mode() const { return mode_of(*module_); }
  /// Throws Error if the strategy has fixed the device or dtype of the parameters.
  template <class... To>
  requires HasTo<Module, To...>
  void to(To... to) {
    if constexpr (requires { Strategy::check_to(to...); }) Strategy::check_to(to...);
    module_of(*module_).to(to...);
  }

 protected:
  const std::shared_ptr<Module>& module() const { return module_; }
  const RunnerOf<Strategy, Module>& runner() const { return runner_; }

 private:
  std::shared_ptr<Module> module_;
  RunnerOf<Strategy, Module> runner_;
};

/// `model | closure` is a Strategy of that model, made with these options: what a strategy's own function
/// returns, so that it stands behind a module as those of this library do.
///
///     template <class Module>
///     using ColumnParallel = wanpar::Wrapped<Module, ColumnParallelStrategy>;
///     inline auto column_parallel(Communicator group) {
///       return wanpar::Closure<ColumnParallel, Communicator>(std::move(group));
///     }
template <template <class> class Strategy, class... Options>
class Closure {
 public:
  explicit Closure(Options... options) : options_(std::move(options)...) {}

  template <Wrappable Module>
  friend auto operator|(Module module, Closure closure) {
    auto wrapped = [&](Options&... options) {
      return Strategy<Module>(std::move(module), std::move(options)...);
    };
    return std::apply(wrapped, closure.options_);
  }

  template <class Other>
  requires(!Wrappable<Other>) friend auto operator|(const Other&, Closure) {
    static_assert(
        detail::kNever<Other>,
        "wanpar: what stands left of | is no module. Wrap a ModuleHolder (Net net; net | strategy), a "
        "std::shared_ptr of a module, a torch::jit::Module, a wanpar::Model, or anything callable; of a "
        "plain module object, pass std::make_shared<Net>() instead");
  }

 private:
  std::tuple<Options...> options_;
};

}  // namespace wanpar
