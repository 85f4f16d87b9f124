#pragma once
#include <string>
#include <wanpar/core/error.hpp>

namespace wanpar {

/// Throws what a strategy that works on blocks says of a module in which it met none.
[[noreturn]] inline void refuse_without_blocks(const std::string& strategy) {
  throw Error(
      strategy +
      ": the module has no block stack; loop over its blocks by wanpar::run_blocks, give three callables by "
      "wanpar::stack_of, or wrap a torch::nn::Sequential or a TorchScript module with submodules");
}

}  // namespace wanpar
