#pragma once
#include <ATen/core/Tensor.h>

#include <concepts>
#include <functional>
#include <initializer_list>
#include <vector>
#include <wanpar/module/invoke.hpp>
#include <wanpar/module/parameters.hpp>

namespace wanpar {

/// A tensor that runs beside the tokens (a RoPE table, a per-token modulation), and its token dimension.
struct Companion {
  at::Tensor& tensor;
  int64_t dim;
};

/// States that the tokens of x begin here, along `dim`: a listening strategy returns this rank's share
/// and cuts each companion in place likewise; without one, x is returned as it is.
at::Tensor split_sequence(at::Tensor x, int64_t dim, std::initializer_list<Companion> companions = {});

/// States that the tokens of x end here: a listening strategy returns them whole, in order, on every rank;
/// without one, x is returned as it is.
at::Tensor gather_sequence(at::Tensor x, int64_t dim);

/// Blocks that x passes one after the other.
struct BlockStack {
  int64_t size;
  /// Block `index` applied to x; `side` are the tensors that every block is given beside x. A strategy may
  /// keep it, and call it again in a backward.
  std::function<at::Tensor(int64_t index, at::Tensor x, const std::vector<at::Tensor>& side)> run;
  /// The parameters and buffers of block `index`. May be left out; a strategy that needs them says so.
  std::function<NamedTensors(int64_t index)> tensors = {};
};

/// States that x passes these blocks in order: a listening strategy may spread them over ranks or keep track
/// of them; without one, it is the loop. Side tensors may be undefined.
at::Tensor run_blocks(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side);

/// The same for a std::vector of modules, or a torch::nn::ModuleList of `Block`s:
/// `x = wanpar::run_blocks<BlockImpl>(blocks, x, time, text)` calls block(x, time, text) for each.
template <class Block = void, class Blocks, class... Side>
requires(!std::same_as<std::remove_const_t<Blocks>, BlockStack>) at::Tensor
    run_blocks(Blocks& blocks, at::Tensor x, const Side&... side) {
  auto block = [&blocks](int64_t index) -> decltype(auto) {
    if constexpr (std::is_void_v<Block>)
      return (blocks[index]);
    else
      return blocks->template at<Block>(index);
  };
  auto run = [&]<size_t... I>(std::index_sequence<I...>) {
    return [block](int64_t index, at::Tensor x, const std::vector<at::Tensor>& side) -> at::Tensor {
      if constexpr (std::is_void_v<Block>)
        return invoke(block(index), std::move(x), side[I]...);
      else
        return block(index).forward(std::move(x), side[I]...);
    };
  }
  (std::index_sequence_for<Side...>{});
  auto tensors = [block](int64_t index) { return tensors_of(block(index)); };
  int64_t size;
  if constexpr (std::is_void_v<Block>)
    size = static_cast<int64_t>(blocks.size());
  else
    size = static_cast<int64_t>(blocks->size());
  return run_blocks(BlockStack{size, run, tensors}, std::move(x), std::vector<at::Tensor>{side...});
}

}  // namespace wanpar
