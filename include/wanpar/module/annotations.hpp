#pragma once
#include <ATen/core/Tensor.h>

#include <concepts>
#include <functional>
#include <initializer_list>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>
#include <wanpar/extend/module/invoke.hpp>
#include <wanpar/module/parameters.hpp>

namespace wanpar {

/// A tensor that runs beside the tokens (a RoPE table, a per-token modulation), and its token dimension.
struct Companion {
  at::Tensor& tensor;
  int64_t dim;
};

/// The grid in which flattened tokens lie, columns fastest, then rows.
struct TokenGrid {
  int64_t frames, rows, columns;
};

/// States that the tokens of x begin here, along `dim`, and which grid they are from: a listening strategy
/// returns this rank's share and cuts each companion in place likewise; without one, x is returned as it is.
at::Tensor split_sequence(at::Tensor x, int64_t dim, std::initializer_list<Companion> companions = {},
                          const std::optional<TokenGrid>& grid = {});

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

/// The same, and then(y) with what the blocks gave; not where that is another stage's.
void run_blocks_then(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side,
                     const std::function<void(at::Tensor y)>& then);

/// The same, with what comes after the blocks: gives then(y), of whatever type. In BlockPipeline::train_step,
/// where what comes after is another stage's, it gives an empty result, which forward is to return as it is.
template <class Then>
requires std::invocable<const Then&, at::Tensor>
auto run_blocks(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side, const Then& then) {
  using Result = std::invoke_result_t<const Then&, at::Tensor>;
  auto result = Result();
  run_blocks_then(blocks, std::move(x), std::move(side), [&](at::Tensor y) { result = then(std::move(y)); });
  return result;
}

/// Blocks of a std::vector of modules, or of a torch::nn::ModuleList of `Block`s, each called with x and so
/// many side tensors.
template <class Block = void, size_t Sides, class Blocks>
BlockStack stack_of_blocks(Blocks& blocks);

/// For those: `x = wanpar::run_blocks<BlockImpl>(blocks, x, time, text)` calls block(x, time, text) for each.
/// Where a continuation stands last, as in `return run_blocks(blocks, x, time, [&](at::Tensor y) { return
/// head(y); })`, it is what comes after the blocks.
template <class Block = void, class Blocks, class... Side>
requires(!std::same_as<std::remove_const_t<Blocks>, BlockStack>) auto run_blocks(Blocks& blocks, at::Tensor x,
                                                                                 const Side&... side) {
  if constexpr ((std::convertible_to<const Side&, at::Tensor> && ...)) {
    return run_blocks(stack_of_blocks<Block, sizeof...(Side)>(blocks), std::move(x),
                      std::vector<at::Tensor>{side...});
  } else {
    constexpr size_t kSides = sizeof...(Side) - 1;
    auto all = std::tie(side...);
    return [&]<size_t... I>(std::index_sequence<I...>) {
      return run_blocks(stack_of_blocks<Block, kSides>(blocks), std::move(x),
                        std::vector<at::Tensor>{std::get<I>(all)...}, std::get<kSides>(all));
    }
    (std::make_index_sequence<kSides>{});
  }
}

template <class Block, size_t Sides, class Blocks>
BlockStack stack_of_blocks(Blocks& blocks) {
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
  (std::make_index_sequence<Sides>{});
  auto tensors = [block](int64_t index) { return tensors_of(block(index)); };
  int64_t size;
  if constexpr (std::is_void_v<Block>)
    size = static_cast<int64_t>(blocks.size());
  else
    size = static_cast<int64_t>(blocks->size());
  return {size, run, tensors};
}

}  // namespace wanpar
