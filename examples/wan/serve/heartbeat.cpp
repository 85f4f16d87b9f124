#include "wan/serve/heartbeat.hpp"

#include <ATen/ATen.h>

#include <chrono>
#include <cstring>

namespace wan::serve {
namespace {

// That a rank is lost is found by the library's own heartbeat, which ends the wait of this one. kPatient is
// how long ranks that are alive may keep one another waiting here.
constexpr std::chrono::milliseconds kEvery{500}, kPatient{3000};

}  // namespace

Heartbeat::Heartbeat(wanpar::Communicator group, Listener listener)
    : group_(group.with_timeout(kPatient)), listener_(std::move(listener)), thread_([this] { beat(); }) {}

Heartbeat::~Heartbeat() { thread_.join(); }

void Heartbeat::beat() {
  static_assert(sizeof(Beat) == Beat::kNumbers * sizeof(int64_t));
  const auto ranks = static_cast<size_t>(group_.size());
  for (bool is_over = false; !is_over;) {
    const auto next = std::chrono::steady_clock::now() + kEvery;
    std::vector<Beat> all(ranks);
    try {
      const auto mine = listener_.mine();
      auto row = at::empty({Beat::kNumbers}, at::kLong);
      std::memcpy(row.data_ptr(), &mine, sizeof(mine));
      const auto rows = group_.all_gather(std::move(row)).get();
      std::memcpy(all.data(), rows.const_data_ptr(), ranks * sizeof(Beat));
    } catch (const std::exception& error) {
      return listener_.lost(error.what());
    }
    is_over = all[0].is_over != 0;
    if (is_over) return;
    listener_.heard(all);
    std::this_thread::sleep_until(next);
  }
}

}  // namespace wan::serve
