#include "strategy/patch_parallel/patch_group.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <wanpar/core/error.hpp>

#include "strategy/patch_parallel/displaced_attention.hpp"
#include "strategy/patch_parallel/displaced_moments.hpp"
#include "strategy/split/attention_on_parts.hpp"
#include "strategy/split/halo_layout.hpp"
#include "strategy/split/ulysses.hpp"

namespace wanpar {
namespace {

std::vector<int64_t> shape_of(const at::Tensor& part, int64_t dim, int64_t extent) {
  auto shape = part.sizes().vec();
  shape[dim] = extent;
  return shape;
}

}  // namespace

/// Throws Error if a rank would have an empty patch; without steps that is allowed, and exact.
void PatchGroup::check_patches(int64_t count, int64_t ranks, int64_t patches, const char* what) const {
  if (!steps_->keeps()) return;
  if (count < ranks)
    throw UsageError(
        fmt::format("PatchParallel: {} {} for {} ranks, some of which would have none; take fewer ranks, or "
                    "another .split_mode",
                    count, what, ranks));
  const auto least = count / patches, overlap = options_.patch_overlap.value_or(0);
  if (overlap > least)
    throw UsageError(
        fmt::format("PatchParallel: .patch_overlap is {} {}, more than the {} of a patch; give less, or take "
                    "fewer ranks",
                    overlap, what, least));
}

std::shared_ptr<const TokenLayout> PatchGroup::dealt(int64_t count, const char* what) const {
  check_patches(count, size(), slow().size(), what);
  return std::make_shared<TokenLayout>(layout(count));
}

std::optional<SplitPlacement> PatchGroup::placement(int64_t extent, int64_t dim) const {
  return SplitPlacement{dealt(extent, options_.split_mode == SplitMode::temporal ? "frames" : "rows"), rank(),
                        dim};
}

SplitPlacement PatchGroup::in_both(const TokenGrid& grid, int64_t dim) const {
  const auto temporal = options_.temporal_parts, spatial = slow().size() / temporal;
  check_patches(grid.frames, temporal, temporal, "frames");
  check_patches(grid.rows, spatial * fast().size(), spatial, "rows");
  const TokenLayout frames(grid.frames, static_cast<int>(temporal), 1, false);
  const TokenLayout rows(grid.rows, static_cast<int>(spatial), fast().size(), false);
  std::vector<Ranges> ranks;
  for (int patch = 0; patch < slow().size(); ++patch)
    for (int r = 0; r < fast().size(); ++r) {
      const auto &of = frames.of(patch / static_cast<int>(spatial))[0],
                 &in = rows.of(patch % static_cast<int>(spatial), r)[0];
      Ranges tokens;
      for (auto frame = of.begin; frame < of.end; ++frame)
        tokens.push_back(
            {(frame * grid.rows + in.begin) * grid.columns, (frame * grid.rows + in.end) * grid.columns});
      ranks.push_back(std::move(tokens));
    }
  return {std::make_shared<TokenLayout>(std::move(ranks), fast().size()), rank(), dim};
}

std::optional<SplitPlacement> PatchGroup::placement_of_tokens(int64_t, int64_t dim,
                                                              const std::optional<TokenGrid>& grid) const {
  if (!grid)
    throw UsageError(
        "PatchParallel: split_sequence without a grid; give it the frames, rows and columns of the tokens, "
        "TokenGrid{…}, by which they are dealt");
  switch (options_.split_mode) {
    case SplitMode::spatial:
      return SplitPlacement{dealt(grid->rows, "rows"), rank(), dim, grid->frames, grid->columns};
    case SplitMode::temporal:
      return SplitPlacement{dealt(grid->frames, "frames"), rank(), dim, 1, grid->rows * grid->columns};
    case SplitMode::spatiotemporal:
      return in_both(*grid, dim);
  }
  return {};
}

std::optional<Reach> PatchGroup::reach() const {
  if (!options_.patch_overlap && !options_.temporal_chunk_size) return {};
  return Reach{options_.patch_overlap.value_or(0), options_.temporal_chunk_size};
}

at::Tensor PatchGroup::attention(const Attention& given) const {
  exchanges("attention");
  auto over = [this](const SplitPlacement& place, Attention call) {
    auto of_patch = [&](Attention all) {
      return displaced_attention(slow(), place,
                                 {options_.kv_dtype, reach(), !options_.async_boundary_update && reach()},
                                 *steps_, std::move(all));
    };
    return ulysses_attention(fast(), std::move(call), place.elements().lengths(slow().rank()), of_patch);
  };
  return attention_on_parts(given, shared_from_this(), MergedKeys::attended_over, over);
}

std::optional<at::Tensor> PatchGroup::gathered(StaleBuffer& buffer, at::Tensor own, int64_t dim,
                                               std::span<const int64_t> extents, int64_t all_extent) const {
  const auto bytes = static_cast<int64_t>(own.nbytes());
  steps_->count_sent((slow().size() - 1) * bytes);
  const auto all_bytes =
      c10::multiply_integers(shape_of(own, dim, all_extent)) * static_cast<int64_t>(own.element_size());
  auto all = std::make_shared<Pending<at::Tensor>>(slow().all_gather(std::move(own), dim, extents));
  auto coming = [all] { return FromRanks{all->get()}; };
  if (steps_->is_displaced()) {
    buffer.keep(steps_->step(), coming, all_bytes);
    return {};
  }
  const auto now = coming();
  buffer.keep(steps_->step(), now);
  return now[0];
}

std::optional<at::Tensor> PatchGroup::moments(const std::function<at::Tensor()>& sums, double here) const {
  if (!steps_->keeps() || options_.norm_mode == NormMode::synchronous) return {};
  exchanges("a sum");
  const auto of_part = sums();
  const auto own =
      fast().all_reduce(at::cat({of_part.reshape({-1}), at::full({1}, here, of_part.options())})).get();
  auto& buffer = steps_->next_buffer("moments", own.sizes());
  const auto before = buffer.take();
  if (before) buffer.note_change(own, (*before)[0][slow().rank()]);
  if (gathered(buffer, own.unsqueeze(0), 0, {}, slow().size())) return {};
  return displaced_moments(options_.norm_mode, own, before ? (*before)[0] : own.unsqueeze(0),
                           before ? slow().rank() : 0)
      .view(of_part.sizes());
}

at::Tensor PatchGroup::with_halo(const at::Tensor& part, int64_t dim, const TokenLayout& layout, int64_t left,
                                 int64_t right) const {
  if (!steps_->keeps() || !options_.async_boundary_update)
    return SplitRanks::with_halo(part, dim, layout, left, right);
  exchanges("a window");
  const HaloLayout halo(layout, slow().size(), fast().size(), slow().rank(), fast().rank(), left, right);
  auto own = part.index_select(dim, halo.own(part.device()));
  auto& buffer = steps_->next_buffer("halo", shape_of(part, dim, layout.total()));
  const auto before = buffer.take();
  if (before) buffer.note_change(own, halo.of_this_rank((*before)[0], dim));

  auto row = fast().all_gather(std::move(own), dim, halo.row()).get();
  if (auto now = gathered(buffer, std::move(row), dim, halo.rows(), halo.size()))
    return halo.extended(part, *now, dim);
  const auto seen = before ? (*before)[0] : at::zeros(shape_of(part, dim, halo.size()), part.options());
  return halo.extended(part, seen, dim);
}

const std::string& PatchGroup::name() const {
  static const std::string name = "PatchParallel";
  return name;
}

}  // namespace wanpar
