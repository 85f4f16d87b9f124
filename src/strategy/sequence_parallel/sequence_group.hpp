#pragma once
#include <wanpar/strategy/sequence_parallel.hpp>

#include <atomic>
#include <thread>

#include "module/split/split_group.hpp"
#include "strategy/sequence_parallel/alike.hpp"

namespace wanpar {

/// The ranks that sequences are split over, ring × ulysses.
class SequenceGroup : public SplitGroup, public std::enable_shared_from_this<SequenceGroup> {
 public:
  explicit SequenceGroup(SequenceParallelOptions options) : options_(std::move(options)) {}

  const SequenceParallelOptions& options() const { return options_; }
  int size() const { return ring().size() * ulysses().size(); }
  int rank() const override { return ring().rank() * ulysses().size() + ulysses().rank(); }
  TokenLayout layout(int64_t total) const override {
    return {total, ring().size(), ulysses().size(), options_.balance_causal};
  }
  at::Tensor joined(const at::Tensor& part, int64_t dim, const TokenLayout& layout) const override;
  at::Tensor sum(const at::Tensor& x) const override;
  at::Tensor greatest(const at::Tensor& x) const override;
  at::Tensor with_neighbours(const at::Tensor& part, int64_t dim, const TokenLayout& layout, int64_t left,
                             int64_t right) const override;
  at::Tensor added_to_neighbours(const at::Tensor& extended, int64_t dim, const TokenLayout& layout,
                                 int64_t left, int64_t right) const override;
  at::Tensor attention(const Attention& call) const override;
  void meets(const SplitCall& call) const override;
  const std::string& name() const override;

  /// A pass begins on this thread, and until leave() goes on there; what operators meet in it is noted in
  /// `alike` where there is one.
  void enter(Alike* alike) const;
  void leave() const;

 private:
  /// Whether this thread is another than that of the pass, started by the module.
  bool is_beside_the_pass() const;
  /// Exchanges of two threads of a rank would meet those of others in any order.
  void exchanges(const char* what) const;

  const Communicator& ring() const { return options_.ring; }
  const Communicator& ulysses() const { return options_.ulysses; }

  SequenceParallelOptions options_;
  mutable Alike* alike_ = nullptr;
  mutable std::atomic<std::thread::id> thread_ = std::thread::id();  // of the pass
};

}  // namespace wanpar
