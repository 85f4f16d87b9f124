#include "wan/launch/program.hpp"

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <iostream>
#include <optional>
#include <thread>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/files/part_file.hpp>
#include <wanpar/transport/local.hpp>

#include "wan/cli/usage_error.hpp"
#include "wan/generate/room.hpp"

namespace wan {
namespace {

/// What a rank could not begin with, and the exit code that goes with it.
struct Refusal : wanpar::Error {
  Refusal(const std::string& sentence, int code, bool is_agreed)
      : Error(sentence), code(code), is_agreed(is_agreed) {}

  int code;
  bool is_agreed;  ///< all ranks have it
};

constexpr int kFailed = 1, kMisused = 2;

/// Collective. Throws Refusal on every rank where one could not begin: one sentence, and one exit code.
void agree_to_begin(const wanpar::Communicator& world, const std::string& failure) {
  const auto failures = wanpar::all_gather_text(world, failure);
  for (int rank = 0; rank < world.size(); ++rank) {
    if (failures[rank].empty()) continue;
    const bool is_alone = std::count(failures.begin(), failures.end(), failures[rank]) < world.size();
    const auto who = is_alone && world.size() > 1 ? fmt::format("rank {}: ", rank) : "";
    throw Refusal(who + failures[rank].substr(1), failures[rank][0] - '0', true);
  }
}

/// One line, whatever a file's names and texts hold.
void report(const std::string& program, const std::exception& error, const wanpar::Place& place) {
  const auto* refusal = dynamic_cast<const Refusal*>(&error);
  const bool alike =
      refusal ? refusal->is_agreed : dynamic_cast<const wanpar::AgreedError*>(&error) != nullptr;
  if (alike && place.rank != 0) return;
  const auto who = !alike && place.world_size > 1 ? fmt::format(" (rank {})", place.rank) : std::string();
  constexpr size_t kLongest = 1500;
  std::string text = error.what();
  text = text.substr(0, std::min(text.find("\nException raised from"), kLongest));
  for (auto& letter : text)
    if (static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f) letter = ' ';
  fmt::print(std::cerr, "{}{}: {}\n", program, who, text);
}

/// Whether an error is on its way to its report.
std::atomic<bool> is_ending = false;

/// Ends a process that has lost a rank while it does what no call of the library interrupts. A call that
/// waits for that rank throws by itself, and says more.
void end_for_lost_rank(const wanpar::PeerLostError& error, const wanpar::Place& place) {
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  if (is_ending.exchange(true)) return;
  report(program_invocation_short_name, error, place);
  wanpar::end_without_parts(kFailed);
}

wanpar::Communicator connect(const wanpar::Place& place, const Start& start,
                             std::chrono::milliseconds timeout) {
  constexpr std::chrono::seconds kSoon{10};  // who only has a failure to tell does not wait long for others
  const auto backend = start.on_cuda ? wanpar::Backend::nccl : wanpar::Backend::gloo;
  const auto patience = start.failure.empty() ? timeout : std::min<std::chrono::milliseconds>(kSoon, timeout);
  return wanpar::connect(
      {.backend = backend,
       .timeout = patience,
       .on_lost = start.on_lost
                      ? start.on_lost
                      : [place](const wanpar::PeerLostError& error) { end_for_lost_rank(error, place); },
       .place = place});
}

}  // namespace

int status_of(const std::string& program, const std::function<void(const wanpar::Place&)>& run) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file over the limit is an error of the write, told like any other
  std::signal(SIGPIPE, SIG_IGN);  // so is a peer, or a reader of our output, that is gone
  wanpar::remove_parts_on_signals();
  wanpar::Place place;
  const auto end_with = [&](const std::exception& error, int code) {
    while (is_ending.exchange(true)) std::this_thread::sleep_for(std::chrono::seconds(1));  // it is said
    report(program, error, place);
    return code;
  };
  try {
    place = wanpar::find_place();
    run(place);
    return 0;
  } catch (const Refusal& error) {
    return end_with(error, error.code);
  } catch (const wanpar::Error& error) {
    return end_with(error, kFailed);
  } catch (...) {
    return end_with(std::runtime_error(sentence_of_failure("running")), kFailed);
  }
}

std::string failure_of(const std::function<void()>& action) {
  try {
    action();
    return {};
  } catch (const UsageError& error) {
    return fmt::format("{}{}", kMisused, error.what());
  } catch (...) {
    return fmt::format("{}{}", kFailed, sentence_of_failure("planning"));
  }
}

int ranks_of(const wanpar::Place& place, int64_t local_ranks) {
  if (local_ranks > 1 && place.world_size > 1)
    throw UsageError(fmt::format(
        "--local_ranks {} makes ranks of threads, but {} has started {} processes; use one of the two",
        local_ranks, place.source, place.world_size));
  return local_ranks > 1 ? static_cast<int>(local_ranks) : place.world_size;
}

at::Device device_at(const wanpar::Place& place, at::DeviceType type) {
  return type == at::kCUDA ? at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(place.local_rank))
                           : at::Device(at::kCPU);
}

void on_ranks(const wanpar::Place& place, const Start& start,
              const std::function<void(const wanpar::Communicator&)>& work) {
  const std::chrono::milliseconds timeout(static_cast<int64_t>(start.timeout * 1000));
  if (place.world_size == 1) agree_to_begin(wanpar::Communicator(), start.failure);
  if (start.local_ranks > 1 && start.failure.empty())
    return wanpar::local::run(static_cast<int>(start.local_ranks), work, {.timeout = timeout});

  std::optional<wanpar::Communicator> world;
  try {
    world = connect(place, start, timeout);
    agree_to_begin(*world, start.failure);
  } catch (const Refusal&) {
    throw;
  } catch (const std::exception&) {
    if (start.failure.empty()) throw;
    throw Refusal(start.failure.substr(1), start.failure[0] - '0', false);
  }
  if (world->size() > 1) wanpar::require_same("before the work", "options", {*world}, start.told);
  work(*world);
}

}  // namespace wan
