#include "wanrun/environment.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <system_error>

namespace wanrun {
namespace {

/// A launcher inside of another one (an sbatch script, a job of mpirun) is the one that counts.
bool is_of_another_launcher(std::string_view variable) {
  constexpr std::array<std::string_view, 7> kBegins = {
      "OMPI_", "PMIX_", "PMI_", "SLURM_STEP_", "MPI_LOCAL", "TORCHELASTIC_", "SLURM_PROCID"};
  return std::any_of(kBegins.begin(), kBegins.end(), [&](auto begin) { return variable.starts_with(begin); });
}

int cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace

int free_port() {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t size = sizeof address;
  auto* where = reinterpret_cast<sockaddr*>(&address);
  const bool found =
      listener >= 0 && ::bind(listener, where, size) == 0 && ::getsockname(listener, where, &size) == 0;
  const int error = errno;
  if (listener >= 0) ::close(listener);
  if (!found) throw std::system_error(error, std::generic_category(), "no free port");
  return ntohs(address.sin_port);
}

std::vector<std::string> environment_of(const CommandLine& line, int local_rank, int port) {
  std::vector<std::pair<std::string, std::string>> own{
      {"RANK", std::to_string(line.host * line.ranks + local_rank)},
      {"LOCAL_RANK", std::to_string(local_rank)},
      {"WORLD_SIZE", std::to_string(line.hosts * line.ranks)},
      {"LOCAL_WORLD_SIZE", std::to_string(line.ranks)},
      {"GROUP_RANK", std::to_string(line.host)},
      {"WANPAR_LAUNCHER", "wanrun"},
      {"MASTER_ADDR", line.master_addr},
      {"MASTER_PORT", std::to_string(port)},
  };
  if (!line.gpus.empty())
    own.emplace_back("CUDA_VISIBLE_DEVICES", fmt::format("{}", fmt::join(line.gpus, ",")));
  if (!line.backend.empty()) own.emplace_back("WANPAR_BACKEND", line.backend);
  if (!std::getenv("OMP_NUM_THREADS"))
    own.emplace_back("OMP_NUM_THREADS", std::to_string(std::max(1, cores() / line.ranks)));

  std::vector<std::string> all;
  for (char** item = environ; *item; ++item) {
    const std::string_view variable(*item);
    const auto name = variable.substr(0, variable.find('='));
    const bool is_own = std::any_of(own.begin(), own.end(), [&](auto& one) { return one.first == name; });
    if (!is_own && !is_of_another_launcher(name)) all.emplace_back(variable);
  }
  for (auto& [name, value] : own) all.push_back(name + "=" + value);
  return all;
}

}  // namespace wanrun
