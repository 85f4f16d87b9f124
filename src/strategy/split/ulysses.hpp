#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/attention.hpp>

#include <functional>
#include <vector>

namespace wanpar {

/// Trades tokens for heads, calls `attend` on all tokens of the group and this rank's heads, and trades back;
/// a group of one trades nothing. `lengths` are the tokens of each rank; heads are shared as evenly as whole
/// numbers allow, none on some ranks included. `attend` is given a prepared call with one batch dimension,
/// whose mask is cut to this rank's heads, with rows and columns whole.
at::Tensor ulysses_attention(const Communicator& group, Attention call, const std::vector<int64_t>& lengths,
                             const std::function<at::Tensor(Attention)>& attend);

}  // namespace wanpar
