// Videos for who asks by HTTP: a page and an API on rank 0, while all ranks wait for work; started like
// wan_t2v. The weights are loaded once.
#include <ATen/Context.h>
#include <fmt/format.h>

#include <atomic>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>

#include "wan/cli/before_main.hpp"
#include "wan/generate/needs.hpp"
#include "wan/launch/program.hpp"
#include "wan/serve/http_frontend.hpp"
#include "wan/serve/options.hpp"
#include "wan/serve/rank_service.hpp"
#include "wan/serve/signals.hpp"

namespace {

using namespace wan::serve;

[[gnu::used, gnu::section(".preinit_array")]] void (*const kBeforeMain)(int, char**,
                                                                        char**) = wan::before_main;

bool is_kept(const ServeOptions& options, int64_t ranks, at::DeviceType device) {
  return !options.offload_model.value_or(ranks == 1 && device == at::kCUDA);
}

int64_t bytes_of(const wan::Weights& weights) {
  int64_t bytes = 0;
  for (const auto& [name, entry] : weights) bytes += static_cast<int64_t>(entry.tensor.nbytes());
  return bytes;
}

/// The bytes of transformer and text encoder that this process loads; the VAE is small beside them.
int64_t bytes_to_load(const wan::Job& job, int processes) {
  const auto stages = processes > 1 ? job.degrees.pipeline : 1;
  return bytes_of(job.checkpoint.transformer()) / (job.options.dit_fsdp ? processes : stages) +
         bytes_of(job.checkpoint.text_encoder()) / (job.options.t5_fsdp ? processes : 1);
}

/// Serves until a signal comes; which one.
int serve(const ServeOptions& options, const wanpar::Place& place, std::string failure) {
  std::unique_ptr<HttpFrontend> front;
  std::shared_ptr<const wan::Source> source;
  std::optional<wan::Job> job;
  std::unique_ptr<RankService> service;
  std::mutex mutex;
  const auto stop = [&](int signal) {
    std::lock_guard lock(mutex);
    service ? service->stop(signal) : end_by(signal);
  };
  const auto end_at_once = [&](int signal) {
    if (front)
      front->jobs().abandon({"failed", "server_shutdown", "the server was stopped while this job ran"});
    end_by(signal);
  };
  const Signals signals(stop, end_at_once);
  int64_t ranks = 1;
  if (failure.empty())
    failure = wan::failure_of([&] {
      ranks = wan::ranks_of(place, options.machine.local_ranks);
      if (place.rank == 0) {
        front = std::make_unique<HttpFrontend>(options, WANPAR_VERSION);
        fmt::print("{}\n", front->url());
        std::fflush(stdout);
      }
      source = std::make_shared<const wan::Source>(options.machine.ckpt_dir);
      job = wan::plan(*source, options.machine, static_cast<int>(ranks));
      const wan::HostShare share{.processes = place.local_size,
                                 .threads = static_cast<int>(options.machine.local_ranks)};
      wan::check_memory(*job, share);
      if (!front) return;
      front->planner().open(source, ranks, share);
      job->loaded = [&status = front->status(), done = std::make_shared<std::atomic<int64_t>>(0),
                     all = bytes_to_load(*job, place.world_size)](size_t bytes) {
        *done += static_cast<int64_t>(bytes);
        status.loading(static_cast<double>(*done) / static_cast<double>(all), "weights");
      };
    });
  const auto device = wan::device_at(place, job ? job->device : at::kCPU);
  if (job) {
    std::lock_guard lock(mutex);
    service = std::make_unique<RankService>(
        RankServiceOptions{
            .place = place, .ranks = ranks, .are_networks_kept = is_kept(options, ranks, job->device)},
        front.get(), source, *job, device);
  }
  std::function<void(const wanpar::PeerLostError&)> on_lost;
  if (service) on_lost = [&](const wanpar::PeerLostError& error) { service->lose(error.what()); };
  wan::on_ranks(place,
                {.local_ranks = options.machine.local_ranks,
                 .timeout = options.machine.timeout,
                 .on_cuda = job ? device.is_cuda() : at::hasCUDA(),
                 .failure = failure,
                 .told = job ? wan::described(*job, WANPAR_VERSION) : "",
                 .on_lost = on_lost},
                [&](const wanpar::Communicator& world) { service->run(world); });
  if (front) front->close();
  return service->ended_by();
}

}  // namespace

int main(int argc, char** argv) {
  int signal = 0;
  const int status = wan::status_of("wan_serve", [&](const wanpar::Place& place) {
    ServeOptions options;
    const auto failure = wan::failure_of([&] { options = parse_serve_options({argv + 1, argv + argc}); });
    if (options.answer)
      fmt::print("{}", *options.answer);
    else
      signal = serve(options, place, failure);
  });
  if (signal != 0) end_by(signal);
  return status;
}
