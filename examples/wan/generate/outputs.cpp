#include "wan/generate/outputs.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "wan/io/part_file.hpp"
#include "wan/io/png.hpp"
#include "wan/io/video.hpp"

namespace wan {
namespace {

namespace fs = std::filesystem;

std::string named_after(const Job& job, const std::string& text) {
  auto length = std::min<size_t>(text.size(), 50);
  while (length < text.size() && (text[length] & 0xC0) == 0x80) --length;  // not in the middle of a letter
  auto prompt = text.substr(0, length);
  for (auto& c : prompt)
    if (c == ' ' || c == '/' || c == '\n') c = '_';
  const auto seconds = std::time(nullptr);
  const auto now = *std::localtime(&seconds);
  return fmt::format("{}_{}x{}_{}_{}_{}_{:%Y%m%d_%H%M%S}.mp4", job.options.task.value_or("t2v"),
                     job.size.width, job.size.height, job.degrees.ulysses, job.degrees.ring, prompt, now);
}

/// out.mp4 of prompt 7 out of 12: out_07.mp4.
fs::path numbered(const fs::path& file, size_t number, size_t numbers) {
  if (file.empty()) return file;
  const auto digits = std::to_string(numbers).size();
  const auto name =
      fmt::format("{}_{:0{}}{}", file.stem().string(), number, digits, file.extension().string());
  return file.parent_path() / name;
}

}  // namespace

std::vector<Outputs> outputs_of(const Job& job) {
  const auto& o = job.options;
  std::vector<Outputs> outputs;
  for (size_t i = 0; i < job.prompts.size(); ++i) {
    const auto file = [&](const fs::path& asked) {
      return o.prompt_file.empty() ? asked : numbered(asked, i + 1, job.prompts.size());
    };
    const auto video = o.save_file.empty() ? fs::path(named_after(job, job.prompts[i])) : o.save_file;
    outputs.push_back({file(video), file(o.contact_sheet), file(o.save_tensors)});
  }
  return outputs;
}

void check_writable(const Job& job, const Outputs& outputs) {
  const auto [width, height, frames] = job.size;
  check_writable(outputs.video, static_cast<uintmax_t>(expected_video_bytes(frames, height, width)));
  for (auto& other : {outputs.contact_sheet, outputs.tensors})
    if (!other.empty()) check_writable(other, 1 << 20);
}

void write(const Job& job, const Outputs& outputs, const std::string& prompt, uint64_t seed,
           const Result& result) {
  const auto& o = job.options;
  const auto settings = fmt::format(
      "seed {}, size {}x{}, frames {}, solver {}, steps {}, shift {}, guidance {}, {}, negative prompt: {}",
      seed, job.size.width, job.size.height, job.size.frames, o.sample_solver, o.sample_steps, job.shift,
      o.sample_guide_scale, describe(job.degrees), o.negative_prompt);
  write_video(outputs.video, result.frames,
              {.fps = o.fps, .metadata = {{"title", prompt}, {"comment", settings}}});
  if (!outputs.contact_sheet.empty()) write_png(outputs.contact_sheet, contact_sheet(result.frames));
  if (!outputs.tensors.empty())
    write_safetensors(
        outputs.tensors,
        {{"text_embeds", result.texts.cpu()}, {"latents", result.latents.cpu()}, {"frames", result.frames}});
}

}  // namespace wan
