#include "wan/cli/device.hpp"

#include "wan/cli/flag.hpp"

namespace wan {

void add_device_flags(boost::program_options::options_description& flags, const std::string& by_default) {
  const auto what = "cpu or cuda (default: " + by_default + ")";
  flags.add_options()                                    //
      ("device", one_of({"cpu", "cuda"}), what.c_str())  //
      ("backend", one_of({"gloo", "nccl"}), "gloo (cpu) or nccl (cuda); one of the two flags is enough");
}

std::optional<std::string> read_device(const Words& words) {
  const auto device = words.one_of("device");
  const auto backend = words.one_of("backend");
  if (!backend) return device;
  const std::string of_backend = *backend == "nccl" ? "cuda" : "cpu";
  if (device.value_or(of_backend) != of_backend)
    refuse("--backend {} moves tensors of {}, but --device is {}; leave one of them out", *backend,
           of_backend == "cuda" ? "CUDA devices" : "the CPU", *device);
  return of_backend;
}

}  // namespace wan
