#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/extend/core/transport.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

#include "transport/c10d_membership.hpp"
#include "transport/deadline.hpp"

namespace wanpar {

/// How one waits for a backend.
struct Waiting {
  bool looks = false;  ///< for the end without rest, where the backend's own wait looks once a millisecond
  std::function<void()> interrupt = {};  ///< ends all its waits that do not look
};

/// Transfers of one call, each with the peer that it needs, or -1 where it needs them all.
class Transfers : public Work {
 public:
  Transfers(Call call, std::shared_ptr<const Membership> membership, std::optional<int64_t> sent,
            Waiting waiting);

  /// Begins one by `begin`, which returns its handle.
  template <class Begin>
  void add(int peer, at::Tensor keep, Begin begin) {
    try {
      parts_.push_back({begin(), peer, std::move(keep)});
    } catch (const std::exception& failure) {
      membership_->throw_failed(call_, peer, failure);
    }
  }

  void wait() override;
  std::optional<int64_t> sent() const override { return sent_; }

 private:
  struct Part {
    c10::intrusive_ptr<c10d::Work> work;
    int peer;
    at::Tensor keep;
  };

  Call call_;
  std::shared_ptr<const Membership> membership_;
  Deadline deadline_;
  std::vector<Part> parts_;
  std::optional<int64_t> sent_;
  Waiting waiting_;
};

}  // namespace wanpar
