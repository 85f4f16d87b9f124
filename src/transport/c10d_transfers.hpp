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

/// How to wait for a backend.
struct Waiting {
  bool looks = false;  ///< busy-polls for the end, if the backend's own wait polls only once a millisecond
  std::function<void()> interrupt = {};  ///< ends all waits of the backend that do not poll
};

/// The transfers of one call, each with the peer that it depends on, or -1 if it depends on all.
class Transfers : public Work {
 public:
  Transfers(Call call, std::shared_ptr<const Membership> membership, std::optional<int64_t> sent,
            Waiting waiting);

  /// Starts one by `begin`, which returns its c10d Work.
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
