#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/copy.h>
#include <ATen/ops/empty.h>
#include <c10/core/AutogradState.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <future>
#include <map>
#include <mutex>
#include <thread>
#include <wanpar/transport/local.hpp>

#include <wanpar/extend/transport/pairwise.hpp>
#include "core/flat.hpp"
#include "transport/deadline.hpp"

namespace wanpar::local {
namespace {

/// What all groups of one run share: which ranks have ended, why the first one failed, and whether any is at
/// work.
class Run {
 public:
  explicit Run(int ranks) : ended(ranks), ranks_(ranks) {}

  void fail(int rank, const std::string& why) {
    std::lock_guard lock(mutex_);
    if (failed_rank_ < 0) failed_rank_ = rank, failure_ = why;
  }
  int failed_rank() const { return failed_rank_; }
  std::string first_failure() {
    std::lock_guard lock(mutex_);
    return failed_rank_ < 0 ? "" : fmt::format("rank {} failed first: {}", failed_rank_, failure_);
  }

  void begin_wait(int rank) {
    constexpr std::chrono::milliseconds kWork(100);  // between two waits
    std::lock_guard lock(mutex_);
    auto& own = ranks_[rank];
    if (own.waits++ == 0 && Clock::now() - own.last_wait_ended > kWork) last_move_ = Clock::now();
  }
  void end_wait(int rank, bool came_to_something) {
    std::lock_guard lock(mutex_);
    ranks_[rank].waits--;
    ranks_[rank].last_wait_ended = Clock::now();
    if (came_to_something) last_move_ = Clock::now();
  }
  /// Whether for so long all ranks have waited, and none has moved.
  bool has_rested_for(std::chrono::milliseconds time) {
    std::lock_guard lock(mutex_);
    for (size_t rank = 0; rank < ranks_.size(); ++rank)
      if (ranks_[rank].waits == 0 && !ended[rank]) return false;
    return Clock::now() - last_move_ > time;
  }

  std::vector<std::atomic<bool>> ended;

 private:
  using Clock = std::chrono::steady_clock;
  struct Rank {
    int waits = 0;
    Clock::time_point last_wait_ended;
  };
  std::mutex mutex_;
  std::vector<Rank> ranks_;
  Clock::time_point last_move_ = Clock::now();
  int failed_rank_ = -1;
  std::string failure_;
};

/// The rank of the run that this thread is, where it is one.
thread_local int this_rank = -1;

/// A wait of a rank.
class Waiting {
 public:
  Waiting(Run& run, int rank) : run_(run), rank_(this_rank < 0 ? rank : this_rank) { run_.begin_wait(rank_); }
  ~Waiting() { run_.end_wait(rank_, std::uncaught_exceptions() == before_); }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  Run& run_;
  int rank_, before_ = std::uncaught_exceptions();
};

/// A tensor that a rank has sent, or what works it out, on the thread of the first who wants it.
using Payload = std::shared_future<at::Tensor>;

Payload ready(at::Tensor tensor) {
  std::promise<at::Tensor> made;
  made.set_value(std::move(tensor));
  return made.get_future();
}

/// What has been sent to one rank and not been taken yet: from each peer, tensors in the order of their
/// sending.
class Inbox {
 public:
  explicit Inbox(int peers) : from_(peers) {}

  void put(int peer, Payload payload) {
    {
      std::lock_guard lock(mutex_);
      from_[peer].waiting.emplace(from_[peer].sent++, std::move(payload));
    }
    arrived_.notify_all();
  }

  /// The place in the peer's order of a receive that is posted now.
  uint64_t reserve(int peer) {
    std::lock_guard lock(mutex_);
    return from_[peer].reserved++;
  }

  /// Blocks until that tensor is there, or `check_alive` throws.
  Payload take(int peer, uint64_t ticket, const std::function<void()>& check_alive) {
    std::unique_lock lock(mutex_);
    auto& waiting = from_[peer].waiting;
    while (!waiting.contains(ticket)) {
      arrived_.wait_for(lock, std::chrono::milliseconds(20));
      if (!waiting.contains(ticket)) check_alive();
    }
    return std::move(waiting.extract(ticket).mapped());
  }

 private:
  struct Stream {
    uint64_t sent = 0, reserved = 0;
    std::map<uint64_t, Payload> waiting;
  };
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Stream> from_;
};

/// The inboxes of one group, and its subgroups under construction.
struct Hub {
  Hub(std::shared_ptr<Run> run, std::vector<int> members) : run(std::move(run)), members(std::move(members)) {
    for (size_t i = 0; i < this->members.size(); ++i)
      inboxes.push_back(std::make_unique<Inbox>(static_cast<int>(this->members.size())));
  }

  /// The hub for the n-th subgroup of these members: made by the first of them to come, dropped here by the
  /// last.
  std::shared_ptr<Hub> subgroup(const std::vector<int>& ranks, int nth) {
    std::lock_guard lock(mutex);
    auto& [hub, taken] = subgroups[{ranks, nth}];
    if (!hub) {
      std::vector<int> global;
      for (auto rank : ranks) global.push_back(members[rank]);
      hub = std::make_shared<Hub>(run, global);
    }
    auto result = hub;
    if (++taken == static_cast<int>(ranks.size())) subgroups.erase({ranks, nth});
    return result;
  }

  std::shared_ptr<Run> run;
  std::vector<int> members;  // as ranks of the run
  std::vector<std::unique_ptr<Inbox>> inboxes;
  std::mutex mutex;
  std::map<std::pair<std::vector<int>, int>, std::pair<std::shared_ptr<Hub>, int>> subgroups;
};

/// Messages of one rank: those that it sends leave at once, for those that it expects it waits.
class Messages : public Work {
 public:
  /// `sent`: bytes that left before, for the same purpose.
  Messages(std::shared_ptr<Hub> hub, Call call, int64_t sent = 0)
      : hub_(std::move(hub)), call_(std::move(call)), deadline_(call_.timeout), sent_(sent) {}

  void expect(Message message) {
    auto ticket = hub_->inboxes[call_.rank]->reserve(message.peer);
    receives_.push_back({std::move(message), ticket});
  }

  void send(Payload payload, int64_t bytes, int peer) {
    hub_->inboxes[peer]->put(call_.rank, std::move(payload));
    if (peer != call_.rank) sent_ += bytes;
  }

  void wait() override {
    if (receives_.empty()) return;
    Waiting waiting(*hub_->run, hub_->members[call_.rank]);
    for (auto& [message, ticket] : receives_) {
      auto payload =
          hub_->inboxes[call_.rank]->take(message.peer, ticket, [&] { check_alive(message.peer); });
      auto& tensor = payload.get();
      if (tensor.numel() != message.tensor.numel())
        throw MismatchError(fmt::format("{}: rank {} sent {} bytes where {} were expected", where(call_),
                                        message.peer, tensor.numel(), message.tensor.numel()));
      at::NoGradGuard no_grad;
      message.tensor.copy_(tensor);
    }
    receives_.clear();
  }
  std::optional<int64_t> sent() const override { return sent_; }

 private:
  void check_alive(int peer) {
    auto failure = hub_->run->first_failure();
    if (!failure.empty()) throw PeerLostError(fmt::format("{}: {}", where(call_), failure));
    if (hub_->run->ended[hub_->members[peer]])
      throw PeerLostError(fmt::format(
          "{}: rank {} has already returned and will never come; every rank must make the same calls",
          where(call_), peer));
    if (deadline_.is_over() && hub_->run->has_rested_for(call_.timeout))
      throw TimeoutError(too_late(call_, fmt::format("rank {}", peer)));
  }

  struct Posted {
    Message message;
    uint64_t ticket;
  };
  std::shared_ptr<Hub> hub_;
  Call call_;
  Deadline deadline_;
  std::vector<Posted> receives_;
  int64_t sent_;
};

/// Ranks are threads: a send puts the tensor itself into the receiver's inbox, the receiver copies it out.
class Local : public Pairwise {
 public:
  Local(std::shared_ptr<Hub> hub, int rank) : hub_(std::move(hub)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(hub_->members.size()); }
  std::string device() const override { return ""; }

  std::shared_ptr<Work> exchange(std::vector<Message> sends, std::vector<Message> receives,
                                 const Call& call) override {
    auto work = std::make_shared<Messages>(hub_, call);
    for (auto& message : receives) work->expect(std::move(message));
    for (auto& message : sends) work->send(ready(message.tensor), message.tensor.numel(), message.peer);
    return work;
  }

  /// Receivers copy when they come to it, which may be after this rank has its result and writes to it.
  std::shared_ptr<Work> all_gather(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                   const Call& call) override {
    return Pairwise::all_gather(out, in.clone(), counts, call);
  }

  std::shared_ptr<Work> broadcast(at::Tensor tensor, const Call& call) override {
    return Pairwise::broadcast(rank_ == call.root ? tensor.clone() : tensor, call);
  }

  /// A reduce-scatter, then an all-gather of the reduced pieces: all ranks together send 2 (n - 1) times the
  /// tensor. The second exchange is posted with the first, and a piece is reduced by the thread that wants it
  /// first: an all-reduce that all ranks have begun ends, whatever else some of them wait for.
  std::shared_ptr<Work> all_reduce(at::Tensor out, at::Tensor in, const Call& call) override {
    auto counts = even_sizes(in.numel(), size());
    auto own = at::empty({counts[rank_]}, in.options());
    auto scattered = reduce_scatter(own, in, counts, call);
    Payload reduced = std::async(std::launch::deferred, [own, scattered] {
      c10::InferenceMode any_mode;  // the thread may not be in the mode that made these tensors
      scattered->wait();
      return bytes(own);
    });

    auto gathered = std::make_shared<Messages>(hub_, call, scattered->sent().value());
    auto pieces = out.split_with_sizes(counts);
    for (int peer = 0; peer < size(); ++peer) gathered->expect({bytes(pieces[peer]), peer});
    for (int step = 0; step < size(); ++step)
      gathered->send(reduced, static_cast<int64_t>(own.nbytes()), (rank_ + step) % size());
    return gathered;
  }

  std::shared_ptr<Transport> split(std::span<const int> members, const Call&) override {
    std::vector<int> ranks(members.begin(), members.end());
    auto position = std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin();
    return std::make_shared<Local>(hub_->subgroup(ranks, splits_[ranks]++), static_cast<int>(position));
  }

 private:
  std::shared_ptr<Hub> hub_;
  int rank_;
  std::map<std::vector<int>, int> splits_;
};

std::vector<int> iota(int n) {
  std::vector<int> all(n);
  for (int i = 0; i < n; ++i) all[i] = i;
  return all;
}

}  // namespace

void run(int ranks, const std::function<void(Communicator)>& program, Options options) {
  if (ranks < 1) throw UsageError(fmt::format("local::run: {} ranks; there must be at least 1", ranks));
  auto state = std::make_shared<Run>(ranks);
  auto hub = std::make_shared<Hub>(state, iota(ranks));
  int cores = at::get_num_threads();
  at::ThreadLocalState modes;
  std::vector<std::exception_ptr> failures(ranks);

  auto rank_main = [&](int rank) {
    this_rank = rank;
    at::ThreadLocalStateGuard same_modes(modes);
    // Two ranks that share a device would share its one backward thread and wait for each other in it.
    c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
    at::set_num_threads(std::max(1, cores / ranks));
    try {
      std::shared_ptr<Transport> transport = std::make_shared<Local>(hub, rank);
      if (options.checks != Checks::off) transport = checked(transport);
      program(Communicator(transport, options.timeout));
    } catch (const std::exception& failure) {
      failures[rank] = std::current_exception();
      state->fail(rank, failure.what());
    } catch (...) {
      failures[rank] = std::current_exception();
      state->fail(rank, "an exception that is no std::exception");
    }
    state->ended[rank] = true;
  };
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < ranks; ++rank) {
      try {
        threads.emplace_back(rank_main, rank);
      } catch (...) {  // no thread, or no memory for one: those there are shall not wait for it
        failures[rank] = std::current_exception();
        state->fail(rank, "its thread could not be started");
        break;
      }
    }
  }
  at::set_num_threads(cores);
  if (state->failed_rank() >= 0) std::rethrow_exception(failures[state->failed_rank()]);
}

}  // namespace wanpar::local
