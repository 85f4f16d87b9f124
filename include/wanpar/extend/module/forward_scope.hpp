#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>
#include <wanpar/module/value_name.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace wanpar {

/// The arguments of a wrapped module's call, flattened: every tensor under its name; omitted ones are
/// undefined.
struct Arguments {
  NamedTensors tensors;
  int64_t count = 0;               ///< number of arguments
  std::vector<std::string> plain;  ///< names of the values without tensors
  std::string signature;           ///< dtypes and shapes of tensors, values of all else, training mode
  std::string kinds;               ///< the signature without the values of numbers
};

/// A strategy's side of one call of a wrapped module on one rank. Destroyed when the call ends.
class ForwardScope {
 public:
  virtual ~ForwardScope() = default;
  /// Replaces the caller's arguments by those that the module is called with.
  virtual void enter(Arguments&) {}
  /// Replaces the tensors of the module's result by those that the caller gets.
  virtual void leave(NamedTensors& /*results*/) {}
  /// Called when the call has failed on this rank, in any layer.
  virtual void fail() {}
  /// A remark to add to a LibTorch error that the module threw; empty for none.
  virtual std::string remark(std::string_view /*error*/) const { return {}; }
};

/// Throws Error, starting with `strategy` and naming the `option`, if one of `names` matches no argument.
void check_names(const std::string& strategy, const std::string& option, const ValueNames& names,
                 const Arguments& arguments);

}  // namespace wanpar
