#pragma once
#include <string>
#include <wanpar/core/error.hpp>

namespace wanpar {

/// Throws Error: the strategy works on blocks, and the module has run none.
[[noreturn]] inline void refuse_without_blocks(const std::string& strategy) {
  throw UsageError(
      strategy +
      ": the module has no block stack; loop over its blocks by wanpar::run_blocks, give three callables by "
      "wanpar::stack_of, or wrap a torch::nn::Sequential or a TorchScript module with submodules");
}

}  // namespace wanpar
