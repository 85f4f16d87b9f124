#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/attention.hpp>

#include <functional>
#include <vector>

namespace wanpar {

/// Ulysses attention: an all-to-all from tokens to heads, `attend` on all tokens of the group and this rank's
/// heads, and an all-to-all back; a group of one communicates nothing. `lengths` are the numbers of tokens of
/// the ranks; heads are split evenly (numbers differ by at most one, and may be 0). `attend` gets a prepared
/// call with one batch dimension; its mask is sliced to this rank's heads, with all rows and columns.
at::Tensor ulysses_attention(const Communicator& group, Attention call, const std::vector<int64_t>& lengths,
                             const std::function<at::Tensor(Attention)>& attend);

}  // namespace wanpar
