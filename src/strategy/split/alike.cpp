#include "strategy/split/alike.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

const char* kRemedy =
    "make it alike on all ranks (seeds, clocks), or before the wrapped module, and give it as an argument";

}  // namespace

void Alike::compare(const std::string& who, const std::vector<Communicator>& grid) const {
  const auto ways =
      numbers_of_all(grid, at::tensor({static_cast<int64_t>(numbers_.size()),
                                       static_cast<int64_t>(tensors_.size()), static_cast<int64_t>(path_)},
                                      at::kLong));
  if (!ways.eq(ways[0]).all().item<bool>())
    throw UsageError(
        who +
        ": ranks took different ways through the module: it decides by something that is not alike on all of "
        "them (a clock, its rank, a generator of each rank's own)");
  if (!numbers_.empty()) {
    std::vector<double> mine;
    for (auto& number : numbers_) mine.push_back(number.value);
    const auto all = numbers_of_all(grid, at::tensor(mine, at::kDouble));
    const auto is_nan = all.isnan();
    const auto differing = at::where(is_nan.logical_and(is_nan[0]), false, all.ne(all[0])).nonzero();
    if (differing.size(0) > 0) {
      const auto rank = differing[0][0].item<int64_t>(), i = differing[0][1].item<int64_t>();
      throw UsageError(
          fmt::format("{}: {} is given a number, which is {:.6g} on rank 0 and {:.6g} on rank {}; {}", who,
                      numbers_[i].op, all[0][i].item<double>(), all[rank][i].item<double>(), rank, kRemedy));
    }
  }
  if (tensors_.empty()) return;
  std::vector<at::Tensor> mine;
  for (auto& met : tensors_) mine.push_back(met.digest.numbers.to(tensors_[0].digest.numbers.device()));
  const auto all = numbers_of_all(grid, at::stack(mine));
  for (int64_t rank = 1; rank < all.size(0); ++rank)
    for (size_t i = 0; i < tensors_.size(); ++i) {
      auto& [op, sizes, digest] = tensors_[i];
      const auto at = static_cast<int64_t>(i);
      if (Digest{all[0][at], digest.tolerance}.is_close_to({all[rank][at], digest.tolerance})) continue;
      throw MismatchError(
          fmt::format("{}: {} meets a tensor {} that is not split, and has other values on rank {} than on "
                      "rank 0; {}",
                      who, op, sizes, rank, kRemedy));
    }
}

}  // namespace wanpar
