#include <ATen/CPUGeneratorImpl.h>
#include <doctest/doctest.h>
#include <torch/nn.h>

#include "conformance/strategies.hpp"
#include "wan/model/transformer.hpp"
#include "wan/text/umt5.hpp"

namespace conformance_test {
namespace {

using Inputs = std::vector<at::Tensor>;

at::Tensor random(std::vector<int64_t> shape) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(7), at::kDouble);
}

/// With weights such that no layer drowns another.
template <class Module>
wanpar::Model filled(Module module, at::ScalarType dtype) {
  module->to(dtype);
  at::NoGradGuard no_grad;
  int seed = 1;
  for (auto& parameter : module->parameters()) {
    auto values = at::randn(parameter.sizes(), at::make_generator<at::CPUGeneratorImpl>(seed++), at::kDouble);
    parameter.copy_(values / std::sqrt(double(parameter.size(-1)))).requires_grad_();
  }
  return wanpar::Model(module);
}

wanpar::Model transformer(at::ScalarType dtype) {
  return filled(wan::Transformer(wan::TransformerConfig{.dim = 48,
                                                        .heads = 6,
                                                        .layers = 2,
                                                        .ffn_dim = 64,
                                                        .in_channels = 4,
                                                        .out_channels = 4,
                                                        .text_dim = 12,
                                                        .freq_dim = 16,
                                                        .text_len = 7}),
                dtype);
}

wanpar::Model text_encoder(at::ScalarType dtype) {
  return filled(wan::Umt5(wan::TextEncoderConfig{.dim = 24,
                                                 .heads = 6,
                                                 .head_dim = 4,
                                                 .ffn_dim = 32,
                                                 .layers = 2,
                                                 .vocabulary = 40,
                                                 .buckets = 8,
                                                 .max_distance = 16}),
                dtype);
}

/// The Wan transformer states its tokens and its blocks, umT5 its blocks.
const std::vector<Subject>& wan_subjects() {
  static const std::vector<Subject> all{
      {.name = "Wan's transformer",
       .make = transformer,
       .inputs =
           [](int64_t batch, int64_t length) {
             return Inputs{random({batch, 4, 1, 2, 2 * length}), random({batch}).abs() * 500,
                           random({batch, 7, 12})};
           },
       .batch = {0, 1, 2},
       .tokens = {},
       .stacked = transformer,
       .blocks = 2,
       .side = {wanpar::Side::split, wanpar::Side::split, wanpar::Side::replicate}},
      {.name = "umT5",
       .make = text_encoder,
       .inputs =
           [](int64_t batch, int64_t length) {
             auto tokens = 2 * length;  // so many that the error is the same on every rank
             auto ids = at::arange(batch * tokens).mul(17).remainder(40).view({batch, tokens});
             return Inputs{ids, at::arange(tokens).lt(tokens - 2).to(at::kLong).expand({batch, tokens})};
           },
       .batch = {0, 1},
       .tokens = {{.arg = 0, .dim = 1}, {.arg = 1, .dim = 1}},
       .stacked = text_encoder,
       .blocks = 2,
       .side = {wanpar::Side::replicate, wanpar::Side::split}},
  };
  return all;
}

}  // namespace

TEST_CASE("Wan's networks wrapped in a strategy do what they do unwrapped") {
  for (auto& strategy : strategies()) SUBCASE(strategy.name.c_str()) conform(strategy, wan_subjects());
}

TEST_CASE("Wan's networks wrapped in several strategies do what they do unwrapped") {
  for (auto& composition : compositions())
    SUBCASE(composition.name.c_str()) conform(composition, wan_subjects());
}

}  // namespace conformance_test
