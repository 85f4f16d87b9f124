#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <string>
#include <unordered_set>
#include <vector>

namespace wanpar {

/// A wrapped module with split tensors: what ranks have verified to be equal, on wrapping and in its calls.
class SplitModule {
 public:
  /// Collective. Throws Error on every rank, starting with `who`, if the ranks' `options` (one line each) or
  /// parameters differ.
  SplitModule(const std::string& who, const std::vector<Communicator>& grid, const std::string& options,
              const NamedTensors& parameters);

  /// Whether all ranks are threads of one process, which share one random generator.
  bool is_in_one_process() const { return is_in_one_process_; }
  /// The parameters, if thread ranks share them.
  const NamedTensors& shared() const { return shared_; }

  /// Whether no call of this signature has succeeded yet: then ranks compare replicated values.
  bool is_first_call(const std::string& kind);
  /// Notes that a call of this signature has succeeded.
  void add(const std::string& kind) { known_.insert(kind); }

 private:
  bool is_in_one_process_ = false;
  NamedTensors shared_;
  std::unordered_set<std::string> known_;
};

}  // namespace wanpar
