#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/annotations.hpp>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "module/split/split_group.hpp"
#include "strategy/split/alike.hpp"

namespace wanpar {

/// The ranks that a strategy splits tensors over, slow × fast, where the fast axis varies fastest. Implements
/// the communication of SplitGroup, except attention and layouts.
class SplitRanks : public SplitGroup, public std::enable_shared_from_this<SplitRanks> {
 public:
  SplitRanks(Communicator slow, Communicator fast) : slow_(std::move(slow)), fast_(std::move(fast)) {}

  const Communicator& slow() const { return slow_; }
  const Communicator& fast() const { return fast_; }
  /// The innermost axis first.
  std::vector<Communicator> grid() const { return {fast_, slow_}; }
  int size() const { return slow_.size() * fast_.size(); }
  /// The placement of an argument's dimension; nullopt if it stays replicated. Throws Error on all ranks if
  /// it cannot be split.
  virtual std::optional<SplitPlacement> placement(int64_t extent, int64_t dim) const = 0;
  /// The placement of tokens that a module marks by split_sequence, with their grid.
  virtual std::optional<SplitPlacement> placement_of_tokens(int64_t tokens, int64_t dim,
                                                            const std::optional<TokenGrid>&) const {
    return placement(tokens, dim);
  }

  /// The options that name the axes, for errors: ".ring and .ulysses".
  virtual const char* axes() const = 0;

  int rank() const override { return slow_.rank() * fast_.size() + fast_.rank(); }
  at::Tensor joined(const at::Tensor& part, int64_t dim, const TokenLayout& layout) const override;
  at::Tensor sum(const at::Tensor& x) const override;
  at::Tensor greatest(const at::Tensor& x) const override;
  at::Tensor with_halo(const at::Tensor& part, int64_t dim, const TokenLayout& layout, int64_t left,
                       int64_t right) const override;
  at::Tensor accumulate_halo(const at::Tensor& extended, int64_t dim, const TokenLayout& layout, int64_t left,
                             int64_t right) const override;
  void meets(const SplitCall& call) const override;

  /// Starts a pass on this thread, until leave(); operators are recorded in `alike`, if it is not null.
  void enter(Alike* alike) const;
  void leave() const;

 protected:
  /// Call before each exchange: throws Error on other threads than that of the pass, whose exchanges would be
  /// in no defined order.
  void exchanges(const char* what) const;

 private:
  /// Whether this thread is not that of the pass, but was started by the module.
  bool is_beside_the_pass() const;

  Communicator slow_, fast_;
  mutable Alike* alike_ = nullptr;
  mutable std::atomic<std::thread::id> thread_ = std::thread::id();  // of the pass
};

}  // namespace wanpar
