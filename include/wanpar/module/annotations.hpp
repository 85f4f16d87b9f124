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

/// A per-token tensor that must be split like the tokens (a RoPE table, a modulation), and its token
/// dimension.
struct Companion {
  at::Tensor& tensor;
  int64_t dim;
};

/// The grid that was flattened into tokens; columns vary fastest, then rows.
struct TokenGrid {
  int64_t frames, rows, columns;
};

/// Marks where the tokens of x begin, along `dim`, and which grid they come from. A token-splitting strategy
/// returns this rank's shard of x and replaces each companion by its shard; without one, returns x.
at::Tensor split_sequence(at::Tensor x, int64_t dim, std::initializer_list<Companion> companions = {},
                          const std::optional<TokenGrid>& grid = {});

/// Marks where the tokens of x end. A token-splitting strategy all-gathers them, in order, on every rank;
/// without one, returns x.
at::Tensor gather_sequence(at::Tensor x, int64_t dim);

/// Blocks that are applied to x one after the other.
struct BlockStack {
  int64_t size;
  /// Applies block `index` to x; `side` are the tensors that every block gets besides x. A strategy may keep
  /// this function and call it again in backward.
  std::function<at::Tensor(int64_t index, at::Tensor x, const std::vector<at::Tensor>& side)> run;
  /// The parameters and buffers of block `index`. Optional; a strategy that needs them throws Error without.
  std::function<NamedTensors(int64_t index)> tensors = {};
};

/// Applies the blocks to x in order. A strategy that works on blocks may distribute them over ranks or
/// recompute them; without one, this is the plain loop. Side tensors may be undefined.
at::Tensor run_blocks(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side);

/// As run_blocks, then calls then(y) with the blocks' output y, unless that part runs on another stage.
void run_blocks_then(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side,
                     const std::function<void(at::Tensor y)>& then);

/// As run_blocks, then returns then(y), of any type, where y is the blocks' output. In
/// BlockPipeline::train_step, stages other than the last get an empty result, which forward must return as
/// is.
template <class Then>
requires std::invocable<const Then&, at::Tensor>
auto run_blocks(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side, const Then& then) {
  using Result = std::invoke_result_t<const Then&, at::Tensor>;
  auto result = Result();
  run_blocks_then(blocks, std::move(x), std::move(side), [&](at::Tensor y) { result = then(std::move(y)); });
  return result;
}

/// The BlockStack of a std::vector of modules, or of a torch::nn::ModuleList of `Block`s, each called with x
/// and `Sides` side tensors.
template <class Block = void, size_t Sides, class Blocks>
BlockStack stack_of_blocks(Blocks& blocks);

/// Runs such lists: `x = wanpar::run_blocks<BlockImpl>(blocks, x, time, text)` calls block(x, time, text) for
/// each block. If the last argument is a callable, it is what comes after the blocks: `return
/// run_blocks(blocks, x, time, [&](at::Tensor y) { return head(y); })`.
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
