#pragma once
#include <torch/csrc/autograd/graph_task.h>
#include <wanpar/core/agreement.hpp>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "module/follow/follow.hpp"
#include "strategy/sequence_parallel/met_attention.hpp"
#include "strategy/sequence_parallel/neighbours.hpp"
#include "strategy/sequence_parallel/sequence_group.hpp"
#include "strategy/sequence_parallel/split_norm.hpp"

namespace wanpar {

/// One rank's side of the strategy: knows how the tokens are split, and takes over attention over them.
class SequenceEngine : public OperatorHandler,
                       public TokenHandler,
                       public SubstitutionHandler,
                       public RecomputableHandler,
                       public std::enable_shared_from_this<SequenceEngine> {
 public:
  explicit SequenceEngine(SequenceParallelOptions options) : options_(std::move(options)) {}

  const SequenceParallelOptions& options() const { return options_; }
  int size() const { return group_.size(); }

  /// A pass through the module begins, by a call of this signature.
  void begin(const std::string& signature);
  /// The pass was carried to its end.
  void learn();
  /// The pass cannot be carried to its end here: the other ranks are not to wait.
  void fail();
  void end() { pass_ = {}; }

  /// To be asked before the result is gathered: was this a split forward that may be believed?
  void check_region() const;

  at::Tensor cut(const at::Tensor& x, int64_t dim);
  /// x whole, its tokens along `dim` or, where that is left out, wherever they are.
  at::Tensor gather(const at::Tensor& x, std::optional<int64_t> dim);
  /// Throws Error for a result that goes out of the module with its tokens split.
  void check_joined(const std::string& name, const at::Tensor& x) const;

  Tensors around(const Operator& op, const Next& next) override;
  bool intercepts_operators() const override { return !pass_.known && !is_in_a_backward(); }

  at::Tensor split_sequence(at::Tensor x, int64_t dim, std::initializer_list<Companion> companions) override;
  at::Tensor gather_sequence(at::Tensor x, int64_t dim) override { return gather(x, dim); }
  at::Tensor unshard(at::Tensor x) override;
  void on_substitute(const at::Tensor& replacement, const at::Tensor& original) override;
  Reentry reentry(std::span<const at::Tensor> inputs) override;

 private:
  /// What was learnt in one pass through the module, in order: enough for later passes with the same shapes
  /// to go without looking at operators.
  struct Path {
    std::vector<int64_t> splits;  // the whole lengths of what was split
    std::vector<Met> attentions;
    std::vector<SplitPlace> gathers;
    bool reaches_over = false;  // a convolution or a norm did: every later pass must look for it
  };

  /// One way through the module, or through a part of it.
  struct Pass {
    std::string signature = {};   // of its call
    const Path* known = nullptr;  // what it keeps to, without looking
    bool is_first = false;        // of this signature: the ranks vote whether they go on
    Path path = {};
    int backward = torch::autograd::get_current_graph_task_id();  // that it runs in; -1: in none
    Follow follow{"SequenceParallel", kSequenceRemedy};
  };

  class Again;

  /// Whether the module has called a backward of its own in this pass. Its operators are not for this
  /// handler: what is exchanged there, the linear maps exchange.
  bool is_in_a_backward() const { return torch::autograd::get_current_graph_task_id() != pass_.backward; }

  int split_of(int64_t total);
  SplitPlace gathered_place(const at::Tensor& x);
  Met met_by(const Attention& call, const Operator& op) const;
  Tensors attention(const Attention& call, const Operator& op, const Next& next);
  Tensors convolution(const SplitConvolution& convolution, const Operator& op, const Next& next);
  Tensors norm(const SplitNorm& norm, const Operator& op, const Next& next);
  Operator with_summed_gradients(Operator op) const;
  template <class Way, class Exchange>
  at::Tensor together(const Way& way, const Exchange& exchange);

  SequenceParallelOptions options_;
  SequenceGroup group_{options_};
  Vote vote_{"SequenceParallel", {options_.ulysses, options_.ring}};
  std::map<std::string, Path> known_;  // of earlier passes, by the signatures of their calls
  Pass pass_;
};

}  // namespace wanpar
