#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "module/residency.hpp"
#include "strategy/sharded_params/flat_parameters.hpp"
#include "strategy/sharded_params/sharded_gradients.hpp"

namespace wanpar {

/// A unit of sharded parameters: one flat parameter per dtype, separately for trained and frozen ones.
class ShardedUnit : public Source {
 public:
  ShardedUnit(std::string name, int64_t index) : name(std::move(name)), index_(index) {}

  std::function<Buffers()> fetch() override;
  int64_t version() const override;
  void write_back(const Buffers& buffers) override;

  std::string name;
  std::vector<FlatParameters> flats;
  std::shared_ptr<ShardedGradients> gradients;  // shared, as a backward may outlive the wrapper

 private:
  int64_t index_;
};

}  // namespace wanpar
