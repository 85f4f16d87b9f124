#pragma once
#include <ATen/ops/gelu.h>
#include <torch/nn.h>

namespace wan {

// The layers hold their parameters uninitialised: memory that nobody touched costs nothing, and every
// checkpoint fills them all. Inference only, so no parameter asks for gradients.

enum class Bias { yes, no };

/// y = W x + b in the dtype of W, whatever the dtype of x: the dtypes of the weights alone decide the
/// precision of a model.
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(int64_t in, int64_t out, Bias has_bias = Bias::yes);
  at::Tensor forward(const at::Tensor& x);
  at::ScalarType dtype() const { return weight.scalar_type(); }

  at::Tensor weight, bias;
};
TORCH_MODULE(Linear);

/// y = x / sqrt(mean(x^2) + eps) * weight over the last dimension, in the dtype of the weight.
class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(int64_t dim, double eps);
  at::Tensor forward(const at::Tensor& x);

  at::Tensor weight;

 private:
  double eps_;
};
TORCH_MODULE(RmsNorm);

/// The usual normalisation over the last dimension with weight and bias, in their dtype.
class LayerNormImpl : public torch::nn::Module {
 public:
  LayerNormImpl(int64_t dim, double eps);
  at::Tensor forward(const at::Tensor& x);

  at::Tensor weight, bias;

 private:
  double eps_;
};
TORCH_MODULE(LayerNorm);

/// The tanh approximation of GELU; overwrites its argument.
class GeluImpl : public torch::nn::Module {
 public:
  at::Tensor forward(at::Tensor x) { return at::gelu_(x, "tanh"); }
};
TORCH_MODULE(Gelu);

/// norm(x) * (1 + scale) + shift, x [batch, tokens, dim], shift and scale [batch, 1, dim]; norm has no
/// weights.
at::Tensor modulated_norm(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& scale, double eps);

}  // namespace wan
