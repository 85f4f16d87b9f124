#pragma once
#include <torch/torch.h>
#include <wanpar/module/forward_scope.hpp>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/module/wrapped.hpp>
#include <wanpar/wanpar.hpp>

using torch::Tensor, wanpar::Communicator, wanpar::Tensors;

/// One forward: from its beginning to its end it meets the operators of this thread.
struct Columns : wanpar::ForwardScope, wanpar::OperatorHandler {
  explicit Columns(Communicator g) : group(std::move(g)) {}

  Tensors around(const wanpar::Operator& op, const Next& next) override {
    // What torch::nn::Linear calls for a batch of vectors: bias [out], x [batch, in], weight [in, out].
    if (op.name != "aten::addmm" || op.inputs[0].dim() != 1 || op.inputs[0].size(0) < group.size())
      return next(op);
    auto sizes = wanpar::even_sizes(op.inputs[0].size(0), group.size());
    auto mine = [&](Tensor x, int64_t dim) { return x.split_with_sizes(sizes, dim)[group.rank()]; };

    Tensors inputs{mine(shared(op.inputs[0]), 0), shared(op.inputs[1]), mine(shared(op.inputs[2]), 1)};
    auto y = next(with_inputs(op, inputs))[0];
    auto parts = group.all_gather(y.detach(), -1, sizes).get().split_with_sizes(sizes, -1);
    parts[group.rank()] = y;  // the others' parts are constants here: a gradient goes to the own one
    return {at::cat(parts, -1)};
  }
  /// The same on every rank; its gradient is the sum of the ranks'.
  Tensor shared(Tensor x) const {
    if (!torch::GradMode::is_enabled() || !x.requires_grad()) return x;
    x = x.view_as(x);
    x.register_hook([group = group](Tensor gradient) { return group.all_reduce(gradient).get(); });
    return x;
  }
  Communicator group;
  wanpar::Scope scope{*this};
};

/// What wanpar::Wrapped asks of a strategy.
class ColumnParallel {
 public:
  using Options = Communicator;
  static constexpr bool kByBlocks = false;
  ColumnParallel(Communicator group, const wanpar::ModuleTensors&) : group_(std::move(group)) {}
  bool is_alone() const { return group_.size() == 1; }
  std::vector<Communicator> groups() const { return {group_}; }
  std::unique_ptr<wanpar::ForwardScope> begin(const wanpar::Arguments&, std::shared_ptr<void>) const {
    return std::make_unique<Columns>(group_);
  }

 private:
  Communicator group_;
};
