#include "strategy/split/alike.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

const char* kRemedy =
    "make it alike on all ranks (seeds, clocks), or before the wrapped module, and give it as an argument";

/// The rows of all ranks, as many numbers on each.
at::Tensor rows(const std::vector<Communicator>& grid, at::Tensor mine) {
  mine = mine.unsqueeze(0);
  for (auto& group : grid)
    if (group.size() > 1) mine = group.all_gather(mine.to(group.device()), 0).get();
  return mine.cpu();
}

}  // namespace

void Alike::require_same(const std::string& who, const std::vector<Communicator>& grid, const at::Tensor& x) {
  const std::string advice =
      "all ranks of the group split one tensor, so give each of them the same; batches of each rank's own "
      "want DataParallel over other ranks, on another axis of the mesh";
  const auto what = fmt::format("{}{}", c10::toString(x.scalar_type()), x.sizes());
  const char* graph = !at::GradMode::is_enabled() ? "without a graph"
                      : x.requires_grad()         ? "with gradients"
                                                  : "without gradients";
  wanpar::require_same(who, "tensors to split", grid, fmt::format("{} {}", what, graph), advice);
  const auto digest = Digest::of(x);
  const auto all = rows(grid, digest.numbers);
  for (int64_t rank = 1; rank < all.size(0); ++rank)
    if (!Digest{all[0], digest.tolerance}.is_close_to({all[rank], digest.tolerance}))
      throw AgreedError(
          fmt::format("{}: a tensor to split, {}, has other values on rank {} than on rank 0; {}", who, what,
                      rank, advice));
}

void Alike::compare(const std::string& who, const std::vector<Communicator>& grid) const {
  const auto ways =
      rows(grid, at::tensor({static_cast<int64_t>(numbers_.size()), static_cast<int64_t>(tensors_.size()),
                             static_cast<int64_t>(path_)},
                            at::kLong));
  if (!ways.eq(ways[0]).all().item<bool>())
    throw Error(
        who +
        ": ranks took different ways through the module: it decides by something that is not alike on all of "
        "them (a clock, its rank, a generator of each rank's own)");
  if (!numbers_.empty()) {
    std::vector<double> mine;
    for (auto& number : numbers_) mine.push_back(number.value);
    const auto all = rows(grid, at::tensor(mine, at::kDouble));
    const auto is_nan = all.isnan();
    const auto differing = at::where(is_nan.logical_and(is_nan[0]), false, all.ne(all[0])).nonzero();
    if (differing.size(0) > 0) {
      const auto rank = differing[0][0].item<int64_t>(), i = differing[0][1].item<int64_t>();
      throw Error(fmt::format("{}: {} is given a number, which is {:.6g} on rank 0 and {:.6g} on rank {}; {}",
                              who, numbers_[i].op, all[0][i].item<double>(), all[rank][i].item<double>(),
                              rank, kRemedy));
    }
  }
  if (tensors_.empty()) return;
  std::vector<at::Tensor> mine;
  for (auto& met : tensors_) mine.push_back(met.digest.numbers.to(tensors_[0].digest.numbers.device()));
  const auto all = rows(grid, at::stack(mine));
  for (int64_t rank = 1; rank < all.size(0); ++rank)
    for (size_t i = 0; i < tensors_.size(); ++i) {
      auto& [op, sizes, digest] = tensors_[i];
      const auto at = static_cast<int64_t>(i);
      if (Digest{all[0][at], digest.tolerance}.is_close_to({all[rank][at], digest.tolerance})) continue;
      throw Error(
          fmt::format("{}: {} meets a tensor {} that is not split, and has other values on rank {} than on "
                      "rank 0; {}",
                      who, op, sizes, rank, kRemedy));
    }
}

}  // namespace wanpar
