#include "slow.hpp"

#include <chrono>
#include <mutex>
#include <thread>
#include <utility>
#include <wanpar/extend/core/transport.hpp>

namespace {

using Clock = std::chrono::steady_clock;
using Duration = std::chrono::duration<double>;

/// A rank's line, on which messages queue. It needs no thread of its own: when each will have left is known
/// when it is given.
class Line {
 public:
  explicit Line(double bandwidth) : bandwidth_(bandwidth) {}

  Clock::time_point sent(int64_t bytes) {
    std::lock_guard lock(mutex_);
    const auto takes = std::chrono::duration_cast<Clock::duration>(Duration(double(bytes) / bandwidth_));
    return free_ = std::max(free_, Clock::now()) + takes;
  }

 private:
  double bandwidth_;
  std::mutex mutex_;
  Clock::time_point free_;
};

class SlowWork : public wanpar::Work {
 public:
  SlowWork(std::shared_ptr<Work> inner, Clock::time_point arrival)
      : inner_(std::move(inner)), arrival_(arrival) {}

  void wait() override {
    inner_->wait();
    std::this_thread::sleep_until(arrival_);
  }
  std::optional<int64_t> sent() const override { return inner_->sent(); }

 private:
  std::shared_ptr<Work> inner_;
  Clock::time_point arrival_;
};

/// Over thread ranks, whose transfers all say what they send.
class Slow : public wanpar::Transport {
 public:
  Slow(std::shared_ptr<Transport> inner, std::shared_ptr<Line> line)
      : inner_(std::move(inner)), line_(std::move(line)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  std::string device() const override { return inner_->device(); }
  bool begins_together() const override { return inner_->begins_together(); }

  std::shared_ptr<wanpar::Work> all_reduce(at::Tensor out, at::Tensor in, const wanpar::Call& call) override {
    return slow(inner_->all_reduce(out, in, call));
  }
  std::shared_ptr<wanpar::Work> all_gather(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                           const wanpar::Call& call) override {
    return slow(inner_->all_gather(out, in, counts, call));
  }
  std::shared_ptr<wanpar::Work> reduce_scatter(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                               const wanpar::Call& call) override {
    return slow(inner_->reduce_scatter(out, in, counts, call));
  }
  std::shared_ptr<wanpar::Work> all_to_all(at::Tensor out, at::Tensor in, std::span<const int64_t> out_counts,
                                           std::span<const int64_t> in_counts,
                                           const wanpar::Call& call) override {
    return slow(inner_->all_to_all(out, in, out_counts, in_counts, call));
  }
  std::shared_ptr<wanpar::Work> broadcast(at::Tensor tensor, const wanpar::Call& call) override {
    return slow(inner_->broadcast(tensor, call));
  }
  std::shared_ptr<wanpar::Work> exchange(std::vector<wanpar::Message> sends,
                                         std::vector<wanpar::Message> receives,
                                         const wanpar::Call& call) override {
    return slow(inner_->exchange(std::move(sends), std::move(receives), call));
  }
  std::shared_ptr<wanpar::Work> barrier(const wanpar::Call& call) override { return inner_->barrier(call); }
  void fail(const std::string& why, const wanpar::Call& call) override { inner_->fail(why, call); }
  std::shared_ptr<Transport> split(std::span<const int> members, const wanpar::Call& call) override {
    return std::make_shared<Slow>(inner_->split(members, call), line_);
  }

 private:
  std::shared_ptr<wanpar::Work> slow(std::shared_ptr<wanpar::Work> work) {
    const auto arrival = line_->sent(work->sent().value());
    return std::make_shared<SlowWork>(std::move(work), arrival);
  }

  std::shared_ptr<Transport> inner_;
  std::shared_ptr<Line> line_;
};

}  // namespace

wanpar::Communicator slowed(const wanpar::Communicator& group, double bandwidth) {
  return wanpar::Communicator(std::make_shared<Slow>(group.transport(), std::make_shared<Line>(bandwidth)),
                              group.timeout());
}
