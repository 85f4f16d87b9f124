// Text to video with Wan2.1, on one rank or many: started alone, by torchrun, by mpirun, or with thread ranks
// inside.
#include <ATen/Context.h>
#include <fmt/format.h>
#include <fmt/ostream.h>

#include <csignal>
#include <iostream>
#include <wanpar/launch/connect.hpp>
#include <wanpar/transport/local.hpp>

#include "wan/cli/options.hpp"
#include "wan/generate/generate.hpp"
#include "wan/generate/transformer.hpp"

namespace {

std::chrono::milliseconds timeout(const wan::Options& options) {
  return std::chrono::milliseconds(static_cast<int64_t>(options.timeout * 1000));
}

void run(const wan::Options& options, const wanpar::Place& place) {
  if (options.local_ranks > 1 && place.world_size > 1)
    throw wan::UsageError(fmt::format(
        "--local_ranks {} makes ranks of threads, but {} has started {} processes; use one of the two",
        options.local_ranks, place.source, place.world_size));
  const bool threads = options.local_ranks > 1;
  const auto job = wan::plan(options, threads ? static_cast<int>(options.local_ranks) : place.world_size);
  const auto device = job.device == at::kCUDA
                          ? at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(place.local_rank))
                          : at::Device(at::kCPU);
  wan::SharedTransformer transformer([&] { return wan::load_transformer(job, device); });
  const auto work = [&](wanpar::Communicator world) {
    wan::generate(world, job, transformer, device, std::cerr);
  };

  if (threads)
    return wanpar::local::run(static_cast<int>(options.local_ranks), work, {.timeout = timeout(options)});
  const auto backend = device.is_cuda() ? wanpar::Backend::nccl : wanpar::Backend::gloo;
  work(wanpar::connect({.backend = backend, .timeout = timeout(options), .place = place}));
}

/// What all ranks say alike, rank 0 says; anything else each says for itself.
void report(const std::exception& error, const wanpar::Place& place) {
  const bool alike =
      dynamic_cast<const wanpar::AgreedError*>(&error) || dynamic_cast<const wan::UsageError*>(&error);
  if (alike && place.rank != 0) return;
  const auto who = !alike && place.world_size > 1 ? fmt::format(" (rank {})", place.rank) : std::string();
  const std::string text = error.what();
  fmt::print(std::cerr, "wan_t2v{}: {}\n", who, text.substr(0, text.find("\nException raised from")));
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file over the limit is an error of the write, told like any other
  wanpar::Place place;
  try {
    place = wanpar::find_place();
    const auto options = wan::parse_options({argv + 1, argv + argc});
    if (options.action == wan::Options::Action::help)
      fmt::print("{}", wan::help_text());
    else if (options.action == wan::Options::Action::version)
      fmt::print("wan_t2v {}\n", WANPAR_VERSION);
    else
      run(options, place);
    return 0;
  } catch (const wan::UsageError& error) {
    report(error, place);
    return 2;
  } catch (const std::exception& error) {
    report(error, place);
    return 1;
  }
}
