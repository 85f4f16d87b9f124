// Pooling and upsampling: along sharded dimensions, by a halo exchange.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "module/split/along_tokens.hpp"
#include "module/split/rules.hpp"

namespace wanpar {
namespace {

/// Operators that treat elements along the sharded dimension independently.
bool each_for_itself(SplitCall& call, const SplitPlacement& place) {
  if (place.extent() == 0)
    return call.result(call.ran_for_none(as_split(call.tensor(0))->part(), place.dim, 1),
                       {{OutputPlacement::sharded, place}});
  call.give_own_part(0);
  return call.run({{OutputPlacement::sharded, place}});
}

/// The arguments of a pool over the last `dims` dimensions.
struct Pool {
  std::vector<int64_t> kernel, stride, padding, dilation;
  bool rounds_up;

  Pool(const SplitCall& call, size_t dims) : dilation(dims, 1) {
    kernel = numbers(call, "kernel_size", dims), stride = numbers(call, "stride", dims);
    padding = numbers(call, "padding", dims);
    if (stride.empty()) stride = kernel;
    if (call.named("dilation")) dilation = numbers(call, "dilation", dims);
    rounds_up = call.named("ceil_mode")->toBool();
  }
  static std::vector<int64_t> numbers(const SplitCall& call, const char* name, size_t dims) {
    auto list = call.named(name)->toIntVector();
    if (list.size() == 1) list.resize(dims, list.front());  // one value for all dimensions
    return list;
  }
};

/// Converts max-pool indices from local to global: a flat index over [before, tokens, after].
at::Tensor among_all(const at::Tensor& index, int64_t part, int64_t first, int64_t all, int64_t behind) {
  const auto token = index.div(behind, "floor").remainder(part) + first;
  const auto before = index.div(part * behind, "floor");
  return (before * all + token.clamp(0, all - 1)) * behind + index.remainder(behind);
}

bool pooled(SplitCall& call, int64_t dims, bool takes_greatest) {
  auto* found = call.place(0);
  if (!found) return false;
  const auto place = *found;
  const auto& whole = call.tensor(0);
  const auto d = place.dim - (whole.dim() - dims);
  if (d < 0) return each_for_itself(call, place);
  Pool pool(call, dims);
  const auto reach = (pool.kernel[d] - 1) * pool.dilation[d], padding = pool.padding[d];
  const auto room = place.total() + 2 * padding - reach - 1;
  if (room < 0 || (pool.rounds_up && room % pool.stride[d] != 0)) return false;
  if (takes_greatest ? !whole.is_floating_point() : padding > 0 && !call.named("count_include_pad")->toBool())
    return false;
  const auto along = along_tokens(place, {padding, reach, pool.stride[d], room / pool.stride[d] + 1});
  if (!along) return false;

  const auto beyond = takes_greatest ? -std::numeric_limits<double>::infinity() : 0;
  const auto x = along->with_halo(call.group(), as_split(whole)->part(), beyond);
  pool.padding[d] = 0;
  call.give(*call.index("padding"), pool.padding);
  if (!along->has_results())
    return call.result(call.ran_for_none(x, place.dim, reach + 1),
                       {{OutputPlacement::sharded, along->result()}});
  call.give(0, x);
  auto results = call.ran();
  if (takes_greatest) {
    const auto behind = c10::multiply_integers(whole.sizes().slice(place.dim + 1));
    results[1] = among_all(results[1].toTensor(), x.size(place.dim), along->first(), place.total(), behind);
  }
  return call.result(std::move(results), {{OutputPlacement::sharded, along->result()}});
}

bool avg_pool2d(SplitCall& call) { return pooled(call, 2, false); }
bool avg_pool3d(SplitCall& call) { return pooled(call, 3, false); }
bool max_pool2d(SplitCall& call) { return pooled(call, 2, true); }
bool max_pool3d(SplitCall& call) { return pooled(call, 3, true); }

/// (x, sizes, …, a scale per dimension): integer factors only along the sharded dimension. Each result
/// depends on its token and `reach` tokens on both sides.
bool upsampled(SplitCall& call, int64_t reach) {
  auto* found = call.place(0);
  if (!found) return false;
  const auto place = *found;
  if (place.dim < 2) return each_for_itself(call, place);
  const auto d = place.dim - 2;
  auto sizes = call.argument(1).toIntVector();
  const auto factor = sizes[d] / place.global_extent();
  if (factor < 1 || sizes[d] % place.global_extent() != 0) return false;
  const auto& scale = call.argument(call.size() - sizes.size() + d);
  if (scale.isDouble() && scale.toDouble() != static_cast<double>(factor)) return false;
  if (auto* corners = call.named("align_corners"); corners && corners->toBool()) return false;

  auto result = place;
  if (place.is_merged())
    result.after *= factor;
  else
    result.layout = std::make_shared<TokenLayout>(place.layout->merged(1, factor));
  const auto part = as_split(call.tensor(0))->part();
  auto larger = [&](const at::Tensor& x) {
    sizes[d] = x.size(place.dim) * factor;
    call.give(0, x);
    call.give(1, sizes);
  };
  std::optional<AlongTokens> along;
  if (reach > 0 && !(along = along_tokens(place, {reach, 2 * reach, 1, place.total()}))) return false;
  const auto x = along ? along->with_halo_replicate_padded(call.group(), part) : part;
  if (place.extent() == 0) {
    sizes[d] = factor;
    call.give(1, sizes);
    return call.result(call.ran_for_none(part, place.dim, 1), {{OutputPlacement::sharded, result}});
  }
  larger(x);
  // Contiguous: with few elements, strides of the shard would not determine global strides on all ranks
  // alike.
  auto mine =
      call.ran()[0].toTensor().narrow(place.dim, reach * factor, place.extent() * factor).contiguous();
  return call.result({std::move(mine)}, {{OutputPlacement::sharded, result}});
}

bool upsampled_nearest(SplitCall& call) { return upsampled(call, 0); }
bool upsampled_linear(SplitCall& call) { return upsampled(call, 1); }
bool upsampled_cubic(SplitCall& call) { return upsampled(call, 2); }

}  // namespace

const SplitRules& rules_of_windows() {
  static const SplitRules rules = {
      {"avg_pool2d", avg_pool2d},
      {"avg_pool3d", avg_pool3d},
      {"max_pool2d_with_indices", max_pool2d},
      {"max_pool3d_with_indices", max_pool3d},
      {"upsample_nearest1d", upsampled_nearest},
      {"upsample_nearest2d", upsampled_nearest},
      {"upsample_nearest3d", upsampled_nearest},
      {"_upsample_nearest_exact1d", upsampled_nearest},
      {"_upsample_nearest_exact2d", upsampled_nearest},
      {"_upsample_nearest_exact3d", upsampled_nearest},
      {"upsample_linear1d", upsampled_linear},
      {"upsample_bilinear2d", upsampled_linear},
      {"upsample_trilinear3d", upsampled_linear},
      {"upsample_bicubic2d", upsampled_cubic},
  };
  return rules;
}

}  // namespace wanpar
