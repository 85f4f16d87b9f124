#include <mutex>
#include <numeric>
#include <wanpar/transport/recording.hpp>

namespace wanpar {

struct Recording::Book {
  std::mutex mutex;
  std::map<Operation, Traffic> totals;

  void add(Operation operation, int64_t bytes) {
    std::lock_guard lock(mutex);
    auto& traffic = totals[operation];
    ++traffic.calls;
    traffic.bytes += bytes;
  }
};

class Recording::Recorder : public Transport {
 public:
  Recorder(std::shared_ptr<Transport> inner, std::shared_ptr<Book> book)
      : inner_(std::move(inner)), book_(std::move(book)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  std::string device() const override { return inner_->device(); }
  bool begins_together() const override { return inner_->begins_together(); }

  std::shared_ptr<Work> all_reduce(at::Tensor out, at::Tensor in, const Call& call) override {
    book_->add(call.operation, 2 * (size() - 1) * static_cast<int64_t>(in.nbytes()) / size());
    return inner_->all_reduce(out, in, call);
  }
  std::shared_ptr<Work> all_gather(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                   const Call& call) override {
    book_->add(call.operation, (size() - 1) * static_cast<int64_t>(in.nbytes()));
    return inner_->all_gather(out, in, counts, call);
  }
  std::shared_ptr<Work> reduce_scatter(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                       const Call& call) override {
    book_->add(call.operation, static_cast<int64_t>(in.nbytes() - out.nbytes()));
    return inner_->reduce_scatter(out, in, counts, call);
  }
  std::shared_ptr<Work> all_to_all(at::Tensor out, at::Tensor in, std::span<const int64_t> out_counts,
                                   std::span<const int64_t> in_counts, const Call& call) override {
    book_->add(call.operation, static_cast<int64_t>(in.nbytes()) - in_counts[rank()]);
    return inner_->all_to_all(out, in, out_counts, in_counts, call);
  }
  std::shared_ptr<Work> broadcast(at::Tensor tensor, const Call& call) override {
    book_->add(call.operation,
               call.root == rank() ? (size() - 1) * static_cast<int64_t>(tensor.nbytes()) : 0);
    return inner_->broadcast(tensor, call);
  }
  std::shared_ptr<Work> exchange(std::vector<Message> sends, std::vector<Message> receives,
                                 const Call& call) override {
    auto bytes = std::accumulate(sends.begin(), sends.end(), int64_t{0}, [](int64_t sum, auto& m) {
      return sum + static_cast<int64_t>(m.tensor.nbytes());
    });
    book_->add(call.operation, bytes);
    return inner_->exchange(std::move(sends), std::move(receives), call);
  }
  std::shared_ptr<Work> barrier(const Call& call) override {
    book_->add(call.operation, 0);
    return inner_->barrier(call);
  }
  std::shared_ptr<Transport> split(std::span<const int> members, std::chrono::milliseconds timeout) override {
    return std::make_shared<Recorder>(inner_->split(members, timeout), book_);
  }

 private:
  std::shared_ptr<Transport> inner_;
  std::shared_ptr<Book> book_;
};

Recording::Recording() : book_(std::make_shared<Book>()) {}

Communicator Recording::operator()(const Communicator& communicator) const {
  if (communicator.size() == 1) return communicator;
  return Communicator(std::make_shared<Recorder>(communicator.transport(), book_), communicator.timeout());
}

std::map<Operation, Traffic> Recording::totals() const {
  std::lock_guard lock(book_->mutex);
  return book_->totals;
}

Traffic Recording::total() const {
  Traffic sum;
  for (auto& [operation, traffic] : totals()) sum.calls += traffic.calls, sum.bytes += traffic.bytes;
  return sum;
}

void Recording::clear() {
  std::lock_guard lock(book_->mutex);
  book_->totals.clear();
}

}  // namespace wanpar
