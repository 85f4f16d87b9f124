// Text to video with Wan2.1, on one rank or many: started alone, by torchrun, by mpirun, or with thread ranks
// inside, or by a server that runs. Beside Wan's own checkpoints there are two small ones to try it with:
// examples/train/model, which is trained and shows what it is told, and what wan_demo_checkpoint writes,
// whose weights are random: it shows fog, and serves the tests.
#include <ATen/Context.h>
#include <fmt/format.h>

#include <iostream>
#include <optional>

#include "wan/cli/before_main.hpp"
#include "wan/cli/options.hpp"
#include "wan/generate/denoise.hpp"
#include "wan/generate/generate.hpp"
#include "wan/generate/needs.hpp"
#include "wan/generate/transformer.hpp"
#include "wan/launch/program.hpp"
#include "wan/launch/traced.hpp"
#include "wan/serve/client.hpp"
#include "wan/serve/fields.hpp"

namespace {

[[gnu::used, gnu::section(".preinit_array")]] void (*const kBeforeMain)(int, char**,
                                                                        char**) = wan::before_main;

/// Whether this process, which has no plan, would have gone to CUDA: where the others are, it says why.
bool is_on_cuda(const wan::Options& options) {
  return at::hasCUDA() && options.device.value_or("cuda") == "cuda";
}

/// Runs this process's ranks. `failure` is why it has no options.
void run(const wan::Options& options, const wanpar::Place& place, std::string failure) {
  std::optional<wan::Job> job;
  if (failure.empty())
    failure = wan::with_origins(wan::failure_of([&] {
                                  const auto ranks = wan::ranks_of(place, options.local_ranks);
                                  wan::check_started(options.processes, ranks, "wan_t2v");
                                  if (options.device != "cpu") wan::show_devices(options.processes);
                                  job = wan::plan(options, ranks);
                                  if (!options.noise.empty()) wan::first_latents(*job, 0);
                                  wan::check_memory(*job, {.processes = place.local_size,
                                                           .threads = static_cast<int>(options.local_ranks)});
                                }),
                                options.origins);
  const auto device = wan::device_at(place, job ? job->device : at::kCPU);
  wan::SharedTransformer transformer([&] { return wan::load_transformer(*job, device); });
  wan::on_ranks(place,
                {.local_ranks = options.local_ranks,
                 .timeout = options.timeout,
                 .on_cuda = job ? device.is_cuda() : is_on_cuda(options),
                 .failure = failure,
                 .told = job ? wan::described(*job, WANPAR_VERSION) : ""},
                [&](const wanpar::Communicator& world) {
                  wan::traced(world, options.trace, [&](const wanpar::Communicator& ranks) {
                    wan::generate(ranks, *job, transformer, device, std::cerr, std::cout);
                  });
                });
}

}  // namespace

int main(int argc, char** argv) {
  return wan::status_of("wan_t2v", [&](const wanpar::Place& place) {
    wan::Options options;
    const auto failure = wan::failure_of([&] {
      options = wan::parse_options({argv + 1, argv + argc});
      if (!options.serve.empty()) wan::serve::body_of(options.given);
    });
    if (options.answer)
      fmt::print("{}", *options.answer);
    else if (failure.empty() && !options.serve.empty())
      wan::serve::make_at(options.serve, options.given,
                          {options.save_file, options.contact_sheet, options.save_tensors}, std::cerr,
                          std::cout);
    else
      run(options, place, failure);
  });
}
