// Text to video with Wan2.1, on one rank or many: started alone, by torchrun, by mpirun, or with thread ranks
// inside.
#include <ATen/Context.h>
#include <fmt/format.h>
#include <fmt/ostream.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <iostream>
#include <optional>
#include <wanpar/core/agreement.hpp>
#include <wanpar/launch/connect.hpp>
#include <wanpar/transport/local.hpp>

#include "wan/cli/before_main.hpp"
#include "wan/cli/options.hpp"
#include "wan/generate/denoise.hpp"
#include "wan/generate/generate.hpp"
#include "wan/generate/needs.hpp"
#include "wan/generate/room.hpp"
#include "wan/generate/transformer.hpp"
#include "wan/io/part_file.hpp"

namespace {

[[gnu::used, gnu::section(".preinit_array")]] void (*const kBeforeMain)(int, char**,
                                                                        char**) = wan::before_main;

std::chrono::milliseconds timeout(const wan::Options& options) {
  return std::chrono::milliseconds(static_cast<int64_t>(options.timeout * 1000));
}

/// What a rank could not begin with, and the exit code that goes with it.
struct Refusal : wanpar::Error {
  Refusal(const std::string& sentence, int code, bool is_agreed)
      : Error(sentence), code(code), is_agreed(is_agreed) {}

  int code;
  bool is_agreed;  ///< all ranks have it
};

constexpr int kFailed = 1, kMisused = 2;

/// `action`'s failure, as digits of its exit code and its sentence; empty where it does not fail.
std::string failure_of(const std::function<void()>& action) {
  try {
    action();
    return {};
  } catch (const wan::UsageError& error) {
    return fmt::format("{}{}", kMisused, error.what());
  } catch (...) {
    return fmt::format("{}{}", kFailed, wan::sentence_of_failure("planning"));
  }
}

/// Collective. Throws Refusal on every rank where one could not begin: one sentence, and one exit code.
void agree_to_begin(const wanpar::Communicator& world, const std::string& failure) {
  const auto failures = wanpar::texts_of_all(world, failure);
  for (int rank = 0; rank < world.size(); ++rank) {
    if (failures[rank].empty()) continue;
    const bool is_alone = std::count(failures.begin(), failures.end(), failures[rank]) < world.size();
    const auto who = is_alone && world.size() > 1 ? fmt::format("rank {}: ", rank) : "";
    throw Refusal(who + failures[rank].substr(1), failures[rank][0] - '0', true);
  }
}

/// Whether this process, which has no plan, would have gone to CUDA: where the others are, it says why.
bool is_on_cuda(const wan::Options& options) {
  return at::hasCUDA() && options.device.value_or("cuda") == "cuda";
}

wanpar::Communicator connect(const wan::Options& options, const wanpar::Place& place, bool on_cuda,
                             bool has_failed) {
  constexpr std::chrono::seconds kSoon{10};  // who only has a failure to tell does not wait long for others
  const auto backend = on_cuda ? wanpar::Backend::nccl : wanpar::Backend::gloo;
  const auto patience =
      has_failed ? std::min<std::chrono::milliseconds>(kSoon, timeout(options)) : timeout(options);
  return wanpar::connect({.backend = backend, .timeout = patience, .place = place});
}

/// Runs this process's ranks. `failure` is why it has no options.
void run(const wan::Options& options, const wanpar::Place& place, std::string failure) {
  const bool threads = options.local_ranks > 1;
  std::optional<wan::Job> job;
  if (failure.empty())
    failure = failure_of([&] {
      if (threads && place.world_size > 1)
        throw wan::UsageError(fmt::format(
            "--local_ranks {} makes ranks of threads, but {} has started {} processes; use one of the two",
            options.local_ranks, place.source, place.world_size));
      job = wan::plan(options, threads ? static_cast<int>(options.local_ranks) : place.world_size);
      if (!options.noise.empty()) wan::first_latents(*job, 0);
      wan::check_memory(*job,
                        {.processes = place.local_size, .threads = static_cast<int>(options.local_ranks)});
    });
  if (place.world_size == 1) agree_to_begin(wanpar::Communicator(), failure);

  const auto device = job && job->device == at::kCUDA
                          ? at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(place.local_rank))
                          : at::Device(at::kCPU);
  wan::SharedTransformer transformer([&] { return wan::load_transformer(*job, device); });
  const auto work = [&](const wanpar::Communicator& world) {
    wan::generate(world, *job, transformer, device, std::cerr, std::cout);
  };
  if (threads && job)
    return wanpar::local::run(static_cast<int>(options.local_ranks), work, {.timeout = timeout(options)});

  std::optional<wanpar::Communicator> world;
  try {
    world = connect(options, place, job ? device.is_cuda() : is_on_cuda(options), !failure.empty());
    agree_to_begin(*world, failure);
  } catch (const Refusal&) {
    throw;
  } catch (const std::exception&) {
    if (failure.empty()) throw;
    throw Refusal(failure.substr(1), failure[0] - '0', false);
  }
  if (world->size() > 1)
    wanpar::require_same("before the work", "options", {*world}, wan::described(*job, WANPAR_VERSION));
  work(*world);
}

/// What all ranks say alike, rank 0 says; anything else each says for itself. One line, whatever a file's
/// names and texts hold.
void report(const std::exception& error, const wanpar::Place& place) {
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
  fmt::print(std::cerr, "wan_t2v{}: {}\n", who, text);
}

int end_with(const std::exception& error, const wanpar::Place& place, int code) {
  report(error, place);
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file over the limit is an error of the write, told like any other
  std::signal(SIGPIPE, SIG_IGN);  // so is a peer, or a reader of our output, that is gone
  wan::remove_parts_on_signals();
  wanpar::Place place;
  try {
    place = wanpar::find_place();
    wan::Options options;
    const auto failure = failure_of([&] { options = wan::parse_options({argv + 1, argv + argc}); });
    if (options.action == wan::Options::Action::help)
      fmt::print("{}", wan::help_text());
    else if (options.action == wan::Options::Action::version)
      fmt::print("wan_t2v {}\n", WANPAR_VERSION);
    else
      run(options, place, failure);
    return 0;
  } catch (const Refusal& error) {
    return end_with(error, place, error.code);
  } catch (const wanpar::Error& error) {
    return end_with(error, place, kFailed);
  } catch (...) {
    return end_with(std::runtime_error(wan::sentence_of_failure("running")), place, kFailed);
  }
}
