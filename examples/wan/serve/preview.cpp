#include "wan/serve/preview.hpp"

#include <ATen/ATen.h>

#include "wan/io/pixels.hpp"
#include "wan/io/png.hpp"

namespace wan::serve {
namespace {

/// Colours are looked at in the middle of a block of like latents, where its neighbours do not reach.
constexpr int64_t kBlock = 4, kBlocks = 8, kPictures = 2;
constexpr double kRidge = 1e-2;

/// A column of ones behind [n, channels].
at::Tensor with_ones(const at::Tensor& x) { return at::cat({x, at::ones({x.size(0), 1})}, 1); }

/// The middles of blocks of [channels, side, side]: [blocks * blocks, channels].
at::Tensor middles(const at::Tensor& picture) {
  const auto inner =
      picture.unfold(1, kBlock, kBlock).unfold(2, kBlock, kBlock).slice(3, 1, 3).slice(4, 1, 3);
  return inner.mean({3, 4}).flatten(1).t();
}

}  // namespace

Preview::Preview(Vae vae) {
  const at::NoGradGuard no_grad;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const auto weights = vae->parameters().front();
  std::vector<at::Tensor> latents, colours;
  for (int64_t i = 0; i < kPictures; ++i) {
    const auto blocks = at::randn({vae->config().channels, kBlocks, kBlocks}, generator);
    const auto picture = blocks.repeat_interleave(kBlock, 1).repeat_interleave(kBlock, 2);
    const auto frame =
        vae->decode(picture.unsqueeze(0).unsqueeze(2).to(weights.device())).to(at::kFloat).cpu();
    const auto factor = frame.size(3) / picture.size(1);
    latents.push_back(middles(picture));
    colours.push_back(middles(at::avg_pool2d(frame.squeeze(0).squeeze(1), factor)));
  }
  const auto x = with_ones(at::cat(latents)).to(at::kDouble), y = at::cat(colours).to(at::kDouble);
  const auto ridge = kRidge * static_cast<double>(x.size(0)) * at::eye(x.size(1), at::kDouble);
  map_ = at::linalg_solve(x.t().mm(x) + ridge, x.t().mm(y)).to(at::kFloat);
}

std::string Preview::png(const at::Tensor& latents) const {
  const auto frame = latents.select(1, latents.size(1) / 2).to(at::kFloat).cpu();
  const auto colours = with_ones(frame.flatten(1).t()).mm(map_);
  return png_of(to_pixels(colours.t().reshape({3, frame.size(1), frame.size(2)})));
}

}  // namespace wan::serve
