#pragma once
#include <torch/csrc/autograd/graph_task.h>
#include <wanpar/core/agreement.hpp>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include <exception>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "module/follow/follow.hpp"
#include "module/follow/operator_facts.hpp"
#include "strategy/sequence_parallel/consensus.hpp"
#include "strategy/sequence_parallel/met_attention.hpp"
#include "strategy/sequence_parallel/neighbours.hpp"
#include "strategy/sequence_parallel/sequence_group.hpp"
#include "strategy/sequence_parallel/split_norm.hpp"
#include "strategy/sequence_parallel/written_attention.hpp"

namespace wanpar {

/// What all ranks know alike of a place.
std::string description(const SplitPlace& place);

/// Where a pass that does not look at operators finds another one than the first pass.
[[noreturn]] void refuse_other_path();

/// One rank's side of the strategy. Every tensor of a pass is either *split*, of which each rank holds its
/// tokens and knows where they lie, or *whole*, which every rank has alike. An operator on split tensors runs
/// on this rank's tokens where that gives its tokens of the result; some exchange what they need of others;
/// any other operator is given its inputs whole, and runs on every rank.
class SequenceEngine : public OperatorHandler,
                       public TokenHandler,
                       public SubstitutionHandler,
                       public RecomputableHandler,
                       public std::enable_shared_from_this<SequenceEngine> {
 public:
  explicit SequenceEngine(SequenceParallelOptions options);

  const SequenceParallelOptions& options() const { return options_; }
  int size() const { return group_.size(); }

  /// A pass through the module begins, by a call of this signature.
  void begin(const std::string& signature);
  /// The pass was carried to its end.
  void learn();
  /// The pass cannot be carried to its end here: the other ranks are not to wait.
  void fail();
  /// How many tokens are here, where there are any, and which arguments that goes for.
  std::string remark() const;
  void end();

  /// To be asked before results are gathered: was anything split, and was nothing refused?
  void check_region(std::span<const at::Tensor> results);

  /// What the module is called with, before anything of it is cut.
  void called_with(Tensors arguments) { pass_.arguments = std::move(arguments); }
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
  /// What the numbers of one operator were in the first pass.
  struct Answer {
    const void* schema;  // of the operator
    std::vector<Extent> numbers;
  };

  /// What was learnt in one pass through the module, in order.
  struct Path {
    Shares shares = Shares::even;
    bool is_unsteady = false;  // a later pass took another way
    int64_t operators = 0;     // a number for those that were met, in order
    std::vector<Answer> answers;
    // Enough for later passes with the same shapes to go without looking at operators, where the user wants
    // that, and no operator but attention has anything to do.
    bool reaches_over = false;
    std::vector<int64_t> totals;
    std::vector<Met> attentions;
    std::vector<std::optional<SplitPlace>> gathers;
  };

  /// An argument, and this rank's part of it, which the module may write to.
  struct Given {
    at::Tensor original, part;
    SplitPlace place;
    bool is_written = false;
  };

  /// Split tokens of a pass that has ended.
  struct Kept {
    c10::weak_intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl> tensor;
    TokenLayout layout;
    SplitPlace place;
  };

  /// One way through the module, or through a part of it.
  struct Pass {
    std::string signature = {};   // of its call
    const Path* known = nullptr;  // what it keeps to, without looking
    Path* remembered = nullptr;   // of the first pass, for the answers in it
    bool is_composed = false;     // other strategies take part
    bool is_first = false;        // the ranks vote whether they go on
    Path path = {};
    std::vector<TokenLayout> splits = {};
    bool has_cut = false;
    std::vector<Given> given = {};
    Tensors arguments = {};
    size_t answered = 0;
    int depth = 0;  // of operators that are made of others
    Consensus consensus = {};
    std::exception_ptr refusal = {};  // the module may have caught it
    bool has_gradients = at::GradMode::is_enabled();
    std::vector<void*> met_unrecorded = {};  // gradient functions of weights that met tokens without autograd
    int backward = torch::autograd::get_current_graph_task_id();  // that it runs in; -1: in none
    Follow follow = {};
    Promises promises = {};
  };

  class Again;
  class Inside;
  using Arguments = std::vector<c10::IValue>;

  /// Whether the module has called a backward of its own in this pass. Its operators are not for this
  /// handler: what is exchanged there, the linear maps exchange.
  bool is_in_a_backward() const { return torch::autograd::get_current_graph_task_id() != pass_.backward; }

  TokenLayout layout_for(int64_t total) const;
  int split_of(const TokenLayout& layout);
  TokenLayout layout_of(const SplitPlace& place) const;
  SplitPlace place_in(const TokenLayout& layout, int64_t dim);
  at::Tensor unsplit(const at::Tensor& x, const SplitPlace& place);
  at::Tensor share(const at::Tensor& x, int64_t dim, const SplitPlace& like);
  /// Of each split, how many tokens each rank holds.
  std::vector<std::vector<double>> lengths() const;
  /// An exchange with the other ranks, for which all of them, in a first pass, must have come the same way,
  /// and have found the same.
  template <class Way, class Exchange>
  auto together(const Way& way, const Exchange& exchange) {
    if (!pass_.is_first) return exchange();
    pass_.is_first = false;  // what fails from here on has failed for all
    vote_.go_on(way(), pass_.consensus.fingerprint());
    pass_.consensus.compare([&](auto& mine) { return group_.rows(mine); }, lengths());
    auto result = exchange();
    pass_.is_first = true;
    return result;
  }

  // Numbers among an operator's arguments, as they would be on one rank.
  std::vector<Extent> ask(const Operator& op, const std::vector<Number>& numbers);
  void agree_on_constants(const Operator& op, Answer& answer, const std::vector<double>& now);
  std::optional<Arguments> with_totals(const Operator& op, const std::vector<Number>& numbers,
                                       const std::vector<Extent>& extents) const;
  std::vector<Number> noted_numbers(const Operator& op, const OperatorFacts& facts, bool extents_too);
  std::optional<Arguments> as_on_one_rank(const Operator& op, const OperatorFacts& facts, bool extents_too);

  void give_back();
  void check_way(std::span<const at::Tensor> results);

  Tensors any(const Operator& op, const Next& next);
  Tensors dispatched(const Operator& op, const OperatorFacts& facts, const Next& next);
  std::optional<Tensors> promised_scores(const Operator& op);
  Tensors on_promised(const Operator& op, const OperatorFacts& facts, const Next& next);
  bool is_of_one_split(const Operator& op) const;
  std::optional<Tensors> by_its_operators(const Operator& op, const Next& next);
  void check_draw(const Operator& op) const;
  std::optional<Tensors> viewed(const Operator& op, const OperatorFacts& facts, const Next& next);
  Tensors told(const Operator& op, const std::function<Tensors()>& run) const;
  Tensors marked(const Operator& op, Tensors outputs, const std::optional<SplitPlace>& place);
  Tensors on_whole(const Operator& op, const OperatorFacts& facts, const Next& next);
  Tensors on_split(const Operator& op, const OperatorFacts& facts, const Next& next);
  Tensors locally(const Operator& op, const Step& step, const Next& next);
  [[noreturn]] void refuse(const Operator& op, const std::string& reason) const;
  Tensors unsharded(const Operator& op, const OperatorFacts& facts, const Next& next);
  std::optional<Tensors> exchanging(const Operator& op, const OperatorFacts& facts, const Next& next);
  std::optional<Tensors> joined(const Operator& op, const Next& next);
  std::optional<Tensors> padded(const Operator& op, const OperatorFacts& facts, const Next& next);
  std::optional<Tensors> part(const Operator& op, const OperatorFacts& facts, const Next& next);
  std::optional<Tensors> settled(const Operator& op, const Next& next);
  at::Tensor piece(const at::Tensor& x, const SplitPlace& place, int64_t begin, int64_t end);
  std::optional<Tensors> reduced(const Operator& op, const Next& next);
  Tensors attention(const Attention& call, const Operator& op, const Next& next);
  Tensors known_attention(const Attention& call, const Operator& op, const Next& next);
  Tensors carried(const Met& met, const std::vector<CutInput>& cuts, const Attention& call,
                  const Operator& op, const Next& next);
  std::optional<Tensors> convolution(const Operator& op, const Next& next);
  std::optional<Tensors> norm(const Operator& op, const Next& next);
  Operator meeting_whole(Operator op, const std::vector<CutInput>& cuts = {});
  at::Tensor with_summed_gradient(const at::Tensor& x);
  void note_numbers(const Operator& op, const OperatorFacts& facts);
  void check_memory(const Operator& op, const OperatorFacts& facts);
  void check_graph(std::span<const at::Tensor> results) const;

  SequenceParallelOptions options_;
  SequenceGroup group_{options_};
  Vote vote_{"SequenceParallel", {options_.ulysses, options_.ring}};
  bool is_in_one_process_;  // all ranks are threads of it
  KnownOperators operators_;
  std::map<std::string, Path> known_;  // of earlier passes, by the signatures of their calls
  std::vector<Kept> kept_;             // by the module, of the last pass
  Shares kept_as_ = Shares::even;
  Pass pass_;
};

}  // namespace wanpar
