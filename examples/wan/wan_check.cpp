// Whether this machine, this launcher and this checkpoint will do: a table of what was looked at, with a
// remedy for each line that is not well.
#include <fmt/format.h>

#include <atomic>
#include <boost/program_options.hpp>

#include "wan/cli/about.hpp"
#include "wan/cli/device.hpp"
#include "wan/cli/flag.hpp"
#include "wan/launch/program.hpp"
#include "wan/setup/host.hpp"
#include "wan/setup/model.hpp"
#include "wan/setup/ranks.hpp"
#include "wan/setup/report.hpp"

namespace {

using namespace wan::setup;

wan::About about() {
  boost::program_options::options_description all("Options");
  all.add_options()                                                                          //
      ("ckpt_dir", wan::text("DIR"), "a checkpoint to look at, without reading its values")  //
      ("local_ranks", wan::text("N", "1"), "ranks as threads of this process");
  wan::add_device_flags(all);
  all.add_options()                                                                    //
      ("timeout", wan::text("SECONDS", "20"), "how long a rank waits for the others")  //
      ("json", wan::switched(), "the findings as JSON");
  all.add(wan::about_flags());
  return {
      .program = "wan_check",
      .summary = "looks at machine, launcher, ranks and checkpoint before the work begins",
      .usage =
          "  wan_check                                      this process\n"
          "  wanrun -n 4 -- wan_check --ckpt_dir DIR        four ranks; so do torchrun, mpirun and srun\n\n"
          "The exit code is 1 where a line says FAIL, 2 for a wrong command line, else 0.\n",
      .flags = all};
}

struct Options {
  std::string ckpt_dir;
  int64_t local_ranks = 1;
  std::optional<std::string> device;
  double timeout = 20;
  bool is_json = false;
};

/// Whether all is well enough.
bool look(const wanpar::Place& place, const Options& options, const std::string& failure) {
  Findings mine = host(place, options.local_ranks, options.device == "cuda", WANPAR_VERSION);
  if (!options.ckpt_dir.empty())
    for (auto& one : checkpoint(options.ckpt_dir)) mine.push_back(one);
  const bool on_cuda = at::hasCUDA() && options.device.value_or("cuda") == "cuda";
  std::atomic<bool> is_well = true;
  const auto tell = [&](const Findings& all) {
    fmt::print("{}", options.is_json ? json(all) : table(all));
    is_well = worst_of(all) != State::fail;
  };
  bool have_met = false;
  try {
    wan::on_ranks(
        place,
        {.local_ranks = options.local_ranks,
         .timeout = options.timeout,
         .on_cuda = on_cuda,
         .failure = failure,
         .told = options.ckpt_dir},
        [&](const wanpar::Communicator& world) {
          have_met = true;
          auto found = mine;
          found.push_back(ok("ranks", fmt::format("all {} are here", world.size())));
          if (world.size() > 1)
            for (auto& one : ranks(world)) found.push_back(one);
          found.push_back(transformer(world, wan::device_at(place, on_cuda ? at::kCUDA : at::kCPU)));
          const auto all = gathered(world, found);
          if (world.rank() == 0)
            tell(all);
          else if (place.world_size > 1)
            is_well = worst_of(all) != State::fail;
        });
  } catch (const std::exception& error) {
    if (!failure.empty()) throw;
    mine.push_back(
        fail("ranks", error.what(),
             have_met ? "see what that rank says" : "start all ranks with the same launcher and settings"));
    if (place.rank == 0 || !have_met) tell(mine);
    is_well = false;
  }
  return is_well;
}

}  // namespace

int main(int argc, char** argv) {
  bool is_well = true;
  const int status = wan::status_of("wan_check", [&](const wanpar::Place& place) {
    Options options;
    bool is_done = false;
    const auto failure = wan::failure_of([&] {
      const wan::Words words({argv + 1, argv + argc}, about().flags, "wan_check");
      const auto answer = answer_of(words, about());
      if (answer) fmt::print("{}", *answer);
      is_done = answer.has_value();
      options.ckpt_dir = words.text("ckpt_dir");
      options.local_ranks = *words.count("local_ranks", wan::kLocalRanks);
      options.device = wan::read_device(words);
      options.timeout = *words.amount("timeout", wan::kTimeout);
      options.is_json = *words.truth("json");
      wan::ranks_of(place, options.local_ranks);
    });
    if (!is_done) is_well = look(place, options, failure);
  });
  return status == 0 && !is_well ? 1 : status;
}
