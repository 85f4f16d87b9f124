#pragma once
#include <wanpar/module/value_name.hpp>

#include <cstdint>

// The token dimensions of arguments and results, for a module without split_sequence and gather_sequence.
namespace wanpar {

struct SplitInput {
  ValueName arg = 0;  ///< an argument with tokens, replicated on every rank: 0, "1.tokens"
  int64_t dim = 1;    ///< its token dimension, which is split
};

struct GatherOutput {
  int64_t dim = 1;        ///< the token dimension of the result, which is gathered
  ValueName result = {};  ///< which result; all of them by default
};

}  // namespace wanpar
