#include "strategy/data_parallel/samplewise.hpp"

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <unordered_set>

namespace wanpar {
namespace {

/// The batch dimension counted from the end, as for broadcasting.
int64_t behind(const at::Tensor& x, const SamplePlacement& place) { return x.dim() - place.dim; }

/// All inputs with samples have them in the same leading broadcast dimension; all other inputs broadcast
/// there.
Verdict broadcast_over(const Step& step, std::initializer_list<size_t> which, int64_t matrix_dims) {
  const SamplePlacement* first = nullptr;
  int64_t dims = 0, at = 0;
  for (auto i : which) {
    auto& x = step.tensor(i);
    if (!x.defined()) continue;
    dims = std::max(dims, x.dim());
    auto* place = step.place(i);
    if (!place) continue;
    if (first &&
        (at != behind(x, *place) || first->extent() != place->extent() || first->after != place->after))
      return {{}, "meets tensors whose samples lie differently"};
    first = place, at = behind(x, *place);
  }
  if (at <= matrix_dims) return {{}, "sums over samples, or takes them for weights"};
  for (auto i : which) {
    auto& x = step.tensor(i);
    if (x.defined() && !step.place(i) && x.dim() >= at && x.size(-at) != 1)
      return {{}, "meets a tensor that holds no samples where others do"};
  }
  auto place = *first;
  place.dim = dims - at;
  return {place};
}

bool is_pool_or_the_like(std::string_view name) {
  static const std::unordered_set<std::string_view> names{"max_pool1d_with_indices",
                                                          "max_pool2d_with_indices",
                                                          "max_pool3d_with_indices",
                                                          "max_pool2d",
                                                          "mkldnn_max_pool2d",
                                                          "mkldnn_max_pool3d",
                                                          "avg_pool1d",
                                                          "avg_pool2d",
                                                          "avg_pool3d",
                                                          "adaptive_avg_pool1d",
                                                          "adaptive_avg_pool2d",
                                                          "adaptive_avg_pool3d",
                                                          "_adaptive_avg_pool2d",
                                                          "_adaptive_avg_pool3d",
                                                          "adaptive_max_pool1d",
                                                          "adaptive_max_pool2d",
                                                          "adaptive_max_pool3d",
                                                          "pixel_shuffle",
                                                          "pixel_unshuffle",
                                                          "channel_shuffle",
                                                          "im2col",
                                                          "col2im",
                                                          "reflection_pad1d",
                                                          "reflection_pad2d",
                                                          "reflection_pad3d",
                                                          "replication_pad1d",
                                                          "replication_pad2d",
                                                          "replication_pad3d",
                                                          "grid_sampler",
                                                          "grid_sampler_2d",
                                                          "grid_sampler_3d",
                                                          "_thnn_fused_lstm_cell",
                                                          "_thnn_fused_gru_cell"};
  return names.contains(name) || name.starts_with("upsample_") || name.starts_with("_upsample_");
}

/// Inputs and outputs have the samples in dimension 0.
Verdict leading(const Step& step) {
  const SamplePlacement* first = nullptr;
  for (auto& x : step.op.inputs)
    if (auto* place = step.follow.of(x)) {
      if (place->dim != 0 || place->before != 1 || (first && *first != *place))
        return {{}, "is known for samples in dimension 0 only"};
      first = place;
    }
  return {*first};
}

/// x[…, index, …]: dimensions before and after the indexed ones stay.
Verdict indexed(const Step& step) {
  auto& self = step.tensor(0);
  auto* own = step.place(0);
  std::vector<int64_t> at;  // the dimensions that are indexed
  int64_t position = 0, index_dims = 0;
  std::optional<SamplePlacement> of_index;
  for (const c10::IValue& item : step.argument(1).toListRef()) {
    if (item.isTensor() && item.toTensor().defined()) {
      auto& index = item.toTensor();
      if (index.scalar_type() == at::kBool || index.scalar_type() == at::kByte)
        return {{}, "picks as many elements as a mask says"};
      if (auto* place = step.follow.of(index)) of_index = *place;
      index_dims = std::max(index_dims, index.dim());
      at.push_back(position);
    }
    ++position;
  }
  const auto count = static_cast<int64_t>(at.size());
  if (of_index) {
    if (own || count != 1) return {{}, "picks by an index of each sample from several dimensions"};
    of_index->dim += at[0];
    return {of_index};
  }
  if (!own || own->dim >= self.dim() || std::count(at.begin(), at.end(), own->dim))
    return {{}, "picks among the samples"};
  if (at.back() - at.front() != count - 1) return {{}, "picks from dimensions that are not side by side"};
  auto place = *own;
  if (place.dim > at.back()) place.dim += index_dims - count;
  return {place};
}

std::string_view own_name(const Step& step) {
  std::string_view name = step.op.name;
  return name.starts_with("aten::") ? name.substr(6) : std::string_view();
}

}  // namespace

std::optional<Verdict> samplewise(const Step& step) {
  const auto name = own_name(step);
  auto is_on_both = [&](size_t a, size_t b) { return step.place(a) && step.place(b); };
  if ((name == "matmul" || name == "bmm") && is_on_both(0, 1)) return broadcast_over(step, {0, 1}, 2);
  if (name == "baddbmm" && is_on_both(1, 2)) return broadcast_over(step, {0, 1, 2}, 2);
  if (name == "scaled_dot_product_attention") return broadcast_over(step, {0, 1, 2, 3}, 2);
  if (name == "cdist" && is_on_both(0, 1)) return broadcast_over(step, {0, 1}, 2);
  if (name == "tril" || name == "triu") {
    auto* place = step.place(0);
    if (place && place->dim < step.dims() - 2) return Verdict{*place};
    return Verdict{{}, "goes by where samples stand"};
  }
  if (name == "index") return indexed(step);
  if (name == "copy_" && step.place(1) && step.tensor(0).sizes() == step.tensor(1).sizes())
    return Verdict{*step.place(1)};  // overwrites all previous values
  if (name.starts_with("unsafe_split") || name == "unsafe_chunk") {
    auto* place = step.place(0);
    if (place && step.dim("dim", step.dims()) != place->dim) return Verdict{*place};
    return Verdict{{}, "parts the samples"};
  }
  if (name == "unfold") {
    auto* place = step.place(0);
    if (place && step.dim("dimension", step.dims()) != place->dim) return Verdict{*place};
    return Verdict{{}, "joins samples"};
  }
  if (is_pool_or_the_like(name)) return leading(step);
  bool is_drawn_alike = step.op.handle.hasTag(at::Tag::nondeterministic_seeded) && step.place(0) &&
                        (name.ends_with("_like") || name.starts_with("bernoulli"));
  if (is_drawn_alike) return Verdict{*step.place(0)};
  return {};
}

std::optional<std::vector<int64_t>> samplewise_dims(const Step& step) {
  const auto name = own_name(step);
  auto* place = step.place(0);
  if (!place || (name != "mkldnn_rnn_layer" && name != "_cudnn_rnn" && name != "miopen_rnn")) return {};
  std::vector<int64_t> dims{place->dim};
  for (size_t i = 1; i < step.outputs.size(); ++i)  // states [layers, samples, …], or of one layer
    dims.push_back(i < 3 ? step.outputs[i].dim() - 2 : -1);
  return dims;
}

}  // namespace wanpar
