#include "wan/model/layers.hpp"

#include <ATen/cpu/Utils.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/rms_norm.h>

namespace wan {

namespace {

/// Whether this CPU has no instructions for bfloat16, and LibTorch's kernels do without them slowly.
bool emulates_bfloat16() {
  static const bool emulates = [] {
    const auto capabilities = at::cpu::get_cpu_capabilities();
    const auto found = capabilities.find("avx512_bf16");
    return found != capabilities.end() && !found->second.toBool();
  }();
  return emulates;
}

}  // namespace

LinearImpl::LinearImpl(int64_t in, int64_t out, Bias has_bias)
    : weight(register_parameter("weight", at::empty({out, in}), false)) {
  if (has_bias == Bias::yes) bias = register_parameter("bias", at::empty({out}), false);
}

at::Tensor LinearImpl::forward(const at::Tensor& x) {
  // Sums of bfloat16 products are float32 either way, and rounded once.
  if (dtype() == at::kBFloat16 && x.is_cpu() && emulates_bfloat16()) {
    const auto wide = [](const at::Tensor& y) { return y.to(at::kFloat); };
    return at::linear(wide(x.to(dtype())), wide(weight), bias.defined() ? wide(bias) : bias).to(dtype());
  }
  return at::linear(x.to(dtype()), weight, bias);
}

RmsNormImpl::RmsNormImpl(int64_t dim, double eps)
    : weight(register_parameter("weight", at::empty({dim}), false)), eps_(eps) {}

at::Tensor RmsNormImpl::forward(const at::Tensor& x) {
  return at::rms_norm(x.to(weight.scalar_type()), weight.sizes(), weight, eps_);
}

LayerNormImpl::LayerNormImpl(int64_t dim, double eps)
    : weight(register_parameter("weight", at::empty({dim}), false)),
      bias(register_parameter("bias", at::empty({dim}), false)),
      eps_(eps) {}

at::Tensor LayerNormImpl::forward(const at::Tensor& x) {
  return at::layer_norm(x.to(weight.scalar_type()), weight.sizes(), weight, bias, eps_);
}

at::Tensor modulated_norm(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& scale, double eps) {
  // One sample has one modulation for all its tokens: the norm's own weight and bias, in a single pass.
  if (x.size(0) == 1 && scale.size(1) == 1)
    return at::layer_norm(x, {x.size(-1)}, (1 + scale).flatten(), shift.flatten(), eps);
  return at::addcmul(shift, at::layer_norm(x, {x.size(-1)}, {}, {}, eps), 1 + scale);
}

}  // namespace wan
