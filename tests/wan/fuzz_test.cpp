#include <doctest/doctest.h>

#include <fstream>
#include <iterator>

#include "fuzz/targets.hpp"

namespace fuzz_test {

TEST_CASE(
    "what fuzzers and people have found is read, or refused by an Error, and so is each with bytes changed") {
  using Target = void (*)(std::string_view);
  const std::pair<const char*, Target> targets[] = {{"safetensors", wan_fuzz::safetensors},
                                                    {"pickle", wan_fuzz::pickle},
                                                    {"zip", wan_fuzz::zip},
                                                    {"config", wan_fuzz::config},
                                                    {"tokenizer", wan_fuzz::tokenizer}};
  for (const auto& [name, target] : targets) {
    int files = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator(std::filesystem::path(TEST_DATA "/fuzz") / name)) {
      CAPTURE(entry.path());
      std::ifstream stream(entry.path(), std::ios::binary);
      std::string bytes{std::istreambuf_iterator<char>(stream), {}};
      target(bytes);
      ++files;
      uint32_t dice = 1;
      for (int i = 0; i < 40; ++i) {  // a few of the ways that a fuzzer goes
        auto changed = bytes;
        dice = dice * 1664525 + 1013904223;
        changed[(dice >> 8) % changed.size()] ^= static_cast<char>(1 << (dice % 8));
        if (i % 4 == 0) changed.resize((dice >> 4) % changed.size());
        target(changed);
      }
    }
    CHECK(files > 0);
  }
}

}  // namespace fuzz_test
