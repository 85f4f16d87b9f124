#pragma once
#include <algorithm>

#include "mailbox.hpp"

using at::Tensor, wanpar::Call;

/// A group of ranks over a mailbox. Of the seven functions that move tensors, wanpar::Pairwise implements
/// five by exchange.
class Post : public wanpar::Pairwise {
 public:
  Post(std::shared_ptr<Mailbox> box, std::vector<int> ranks, int me) : box_(box), ranks_(ranks), me_(me) {}
  int rank() const override { return me_; }
  int size() const override { return static_cast<int>(ranks_.size()); }
  std::string device() const override { return "cpu"; }

  Done exchange(Messages to, Messages from, const Call& call) override {
    return box_->trade(ranks_, me_, to, from, call);
  }

  Done all_reduce(Tensor out, Tensor in, const Call& call) override {
    auto all = at::empty({size(), in.numel()}, in.options());
    all[me_].copy_(in);
    Messages to, from;
    for (int peer = 0; peer < size(); ++peer)
      if (peer != me_) to.push_back({in, peer}), from.push_back({all[peer], peer});
    return std::make_shared<wanpar::ThenWork>(exchange(to, from, call),
                                              [=, op = call.reduce] { Tensor(out).copy_(reduced(all, op)); });
  }

  std::shared_ptr<Transport> split(std::span<const int> members, const Call&) override {
    std::vector<int> ranks;
    for (int member : members) ranks.push_back(ranks_[member]);
    return std::make_shared<Post>(box_, ranks, std::ranges::find(members, me_) - members.begin());
  }

 private:
  static Tensor reduced(Tensor all, wanpar::ReduceOp op) {
    if (at::isFloatingType(all.scalar_type())) all = all.to(at::kDouble);  // and round once
    if (op == wanpar::ReduceOp::sum) return all.sum(0);
    if (op == wanpar::ReduceOp::mean) return all.mean(0);
    if (op == wanpar::ReduceOp::product) return all.prod(0);
    return op == wanpar::ReduceOp::min ? all.amin(0) : all.amax(0);
  }
  std::shared_ptr<Mailbox> box_;
  std::vector<int> ranks_;  // in the numbering of the mailbox
  int me_;
};
