// Two devices that say what tests/launch/wan_top.py expects, and a third that fell off the bus. The process
// FAKE_NVML_PROCESS holds memory of the second one. FAKE_NVML_REFUSES makes it refuse to begin.
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kOk = 0, kNotSupported = 3, kDriverNotLoaded = 9, kGpuIsLost = 15;

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

unsigned number_of(void* device) { return static_cast<unsigned>(reinterpret_cast<size_t>(device)) - 1; }

}  // namespace

extern "C" {

int nvmlInit_v2() { return std::getenv("FAKE_NVML_REFUSES") ? kDriverNotLoaded : kOk; }
int nvmlShutdown() { return kOk; }
const char* nvmlErrorString(int status) {
  return status == kDriverNotLoaded ? "Driver Not Loaded"
         : status == kGpuIsLost     ? "GPU is lost"
                                    : "Unknown Error";
}
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 3;
  return kOk;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = reinterpret_cast<void*>(static_cast<size_t>(index) + 1);
  return index < 2 ? kOk : kGpuIsLost;
}
int nvmlDeviceGetName(void* device, char* name, unsigned length) {
  std::strncpy(name, number_of(device) == 0 ? "Fake H100" : "Fake T4", length);
  return kOk;
}
int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
  const unsigned long long gigabyte = 1ull << 30;
  *memory = {80 * gigabyte, (79 - number_of(device)) * gigabyte, (1 + number_of(device)) * gigabyte};
  return kOk;
}
int nvmlDeviceGetUtilizationRates(void* device, Utilization* used) {
  *used = {75 + number_of(device), 10};
  return kOk;
}
int nvmlDeviceGetTemperature(void* device, int sensor, unsigned* degrees) {
  *degrees = 60 + number_of(device);
  return sensor == 0 ? kOk : kNotSupported;
}
int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) {
  *milliwatts = 350'500;
  return number_of(device) == 0 ? kOk : kNotSupported;
}
int nvmlDeviceGetEnforcedPowerLimit(void* device, unsigned* milliwatts) {
  *milliwatts = 700'000;
  return number_of(device) == 0 ? kOk : kNotSupported;
}
int nvmlDeviceGetClockInfo(void* device, int type, unsigned* megahertz) {
  *megahertz = 1'000 + number_of(device);
  return type == 1 ? kOk : kNotSupported;
}
int nvmlDeviceGetMaxClockInfo(void*, int type, unsigned* megahertz) {
  *megahertz = 1'980;
  return type == 1 ? kOk : kNotSupported;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void* device, unsigned long long* reasons) {
  *reasons = number_of(device) == 0 ? 0x4 | 0x40 : 0x1;  // power and heat; nothing to do
  return kOk;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void* device, unsigned* count, Process* processes) {
  const char* process = std::getenv("FAKE_NVML_PROCESS");
  const unsigned room = *count;
  *count = process && number_of(device) == 1 ? 1 : 0;
  if (*count > room) return 7;
  if (*count > 0) processes[0] = {static_cast<unsigned>(std::atoi(process)), 512ull << 20, 0, 0};
  return kOk;
}
}
