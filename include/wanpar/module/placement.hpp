#pragma once
#include <wanpar/module/value_name.hpp>

#include <cstdint>

// Where the tokens of arguments and results lie, for a module that does not say so itself.
namespace wanpar {

struct SplitInput {
  ValueName arg = 0;  ///< what holds tokens, whole on every rank: 0, "1.tokens"
  int64_t dim = 1;    ///< their dimension
};

struct GatherOutput {
  int64_t dim = 1;        ///< the token dimension of the result
  ValueName result = {};  ///< which of several; all of them where left out
};

}  // namespace wanpar
