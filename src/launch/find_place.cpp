// What each launcher tells its processes.
#include <fmt/format.h>

#include <cstdio>
#include <sstream>
#include <wanpar/launch/connect.hpp>

#include "core/hash.hpp"
#include "launch/environment.hpp"

namespace wanpar {
namespace {

struct Launcher {
  bool (*has_started_us)();
  Place (*place)();
  std::string (*job)();  ///< what it calls the run, the same on all ranks; empty where it has no name
};

bool has(const char* name) { return environment(name).has_value(); }

/// And wanrun, which says so, and whoever sets the variables by hand.
Place torchrun() {
  Place place{.rank = number("RANK"), .world_size = number("WORLD_SIZE")};
  place.source = environment("WANPAR_LAUNCHER").value_or("torchrun");
  place.local_rank = number("LOCAL_RANK", place.rank);
  place.local_size = number("LOCAL_WORLD_SIZE", place.world_size);
  place.store_is_there = environment("TORCHELASTIC_USE_AGENT_STORE") == "True";
  place.run = environment("TORCHELASTIC_RUN_ID").value_or("") + "." +
              environment("TORCHELASTIC_RESTART_COUNT").value_or("0");
  return place;
}

Place open_mpi() {
  Place place{.rank = number("OMPI_COMM_WORLD_RANK"),
              .world_size = number("OMPI_COMM_WORLD_SIZE"),
              .local_rank = number("OMPI_COMM_WORLD_LOCAL_RANK"),
              .local_size = number("OMPI_COMM_WORLD_LOCAL_SIZE"),
              .source = "Open MPI"};
  if (place.local_size < place.world_size && !has("MASTER_ADDR"))
    throw UsageError(
        "mpirun started ranks on several hosts: set MASTER_ADDR to the host of rank 0 (mpirun -x "
        "MASTER_ADDR=…)");
  return place;
}

/// "2(x3),1" is 2, 2, 2, 1 tasks.
int tasks_of_node(const std::string& text, int node) {
  std::istringstream items(text);
  for (std::string item; std::getline(items, item, ',');) {
    int tasks = 0, times = 1;
    if (std::sscanf(item.c_str(), "%d(x%d)", &tasks, &times) < 1) break;
    if ((node -= times) < 0) return tasks;
  }
  throw UsageError(fmt::format(
      "SLURM_STEP_TASKS_PER_NODE is '{}', which does not say how many tasks this node has", text));
}

/// The first of "gpu[03-05,7],cpu1" is gpu03.
std::string first_node(const std::string& list) {
  const auto bracket = list.find('['), comma = list.find(',');
  if (bracket == list.npos || comma < bracket) return list.substr(0, comma);
  const auto end = list.find_first_of("-,]", bracket);
  return list.substr(0, bracket) + list.substr(bracket + 1, end - bracket - 1);
}

Place slurm() {
  Place place{.rank = number("SLURM_PROCID"),
              .world_size = number("SLURM_STEP_NUM_TASKS"),
              .local_rank = number("SLURM_LOCALID"),
              .source = "Slurm"};
  place.local_size =
      tasks_of_node(environment("SLURM_STEP_TASKS_PER_NODE").value_or(""), number("SLURM_NODEID", 0));
  if (place.local_size < place.world_size)
    place.master_addr = first_node(environment("SLURM_STEP_NODELIST").value_or(place.master_addr));
  return place;
}

Place mpich() {
  Place place{.rank = number("PMI_RANK"), .world_size = number("PMI_SIZE"), .source = "MPICH"};
  place.local_rank = number("MPI_LOCALRANKID", place.rank);
  place.local_size = number("MPI_LOCALNRANKS", place.world_size);
  return place;
}

/// The first that has started this process counts: launchers start others inside of themselves.
constexpr Launcher kLaunchers[] = {
    {[] { return has("RANK") || has("WORLD_SIZE"); }, torchrun, [] { return std::string(); }},
    {[] { return has("OMPI_COMM_WORLD_RANK"); }, open_mpi,
     [] { return environment("PMIX_NAMESPACE").value_or(""); }},
    {[] { return has("SLURM_PROCID") && has("SLURM_STEP_NUM_TASKS"); }, slurm,
     [] {
       return environment("SLURM_JOB_ID").value_or("") + "." + environment("SLURM_STEP_ID").value_or("");
     }},
    {[] { return has("PMI_RANK") && has("PMI_SIZE"); }, mpich,
     [] { return environment("PMI_PORT").value_or(""); }},
};

/// Two runs at once on a host do not meet on one port. Below those that systems deal out themselves.
int port_of(const std::string& job) {
  constexpr uint64_t kFirst = 20000, kCount = 9000;
  return static_cast<int>(kFirst + static_cast<uint64_t>(stable_hash(job)) % kCount);
}

}  // namespace

Place find_place() {
  Place place;
  for (auto& launcher : kLaunchers) {
    if (!launcher.has_started_us()) continue;
    place = launcher.place();
    if (const auto job = launcher.job(); !job.empty()) place.master_port = port_of(job);
    break;
  }
  place.master_addr = environment("MASTER_ADDR").value_or(place.master_addr);
  place.master_port = number("MASTER_PORT", place.master_port);
  return place;
}

}  // namespace wanpar
