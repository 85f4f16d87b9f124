#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <string>
#include <unordered_set>
#include <vector>

namespace wanpar {

/// A module whose tensors ranks split: what they have found alike, when it was wrapped and in its calls
/// since.
class SplitModule {
 public:
  /// Collective. Throws Error, which begins with `who`, on every rank where the ranks' options (a line for
  /// each that is to be alike) or parameters differ.
  SplitModule(const std::string& who, const std::vector<Communicator>& grid, const std::string& options,
              const NamedTensors& parameters);

  /// All ranks are threads, and share one generator of random numbers.
  bool is_in_one_process() const { return is_in_one_process_; }
  /// Parameters that ranks which are threads hold together.
  const NamedTensors& shared() const { return shared_; }

  /// Whether a call of this kind is the first one, in which ranks compare what is to be alike.
  bool is_first_call(const std::string& kind);
  /// That call has ended, and all was alike.
  void add(const std::string& kind) { known_.insert(kind); }

 private:
  bool is_in_one_process_ = false;
  NamedTensors shared_;
  std::unordered_set<std::string> known_;
};

}  // namespace wanpar
