#pragma once
#include <wanpar/extend/module/forward_scope.hpp>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/module/placement.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "module/split/split_tensor.hpp"
#include "strategy/split/alike.hpp"
#include "strategy/split/split_module.hpp"
#include "strategy/split/split_ranks.hpp"

namespace wanpar {

/// The sharded arguments and gathered results of a module without split_sequence.
struct SplitEnds {
  std::vector<SplitInput> split;
  std::vector<GatherOutput> gather;
};

/// As text, to compare them over the ranks.
std::string text_of(const std::vector<SplitInput>& split, const std::vector<GatherOutput>& gather);

/// One forward with split tensors, on one rank.
class SplitForward : public ForwardScope, public TokenHandler, public OperatorHandler {
 public:
  SplitForward(std::shared_ptr<const SplitRanks> ranks, SplitEnds ends, std::shared_ptr<SplitModule> module,
               const Arguments& arguments);
  ~SplitForward() override { ranks_->leave(); }

  void enter(Arguments& arguments) override;
  void leave(NamedTensors& results) override;
  std::string remark(std::string_view error) const override;

  at::Tensor split_sequence(at::Tensor x, int64_t dim, std::initializer_list<Companion> companions,
                            const std::optional<TokenGrid>& grid) override;
  at::Tensor gather_sequence(at::Tensor x, int64_t dim) override;
  at::Tensor unshard(at::Tensor x) override;

  /// Replicated random numbers must be equal on all ranks. Processes with equally seeded generators draw the
  /// same; thread ranks share one generator, so their random operators are intercepted and rejected. Numbers
  /// of the module's own generator are compared where they are combined with tokens.
  bool intercepts_operators() const override { return is_first_ && module_->is_in_one_process(); }
  Tensors around(const Operator& op, const Next& next) override;

 private:
  const std::string& who() const { return ranks_->name(); }
  using PlacementOf = std::function<std::optional<SplitPlacement>(int64_t extent, int64_t dim)>;
  at::Tensor shard(const at::Tensor& x, int64_t dim, const PlacementOf& place);
  void require_same_on_all(const at::Tensor& x) const;
  /// Shards an argument; the same tensor passed twice stays one tensor.
  at::Tensor given(const at::Tensor& x, int64_t dim);
  at::Tensor gather(const at::Tensor& x, std::optional<int64_t> dim) const;
  at::Tensor gathered(const std::string& name, const at::Tensor& x) const;
  /// Copies what the module wrote into its arguments back to the caller's tensors.
  void give_back();

  struct GivenTokens {
    at::Tensor original, part;
    int64_t dim;
    SplitTensor::Writes writes;
  };
  std::shared_ptr<const SplitRanks> ranks_;
  SplitEnds ends_;
  std::shared_ptr<SplitModule> module_;
  std::string kind_;
  bool is_first_;  // of this signature: ranks compare replicated values
  Alike alike_;
  bool has_split_ = false;
  std::vector<at::Tensor> arguments_;
  std::vector<GivenTokens> given_;
  std::optional<Scope> scope_;
};

}  // namespace wanpar
