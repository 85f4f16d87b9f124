#include <mutex>
#include <wanpar/transport/recording.hpp>

#include "core/flat.hpp"

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
    return booked(inner_->all_reduce(out, in, call), call, 2 * (size() - 1) * nbytes(in) / size());
  }
  std::shared_ptr<Work> all_gather(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                   const Call& call) override {
    return booked(inner_->all_gather(out, in, counts, call), call, (size() - 1) * nbytes(in));
  }
  std::shared_ptr<Work> reduce_scatter(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                       const Call& call) override {
    return booked(inner_->reduce_scatter(out, in, counts, call), call, nbytes(in) - nbytes(out));
  }
  std::shared_ptr<Work> all_to_all(at::Tensor out, at::Tensor in, std::span<const int64_t> out_counts,
                                   std::span<const int64_t> in_counts, const Call& call) override {
    auto bytes = nbytes(in) - in_counts[rank()];
    return booked(inner_->all_to_all(out, in, out_counts, in_counts, call), call, bytes);
  }
  std::shared_ptr<Work> broadcast(at::Tensor tensor, const Call& call) override {
    auto bytes = call.root == rank() ? (size() - 1) * nbytes(tensor) : 0;
    return booked(inner_->broadcast(tensor, call), call, bytes);
  }
  std::shared_ptr<Work> exchange(std::vector<Message> sends, std::vector<Message> receives,
                                 const Call& call) override {
    auto bytes = payload(sends);
    return booked(inner_->exchange(std::move(sends), std::move(receives), call), call, bytes);
  }
  std::shared_ptr<Work> barrier(const Call& call) override {
    book_->add(call.operation, 0);
    return inner_->barrier(call);
  }
  void fail(const std::string& why, const Call& call) override { inner_->fail(why, call); }
  std::shared_ptr<Transport> split(std::span<const int> members, const Call& call) override {
    return std::make_shared<Recorder>(inner_->split(members, call), book_);
  }

 private:
  static int64_t nbytes(const at::Tensor& tensor) { return static_cast<int64_t>(tensor.nbytes()); }

  /// Books what the work has sent or, where it cannot tell, what the operation takes at least.
  std::shared_ptr<Work> booked(std::shared_ptr<Work> work, const Call& call, int64_t least) {
    book_->add(call.operation, work->sent().value_or(least));
    return work;
  }

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
