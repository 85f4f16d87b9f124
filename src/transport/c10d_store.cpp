#include "transport/c10d_store.hpp"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include "core/sentence.hpp"
#include "transport/deadline.hpp"
#include "transport/within.hpp"

namespace wanpar {

using Bytes = std::vector<uint8_t>;
using Keys = std::vector<std::string>;

LimitedStore::LimitedStore(c10::intrusive_ptr<c10d::Store> store, std::chrono::milliseconds timeout,
                           std::string keeper)
    : c10d::Store(timeout), store_(std::move(store)), keeper_(std::move(keeper)) {}

/// What the store's call gives. Its own limit comes first where its host is well, so that a key that nobody
/// sets is an error of c10d's.
template <class Call>
auto LimitedStore::limited(std::chrono::milliseconds timeout, Call call) {
  auto silent = [&] {
    return StoreLost(
        fmt::format("{} has not answered for {} s; it is stopped or overloaded, or its host is out of reach: "
                    "end all ranks and start them again",
                    keeper_, seconds(timeout)));
  };
  if (is_lost_) throw silent();
  using Result = decltype(call(*store_));
  try {
    auto result = within<Result>(timeout + std::chrono::milliseconds(500), [store = store_, timeout, call] {
      store->setTimeout(timeout);
      return call(*store);
    });
    if (result) return *result;
  } catch (const c10::DistNetworkError& failure) {
    throw StoreLost(fmt::format("the connection to {} failed; it has probably died ({})", keeper_,
                                first_line(failure.what())));
  }
  is_lost_ = true;
  throw silent();
}

c10::intrusive_ptr<c10d::Store> LimitedStore::clone() {
  return c10::intrusive_ptr<LimitedStore>::unsafe_reclaim_from_nonowning(this);
}

void LimitedStore::set(const std::string& key, const Bytes& value) {
  limited(timeout_, [=](c10d::Store& store) { return store.set(key, value), true; });
}

Bytes LimitedStore::compareSet(const std::string& key, const Bytes& expected, const Bytes& desired) {
  return limited(timeout_, [=](c10d::Store& store) { return store.compareSet(key, expected, desired); });
}

Bytes LimitedStore::get(const std::string& key) {
  return limited(timeout_, [=](c10d::Store& store) { return store.get(key); });
}

int64_t LimitedStore::add(const std::string& key, int64_t value) {
  return limited(timeout_, [=](c10d::Store& store) { return store.add(key, value); });
}

bool LimitedStore::deleteKey(const std::string& key) {
  return limited(timeout_, [=](c10d::Store& store) { return store.deleteKey(key); });
}

bool LimitedStore::check(const Keys& keys) {
  return limited(timeout_, [=](c10d::Store& store) { return store.check(keys); });
}

int64_t LimitedStore::getNumKeys() {
  return limited(timeout_, [](c10d::Store& store) { return store.getNumKeys(); });
}

void LimitedStore::wait(const Keys& keys) { wait(keys, timeout_); }

void LimitedStore::wait(const Keys& keys, const std::chrono::milliseconds& timeout) {
  limited(timeout, [=](c10d::Store& store) { return store.wait(keys, timeout), true; });
}

void LimitedStore::append(const std::string& key, const Bytes& value) {
  limited(timeout_, [=](c10d::Store& store) { return store.append(key, value), true; });
}

std::vector<Bytes> LimitedStore::multiGet(const Keys& keys) {
  return limited(timeout_, [=](c10d::Store& store) { return store.multiGet(keys); });
}

void LimitedStore::multiSet(const Keys& keys, const std::vector<Bytes>& values) {
  limited(timeout_, [=](c10d::Store& store) { return store.multiSet(keys, values), true; });
}

bool LimitedStore::hasExtendedApi() const { return store_->hasExtendedApi(); }

}  // namespace wanpar
