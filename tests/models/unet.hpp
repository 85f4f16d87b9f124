#pragma once
#include <torch/nn.h>

namespace wanpar::conformance::models {

/// An image network as anybody would write it: convolutions, group norms, a skip from each level to its
/// mirror image, and the time of a diffusion. Plain LibTorch.
struct UnetBlockImpl : torch::nn::Module {
  UnetBlockImpl(int64_t in, int64_t out, int64_t time_width) {
    using torch::nn::Conv2d, torch::nn::Conv2dOptions, torch::nn::GroupNorm, torch::nn::GroupNormOptions;
    first_norm = register_module("first_norm", GroupNorm(GroupNormOptions(4, in)));
    first = register_module("first", Conv2d(Conv2dOptions(in, out, 3).padding(1)));
    time = register_module("time", torch::nn::Linear(time_width, out));
    last_norm = register_module("last_norm", GroupNorm(GroupNormOptions(4, out)));
    last = register_module("last", Conv2d(Conv2dOptions(out, out, 3).padding(1)));
    around = register_module("around", Conv2d(Conv2dOptions(in, out, 1)));
  }
  at::Tensor forward(const at::Tensor& x, const at::Tensor& t) {
    auto h = first(at::silu(first_norm(x))) + time(t).unsqueeze(-1).unsqueeze(-1);
    return around(x) + last(at::silu(last_norm(h)));
  }
  torch::nn::GroupNorm first_norm{nullptr}, last_norm{nullptr};
  torch::nn::Conv2d first{nullptr}, last{nullptr}, around{nullptr};
  torch::nn::Linear time{nullptr};
};
TORCH_MODULE(UnetBlock);

/// image [batch, 3, height, width], both even; time [batch, 6].
struct UnetImpl : torch::nn::Module {
  explicit UnetImpl(int64_t width = 8) {
    using torch::nn::Conv2d, torch::nn::Conv2dOptions;
    in = register_module("in", Conv2d(Conv2dOptions(3, width, 3).padding(1)));
    down = register_module("down", UnetBlock(width, width, 6));
    smaller = register_module("smaller", Conv2d(Conv2dOptions(width, 2 * width, 3).stride(2).padding(1)));
    middle = register_module("middle", UnetBlock(2 * width, 2 * width, 6));
    larger = register_module("larger", Conv2d(Conv2dOptions(2 * width, width, 3).padding(1)));
    up = register_module("up", UnetBlock(2 * width, width, 6));
    out = register_module("out", Conv2d(Conv2dOptions(width, 3, 3).padding(1)));
  }
  at::Tensor forward(const at::Tensor& image, const at::Tensor& time) {
    auto skip = down(in(image), time);
    auto h = middle(smaller(skip), time);
    h = larger(at::upsample_nearest2d(h, {skip.size(2), skip.size(3)}));
    return out(up(at::cat({h, skip}, 1), time));
  }
  torch::nn::Conv2d in{nullptr}, smaller{nullptr}, larger{nullptr}, out{nullptr};
  UnetBlock down{nullptr}, middle{nullptr}, up{nullptr};
};
TORCH_MODULE(Unet);

}  // namespace wanpar::conformance::models
