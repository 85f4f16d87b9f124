// Whether clips show what they were asked for: prompts of unseen scenes go out, what wan_t2v made of them
// (--save_tensors) comes in.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <wanpar/core/error.hpp>
#include <wanpar/files/safetensors.hpp>

#include "train/judge.hpp"
#include "train/vae_task.hpp"

namespace {

using namespace wan::train;

constexpr const char* kUsage =
    "usage: wan_judge N                 (writes N captions of scenes that no training has seen)\n"
    "       wan_judge PROMPTS FILE...   (says which of the clips show what their prompts say: a prompt a\n"
    "                                    line, a file of wan_t2v's --save_tensors for each)\n";

void write_captions(uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) fmt::print("{}\n", scene_of(0, kUnseen + i).caption);
}

at::Tensor frames_in(const std::string& file) {
  const auto tensors = wanpar::read_safetensors(file);
  const auto frames = tensors.find("frames");
  if (frames == tensors.end()) throw wanpar::Error(file + ": there is no tensor 'frames'");
  return frames->second;
}

/// How many clips there are, and how many of them are right.
struct Count {
  int64_t clips = 0, right = 0;

  void add(bool is_right) { ++clips, right += is_right ? 1 : 0; }
};

void judge(const char* prompts, const std::vector<std::string>& files) {
  std::ifstream in(prompts);
  Count all, single;
  for (const auto& file : files) {
    std::string prompt;
    if (!std::getline(in, prompt))
      throw wanpar::Error(
          fmt::format("{} has {} prompts, but there are {} files", prompts, all.clips, files.size()));
    const auto said = said_in(prompt), seen = seen_in(frames_in(file));
    all.add(seen == said);
    if (said.size() == 1) single.add(seen == said);
    if (seen != said) fmt::print("{}: {}; asked for was: {}\n", file, describe(seen), prompt);
  }
  fmt::print("{} of {} clips are right, and {} of {} with one object\n", all.right, all.clips, single.right,
             single.clips);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string first = argc > 1 ? argv[1] : "";
  const bool is_count = argc == 2 && !first.empty() && first.size() < 7 &&
                        std::all_of(first.begin(), first.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (argc < 3 && !is_count) {
    fmt::print(stderr, "{}", kUsage);
    return 2;
  }
  try {
    if (is_count)
      write_captions(std::stoull(first));
    else
      judge(argv[1], {argv + 2, argv + argc});
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "wan_judge: {}\n", error.what());
    return 1;
  }
}
