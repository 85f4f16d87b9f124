#include <ATen/ATen.h>
#include <ATen/SDPBackend.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/attention.hpp>

#include "module/attention_parts.hpp"

namespace wanpar {
namespace {

using Sizes = std::vector<int64_t>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool is_half(at::ScalarType type) { return type == at::kHalf || type == at::kBFloat16; }

[[noreturn]] void refuse(const Attention& call, const std::string& reason) {
  auto mask = call.mask ? fmt::format(", under a mask {}", call.mask->sizes()) : "";
  throw UsageError(fmt::format("attention of queries {} to keys {} and values {}{}: {}", call.query.sizes(),
                               call.key.sizes(), call.value.sizes(), mask, reason));
}

/// Checks that dtypes and devices match.
void check_kinds(const Attention& call) {
  auto &q = call.query, &k = call.key, &v = call.value;
  if (q.dim() < 2 || k.dim() < 2 || v.dim() < 2) refuse(call, "each needs tokens and channels");
  if (q.size(-1) != k.size(-1)) refuse(call, "queries and keys differ in their channels");
  if (k.size(-2) != v.size(-2)) refuse(call, "keys and values differ in their tokens");
  auto type = q.scalar_type();
  if (!q.is_floating_point() || k.scalar_type() != type || v.scalar_type() != type)
    refuse(call,
           fmt::format("they must be of one floating-point dtype, not {}, {} and {}", c10::toString(type),
                       c10::toString(k.scalar_type()), c10::toString(v.scalar_type())));
  if (q.device() != k.device() || q.device() != v.device() ||
      (call.mask && q.device() != call.mask->device()))
    refuse(call, "they are on different devices");
  if (!call.mask) return;
  auto mask = call.mask->scalar_type();
  if (mask != at::kBool && mask != at::kFloat && mask != type)
    refuse(call, fmt::format("the mask must be Bool, Float or {}, not {}", c10::toString(type),
                             c10::toString(mask)));
}

at::Tensor with_dims(at::Tensor x, int64_t dims) {
  while (x.dim() < dims) x = x.unsqueeze(0);
  return x;
}

at::Tensor with_heads(const at::Tensor& x, int64_t heads) {
  auto shape = x.sizes().vec();
  auto& own = shape[shape.size() - 3];
  if (own != 1) return own == heads ? x : x.repeat_interleave(heads / own, -3);
  own = heads;
  return x.expand(shape);
}

/// A single key head is a group, too; keys and values must have the same number of heads.
void settle_groups(Attention& call) {
  auto heads = call.query.size(-3), keys = call.key.size(-3), values = call.value.size(-3);
  if (!call.grouped) {
    call.grouped = heads > 1 && keys == 1 && values == 1;
    return;
  }
  auto divides = [heads](int64_t n) { return n == heads || (n > 0 && heads % n == 0); };
  if (!divides(keys) || !divides(values)) refuse(call, "the key heads do not divide the query heads");
  if (keys != values || keys == heads) repeat_heads(call);
}

/// Broadcasts all dimensions except the last `kept`.
void expand_batch(Attention& call, int64_t kept) {
  auto n = call.query.dim() - kept;
  auto batch = call.query.sizes().slice(0, n).vec();
  for (auto* x : {&call.key, &call.value})
    for (int64_t d = 0; d < n; ++d) {
      if (batch[d] == 1) batch[d] = x->size(d);
      if (x->size(d) != 1 && x->size(d) != batch[d])
        refuse(call, fmt::format("they do not broadcast along dimension {}", d));
    }
  for (auto* x : {&call.query, &call.key, &call.value}) {
    auto shape = batch;
    auto own = x->sizes().slice(n);
    shape.insert(shape.end(), own.begin(), own.end());
    *x = x->expand(shape);
  }
}

void prepare_mask(Attention& call) {
  auto dims = call.query.dim();
  if (call.mask->dim() > dims) refuse(call, "the mask has too many dimensions");
  auto mask = with_dims(*call.mask, dims);
  for (int64_t d = 0; d < dims - 2; ++d)
    if (mask.size(d) != 1 && mask.size(d) != call.query.size(d))
      refuse(call, fmt::format("the mask does not broadcast along dimension {}", d));
  call.mask = mask;
}

/// Materialises the scores of some query rows at a time. Keeps `out` if a kernel has computed it.
AttentionPart by_operators(const Attention& call, at::Tensor out = {}) {
  auto mask = additive_mask(call);
  auto v = call.value.to(accumulator(call.value));
  auto rows = rows_at_a_time(call);
  std::vector<at::Tensor> outs, maxima, sums;
  for (int64_t begin = 0; begin < call.query.size(2); begin += rows) {
    auto s = scores(call, mask, begin, std::min(rows, call.query.size(2) - begin));
    auto max = s.amax(-1, true);
    auto p = s.sub_(shift(max)).exp_();
    auto sum = p.sum(-1, true);
    if (!out.defined()) outs.push_back(at::matmul(p, v).div_(divisor(sum)));
    maxima.push_back(max.squeeze(-1)), sums.push_back(sum.squeeze(-1));
  }
  if (!out.defined()) out = at::cat(outs, 2).to(call.query.scalar_type());
  return {out, at::cat(maxima, 2), at::cat(sums, 2)};
}

/// The kernel's result; recomputes the weights if its log-sum-exp is not precise enough.
AttentionPart by_kernel(const Attention& call, const at::Tensor& out, const at::Tensor& lse) {
  if (!is_precise(lse, call.query.scalar_type())) return by_operators(call, out);
  return {out, lse, at::ones_like(lse)};
}

AttentionPart on_cpu(const Attention& call) {
  // Rows without keys are detected by the mask, which works only if the mask is the only restriction.
  if (!has_same_channels(call) || (call.causal && call.mask)) return by_operators(call);
  auto mask = additive_mask(call);
  auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
      with_dense_channels(call.query), with_dense_channels(call.key), with_dense_channels(call.value), 0.0,
      call.causal, mask, call.scale);
  // For a row without keys the kernel returns lse 0, as if it had one key.
  if (mask) lse.masked_fill_(mask->eq(-kInfinity).all(-1).logical_and(lse.isnan().logical_not()), -kInfinity);
  return by_kernel(call, out, lse);
}

/// As CUDA's kernels require: contiguous channels, rows aligned to 16 bytes.
at::Tensor aligned(const at::Tensor& x) {
  auto elements = 16 / static_cast<int64_t>(x.element_size());
  bool is = x.stride(-1) == 1 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  for (int64_t d = 0; d + 1 < x.dim(); ++d) is = is && x.stride(d) % elements == 0;
  return is ? x : x.clone(at::MemoryFormat::Contiguous);
}

/// Whether scaled_dot_product_attention would take cuDNN's kernel, the faster one on newer devices.
bool is_for_cudnn(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Attention& call) {
  auto choice = at::_fused_sdp_choice(q, k, v, {}, 0.0, call.causal, call.scale);
  return choice == static_cast<int64_t>(at::SDPBackend::cudnn_attention);
}

AttentionPart on_cuda(const Attention& call) {
  auto type = call.query.scalar_type();
  if (!has_same_channels(call) || type == at::kDouble || call.query.size(-1) % 8 != 0)
    return by_operators(call);
  // Flash aligns a causal mask with the last key, the others with the first.
  bool alike = !call.causal || call.query.size(-2) == call.key.size(-2);
  if (is_half(type) && alike && !call.mask && call.query.size(-1) <= 256) {
    auto q = aligned(call.query), k = aligned(call.key), v = aligned(call.value);
    if (is_for_cudnn(q, k, v, call)) {
      auto result =
          at::_scaled_dot_product_cudnn_attention(q, k, v, {}, true, 0.0, call.causal, false, call.scale);
      return by_kernel(call, std::get<0>(result), std::get<1>(result).squeeze(-1));
    }
    auto result = at::_scaled_dot_product_flash_attention(q, k, v, 0.0, call.causal, false, call.scale);
    return by_kernel(call, std::get<0>(result), std::get<1>(result));
  }
  if (call.mask)
    return by_operators(
        call);  // the kernel's mask must be aligned, and it leaves rows without keys undefined
  auto result = at::_scaled_dot_product_efficient_attention(
      aligned(call.query), aligned(call.key), aligned(call.value), {}, true, 0.0, call.causal, call.scale);
  return by_kernel(call, std::get<0>(result), std::get<1>(result).narrow(2, 0, call.query.size(2)));
}

/// No queries or no keys: LibTorch's CPU kernel would divide by zero.
AttentionPart of_nothing(const Attention& call) {
  auto shape = call.query.sizes().vec();
  shape.back() = call.value.size(-1);
  auto of_rows = at::IntArrayRef(shape).slice(0, shape.size() - 1);
  auto options = call.query.options().dtype(accumulator(call.query));
  return {at::zeros(shape, call.query.options()), at::full(of_rows, -kInfinity, options),
          at::zeros(of_rows, options)};
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

at::Tensor AttentionPart::lse() const { return max + sum.log(); }

Attention prepared(Attention call) {
  check_kinds(call);
  auto dims = std::max({call.query.dim(), call.key.dim(), call.value.dim()});
  for (auto* x : {&call.query, &call.key, &call.value}) *x = with_dims(*x, dims);
  if (call.grouped && dims < 3) refuse(call, "grouped heads need a dimension");
  if (dims > 2) settle_groups(call);
  expand_batch(call, call.grouped ? 3 : 2);
  if (call.mask) prepare_mask(call);
  return call;
}

bool fits(const at::Tensor& mask, int64_t queries, int64_t keys) {
  return (mask.size(-2) == 1 || mask.size(-2) == queries) && (mask.size(-1) == 1 || mask.size(-1) == keys);
}

void repeat_heads(Attention& call) {
  auto heads = call.query.size(-3);
  call.key = with_heads(call.key, heads), call.value = with_heads(call.value, heads);
  call.grouped = false;
}

at::ScalarType accumulator(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

double scale_of(const Attention& call) {
  return call.scale.value_or(1 / std::sqrt(static_cast<double>(call.query.size(-1))));
}

std::optional<at::Tensor> additive_mask(const Attention& call) {
  if (!call.mask) return {};
  auto mask = *call.mask;
  if (mask.scalar_type() == at::kBool)
    return at::zeros(mask.sizes(), call.query.options()).masked_fill_(mask.logical_not(), -kInfinity);
  // A float32 mask stays float32 with half-precision scores: its lowest number would become −inf.
  return call.query.scalar_type() == at::kDouble ? mask.to(at::kDouble) : mask;
}

int64_t rows_at_a_time(const Attention& call) {
  auto row = std::max<int64_t>(1, call.query.size(0) * call.query.size(1) * call.key.size(2));
  return std::max<int64_t>(1, (int64_t{16} << 20) / row);
}

at::Tensor mask_rows(const at::Tensor& mask, int64_t begin, int64_t n) {
  return mask.size(-2) == 1 ? mask : mask.narrow(-2, begin, n);
}

at::Tensor scores(const Attention& call, const std::optional<at::Tensor>& mask, int64_t begin, int64_t n) {
  auto type = accumulator(call.query);
  // Scaled after the product, as in LibTorch's kernel, so that sums with a mask of −1e4 round the same.
  auto result = at::matmul(call.query.narrow(2, begin, n).to(type), call.key.to(type).transpose(-2, -1))
                    .mul_(scale_of(call));
  if (mask) result.add_(mask_rows(*mask, begin, n));
  if (call.causal) {
    auto column = at::arange(call.key.size(2), result.device()).unsqueeze(0);
    auto row = at::arange(begin, begin + n, result.device()).unsqueeze(1);
    result.masked_fill_(column.gt(row), -kInfinity);
  }
  return result;
}

at::Tensor shift(const at::Tensor& max) { return max.masked_fill(max.eq(-kInfinity), 0); }

at::Tensor divisor(const at::Tensor& sum) { return sum.masked_fill(sum.eq(0), 1); }

bool is_precise(const at::Tensor& lse, at::ScalarType dtype) {
  // Half precision rounds coarser than this anyway, and checking on a GPU would synchronise.
  if (is_half(dtype) && lse.is_cuda()) return true;
  auto size = lse.abs();
  return !size.gt(is_half(dtype) ? 1024 : 16).logical_and_(size.ne(kInfinity)).any().item<bool>();
}

bool has_same_channels(const Attention& call) {
  auto channels = call.query.size(-1);
  return call.key.size(-1) == channels && call.value.size(-1) == channels;
}

at::Tensor with_dense_channels(const at::Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

Attention with_one_batch(Attention call) {
  auto dims = call.query.dim();
  if (call.mask && dims > 4) {
    auto shape = call.query.sizes().slice(0, dims - 3).vec();
    auto own = call.mask->sizes().slice(dims - 3);
    shape.insert(shape.end(), own.begin(), own.end());
    call.mask = call.mask->expand(shape);
  }
  auto inputs = call.inputs();
  for (auto& x : inputs) x = dims > 4 ? x.flatten(0, dims - 4) : with_dims(x, 4);
  return call.on(inputs);
}

AttentionPart attention_part(const Attention& given) {
  if (given.dropout > 0)
    throw UsageError(
        "attention in parts: dropout cannot be repeated part by part; set it to 0 (call eval())");
  auto call = prepared(given);
  if (call.query.numel() == 0 || call.key.numel() == 0 || call.value.numel() == 0) return of_nothing(call);
  auto batch = call.query.sizes().slice(0, call.query.dim() - 2).vec();
  call = with_one_batch(std::move(call));
  if (call.grouped) repeat_heads(call);

  auto part = call.query.is_cuda() ? on_cuda(call) : call.query.is_cpu() ? on_cpu(call) : by_operators(call);
  auto whole = [&](const at::Tensor& x, Sizes rest) {
    auto shape = batch;
    shape.insert(shape.end(), rest.begin(), rest.end());
    return x.sizes() == shape ? x : x.reshape(shape);
  };
  auto rows = part.out.size(2);
  return {whole(part.out, {rows, part.out.size(3)}), whole(part.max, {rows}), whole(part.sum, {rows})};
}

}  // namespace wanpar
