#include "strategy/split/split_module.hpp"

#include <ATen/ATen.h>
#include <unistd.h>

#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>

#include "module/same_module.hpp"
#include "module/shared_parameters.hpp"

namespace wanpar {
namespace {

/// The maximum number of remembered signatures, so that ever new shapes do not exhaust memory.
constexpr size_t kRemembered = 256;

/// Collective. Processes are told apart by id and an address.
bool are_in_one_process(const std::vector<Communicator>& grid) {
  static const int here = 0;
  auto places = at::tensor({static_cast<int64_t>(::getpid()), reinterpret_cast<int64_t>(&here)}, at::kLong)
                    .unsqueeze(0);
  for (auto& group : grid) places = group.all_gather(places.to(group.device()), 0).get();
  return places.size(0) > 1 && places.eq(places[0]).all().item<bool>();
}

/// Collective. Verifies that the groups are axes of one mesh: each position of the grid occurs exactly once.
void require_axes_of_one_mesh(const std::string& who, const std::vector<Communicator>& grid) {
  int64_t position = 0, size = 1;
  for (auto& group : grid) position += group.rank() * size, size *= group.size();
  auto positions = at::tensor({position}, at::kLong);
  for (auto& group : grid) positions = group.all_gather(positions.to(group.device()), 0).get();
  if (!positions.cpu().equal(at::arange(size)))
    throw AgreedError(
        who +
        ": its groups are not two axes of one mesh (one group given twice, or one inside of the "
        "other); make a Mesh with an axis for each, or give one group alone");
}

}  // namespace

SplitModule::SplitModule(const std::string& who, const std::vector<Communicator>& grid,
                         const std::string& options, const NamedTensors& parameters) {
  require_axes_of_one_mesh(who, grid);
  require_same(who, "options", grid, options);
  require_same_module(who, grid, parameters);
  if (are_shared(grid, parameters)) shared_ = parameters;
  is_in_one_process_ = are_in_one_process(grid);
}

bool SplitModule::is_first_call(const std::string& kind) {
  if (known_.size() > kRemembered) known_.clear();
  return !known_.contains(kind);
}

}  // namespace wanpar
