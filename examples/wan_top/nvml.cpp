#include "wan_top/nvml.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <stdexcept>
#include <utility>

namespace wan_top {
// As NVML's interface has them.
namespace nvml {

using Handle = void*;
struct Memory {
  unsigned long long total, free, used;
};
struct Utilization {
  unsigned gpu, memory;
};
struct Process {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance, compute_instance;
};

}  // namespace nvml

namespace {

constexpr int kSuccess = 0, kGpuTemperature = 0, kStreamingClock = 1;

/// Why clocks are lower than they could be; that a GPU has nothing to do is no reason to worry.
constexpr std::array<std::pair<unsigned long long, const char*>, 6> kReasons{{
    {0x04, "power cap"},
    {0x08, "hardware slowdown"},
    {0x10, "sync boost"},
    {0x20, "temperature"},
    {0x40, "temperature (hardware)"},
    {0x80, "power brake"},
}};

}  // namespace

struct Nvml::Functions {
  explicit Functions(void* library) : library(library) {
    find(init, "nvmlInit_v2");
    find(shutdown, "nvmlShutdown");
    find(error, "nvmlErrorString");
    find(count, "nvmlDeviceGetCount_v2");
    find(handle, "nvmlDeviceGetHandleByIndex_v2");
    find(name, "nvmlDeviceGetName");
    find(memory, "nvmlDeviceGetMemoryInfo");
    find(utilization, "nvmlDeviceGetUtilizationRates");
    find(temperature, "nvmlDeviceGetTemperature");
    find(power, "nvmlDeviceGetPowerUsage");
    find(power_limit, "nvmlDeviceGetEnforcedPowerLimit");
    find(clock, "nvmlDeviceGetClockInfo");
    find(clock_limit, "nvmlDeviceGetMaxClockInfo");
    find(reasons, "nvmlDeviceGetCurrentClocksThrottleReasons");
    find(processes, "nvmlDeviceGetComputeRunningProcesses_v3");
    if (!init || !shutdown || !count || !handle)
      throw std::runtime_error("libnvidia-ml.so.1 is not NVML: it has not the functions that begin it");
  }
  ~Functions() { ::dlclose(library); }
  Functions(const Functions&) = delete;
  Functions& operator=(const Functions&) = delete;

  template <class Function>
  void find(Function*& function, const char* called) {
    function = reinterpret_cast<Function*>(::dlsym(library, called));
  }
  std::string why(int status) const { return error ? error(status) : fmt::format("NVML's error {}", status); }

  void* library;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  const char* (*error)(int) = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*handle)(unsigned, nvml::Handle*) = nullptr;
  int (*name)(nvml::Handle, char*, unsigned) = nullptr;
  int (*memory)(nvml::Handle, nvml::Memory*) = nullptr;
  int (*utilization)(nvml::Handle, nvml::Utilization*) = nullptr;
  int (*temperature)(nvml::Handle, int, unsigned*) = nullptr;
  int (*power)(nvml::Handle, unsigned*) = nullptr;
  int (*power_limit)(nvml::Handle, unsigned*) = nullptr;
  int (*clock)(nvml::Handle, int, unsigned*) = nullptr;
  int (*clock_limit)(nvml::Handle, int, unsigned*) = nullptr;
  int (*reasons)(nvml::Handle, unsigned long long*) = nullptr;
  int (*processes)(nvml::Handle, unsigned*, nvml::Process*) = nullptr;
};

std::unique_ptr<Nvml> Nvml::open() {
  auto* library = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return nullptr;
  auto functions = std::make_unique<Functions>(library);
  if (const int status = functions->init(); status != kSuccess)
    throw std::runtime_error(fmt::format("NVML cannot begin: {}", functions->why(status)));
  return std::unique_ptr<Nvml>(new Nvml(std::move(functions)));
}

Nvml::Nvml(std::unique_ptr<Functions> functions) : call_(std::move(functions)) {}
Nvml::~Nvml() { call_->shutdown(); }

std::vector<Device> Nvml::devices() const {
  unsigned count = 0;
  if (const int status = call_->count(&count); status != kSuccess)
    throw std::runtime_error(fmt::format("NVML does not count its devices: {}", call_->why(status)));

  std::vector<Device> devices;
  for (unsigned index = 0; index < count; ++index) {
    auto& device = devices.emplace_back();
    device.index = static_cast<int>(index);
    nvml::Handle handle = nullptr;
    if (const int status = call_->handle(index, &handle); status != kSuccess) {
      device.fault = call_->why(status);
      continue;
    }
    // Not every device says everything; what it refuses, or has no function for, is absent.
    const auto ask = [&](auto* function, auto&&... arguments) {
      return function && function(handle, arguments...) == kSuccess;
    };
    std::array<char, 96> name{};
    if (ask(call_->name, name.data(), static_cast<unsigned>(name.size()))) device.name = name.data();
    if (nvml::Memory memory{}; ask(call_->memory, &memory)) {
      device.memory_used = memory.used;
      device.memory_total = memory.total;
    }
    if (nvml::Utilization used{}; ask(call_->utilization, &used)) device.utilisation = used.gpu;
    unsigned number = 0;
    if (ask(call_->temperature, kGpuTemperature, &number)) device.temperature = number;
    if (ask(call_->power, &number)) device.power = number / 1000.0;
    if (ask(call_->power_limit, &number)) device.power_limit = number / 1000.0;
    if (ask(call_->clock, kStreamingClock, &number)) device.clock = number;
    if (ask(call_->clock_limit, kStreamingClock, &number)) device.clock_limit = number;
    if (unsigned long long reasons = 0; ask(call_->reasons, &reasons))
      for (const auto& [bit, reason] : kReasons)
        if (reasons & bit) device.throttled_by.emplace_back(reason);
    std::array<nvml::Process, 256> processes{};
    auto found = static_cast<unsigned>(processes.size());
    if (ask(call_->processes, &found, processes.data()))
      for (unsigned i = 0; i < found; ++i)
        device.memory_of_processes[static_cast<int>(processes[i].pid)] = processes[i].used;
  }
  return devices;
}

}  // namespace wan_top
