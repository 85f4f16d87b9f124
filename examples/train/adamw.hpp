#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace wan::train {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.99;
  double eps = 1e-8;
  double weight_decay = 0.01;
};

/// AdamW by LibTorch's fused kernel, with moments that a checkpoint can show and fill. Loshchilov and Hutter
/// 2019. A parameter without a gradient counts as one with zeros.
class AdamW {
 public:
  explicit AdamW(std::vector<at::Tensor> parameters, AdamWOptions options = {});

  /// Step number `step`, the first is 1, with this learning rate; then the gradients are gone.
  void step(int64_t step, double rate);

  std::vector<at::Tensor> parameters, first, second;  ///< weights, and moments like them

 private:
  AdamWOptions options_;
};

/// Linear from 0 over `warm_up` steps, then half a cosine down to `last` of the rate at `steps`.
struct Schedule {
  double rate = 1e-3;
  int64_t warm_up = 100;
  int64_t steps = 10000;
  double last = 0.02;

  /// Of step number `step`, the first is 1.
  double operator()(int64_t step) const;
};

}  // namespace wan::train
