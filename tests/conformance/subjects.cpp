#include <torch/nn.h>
#include <torch/script.h>

#include "models/attention_model.hpp"
#include "models/decoder.hpp"
#include "models/sequential.hpp"
#include "models/unet.hpp"
#include "suite.hpp"

using wanpar::Model;

namespace {

at::Tensor random(std::vector<int64_t> shape) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(7), at::kDouble);
}

template <class Module>
Model cast(Module module, at::ScalarType dtype) {
  module->to(dtype);
  return Model(std::move(module));
}

}  // namespace

const std::vector<Subject>& subjects() {
  using Inputs = std::vector<at::Tensor>;
  static const std::vector<Subject> all{
      {.name = "transformer",
       .make = [](auto dtype) { return cast(AttentionModel(AttentionModelOptions{.dim = 24}), dtype); },
       .inputs =
           [](int64_t batch, int64_t length) {
             return Inputs{random({batch, length, 24}), random({batch, 5, 24})};
           },
       .batch = {0, 1}},
      {.name = "UNet",
       .make = [](auto dtype) { return cast(Unet(), dtype); },
       .inputs =
           [](int64_t batch, int64_t length) {
             return Inputs{random({batch, 3, 2 * length, 4}), random({batch, 6})};
           },
       .batch = {0, 1},
       .tokens = {{.arg = 0, .dim = 2}},
       .refusal = "aten::conv2d with a kernel of 3 along dimension 2"},
      {.name = "decoder",
       .make = [](auto dtype) { return cast(Decoder(), dtype); },
       .inputs =
           [](int64_t batch, int64_t length) {
             auto ids = at::arange(batch * length).mul(17).remainder(DecoderImpl::kWords);
             return Inputs{ids.view({batch, length}), at::arange(length).unsqueeze(0)};
           },
       .tokens = {{.arg = 0, .dim = 1}, {.arg = 1, .dim = 1}}},
      {.name = "Sequential",
       .make = [](auto dtype) { return cast(sequential_model(), dtype); },
       .inputs =
           [](int64_t batch, int64_t length) {
             return Inputs{random({batch, length, 12})};
           }},
      {.name = "TorchScript",
       .make =
           [](auto dtype) {
             auto module = torch::jit::load(TEST_DATA "/attention.pt");
             module.to(dtype);
             return Model(module);
           },
       .inputs =
           [](int64_t batch, int64_t length) {
             return Inputs{random({batch, length, 48})};
           }},
  };
  return all;
}
