#pragma once
#include <algorithm>

#include "mailbox.hpp"

using at::Tensor, wanpar::Call;
using Counts = std::span<const int64_t>;

/// A group of ranks over a mailbox: each call is one trade of letters.
class Post : public wanpar::Transport {
 public:
  Post(std::shared_ptr<Mailbox> box, std::vector<int> ranks, int me) : box_(box), ranks_(ranks), me_(me) {}
  int rank() const override { return me_; }
  int size() const override { return static_cast<int>(ranks_.size()); }
  std::string device() const override { return "cpu"; }

  Done exchange(Messages to, Messages from, const Call& call) override { return trade(to, from, call); }
  Done all_to_all(Tensor out, Tensor in, Counts to, Counts from, const Call& call) override {
    return trade(each(cut(in, from)), each(cut(out, to)), call);
  }
  Done all_gather(Tensor out, Tensor in, Counts counts, const Call& call) override {
    return trade(each(all(in)), each(cut(out, counts)), call);
  }
  Done broadcast(Tensor x, const Call& call) override {
    return trade(me_ == call.root ? each(all(x)) : Messages(), {{x, call.root}}, call);
  }
  Done barrier(const Call& call) override {
    return trade(each(all(at::empty(0))), each(all(at::empty(0))), call);
  }
  Done all_reduce(Tensor out, Tensor in, const Call& call) override { return reduce(out, all(in), call); }
  Done reduce_scatter(Tensor out, Tensor in, Counts counts, const Call& call) override {
    return reduce(out, cut(in, counts), call);
  }
  std::shared_ptr<Transport> split(std::span<const int> members, const Call&) override {
    std::vector<int> ranks;
    for (int member : members) ranks.push_back(ranks_[member]);
    return std::make_shared<Post>(box_, ranks, std::ranges::find(members, me_) - members.begin());
  }

 private:
  std::vector<Tensor> all(Tensor x) const { return std::vector(ranks_.size(), x); }
  static std::vector<Tensor> cut(Tensor x, Counts n) { return x.split_with_sizes({n.data(), n.size()}); }
  static Messages each(const std::vector<Tensor>& tensors) {
    Messages messages;
    for (auto& x : tensors) messages.push_back({x, static_cast<int>(messages.size())});
    return messages;
  }
  Done trade(Messages to, Messages from, const Call& call, std::function<void()> then = {}) {
    return box_->trade(ranks_, me_, to, from, call, then);
  }
  Done reduce(Tensor out, const std::vector<Tensor>& pieces, const Call& call) {
    auto from = at::empty({size(), out.numel()}, out.options());
    return trade(each(pieces), each(from.unbind()), call,
                 [=, op = call.reduce] { Tensor(out).copy_(reduced(from, op)); });
  }
  std::shared_ptr<Mailbox> box_;
  std::vector<int> ranks_;  // as the mailbox numbers them
  int me_;
};
