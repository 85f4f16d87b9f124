#include <mutex>
#include <wanpar/transport/recording.hpp>

#include "transport/observing.hpp"

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

class Recording::Recorder : public Observing {
 public:
  Recorder(std::shared_ptr<Transport> inner, std::shared_ptr<Book> book)
      : Observing(std::move(inner)), book_(std::move(book)) {}

 protected:
  std::shared_ptr<Work> seen(const Call& call, const Begin& begin, const Bytes& bytes) override {
    auto work = begin();
    book_->add(call.operation, bytes(*work));
    return work;
  }
  std::shared_ptr<Transport> around(std::shared_ptr<Transport> part) const override {
    return std::make_shared<Recorder>(std::move(part), book_);
  }

 private:
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
