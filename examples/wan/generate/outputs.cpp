#include "wan/generate/outputs.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/files/mapped_file.hpp>
#include <wanpar/extend/files/part_file.hpp>
#include <wanpar/files/safetensors.hpp>

#include "wan/io/png.hpp"
#include "wan/io/video.hpp"

namespace wan {
namespace {

namespace fs = std::filesystem;

std::string named_after(const Job& job, const std::string& text) {
  auto length = std::min<size_t>(text.size(), 50);
  while (length < text.size() && (text[length] & 0xC0) == 0x80) --length;  // not inside a UTF-8 character
  auto prompt = text.substr(0, length);
  for (auto& c : prompt)
    if (c == ' ' || c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '_';
  const auto seconds = std::time(nullptr);
  const auto now = *std::localtime(&seconds);
  return fmt::format("{}_{}x{}_{}_{}_{}_{:%Y%m%d_%H%M%S}.mp4", job.options.task.value_or("t2v"),
                     job.size.width, job.size.height, job.degrees.ulysses, job.degrees.ring, prompt, now);
}

/// The file, or if it exists, the first of file_2, file_3, … that does not: another run may have created it
/// in the same second.
fs::path unused(const fs::path& file) {
  auto name = file;
  for (int number = 2; wanpar::is_there(name); ++number)
    name = fmt::format("{}_{}{}", file.stem().string(), number, file.extension().string());
  return name;
}

std::vector<fs::path> files_of(const Outputs& outputs) {
  std::vector<fs::path> files;
  for (const auto& file : {outputs.video, outputs.contact_sheet, outputs.tensors})
    if (!file.empty()) files.push_back(file);
  return files;
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
    outputs.push_back({o.save_file.empty() ? unused(file(video)) : file(video), file(o.contact_sheet),
                       file(o.save_tensors)});
  }
  return outputs;
}

void check_apart(const Job& job, const std::vector<Outputs>& outputs) {
  std::map<fs::path, std::string> taken;
  const auto config = job.options.given.find("config");
  for (const auto& [file, what] :
       {std::pair(job.options.noise, "--noise"),
        {job.options.prompt_file, "--prompt_file"},
        {config == job.options.given.end() ? "" : fs::path(config->second), "--config"},
        {job.options.trace, "--trace"}}) {
    if (file.empty()) continue;
    const auto [other, is_new] = taken.emplace(wanpar::target_of(file), what);
    if (!is_new && file == job.options.trace)
      throw wanpar::Error(
          fmt::format("{} cannot be written: it is the file of {}; give each a name of its own",
                      file.string(), other->second));
  }
  const auto checkpoint = wanpar::target_of(job.options.ckpt_dir / ".");
  for (const auto& of_prompt : outputs)
    for (const auto& file : files_of(of_prompt)) {
      const auto target = wanpar::target_of(file);
      const auto [other, is_new] = taken.emplace(target, "another output");
      if (!is_new)
        throw wanpar::Error(
            fmt::format("{} cannot be written: it is the file of {}; give each a name of its own",
                        file.string(), other->second));
      const bool is_inside =
          std::mismatch(checkpoint.begin(), checkpoint.end(), target.begin(), target.end()).first ==
          checkpoint.end();
      if (is_inside && wanpar::is_there(target))
        throw wanpar::Error(fmt::format(
            "{} cannot be written: it is a file of the checkpoint; write elsewhere", file.string()));
    }
}

void check_writable(const Job& job, const Outputs& outputs) {
  const auto [width, height, frames] = job.size;
  wanpar::check_writable(outputs.video, static_cast<uintmax_t>(expected_video_bytes(frames, height, width)));
  for (auto& other : {outputs.contact_sheet, outputs.tensors})
    if (!other.empty()) wanpar::check_writable(other, 1 << 20);
}

void write(const Job& job, const Outputs& outputs, const std::string& prompt, uint64_t seed,
           const Result& result) {
  const auto& o = job.options;
  const auto settings = fmt::format(
      "seed {}, size {}x{}, frames {}, solver {}, steps {}, shift {}, guidance {}, {}, negative prompt: {}",
      seed, job.size.width, job.size.height, job.size.frames, o.sample_solver, o.sample_steps, job.shift,
      o.sample_guide_scale, describe(job.degrees), o.negative_prompt);
  std::vector<wanpar::PartFile> files;
  write_video(files.emplace_back(outputs.video), result.frames,
              {.fps = o.fps, .metadata = {{"title", prompt}, {"comment", settings}}});
  if (!outputs.contact_sheet.empty())
    write_png(files.emplace_back(outputs.contact_sheet), contact_sheet(result.frames));
  if (!outputs.tensors.empty())
    wanpar::write_safetensors(
        files.emplace_back(outputs.tensors),
        {{"text_embeds", result.texts.cpu()}, {"latents", result.latents.cpu()}, {"frames", result.frames}});
  wanpar::commit_all(std::move(files));
}

}  // namespace wan
