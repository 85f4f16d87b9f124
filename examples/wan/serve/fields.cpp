#include "wan/serve/fields.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <regex>
#include <set>

#include "wan/cli/nearest.hpp"
#include "wan/cli/usage_error.hpp"
#include "wan/serve/http/refusal.hpp"

namespace wan::serve {
namespace {

using Kind = Field::Kind;

constexpr size_t kLongestText = 8000;
constexpr double kLargestWhole = 9007199254740992;  // that a double has exactly

[[noreturn]] void refuse_value(const std::string& field, const std::string& sentence) {
  throw Refusal(http::status::bad_request, "invalid_value", sentence, field);
}

[[noreturn]] void refuse_kind(const std::string& field, const nlohmann::json& value, const char* wanted) {
  auto shown = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (shown.size() > 60) shown = shown.substr(0, 60) + "…";
  refuse_value(field, fmt::format("{} is {}; it must be {}", field, shown, wanted));
}

/// The value as a flag has it. A form's values are texts, whatever they stand for.
std::string text_of(const Field& field, const nlohmann::json& value) {
  switch (field.kind) {
    case Kind::text:
      if (!value.is_string()) refuse_kind(field.name, value, "a string");
      break;
    case Kind::count:
      if (value.is_number_float()) {
        const auto number = value.get<double>();
        if (std::abs(number) <= kLargestWhole && std::floor(number) == number)
          return std::to_string(static_cast<int64_t>(number));
      }
      if (value.is_number_unsigned()) return std::to_string(value.get<uint64_t>());
      if (value.is_number_integer()) return std::to_string(value.get<int64_t>());
      if (!value.is_string()) refuse_kind(field.name, value, "a whole number");
      break;
    case Kind::amount:
      if (value.is_number()) return fmt::format("{}", value.get<double>());
      if (!value.is_string()) refuse_kind(field.name, value, "a number");
      break;
    case Kind::truth:
    case Kind::toggle:
      if (value.is_boolean()) return value.get<bool>() ? "true" : "false";
      if (value != "true" && value != "false") refuse_kind(field.name, value, "true or false");
      break;
  }
  auto text = value.get<std::string>();
  if (text.size() > kLongestText)
    refuse_value(field.name,
                 fmt::format("{} has {} bytes; the most is {}", field.name, text.size(), kLongestText));
  if (text.find('\0') != std::string::npos)
    refuse_value(field.name, fmt::format("{} holds a zero byte; leave it out", field.name));
  return text;
}

const Field* field_named(const std::string& name) {
  const auto& all = fields();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Field& one) { return name == one.name; });
  return found == all.end() ? nullptr : &*found;
}

[[noreturn]] void refuse_unknown_field(const std::string& name) {
  std::vector<std::string> names = {"model", "seconds",      "width",       "height",
                                    "ranks", "save_tensors", "extra_params"};
  for (const auto& field : fields()) names.emplace_back(field.name);
  if (name == "guidance_scale_2" || name == "boundary_ratio")
    throw Refusal(http::status::bad_request, "unknown_field",
                  fmt::format("{} is of Wan2.2, and this is Wan2.1; leave it out", name), name);
  if (name == "input_reference" || name == "image" || name == "image_url")
    throw Refusal(http::status::bad_request, "unknown_field",
                  fmt::format("{} is of image to video, which is not there; leave it out", name), name);
  throw Refusal(http::status::bad_request, "unknown_field",
                fmt::format("'{}' is not a field of a video; did you mean '{}'?", name.substr(0, 100),
                            nearest(name.substr(0, 100), names)),
                name.substr(0, 100));
}

/// A number, or a text that is one.
double amount_in(const std::string& name, const nlohmann::json& value) {
  if (value.is_number()) return value.get<double>();
  try {
    size_t end = 0;
    const auto text = value.is_string() ? value.get<std::string>() : std::string();
    const auto number = std::stod(text, &end);
    if (end == text.size() && std::isfinite(number)) return number;
  } catch (const std::logic_error&) {
  }
  refuse_kind(name, value, "a number");
}

int64_t count_in(const std::string& name, const nlohmann::json& value, int64_t least, int64_t greatest) {
  const auto number = amount_in(name, value);
  if (std::floor(number) != number || number < static_cast<double>(least) ||
      number > static_cast<double>(greatest))
    refuse_kind(name, value, fmt::format("a whole number from {} to {}", least, greatest).c_str());
  return static_cast<int64_t>(number);
}

bool truth_in(const std::string& name, const nlohmann::json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value != "true" && value != "false") refuse_kind(name, value, "true or false");
  return value == "true";
}

/// Fields that are no flag, before they are put together.
struct Parts {
  std::optional<double> seconds;
  std::optional<int64_t> width, height;
};

void read_into(Wanted& wanted, Parts& parts, std::set<std::string>& seen, const nlohmann::json& body) {
  for (const auto& [name, value] : body.items()) {
    if (name == "extra_params") {
      if (!value.is_object()) refuse_kind(name, value, "an object");
      if (value.contains("extra_params")) refuse_kind(name, value, "an object of fields");
      read_into(wanted, parts, seen, value);
      continue;
    }
    if (value.is_null()) continue;
    if (!seen.insert(name).second) refuse_value(name, fmt::format("{} is there twice; give it once", name));
    if (name == "model") {
      if (!value.is_string()) refuse_kind(name, value, "a string");
      wanted.model = value.get<std::string>();
    } else if (name == "seconds") {
      parts.seconds = amount_in(name, value);
      if (*parts.seconds <= 0 || *parts.seconds > 1000)
        refuse_kind(name, value, "a number above 0, up to 1000");
    } else if (name == "width" || name == "height") {
      (name == "width" ? parts.width : parts.height) = count_in(name, value, 16, 16384);
    } else if (name == "ranks") {
      wanted.ranks = count_in(name, value, 1, 4096);
    } else if (name == "save_tensors") {
      wanted.save_tensors = truth_in(name, value);
    } else if (const auto* field = field_named(name)) {
      const auto text = text_of(*field, value);
      if (field->kind != Kind::toggle)
        wanted.flags[field->flag] = text;
      else if (text == "true")
        wanted.flags[field->flag] = "";
      else
        wanted.flags.erase(field->flag);
    } else {
      refuse_unknown_field(name);
    }
  }
}

/// Frames for so many seconds: the nearest number of the form 4n+1.
int64_t frames_for(double seconds, int64_t fps) {
  return std::max<int64_t>(0, std::llround(seconds * static_cast<double>(fps) / 4)) * 4 + 1;
}

}  // namespace

const std::vector<Field>& fields() {
  static const std::vector<Field> all = {{"prompt", "prompt", Kind::text},
                                         {"negative_prompt", "negative_prompt", Kind::text},
                                         {"size", "size", Kind::text},
                                         {"num_frames", "frame_num", Kind::count},
                                         {"fps", "fps", Kind::count},
                                         {"num_inference_steps", "sample_steps", Kind::count},
                                         {"guidance_scale", "sample_guide_scale", Kind::amount},
                                         {"flow_shift", "sample_shift", Kind::amount},
                                         {"seed", "base_seed", Kind::count},
                                         {"sample_solver", "sample_solver", Kind::text},
                                         {"cfg_size", "cfg_size", Kind::count},
                                         {"ulysses_size", "ulysses_size", Kind::count},
                                         {"ring_size", "ring_size", Kind::count},
                                         {"pipeline_size", "pipeline_size", Kind::count},
                                         {"patch_parallel_size", "patch_parallel_size", Kind::count},
                                         {"dit_fsdp", "dit_fsdp", Kind::toggle},
                                         {"t5_fsdp", "t5_fsdp", Kind::toggle},
                                         {"vae_parallel", "vae_parallel", Kind::truth},
                                         {"split_mode", "split_mode", Kind::text},
                                         {"patch_overlap", "patch_overlap", Kind::count},
                                         {"temporal_chunk_size", "temporal_chunk_size", Kind::count},
                                         {"warmup_steps", "warmup_steps", Kind::count},
                                         {"sync_frequency", "sync_frequency", Kind::count},
                                         {"sync_first_step", "sync_first_step", Kind::truth},
                                         {"async_boundary_update", "async_boundary_update", Kind::truth},
                                         {"kv_dtype", "kv_dtype", Kind::text},
                                         {"max_staleness", "max_staleness", Kind::amount}};
  return all;
}

Wanted read_fields(const Flags& defaults, const nlohmann::json& body) {
  if (!body.is_object())
    throw Refusal(http::status::bad_request, "invalid_json", "the body must be a JSON object");
  Wanted wanted{.flags = defaults};
  Parts parts;
  std::set<std::string> seen;
  read_into(wanted, parts, seen, body);
  if (parts.width || parts.height) {
    if (seen.contains("size"))
      refuse_value("size", "size, and width and height are given; leave one of them out");
    if (!parts.width || !parts.height)
      refuse_value(parts.width ? "height" : "width", "width and height go together; give both");
    wanted.flags["size"] = fmt::format("{}*{}", *parts.width, *parts.height);
  }
  if (parts.seconds) {
    if (seen.contains("num_frames"))
      refuse_value("seconds", "seconds and num_frames are both given; leave one of them out");
    const auto fps = wanted.flags.find("fps");
    const auto a_second = fps == wanted.flags.end() ? Options().fps : count_in("fps", fps->second, 1, 1000);
    wanted.flags["frame_num"] = std::to_string(frames_for(*parts.seconds, a_second));
  }
  // A request that says of one degree how the ranks share the work says it of all.
  const std::set<std::string> degrees = {"cfg_size", "ulysses_size", "ring_size", "pipeline_size",
                                         "patch_parallel_size"};
  const auto is_seen = [&](const std::string& name) { return seen.contains(name); };
  if (std::any_of(degrees.begin(), degrees.end(), is_seen) || wanted.ranks)
    std::erase_if(wanted.flags,
                  [&](const auto& flag) { return degrees.contains(flag.first) && !is_seen(flag.first); });
  if (is_seen("patch_parallel_size") && wanted.flags["patch_parallel_size"] == "1" &&
      std::none_of(seen.begin(), seen.end(), [](const auto& name) { return name == "split_mode"; }))
    wanted.flags.erase("patch_parallel_size");
  return wanted;
}

std::vector<std::string> words_of(const Flags& flags) {
  const std::set<std::string> toggles = {"dit_fsdp", "t5_fsdp", "t5_cpu", "stats"};
  std::vector<std::string> words;
  for (const auto& [flag, value] : flags) {
    // One word, so that a value that begins with dashes is none; an empty value stands alone.
    const bool is_joined = !value.empty();
    words.push_back(is_joined ? "--" + flag + "=" + value : "--" + flag);
    if (!is_joined && !toggles.contains(flag)) words.emplace_back();
  }
  return words;
}

std::string in_fields(const std::string& sentence) {
  static const std::regex flag("--([a-z_0-9]+)");
  std::string out;
  auto rest = sentence.cbegin();
  for (std::sregex_iterator at(sentence.begin(), sentence.end(), flag), end; at != end; ++at) {
    out.append(rest, (*at)[0].first);
    const auto& all = fields();
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Field& one) { return (*at)[1] == one.flag; });
    out += found == all.end() ? (*at)[1].str() : found->name;
    rest = (*at)[0].second;
  }
  return out.append(rest, sentence.cend());
}

nlohmann::json settings_of(const Job& job, int64_t ranks, uint64_t seed, bool save_tensors) {
  const auto& o = job.options;
  const auto& d = job.degrees;
  nlohmann::json settings = {{"prompt", o.prompt},
                             {"negative_prompt", o.negative_prompt},
                             {"size", fmt::format("{}x{}", job.size.width, job.size.height)},
                             {"num_frames", job.size.frames},
                             {"fps", o.fps},
                             {"num_inference_steps", o.sample_steps},
                             {"guidance_scale", o.sample_guide_scale},
                             {"flow_shift", job.shift},
                             {"seed", seed},
                             {"sample_solver", o.sample_solver},
                             {"ranks", ranks},
                             {"cfg_size", d.cfg},
                             {"ulysses_size", d.ulysses},
                             {"ring_size", d.ring},
                             {"pipeline_size", d.pipeline},
                             {"dit_fsdp", o.dit_fsdp},
                             {"t5_fsdp", o.t5_fsdp},
                             {"vae_parallel", o.vae_parallel},
                             {"save_tensors", save_tensors}};
  if (d.patch == 1) return settings;
  const auto& p = o.patches;
  settings["patch_parallel_size"] = d.patch;
  settings["split_mode"] = p.split_mode;
  settings["warmup_steps"] = p.warmup_steps;
  settings["sync_frequency"] = p.sync_frequency;
  settings["sync_first_step"] = p.sync_first_step;
  settings["async_boundary_update"] = p.async_boundary_update;
  if (p.patch_overlap) settings["patch_overlap"] = *p.patch_overlap;
  if (p.temporal_chunk_size) settings["temporal_chunk_size"] = *p.temporal_chunk_size;
  if (p.kv_dtype) settings["kv_dtype"] = *p.kv_dtype;
  if (p.max_staleness) settings["max_staleness"] = *p.max_staleness;
  return settings;
}

nlohmann::json body_of(const Flags& flags) {
  nlohmann::json body = nlohmann::json::object();
  const std::set<std::string> local = {"serve", "save_file", "contact_sheet", "save_tensors"};
  for (const auto& [flag, value] : flags) {
    if (local.contains(flag)) continue;
    const auto& all = fields();
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Field& one) { return flag == one.flag; });
    if (found == all.end())
      throw UsageError(fmt::format("--{} is the server's own business; leave it out beside --serve", flag));
    if (found->kind == Kind::toggle)
      body[found->name] = true;
    else
      body[found->name] = value;  // as a form has it
  }
  if (flags.contains("save_tensors")) body["save_tensors"] = true;
  return body;
}

}  // namespace wan::serve
