#include <torch/nn.h>
#include <wanpar/extend/conformance/strategy.hpp>

#include "models/attention_model.hpp"
#include "models/decoder.hpp"
#include "models/sequential.hpp"
#include "models/unet.hpp"

namespace wanpar::conformance {
namespace {

using namespace models;

at::Tensor random(std::vector<int64_t> shape) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(7), at::kDouble);
}

template <class Module>
Model cast(Module module, at::ScalarType dtype) {
  module->to(dtype);
  return Model(std::move(module));
}

/// A module with a stack that runs it by its blocks.
template <class Module, class Stack>
struct Stacked {
  Module module;
  Stack stack;

  template <class... Args>
  requires Invocable<Stack, Args...> at::Tensor operator()(Args&&... args) {
    return stack(std::forward<Args>(args)...);
  }
  auto named_parameters() { return wanpar::named_parameters(module); }
  auto named_buffers() { return wanpar::named_buffers(module); }
};

using Beside = const std::vector<at::Tensor>&;

Model stacked_transformer(AttentionModel model, at::ScalarType dtype) {
  model->to(dtype);
  auto stack = stack_of(
      [](at::Tensor x, at::Tensor context) {
        return Staged{x, {context}};
      },
      static_cast<int64_t>(model->blocks.size()),
      [model](int64_t i, at::Tensor x, Beside side) mutable {
        return model->blocks[i]->forward(x, side[0], {});
      },
      [](at::Tensor x) { return x; }, [model](int64_t i) mutable { return tensors_of(model->blocks[i]); });
  return Stacked<AttentionModel, decltype(stack)>{model, stack};
}

Model stacked_decoder(Decoder model, at::ScalarType dtype) {
  model->to(dtype);
  auto stack = stack_of(
      [model](at::Tensor ids, at::Tensor positions) mutable {
        return Staged{model->words(ids), {model->angles(positions)}};
      },
      static_cast<int64_t>(model->layers->size()),
      [model](int64_t i, at::Tensor x, Beside side) mutable {
        return model->layers->at<DecoderLayerImpl>(i).forward(x, side[0]);
      },
      [model](at::Tensor x) mutable { return model->scores(x); },
      [model](int64_t i) { return tensors_of(model->layers->at<DecoderLayerImpl>(i)); });
  return Stacked<Decoder, decltype(stack)>{model, stack};
}

AttentionModel transformer() { return AttentionModel(AttentionModelOptions{.dim = 24, .layers = 3}); }

}  // namespace

const std::vector<Subject>& subjects() {
  using Inputs = std::vector<at::Tensor>;
  static const std::vector<Subject> all{
      {.name = "transformer",
       .make = [](auto dtype) { return cast(transformer(), dtype); },
       .inputs =
           [](int64_t batch, int64_t length) {
             return Inputs{random({batch, length, 24}), random({batch, 5, 24})};
           },
       .batch = {0, 1},
       .stacked = [](auto dtype) { return stacked_transformer(transformer(), dtype); },
       .blocks = 3,
       .side = {Side::split}},
      {.name = "UNet",
       .make = [](auto dtype) { return cast(Unet(), dtype); },
       .inputs =
           [](int64_t batch, int64_t length) {
             return Inputs{random({batch, 3, 2 * length, 4}), random({batch, 6})};
           },
       .batch = {0, 1},
       .tokens = {{.arg = 0, .dim = 2}}},
      {.name = "decoder",
       .make = [](auto dtype) { return cast(Decoder(), dtype); },
       .inputs =
           [](int64_t batch, int64_t length) {
             auto ids = at::arange(batch * length).mul(17).remainder(DecoderImpl::kWords);
             return Inputs{ids.view({batch, length}), at::arange(length).unsqueeze(0)};
           },
       .tokens = {{.arg = 0, .dim = 1}, {.arg = 1, .dim = 1}},
       .stacked = [](auto dtype) { return stacked_decoder(Decoder(), dtype); },
       .blocks = 3,
       .side = {Side::replicate}},
      {.name = "Sequential",
       .make = [](auto dtype) { return cast(sequential_model(), dtype); },
       .inputs =
           [](int64_t batch, int64_t length) {
             return Inputs{random({batch, length, 12})};
           },
       .stacked =
           [](auto dtype) {
             auto model = sequential_model();
             model->to(dtype);
             return by_blocks(model);
           },
       .blocks = 8},
  };
  return all;
}

std::function<Gradients()> gradients_of(Model model) {
  return [model] {
    Gradients all;
    for (auto& [name, tensor] : model.named_parameters()) {
      all[name] = tensor.grad();
      tensor.mutable_grad().reset();
    }
    return all;
  };
}

}  // namespace wanpar::conformance
