// How good a trained model is: captions of unseen scenes go out, and what wan_t2v made of them
// (--save_tensors) comes in; the judge itself and a VAE are measured on clips that are drawn.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <exception>
#include <fstream>
#include <optional>
#include <wanpar/core/error.hpp>
#include <wanpar/files/safetensors.hpp>

#include "train/judge.hpp"
#include "train/vae_task.hpp"
#include "wan/io/checkpoint.hpp"
#include "wan/io/load.hpp"
#include "wan/vae/decoder.hpp"
#include "wan/vae/encoder.hpp"

namespace {

using namespace wan::train;

constexpr const char* kUsage =
    "usage: wan_judge captions N [SEED]      writes N captions of scenes that no training has seen\n"
    "       wan_judge clips CAPTIONS FILE... says which clips show what their captions say: a caption a "
    "line,\n"
    "                                        a file of wan_t2v's --save_tensors for each\n"
    "       wan_judge drawn N [SEED]         the same of N clips that are drawn, of which all are right\n"
    "       wan_judge vae CHECKPOINT N [SEED] what is left of N drawn clips, encoded and decoded\n";

/// A scene that no training has seen: of the training's world, 0, those far behind it.
Scene unseen(uint64_t seed, uint64_t index) { return scene_of(seed, kUnseen + index); }

at::Tensor clip_of(const Scene& scene) { return draw({scene}, {whole_view(128, 17)}, at::kCPU); }

at::Tensor frames_in(const std::string& file) {
  const auto tensors = wanpar::read_safetensors(file);
  const auto frames = tensors.find("frames");
  if (frames == tensors.end()) throw wanpar::Error(file + ": there is no tensor 'frames'");
  return frames->second;
}

/// Judges clips one after the other, and says of which ones they show something else.
class Bench {
 public:
  void judge(const std::string& name, const std::string& caption, const at::Tensor& frames) {
    const auto said = said_in(caption), seen = seen_in(frames);
    const bool is_right = seen == said;
    ++clips_, right_ += is_right ? 1 : 0;
    if (said.size() == 1) ++single_, single_right_ += is_right ? 1 : 0;
    if (!is_right) fmt::print("{}: {}; asked for was: {}\n", name, describe(seen), caption);
  }

  void conclude() const {
    fmt::print("{} of {} clips are right, and {} of {} with one object\n", right_, clips_, single_right_,
               single_);
  }

 private:
  uint64_t clips_ = 0, right_ = 0, single_ = 0, single_right_ = 0;
};

void write_captions(uint64_t count, uint64_t seed) {
  for (uint64_t i = 0; i < count; ++i) fmt::print("{}\n", unseen(seed, i).caption);
}

void judge_clips(const std::string& captions, const std::vector<std::string>& files) {
  std::ifstream in(captions);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  if (lines.size() != files.size())
    throw wanpar::Error(
        fmt::format("{} has {} captions, but there are {} files", captions, lines.size(), files.size()));
  Bench bench;
  for (size_t i = 0; i < files.size(); ++i) bench.judge(files[i], lines[i], frames_in(files[i]));
  bench.conclude();
}

void judge_drawn(uint64_t count, uint64_t seed) {
  Bench bench;
  for (uint64_t i = 0; i < count; ++i) {
    const auto scene = unseen(seed, i);
    bench.judge(fmt::format("scene {}", i), scene.caption, clip_of(scene)[0]);
  }
  bench.conclude();
}

void judge_vae(const std::string& folder, uint64_t count, uint64_t seed) {
  const at::NoGradGuard no_grad;
  const wan::Checkpoint checkpoint(folder);
  wan::VaeEncoder encoder(checkpoint.vae_config());
  wan::load(*encoder, checkpoint.vae(), {.ignore_prefixes = {"decoder.", "conv2."}});
  wan::Vae decoder(checkpoint.vae_config());
  wan::load(*decoder, checkpoint.vae(), {.ignore_prefixes = wan::kEncoderPrefixes});
  Bench bench;
  double sum = 0, least = 1000;
  for (uint64_t i = 0; i < count; ++i) {
    const auto scene = unseen(seed, i);
    const auto clip = clip_of(scene), copy = decoder->decode(encoder->encode(clip));
    const auto quality = psnr(copy, clip).item<double>();
    sum += quality, least = std::min(least, quality);
    bench.judge(fmt::format("scene {}", i), scene.caption, copy[0]);
  }
  fmt::print("PSNR {:.2f} dB in the mean of {} clips, {:.2f} dB the least\n",
             sum / static_cast<double>(count), count, least);
  bench.conclude();
}

/// The number that a word is, in full; nothing where it is none.
std::optional<uint64_t> number_in(const std::string& word) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return value;
}

/// Does what the words ask for; false where they ask for nothing that there is.
bool run(const std::vector<std::string>& words) {
  const auto count_and_seed = [&](size_t first) -> std::optional<std::pair<uint64_t, uint64_t>> {
    if (words.size() <= first || words.size() > first + 2) return std::nullopt;
    const auto count = number_in(words[first]);
    const auto seed = words.size() > first + 1 ? number_in(words[first + 1]) : 0;
    if (!count || *count == 0 || !seed) return std::nullopt;
    return std::pair(*count, *seed);
  };
  const auto what = words.empty() ? "" : words[0];
  if (what == "clips" && words.size() > 2) {
    judge_clips(words[1], {words.begin() + 2, words.end()});
    return true;
  }
  const auto numbers = count_and_seed(what == "vae" ? 2 : 1);
  if (!numbers) return false;
  const auto [count, seed] = *numbers;
  if (what == "captions")
    write_captions(count, seed);
  else if (what == "drawn")
    judge_drawn(count, seed);
  else if (what == "vae")
    judge_vae(words[1], count, seed);
  else
    return false;
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (run({argv + 1, argv + argc})) return 0;
    fmt::print(stderr, "{}", kUsage);
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "wan_judge: {}\n", error.what());
    return 1;
  }
}
