#include "wan/generate/stop.hpp"

#include <ATen/ATen.h>

namespace wan {

void Stop::follow(const wanpar::Communicator& group) {
  bool is_over = is_asked_;
  if (group.size() > 1) {
    auto asked = at::full({1}, int64_t{is_over}, at::kLong).to(group.device());
    is_over = group.broadcast(std::move(asked), 0).get().item<int64_t>() != 0;
  }
  if (!is_over) return;
  was_followed_ = true;
  throw Stopped();
}

}  // namespace wan
