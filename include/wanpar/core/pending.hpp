#pragma once
#include <wanpar/core/error.hpp>
#include <wanpar/extend/core/transport.hpp>

#include <exception>
#include <functional>
#include <memory>
#include <mutex>

namespace wanpar {

namespace detail {

/// Keeps a failure that could not be thrown (in a destructor) until the group's next call.
class Health {
 public:
  void keep(std::exception_ptr failure);
  void check();

 private:
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace detail

/// The result of an asynchronous call (a future): it owns the tensors in flight, and only get() gives the
/// value.
///
/// The destructor waits for the transfer, at most until the call's timeout; if that fails, the group's next
/// call throws.
template <class T>
class [[nodiscard]] Pending {
 public:
  Pending(std::shared_ptr<Work> work, std::function<T()> finish, std::shared_ptr<detail::Health> health)
      : transfer_(new Transfer{std::move(work), std::move(finish), std::move(health)}) {}

  /// Blocks until the transfer is complete and returns its value. May be called once.
  T get() {
    if (!transfer_) throw UsageError("Pending::get() was called twice: the first call took the value");
    auto transfer = std::move(transfer_);
    auto work = std::move(transfer->work);
    if (work) work->wait();
    return transfer->finish();
  }

 private:
  struct Transfer {
    std::shared_ptr<Work> work;
    std::function<T()> finish;
    std::shared_ptr<detail::Health> health;

    ~Transfer() {
      if (!work) return;
      try {
        work->wait();
      } catch (...) {
        health->keep(std::current_exception());
      }
    }
  };
  std::unique_ptr<Transfer> transfer_;
};

}  // namespace wanpar
