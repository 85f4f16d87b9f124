#include "fuzz/targets.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  wan_fuzz::config({reinterpret_cast<const char*>(bytes), size});
  return 0;
}
