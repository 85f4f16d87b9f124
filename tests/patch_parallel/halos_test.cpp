// Modules that look at neighbours in space, drawn at random: split in space each is what one rank gives.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/autograd.h>
#include <torch/types.h>
#include <wanpar/strategy/patch_parallel.hpp>
#include <wanpar/transport/local.hpp>
#include <wanpar/transport/recording.hpp>

#include <functional>
#include <random>
#include <vector>

#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::patch_parallel;

namespace halos_test {

using at::Tensor;
using Numbers = std::vector<int64_t>;

/// One operator, and how it reads.
struct Layer {
  std::string text;
  std::function<Tensor(const Tensor&)> run;
};

/// Draws layers for tensors [2, channels, …] of `dims` dimensions behind those.
class Draw {
 public:
  explicit Draw(unsigned seed) : engine_(seed), generator_(at::make_generator<at::CPUGeneratorImpl>(seed)) {}

  int64_t number(int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(engine_);
  }
  Numbers numbers(int64_t count, int64_t least, int64_t most) {
    Numbers list(count);
    for (auto& n : list) n = number(least, most);
    return list;
  }
  Tensor normal(const Numbers& shape) { return at::randn(shape, generator_); }

  Layer layer(int64_t dims, int64_t channels) {
    switch (number(0, 7)) {
      case 0:
        return padded(dims);
      case 1:
        return upsampled(dims);
      case 2:
        return pooled(dims);
      case 3:
        return normed(channels);
      case 4:
        return transposed(dims, channels);
      case 5:
        return same(dims, channels);
      default:
        return convolved(dims, channels);
    }
  }

 private:
  Layer convolved(int64_t dims, int64_t channels) {
    const auto kernel = numbers(dims, 1, 4), stride = numbers(dims, 1, 3), dilation = numbers(dims, 1, 2);
    Numbers padding;
    for (auto k : kernel) padding.push_back(number(0, k - 1));
    const int64_t groups = number(0, 1) ? channels : 1;
    auto shape = kernel;
    shape.insert(shape.begin(), {channels, channels / groups});
    const auto weight = normal(shape), bias = number(0, 1) ? normal({channels}) : Tensor();
    return {fmt::format("convolution {} stride {} padding {} dilation {} groups {}", kernel, stride, padding,
                        dilation, groups),
            [=](const Tensor& x) {
              return at::convolution(x, weight.to(x.dtype()), bias.defined() ? bias.to(x.dtype()) : bias,
                                     stride, padding, dilation, false, Numbers(dims, 0), groups);
            }};
  }
  Layer same(int64_t dims, int64_t channels) {
    const auto kernel = numbers(dims, 1, 5), dilation = numbers(dims, 1, 2);
    auto shape = kernel;
    shape.insert(shape.begin(), {channels, channels});
    const auto weight = normal(shape);
    return {fmt::format("same convolution {} dilation {}", kernel, dilation), [=](const Tensor& x) {
              const auto w = weight.to(x.dtype());
              const Numbers stride(dims, 1);
              if (dims == 1) return at::conv1d(x, w, {}, stride, "same", dilation);
              if (dims == 2) return at::conv2d(x, w, {}, stride, "same", dilation);
              return at::conv3d(x, w, {}, stride, "same", dilation);
            }};
  }
  Layer transposed(int64_t dims, int64_t channels) {
    const auto kernel = numbers(dims, 1, 3), stride = numbers(dims, 1, 2);
    auto shape = kernel;
    shape.insert(shape.begin(), {channels, channels});
    const auto weight = normal(shape);
    return {fmt::format("transposed convolution {} stride {}", kernel, stride), [=](const Tensor& x) {
              return at::convolution(x, weight.to(x.dtype()), {}, stride, Numbers(dims, 0), Numbers(dims, 1),
                                     true, Numbers(dims, 0), 1);
            }};
  }
  Layer padded(int64_t dims) {
    const auto pad = numbers(2 * dims, 0, 2);
    switch (number(0, 2)) {
      case 0:
        return {fmt::format("reflected by {}", pad), [=](const Tensor& x) {
                  return dims == 1   ? at::reflection_pad1d(x, pad)
                         : dims == 2 ? at::reflection_pad2d(x, pad)
                                     : at::reflection_pad3d(x, pad);
                }};
      case 1:
        return {fmt::format("replicated by {}", pad), [=](const Tensor& x) {
                  return dims == 1   ? at::replication_pad1d(x, pad)
                         : dims == 2 ? at::replication_pad2d(x, pad)
                                     : at::replication_pad3d(x, pad);
                }};
      default:
        return {fmt::format("padded by {}", pad),
                [=](const Tensor& x) { return at::constant_pad_nd(x, pad, 0.5); }};
    }
  }
  Layer upsampled(int64_t dims) {
    const auto factor = number(1, 3), kind = number(0, 2);
    const bool corners = number(0, 4) == 0;
    return {fmt::format("upsampled by {}, kind {}, corners {}", factor, kind, corners), [=](const Tensor& x) {
              Numbers size;
              for (int64_t d = 2; d < x.dim(); ++d) size.push_back(x.size(d) * factor);
              if (kind == 0)
                return dims == 1   ? at::upsample_nearest1d(x, size)
                       : dims == 2 ? at::upsample_nearest2d(x, size)
                                   : at::upsample_nearest3d(x, size);
              if (kind == 1 && dims == 2) return at::upsample_bicubic2d(x, size, corners);
              return dims == 1   ? at::upsample_linear1d(x, size, corners)
                     : dims == 2 ? at::upsample_bilinear2d(x, size, corners)
                                 : at::upsample_trilinear3d(x, size, corners);
            }};
  }
  Layer pooled(int64_t dims) {
    const auto kernel = numbers(dims, 1, 3), stride = numbers(dims, 1, 3);
    Numbers padding;
    for (auto k : kernel) padding.push_back(number(0, k / 2));
    const bool greatest = number(0, 1), rounds_up = number(0, 3) == 0, counts = number(0, 1);
    return {fmt::format("{} pool {} stride {} padding {} ceil {} counts {}", greatest ? "max" : "mean",
                        kernel, stride, padding, rounds_up, counts),
            [=](const Tensor& x) {
              const Numbers one(dims, 1);
              if (greatest)
                return dims == 1   ? at::max_pool1d(x, kernel, stride, padding, one, rounds_up)
                       : dims == 2 ? at::max_pool2d(x, kernel, stride, padding, one, rounds_up)
                                   : at::max_pool3d(x, kernel, stride, padding, one, rounds_up);
              return dims == 1   ? at::avg_pool1d(x, kernel, stride, padding, rounds_up, counts)
                     : dims == 2 ? at::avg_pool2d(x, kernel, stride, padding, rounds_up, counts)
                                 : at::avg_pool3d(x, kernel, stride, padding, rounds_up, counts);
            }};
  }
  Layer normed(int64_t channels) {
    const auto weight = normal({channels}), bias = normal({channels});
    const int64_t groups = number(0, 1) ? 2 : 1;
    return {fmt::format("group norm of {} groups", groups), [=](const Tensor& x) {
              return at::silu(at::group_norm(x, groups, weight.to(x.dtype()), bias.to(x.dtype())));
            }};
  }

  std::mt19937 engine_;
  at::Generator generator_;
};

struct Module {
  std::string text;
  std::vector<Layer> layers;
  Numbers shape;
  int64_t dim;  // that is split

  Tensor operator()(const Tensor& x) const {
    auto y = x;
    for (auto& layer : layers) y = layer.run(y);
    return y;
  }
};

Module drawn(unsigned seed, int ranks) {
  Draw draw(seed);
  const int64_t dims = draw.number(1, 3), channels = 2 * draw.number(1, 2);
  Module module{{}, {}, {2, channels}, 2 + draw.number(0, dims - 1)};
  for (int64_t d = 0; d < dims; ++d) module.shape.push_back(draw.number(ranks, dims == 3 ? 9 : 17));
  for (int64_t n = draw.number(1, 4); n > 0; --n) module.layers.push_back(draw.layer(dims, channels));
  module.text = fmt::format("seed {}, {} ranks: {} split along {}", seed, ranks, module.shape, module.dim);
  for (auto& layer : module.layers) module.text += "; " + layer.text;
  return module;
}

/// The result, and the gradient of the input.
std::vector<Tensor> outcome(const std::function<Tensor(const Tensor&)>& module, const Tensor& x,
                            bool with_gradient) {
  if (!with_gradient) {
    c10::InferenceMode mode;
    return {module(x)};
  }
  auto leaf = x.to(at::kDouble).requires_grad_();
  auto y = module(leaf);
  auto weights = at::arange(y.numel(), y.options().requires_grad(false)).mul(0.7).cos().view_as(y);
  auto gradient = torch::autograd::grad({(y * weights).sum()}, {leaf});
  return {y.detach(), gradient[0]};
}

TEST_CASE("modules drawn at random, split in space, are those of one rank") {
  int exact = 0, impossible = 0;
  for (unsigned seed = 0; seed < 400; ++seed) {
    const int ranks = 2 + static_cast<int>(seed % 4);
    const auto module = drawn(seed, ranks);
    const bool with_gradient = seed % 3 == 0;
    const auto x = Draw(seed + 1).normal(module.shape);
    std::vector<Tensor> expected;
    try {
      expected = outcome(module, x, with_gradient);
    } catch (const c10::Error&) {
      ++impossible;
      continue;
    }
    INFO(module.text);
    CHECK_NOTHROW(wanpar::local::run(
        ranks,
        [&](Communicator world) {
          auto parallel = [&](const Tensor& given) { return module(given); } |
                          patch_parallel({.group = world, .split = {{.arg = 0, .rows = module.dim}}});
          const auto given = outcome([&](const Tensor& y) { return parallel(y); }, x, with_gradient);
          for (size_t i = 0; i < expected.size(); ++i) {
            const auto scale = std::max(1.0, expected[i].abs().max().item<double>());
            require_close(given[i] / scale, expected[i] / scale, with_gradient ? 1e-9 : 1e-5,
                          i == 0 ? "the result" : "the gradient");
          }
        },
        {.timeout = std::chrono::seconds(20)}));
    ++exact;
  }
  MESSAGE(exact, " exact, ", impossible, " that one rank refuses");
  CHECK(exact >= 300);
}

/// Bytes that all ranks send for one layer, and for joining its result.
int64_t bytes_sent(Communicator world, wanpar::Recording& recording, const Layer& layer, const Tensor& x) {
  c10::InferenceMode mode;
  auto parallel = [&](const Tensor& y) { return layer.run(y); } |
                  patch_parallel({.group = recording(world), .split = {{.arg = 0, .rows = 2}}});
  parallel(x);  // in which ranks compare what is alike
  world.barrier();
  if (world.rank() == 0) recording.clear();
  world.barrier();
  parallel(x);
  world.barrier();
  return recording.total().bytes;
}

TEST_CASE("neighbours' rows are all that is sent") {
  on_worlds(
      [](Communicator world) {
        static wanpar::Recording recording;
        const int64_t n = world.size(), columns = 6, row = 2 * 4 * columns * 4;  // bytes
        const auto x = at::ones({2, 4, 4 * n, columns});
        const auto weight = at::ones({4, 4, 3, 3});
        struct Claim {
          Layer layer;
          int64_t rows, crossing;  // of the result, and that go over each cut
        };
        const std::vector<Claim> claims{
            {{"3x3", [&](const Tensor& y) { return at::conv2d(y, weight, {}, 1, 1); }}, 4 * n * row, 2},
            {{"3x3, every second",
              [&](const Tensor& y) {
                return at::conv2d(y, weight, {}, Numbers{2, 1}, 1);
              }},
             2 * n * row,
             1},
            {{"nearest",
              [](const Tensor& y) {
                return at::upsample_nearest2d(y, {2 * y.size(2), y.size(3)});
              }},
             8 * n * row,
             0},
            {{"linear",
              [](const Tensor& y) {
                return at::upsample_bilinear2d(y, {2 * y.size(2), y.size(3)}, false);
              }},
             8 * n * row,
             2},
            {{"mean of two rows",
              [](const Tensor& y) {
                return at::avg_pool2d(y, {2, 1});
              }},
             2 * n * row,
             0},
            {{"max of three rows",
              [](const Tensor& y) {
                return at::max_pool2d(y, {3, 1}, {2, 1}, {1, 0});
              }},
             2 * n * row,
             1},
        };
        for (auto& claim : claims) {
          const auto sent = bytes_sent(world, recording, claim.layer, x);
          const auto formula = (n - 1) * (claim.rows + claim.crossing * row) + 24 * n * (n - 1);
          require(sent == formula,
                  fmt::format("{}: {} bytes, {} by the formula", claim.layer.text, sent, formula));
        }
      },
      {2, 3});
}

}  // namespace halos_test
