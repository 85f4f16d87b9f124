#pragma once
#include <torch/torch.h>
#include <wanpar/extend/module/linear_map.hpp>
#include <wanpar/extend/module/wrapped.hpp>
#include <wanpar/wanpar.hpp>

using torch::Tensor, wanpar::Communicator, wanpar::Tensors;

/// One forward: while it lives, it intercepts the linear layers of this thread.
struct Columns : wanpar::ForwardScope, wanpar::OperatorHandler {
  explicit Columns(Communicator g) : group(std::move(g)) {}

  /// The operators that torch::nn::Linear calls. A forward that calls none of them is an error.
  std::vector<std::string> operators() const override { return {"aten::addmm", "aten::matmul"}; }

  Tensors around(const wanpar::Operator& op, const Next& next) override {
    auto inputs = op.inputs;  // x [..., in], weight [in, out], and before them, of addmm, bias [out]
    auto out = inputs.back().size(-1);
    if (inputs.back().dim() != 2 || out < group.size()) return next(op);
    auto sizes = wanpar::even_sizes(out, group.size());
    for (auto& x : inputs) {
      x = shared(x);
      bool is_x = &x == &inputs[inputs.size() - 2];
      if (!is_x) x = x.split_with_sizes(sizes, -1)[group.rank()];
    }
    return {gathered(next(with_inputs(op, inputs))[0], sizes)};
  }

  /// A replicated tensor, whose gradient is all-reduced.
  Tensor shared(Tensor x) const {
    return wanpar::linear_map(
        x, [](Tensor same) { return same; },
        [g = group](Tensor gradient) { return g.all_reduce(gradient).get(); });
  }
  /// All columns, gathered; the gradient is sliced to this rank's columns.
  Tensor gathered(Tensor y, std::vector<int64_t> sizes) const {
    return wanpar::linear_map(
        y, [=, g = group](Tensor mine) { return g.all_gather(mine, -1, sizes).get(); },
        [=, g = group](Tensor gradient) { return gradient.split_with_sizes(sizes, -1)[g.rank()]; });
  }
  Communicator group;
  wanpar::Scope scope{*this};
};
