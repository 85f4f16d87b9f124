#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <wanpar/core/error.hpp>
#include <wanpar/module/attention.hpp>

#include "module/attention_parts.hpp"

namespace wanpar {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Scores in full, some query rows at a time.
AttentionWithLse by_operators(const Attention& call) {
  auto mask = additive_mask(call);
  auto v = call.value.to(accumulator(call.value));
  auto rows = rows_at_a_time(call);
  std::vector<at::Tensor> outs, lses;
  for (int64_t begin = 0; begin < call.query.size(2); begin += rows) {
    auto s = scores(call, mask, begin, std::min(rows, call.query.size(2) - begin));
    auto lse = at::logsumexp(s, {-1}, true);
    outs.push_back(at::matmul((s - lse).exp().nan_to_num(0.0), v));
    lses.push_back(lse.squeeze(-1));
  }
  return {at::cat(outs, 2).to(call.query.scalar_type()), at::cat(lses, 2)};
}

AttentionWithLse on_cpu(const Attention& call) {
  if (!has_same_channels(call)) return by_operators(call);
  auto mask = additive_mask(call);
  auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
      with_dense_channels(call.query), with_dense_channels(call.key), with_dense_channels(call.value), 0.0,
      call.causal, mask, call.scale);
  // A row that may attend to nothing has lse 0 from the kernel, as if it had seen one key.
  if (mask) lse.masked_fill_(mask->eq(-kInfinity).all(-1), -kInfinity);
  return {out, lse};
}

AttentionWithLse on_cuda(const Attention& call) {
  auto type = call.query.scalar_type();
  bool half = type == at::kHalf || type == at::kBFloat16;
  if (!has_same_channels(call) || type == at::kDouble || call.query.size(-1) % 8 != 0)
    return by_operators(call);
  // Flash aligns a causal mask with the last key, the others with the first.
  bool aligned = !call.causal || call.query.size(-2) == call.key.size(-2);
  if (half && aligned && !call.mask && call.query.size(-1) <= 256) {
    auto result = at::_scaled_dot_product_flash_attention(call.query, call.key, call.value, 0.0, call.causal,
                                                          false, call.scale);
    return {std::get<0>(result), std::get<1>(result)};
  }
  if (call.mask)
    return by_operators(
        call);  // the kernel's mask must be aligned, and it leaves rows without keys undefined
  auto result = at::_scaled_dot_product_efficient_attention(call.query, call.key, call.value, {}, true, 0.0,
                                                            call.causal, call.scale);
  return {std::get<0>(result), std::get<1>(result).narrow(2, 0, call.query.size(2))};
}

/// Nothing to attend to, or nobody to attend: LibTorch's CPU kernel divides by zero there.
AttentionWithLse of_nothing(const Attention& call) {
  auto shape = call.query.sizes().vec();
  shape.back() = call.value.size(-1);
  auto lse_shape = at::IntArrayRef(shape).slice(0, shape.size() - 1);
  return {at::zeros(shape, call.query.options()),
          at::full(lse_shape, -kInfinity, call.query.options().dtype(accumulator(call.query)))};
}

}  // namespace

std::vector<at::Tensor> Attention::inputs() const {
  std::vector<at::Tensor> inputs{query, key, value};
  if (mask) inputs.push_back(*mask);
  return inputs;
}

Attention Attention::on(const std::vector<at::Tensor>& inputs) const {
  auto other = *this;
  other.query = inputs[0], other.key = inputs[1], other.value = inputs[2];
  other.mask = inputs.size() > 3 ? std::optional(inputs[3]) : std::nullopt;
  return other;
}

at::ScalarType accumulator(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

double scale_of(const Attention& call) {
  return call.scale.value_or(1 / std::sqrt(static_cast<double>(call.query.size(-1))));
}

bool has_same_channels(const Attention& call) {
  auto channels = call.query.size(-1);
  return call.key.size(-1) == channels && call.value.size(-1) == channels;
}

at::Tensor with_dense_channels(const at::Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

at::Tensor with_one_batch(const at::Tensor& x) {
  return x.dim() == 4 ? x : x.dim() == 3 ? x.unsqueeze(0) : x.flatten(0, x.dim() - 4);
}

std::optional<at::Tensor> additive_mask(const Attention& call) {
  if (!call.mask) return {};
  auto mask = *call.mask;
  if (mask.scalar_type() == at::kBool)
    mask = at::zeros(mask.sizes(), call.query.options()).masked_fill_(mask.logical_not(), -kInfinity);
  mask = mask.to(call.query.scalar_type());
  auto q = call.query.sizes();
  return mask.expand({q[0], q[1], q[2], call.key.size(2)});
}

int64_t rows_at_a_time(const Attention& call) {
  auto row = std::max<int64_t>(1, call.query.size(0) * call.query.size(1) * call.key.size(2));
  return std::max<int64_t>(1, (int64_t{16} << 20) / row);
}

at::Tensor scores(const Attention& call, const std::optional<at::Tensor>& mask, int64_t begin, int64_t n) {
  auto type = accumulator(call.query);
  auto result = at::matmul(call.query.narrow(2, begin, n).to(type) * scale_of(call),
                           call.key.to(type).transpose(-2, -1));
  if (mask) result.add_(mask->narrow(2, begin, n));
  if (call.causal) {
    auto column = at::arange(call.key.size(2), result.device()).unsqueeze(0);
    auto row = at::arange(begin, begin + n, result.device()).unsqueeze(1);
    result.masked_fill_(column.gt(row), -kInfinity);
  }
  return result;
}

void repeat_heads(Attention& call) {
  auto groups = call.query.size(-3), heads = call.key.size(-3);
  if (heads == 0 || groups % heads)
    throw Error(fmt::format("attention: {} query heads cannot share {} key heads", groups, heads));
  call.key = call.key.repeat_interleave(groups / heads, -3);
  call.value = call.value.repeat_interleave(groups / heads, -3);
  call.grouped = false;
}

AttentionWithLse attention_with_lse(Attention call) {
  if (call.dropout > 0)
    throw Error("attention in parts: dropout cannot be repeated part by part; set it to 0 (call eval())");
  if (call.query.numel() == 0 || call.key.numel() == 0 || call.value.numel() == 0) return of_nothing(call);
  if (call.grouped) repeat_heads(call);

  auto batch = call.query.sizes().vec();
  batch.resize(batch.size() - 2);
  if (call.mask && call.mask->dim() > 4) {
    auto whole = batch;
    whole.insert(whole.end(), {call.query.size(-2), call.key.size(-2)});
    call.mask = with_one_batch(call.mask->expand(whole));
  }
  call.query = with_one_batch(call.query), call.key = with_one_batch(call.key),
  call.value = with_one_batch(call.value);

  auto [out, lse] = call.query.is_cuda()  ? on_cuda(call)
                    : call.query.is_cpu() ? on_cpu(call)
                                          : by_operators(call);
  auto whole = [&](const at::Tensor& x, std::vector<int64_t> rest) {
    auto shape = batch;
    shape.insert(shape.end(), rest.begin(), rest.end());
    return x.dim() == static_cast<int64_t>(shape.size()) ? x : x.reshape(shape);
  };
  return {whole(out, {out.size(2), out.size(3)}), whole(lse, {lse.size(2)})};
}

}  // namespace wanpar
