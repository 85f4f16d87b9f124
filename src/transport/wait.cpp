#include "transport/wait.hpp"

#include "transport/pulse.hpp"

namespace wanpar {

Wait::Wait(std::shared_ptr<Pulse> pulse, const RunGroup& group, const Call& call, const Deadline& deadline,
           std::function<void()> interrupt)
    : pulse_(pulse && pulse->beats() ? std::move(pulse) : nullptr),
      group_(group),
      call_(call),
      deadline_(deadline),
      interrupt_(std::move(interrupt)) {
  if (pulse_) pulse_->add(*this);
}

Wait::~Wait() {
  if (pulse_) pulse_->remove(*this);
}

std::chrono::milliseconds Wait::limit(std::chrono::milliseconds least) const {
  return pulse_ ? kForever : deadline_.left(least);
}

}  // namespace wanpar
