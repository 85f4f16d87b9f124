#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/invoke.hpp>
#include <wanpar/module/wrapper.hpp>

#include <bit>
#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

//  SequenceParallel: each rank holds a part of the tokens; attention, the one operator that mixes them, is
//  taken over.
//
//  Ulysses: tokens are traded for heads             Ring: keys and values go round, a part at a time
//
//     tokens 0 1 2 3 | 4 5 6 7    heads 0 1 2 3         rank 0   queries 0 1 2   keys 0 1 2 → 6 7 8 → 3 4 5
//     rank 0 [-----]              rank 0 [-]            rank 1   queries 3 4 5   keys 3 4 5 → 0 1 2 → 6 7 8
//     rank 1           [-----]    rank 1    [-]         rank 2   queries 6 7 8   keys 6 7 8 → 3 4 5 → 0 1 2
//     before attention ──────▶ all-to-all ──▶ and back  partial results are merged by their log-sum-exp
//
//  Both at once: the tokens lie over ring × ulysses ranks, ulysses fastest. exact
namespace wanpar {

struct Cut {
  int64_t arg = 0;  ///< position of the argument, whole on every rank
  int64_t dim = 1;  ///< its token dimension
};

struct Join {
  int64_t dim = 1;  ///< the token dimension of the result
};

struct SequenceParallelOptions {
  Communicator ulysses = {};
  Communicator ring = {};
  /// For a module that cannot be edited: which arguments hold tokens. One that states it by split_sequence
  /// and gather_sequence needs none.
  std::vector<Cut> split = {};
  /// Where the result's tokens are, to be checked; left out, where they are found to be.
  std::vector<Join> gather = {};
  /// Deals each rank of the ring a range from the front and its mirror image from the back, so that causal
  /// attention costs all of them alike.
  bool balance_causal = false;
  /// Looks at every operator in every pass, not only in the first one with each set of shapes: for a module
  /// whose way through its operators depends on more than the shapes of its arguments.
  bool always_look = false;
};

class SequenceEngine;

namespace detail {

template <class T>
inline constexpr bool kIsOptional = false;
template <class T>
inline constexpr bool kIsOptional<std::optional<T>> = true;

/// What decides a module's way through its operators: dtypes and extents of the arguments that are tensors,
/// the values of those that are numbers.
struct CallShape {
  std::vector<int64_t> numbers;
  bool is_known = true;  ///< false where an argument is of a type that says neither

  template <class T>
  void note(const T& x) {
    if constexpr (std::is_same_v<T, at::Tensor>) {
      numbers.push_back(x.defined() ? x.dim() : -1);
      if (!x.defined()) return;
      numbers.push_back(static_cast<int64_t>(x.scalar_type()));
      numbers.insert(numbers.end(), x.sizes().begin(), x.sizes().end());
    } else if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
      numbers.push_back(static_cast<int64_t>(x));
    } else if constexpr (std::is_floating_point_v<T>) {
      numbers.push_back(std::bit_cast<int64_t>(static_cast<double>(x)));
    } else if constexpr (kIsOptional<T>) {
      numbers.push_back(x.has_value());
      if (x) note(*x);
    } else {
      is_known = false;
    }
  }
};

/// What one rank does between the beginning and the end of a split forward.
class SequenceRegion {
 public:
  /// A module whose call has a shape seen before is taken to go the same way through its operators.
  SequenceRegion(std::shared_ptr<SequenceEngine> engine, size_t arguments, const CallShape& shape);
  ~SequenceRegion();
  SequenceRegion(const SequenceRegion&) = delete;
  SequenceRegion& operator=(const SequenceRegion&) = delete;

  /// This rank's part of a tensor that the plan names; any other argument as it is.
  template <class T>
  decltype(auto) cut(size_t arg, T&& x) {
    if constexpr (std::is_same_v<std::remove_cvref_t<T>, at::Tensor>)
      return part(arg, x);
    else
      return std::forward<T>(x);
  }
  /// The whole result. Throws Error when nothing was split, or no attention over the split tokens was met.
  at::Tensor leave(at::Tensor result);
  /// In a catch block: tells the other ranks where they would wait for this one, and throws the error on, as
  /// the strategy threw it.
  [[noreturn]] void fail();

 private:
  at::Tensor part(size_t arg, const at::Tensor& x);

  struct State;
  std::unique_ptr<State> state_;
};

std::shared_ptr<SequenceEngine> make_sequence_engine(SequenceParallelOptions options,
                                                     const NamedTensors& parameters);
bool is_alone(const SequenceEngine& engine);

}  // namespace detail

/// A module that runs with its tokens split over ulysses × ring ranks; every rank gives the same whole inputs
/// and has the whole result. Exact for any length (shorter than the ranks too), any number of heads, masks
/// given whole, and causal attention; attention to keys that do not stem from the split tokens (text) stays
/// local. Convolutions along the tokens that give as many as they take get their neighbours from the other
/// ranks; group and instance norms get the statistics of all.
///
/// Throws Error, on every rank and before any other transfer, where the ranks' parameters differ in a name,
/// shape or dtype. What it cannot carry exactly it refuses, naming the operator: attention written out as
/// bmm, softmax, bmm (torch::nn::MultiheadAttention), LibTorch's fused encoder operators, dropout.
///
/// Gradients are those of one rank, on every rank, where every rank computes the same loss of the whole
/// result: those of weights are summed over the ranks within backward, which may be called anywhere. One
/// instance belongs to one rank; the wrapped module may be shared by several.
template <class Module>
class SequenceParallel : public Wrapper<Module> {
 public:
  SequenceParallel(Module module, SequenceParallelOptions options)
      : Wrapper<Module>(std::move(module)),
        engine_(detail::make_sequence_engine(std::move(options), wanpar::named_parameters(module_))) {}

  template <class... Args>
  requires Invocable<Module, Args...>
  auto operator()(Args&&... args) {
    if (detail::is_alone(*engine_)) return invoke(module_, std::forward<Args>(args)...);
    detail::CallShape shape;
    if constexpr (requires { module_->is_training(); }) shape.note(module_->is_training());
    if constexpr (requires { module_.is_training(); }) shape.note(module_.is_training());
    (shape.note(args), ...);
    detail::SequenceRegion region(engine_, sizeof...(Args), shape);
    try {
      return [&]<size_t... I>(std::index_sequence<I...>) {
        auto result = invoke(module_, region.cut(I, std::forward<Args>(args))...);
        static_assert(std::convertible_to<decltype(result), at::Tensor>,
                      "SequenceParallel: a module's result is one tensor; wrap the part that gives one");
        return region.leave(std::move(result));
      }
      (std::index_sequence_for<Args...>{});
    } catch (...) {
      region.fail();
    }
  }

  template <class... Args>
  requires Invocable<Module, Args...>
  auto forward(Args&&... args) { return (*this)(std::forward<Args>(args)...); }

 private:
  using Wrapper<Module>::module_;
  std::shared_ptr<SequenceEngine> engine_;
};

/// `model | sequence_parallel({.ulysses = mesh["ulysses"], .ring = mesh["ring"]})`.
inline auto sequence_parallel(SequenceParallelOptions options) {
  return detail::Closure<SequenceParallel, SequenceParallelOptions>(std::move(options));
}

}  // namespace wanpar
