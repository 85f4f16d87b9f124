#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/invoke.hpp>
#include <wanpar/module/no_sync.hpp>
#include <wanpar/module/wrapper.hpp>

#include <concepts>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

//  DataParallel: every rank holds the whole module and runs a part of the batch.
//
//  BatchMode::whole                                  BatchMode::local
//  the batch is cut, the result gathered             each rank has its own batch, gradients are averaged
//
//     samples 0 1 2 3 4                                 backward ─────────────────────────▶ time
//     rank 0 [0 1] ─▶ module ─┐                         rank 0  [last layers][  middle  ][first layers]
//     rank 1 [2 3] ─▶ module ─┼▶ [0 1 2 3 4]            rank 1  [last layers][  middle  ][first layers]
//     rank 2 [4]   ─▶ module ─┘   on every rank         network              [ bucket 0 ][  bucket 1  ][ 2 ]
//
//  Both train, through the same buckets. exact
namespace wanpar {

/// What the inputs of a rank are.
enum class BatchMode {
  whole,  ///< every rank gives the same whole batch and has the whole result, as on one rank
  local,  ///< every rank gives a batch of its own and has the result of that
};

struct DataParallelOptions {
  Communicator group = {};
  BatchMode mode = BatchMode::whole;
  /// whole: the arguments whose dimension 0 is the batch; every other one goes to each rank as it is.
  std::vector<int64_t> batch = {0};
  /// When wrapped, parameters and buffers become those of rank 0.
  bool sync_module_states = true;
  /// local: before each forward outside no_sync, buffers (running statistics) become those of rank 0. Off,
  /// each rank keeps its own; so it must be for two forwards before one backward that needs the first's.
  bool broadcast_buffers = true;
  /// Gradients travel in buckets of about this size.
  int64_t bucket_bytes = int64_t{25} << 20;
  /// A parameter that had no part in a rank's forward counts as a gradient of zero there, and
  /// unused_parameters() names it; otherwise that is an Error. Buckets then leave at the end of backward.
  bool find_unused_parameters = false;
};

class DataEngine;

namespace detail {

template <class T>
inline constexpr bool kIsTuple = requires {
  std::tuple_size<T>::value;
};
template <class T>
inline constexpr bool kIsTensorList = std::same_as<T, std::vector<at::Tensor>>;

/// Shows each tensor of a result, a tensor or a tuple or vector of tensors, to `look`.
template <class Result, class Look>
void each_tensor(Result& result, const Look& look) {
  if constexpr (std::same_as<Result, at::Tensor>)
    look(result);
  else if constexpr (kIsTensorList<Result>)
    for (auto& tensor : result) look(tensor);
  else {
    static_assert(kIsTuple<Result>,
                  "DataParallel: a module's result is a tensor, or a tuple or vector of them");
    std::apply([&](auto&... parts) { (each_tensor(parts, look), ...); }, result);
  }
}

/// What one rank does around one call of the module.
class DataPass {
 public:
  DataPass(std::shared_ptr<DataEngine> engine, size_t arguments);
  ~DataPass();
  DataPass(const DataPass&) = delete;
  DataPass& operator=(const DataPass&) = delete;

  /// What the module is given in the place of an argument: this rank's samples of one that holds the batch.
  template <class T>
  decltype(auto) give(size_t arg, T&& x) {
    if constexpr (std::same_as<std::remove_cvref_t<T>, at::Tensor>)
      return tensor(arg, x);
    else
      return other(arg), std::forward<T>(x);
  }

  /// What the caller has in the place of the module's result.
  template <class Result>
  Result take(Result result) {
    each_tensor(result, [&](at::Tensor& x) { look_at(x); });
    check();
    each_tensor(result, [&](at::Tensor& x) { x = whole(std::move(x)); });
    return result;
  }

 private:
  at::Tensor tensor(size_t arg, const at::Tensor& x);
  void other(size_t arg);
  void look_at(const at::Tensor& result);
  void check();
  at::Tensor whole(at::Tensor result);

  struct State;
  std::unique_ptr<State> state_;
};

std::shared_ptr<DataEngine> make_data_engine(DataParallelOptions options, NamedTensors parameters,
                                             NamedTensors buffers);
bool is_alone(const DataEngine& engine);
NoSync no_sync(std::shared_ptr<DataEngine> engine);
std::vector<std::string> unused_parameters(const DataEngine& engine);

}  // namespace detail

/// A module that runs on several batches at a time, one a rank. Collective: wrapping, every call, and every
/// backward outside no_sync.
///
/// whole: exact for any batch, one smaller than the group too (a rank without samples runs the first one
/// and drops it). Each rank computes the loss of the whole result; a plain loss.backward() then gives every
/// rank the parameter gradients, and the gradients of inputs, that one rank would have. What mixes samples
/// would be exact to a part of the batch only: a module seen to write a buffer, as batch norm in training
/// counts its batches, is refused; others are not seen. Random operators draw on each rank for itself.
///
/// local: each rank computes the loss of its own result; after a plain loss.backward() every rank has the
/// mean of the ranks' parameter gradients. With equally large batches and a mean for loss, that is the
/// gradient of the whole batch.
///
/// In both, all-reduces of gradients start while backward is still under way, and backward() returns with
/// them done. It throws Error on every rank when a parameter had no gradient on some rank, naming it. All
/// parameters that need a gradient must be the module's own: a function around a module has none and is
/// refused. Each rank that trains has a module of its own; without gradients ranks may share one.
///
/// The two branches of guidance are a batch of two, so nothing more is needed for them: over a group of two,
/// `model(at::cat({x, x}), at::cat({text, no_text}))` computes one branch on each rank, and over
/// `mesh["cfg"]`, outside a SequenceParallel over another axis, one in each half of the ranks.
///
/// Payload leaving a rank, n ranks: whole forward (n − 1) · its part of the result; backward
/// 2 (n − 1) / n · (parameters + 2 elements for each of them), to the element where n does not divide a
/// bucket, and as much of each argument that needs a gradient; wrapping and each local forward
/// (n − 1) · (parameters and) buffers from rank 0; once, with the first gradients, 8 bytes a parameter from
/// rank 0, which says in which order they came.
template <class Module>
class DataParallel : public Wrapper<Module> {
 public:
  /// Throws Error on every rank, before any of it is moved, when the ranks' modules differ in names, shapes
  /// or dtypes.
  DataParallel(Module module, DataParallelOptions options)
      : Wrapper<Module>(std::move(module)),
        engine_(detail::make_data_engine(std::move(options), wanpar::named_parameters(module_),
                                         wanpar::named_buffers(module_))) {}

  template <class... Args>
  requires Invocable<Module, Args...>
  auto operator()(Args&&... args) {
    if (detail::is_alone(*engine_)) return invoke(module_, std::forward<Args>(args)...);
    detail::DataPass pass(engine_, sizeof...(Args));
    return [&]<size_t... I>(std::index_sequence<I...>) {
      return pass.take(invoke(module_, pass.give(I, std::forward<Args>(args))...));
    }
    (std::index_sequence_for<Args...>{});
  }

  template <class... Args>
  requires Invocable<Module, Args...>
  auto forward(Args&&... args) { return (*this)(std::forward<Args>(args)...); }

  NoSync no_sync() { return detail::no_sync(engine_); }

  /// With find_unused_parameters: those that had no gradient on some rank in the last backward.
  std::vector<std::string> unused_parameters() const { return detail::unused_parameters(*engine_); }

 private:
  using Wrapper<Module>::module_;
  std::shared_ptr<DataEngine> engine_;
};

/// `model | data_parallel({.group = mesh["data"]})`.
inline auto data_parallel(DataParallelOptions options) {
  return detail::Closure<DataParallel, DataParallelOptions>(std::move(options));
}

}  // namespace wanpar
