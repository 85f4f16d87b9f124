#pragma once
#include <chrono>
#include <functional>
#include <future>
#include <optional>
#include <thread>

namespace wanpar {

/// What `call` gives or throws, or nothing where it takes longer than the limit. It is left behind then: its
/// thread goes on to wait and keeps what it captured, so that must be values alone. A process that ends does
/// not wait for it.
template <class T>
std::optional<T> within(std::chrono::milliseconds limit, std::function<T()> call) {
  std::packaged_task<T()> task(std::move(call));
  auto result = task.get_future();
  std::thread thread(std::move(task));
  if (result.wait_for(limit) == std::future_status::ready) {
    thread.join();
    return result.get();
  }
  thread.detach();
  return {};
}

}  // namespace wanpar
