#pragma once
#include "column_parallel.hpp"

/// The interface that wanpar::Wrapped needs.
class ColumnParallelStrategy {
 public:
  using Options = Communicator;
  static constexpr bool kByBlocks = false;
  ColumnParallelStrategy(Communicator group, const wanpar::ModuleTensors&) : group_(std::move(group)) {}
  bool is_alone() const { return group_.size() == 1; }
  std::vector<Communicator> groups() const { return {group_}; }
  std::unique_ptr<wanpar::ForwardScope> begin_forward(const wanpar::Arguments&, std::shared_ptr<void>) const {
    return std::make_unique<Columns>(group_);
  }

 private:
  Communicator group_;
};

template <class Module>
using ColumnParallel = wanpar::Wrapped<Module, ColumnParallelStrategy>;

/// `model | column_parallel(world)`.
inline auto column_parallel(Communicator group) {
  return wanpar::Closure<ColumnParallel, Communicator>(std::move(group));
}
