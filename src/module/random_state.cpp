#include "module/random_state.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <mutex>

namespace wanpar {

RandomState RandomState::now(at::Device device) {
  RandomState all;
  std::vector<at::Device> devices{at::kCPU};
  if (device.type() != at::kCPU) devices.push_back(device);
  for (auto one : devices) {
    auto generator = at::globalContext().defaultGenerator(one);
    std::lock_guard lock(generator.mutex());
    all.states_.push_back({one, generator.get_state()});
  }
  return all;
}

void RandomState::restore() const {
  for (auto& [device, state] : states_) {
    auto generator = at::globalContext().defaultGenerator(device);
    std::lock_guard lock(generator.mutex());
    generator.set_state(state);
  }
}

bool RandomState::operator==(const RandomState& other) const {
  return std::equal(states_.begin(), states_.end(), other.states_.begin(), other.states_.end(),
                    [](auto& a, auto& b) { return a.device == b.device && at::equal(a.state, b.state); });
}

}  // namespace wanpar
