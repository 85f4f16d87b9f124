#pragma once
#include <atomic>
#include <stdexcept>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace wanpar {

/// The host of the store has died, or does not answer.
class StoreLost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A store whose calls all end within their timeout, whatever its host does. c10d's client waits without a
/// limit for replies of the host, which may be stopped, or swapping, or a different program. After the
/// timeout a call throws StoreLost.
class LimitedStore : public c10d::Store {
 public:
  /// `keeper` names the store's host in errors.
  LimitedStore(c10::intrusive_ptr<c10d::Store> store, std::chrono::milliseconds timeout, std::string keeper);

  c10::intrusive_ptr<c10d::Store> clone() override;
  void set(const std::string& key, const std::vector<uint8_t>& value) override;
  std::vector<uint8_t> compareSet(const std::string& key, const std::vector<uint8_t>& expected,
                                  const std::vector<uint8_t>& desired) override;
  std::vector<uint8_t> get(const std::string& key) override;
  int64_t add(const std::string& key, int64_t value) override;
  bool deleteKey(const std::string& key) override;
  bool check(const std::vector<std::string>& keys) override;
  int64_t getNumKeys() override;
  void wait(const std::vector<std::string>& keys) override;
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& timeout) override;
  void append(const std::string& key, const std::vector<uint8_t>& value) override;
  std::vector<std::vector<uint8_t>> multiGet(const std::vector<std::string>& keys) override;
  void multiSet(const std::vector<std::string>& keys,
                const std::vector<std::vector<uint8_t>>& values) override;
  bool hasExtendedApi() const override;

 private:
  template <class Call>
  auto limited(std::chrono::milliseconds timeout, Call call);

  c10::intrusive_ptr<c10d::Store> store_;
  std::string keeper_;
  std::atomic<bool> is_lost_ = false;  ///< a call was abandoned: the store no longer answers
};

}  // namespace wanpar
