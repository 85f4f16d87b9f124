#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>
#include <wanpar/module/value_name.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace wanpar {

/// What a wrapped module is called with, flat: all tensors, those that were left out undefined, each by its
/// name.
struct Arguments {
  NamedTensors tensors;
  int64_t count = 0;               ///< of the arguments that hold them
  std::vector<std::string> plain;  ///< names of the values that hold none
  std::string signature;  ///< shapes and dtypes of the tensors, values of all else, the mode of the module
  std::string kinds;      ///< the same without the values of numbers
};

/// One call of a wrapped module on one rank, from a strategy's side. It ends with its life.
class ForwardScope {
 public:
  virtual ~ForwardScope() = default;
  /// Puts what the module is to be given in the place of what the wrapper was given.
  virtual void enter(Arguments&) {}
  /// Puts what the caller is to have in the place of the tensors of the result.
  virtual void leave(NamedTensors& /*results*/) {}
  /// The call has failed on this rank, wherever.
  virtual void fail() {}
  /// What to say beside an error of LibTorch's that the module ended in; empty where there is nothing.
  virtual std::string remark(std::string_view /*error*/) const { return {}; }
};

/// Throws Error, which begins with `strategy` and names the `option`, where a name in it names nothing among
/// the arguments.
void check_names(const std::string& strategy, const std::string& option, const ValueNames& names,
                 const Arguments& arguments);

}  // namespace wanpar
