#pragma once
#include <torch/types.h>
#include <wanpar/extend/transport/pairwise.hpp>
#include <wanpar/wanpar.hpp>

#include <functional>
#include <future>
#include <map>

using Done = std::shared_ptr<wanpar::Work>;
using Messages = std::vector<wanpar::Message>;

/// The work that is left when letters have arrived.
struct Arrival : wanpar::Work {
  explicit Arrival(std::function<void()> rest) : finish(std::move(rest)) {}
  void wait() override { finish(); }
  std::function<void()> finish;
};

/// Letters between threads. The n-th letter from one rank to another is a promise, made by whichever of the
/// two comes first; so transfers may be waited for in any order. (A mailbox for long runs would delete
/// letters that were read.)
class Mailbox {
 public:
  /// `ranks` are those of a group, `me` is the calling one.
  Done trade(const std::vector<int>& ranks, int me, const Messages& sends, Messages receives,
             const wanpar::Call& call) {
    std::vector<std::shared_future<at::Tensor>> letters;
    for (auto& send : sends) next(sent_, {ranks[me], ranks[send.peer]}).set_value(send.tensor.clone());
    for (auto& receive : receives)
      letters.push_back(next(read_, {ranks[receive.peer], ranks[me]}).get_future());
    return std::make_shared<Arrival>([=] {
      for (size_t i = 0; i < letters.size(); ++i) {
        if (letters[i].wait_for(call.timeout) !=
            std::future_status::ready)  // every wait is bounded, and names the rank
          throw wanpar::Error(wanpar::too_late(call, "rank " + std::to_string(receives[i].peer)));
        at::Tensor(receives[i].tensor).copy_(letters[i].get());
      }
    });
  }

 private:
  using Way = std::pair<int, int>;  // from, to
  std::promise<at::Tensor>& next(std::map<Way, int>& counts, Way way) {
    std::lock_guard lock(mutex_);
    return letters_[{way, counts[way]++}];
  }
  std::mutex mutex_;
  std::map<std::pair<Way, int>, std::promise<at::Tensor>> letters_;
  std::map<Way, int> sent_, read_;
};
