#include "strategy/block_pipeline/stopwatch.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace wanpar {

void Stopwatch::reset(size_t things) {
  begun_.clear(), laps_.clear();
  seconds_.assign(things, 0);
}

void Stopwatch::record(c10::Event& event) const {
  event.record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
}

void Stopwatch::start(at::Device device) {
  device_ = device;
  if (device.is_cpu()) {
    begin_ = std::chrono::steady_clock::now();
    return;
  }
  begun_.clear();
  begun_.emplace_back(device.type(), c10::EventFlag::BACKEND_DEFAULT);  // this flag enables timing
  record(begun_.back());
}

void Stopwatch::stop(size_t thing) {
  if (device_.is_cpu()) {
    seconds_[thing] += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    return;
  }
  c10::Event end(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
  record(end);
  laps_.push_back({thing, std::move(begun_.back()), std::move(end)});
  begun_.clear();
}

std::vector<double> Stopwatch::seconds() {
  for (auto& lap : laps_) {
    lap.end.synchronize();
    seconds_[lap.thing] += lap.begin.elapsedTime(lap.end) / 1000;
  }
  laps_.clear();
  return seconds_;
}

}  // namespace wanpar
