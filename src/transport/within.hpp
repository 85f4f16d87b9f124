#pragma once
#include <chrono>
#include <functional>
#include <future>
#include <optional>
#include <thread>

#include "transport/deadline.hpp"

namespace wanpar {

/// The result or exception of `call`, or nullopt if `is_over` returned true before it ended. Then its thread
/// is abandoned: it keeps waiting, and what it captured, so it must capture values only. The end of the
/// process does not wait for it.
template <class T>
std::optional<T> until(const std::function<bool()>& is_over, std::function<T()> call) {
  constexpr std::chrono::milliseconds kLook(20);
  std::packaged_task<T()> task(std::move(call));
  auto result = task.get_future();
  std::thread thread(std::move(task));
  while (result.wait_for(kLook) != std::future_status::ready) {
    if (!is_over()) continue;
    thread.detach();
    return {};
  }
  thread.join();
  return result.get();
}

/// As above, with a time limit.
template <class T>
std::optional<T> within(std::chrono::milliseconds limit, std::function<T()> call) {
  Deadline deadline(limit);
  return until<T>([&] { return deadline.is_over(); }, std::move(call));
}

}  // namespace wanpar
