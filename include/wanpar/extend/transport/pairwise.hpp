#pragma once
#include <wanpar/extend/core/transport.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>

namespace wanpar {

/// The collectives made of one exchange each: every pair of ranks trades its pieces directly.
///
/// Each payload byte crosses once, results are reduced in rank order (the same bits on every run), and an
/// error names the rank that is missing. What a transport does better by itself, it overrides. To be written
/// are exchange, split, and all_reduce, which takes two exchanges, the second of what the first one gave.
class Pairwise : public Transport {
 public:
  std::shared_ptr<Work> all_gather(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                   const Call& call) override;
  std::shared_ptr<Work> reduce_scatter(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                       const Call& call) override;
  std::shared_ptr<Work> all_to_all(at::Tensor out, at::Tensor in, std::span<const int64_t> out_counts,
                                   std::span<const int64_t> in_counts, const Call& call) override;
  std::shared_ptr<Work> broadcast(at::Tensor tensor, const Call& call) override;
  std::shared_ptr<Work> barrier(const Call& call) override;
};

/// Work whose result needs a last step once the bytes are there.
class ThenWork : public Work {
 public:
  ThenWork(std::shared_ptr<Work> first, std::function<void()> then)
      : first_(std::move(first)), then_(std::move(then)) {}
  void wait() override {
    first_->wait();
    then_();
  }
  std::optional<int64_t> sent() const override { return first_->sent(); }

 private:
  std::shared_ptr<Work> first_;
  std::function<void()> then_;
};

}  // namespace wanpar
