#include "wan/workflow/video.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>

#include "wan/cli/words.hpp"

namespace wan {
namespace {

using nlohmann::json;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return text;
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

/// Nodes of ComfyUI-WanVideoWrapper's distributed settings, of DistriFusion, and of this project.
bool is_of_several_gpus(const std::string& type) {
  return contains(type, "Distributed") || contains(type, "DistriFusion") || contains(type, "MultiGPU") ||
         contains(type, "Wanpar");
}

bool is_sampler(const std::string& type) {
  return contains(type, "Sampler") && !contains(type, "ModelSampling");
}

class Reader {
 public:
  Reader(const WorkflowGraph& graph, std::string where) : graph_(graph), where_(std::move(where)) {}

  WorkflowVideo read() {
    const auto& sampler = only_sampler();
    read_sampling(sampler);
    read_texts(sampler);
    read_latent(sampler);
    read_model(sampler);
    read_frame_rate();
    for (const auto& [id, node] : graph_)
      if (is_of_several_gpus(node.type) && id != sampler.id) read_settings(node);
    video_.notes.emplace_back("ComfyUI draws other noise: the same seed makes another video here");
    return std::move(video_);
  }

 private:
  [[noreturn]] void refuse_node(const WorkflowNode& node, const std::string& sentence) const {
    throw UsageError(fmt::format("{}: node {}, {}, {}", where_, node.id, node.type, sentence));
  }

  const WorkflowNode& only_sampler() const {
    const WorkflowNode* found = nullptr;
    for (const auto& [id, node] : graph_) {
      if (!is_sampler(node.type)) continue;
      if (found)
        refuse_node(node,
                    fmt::format("is a second sampler beside node {}, as Wan2.2 has; one of Wan2.1 is wanted",
                                found->id));
      found = &node;
    }
    if (!found) throw UsageError(fmt::format("{} has no sampler, so it makes no video", where_));
    return *found;
  }

  const WorkflowNode* linked(const WorkflowNode& node, const std::vector<std::string>& inputs) const {
    for (const auto& input : inputs)
      if (const auto link = node.links.find(input); link != node.links.end())
        if (const auto from = graph_.find(link->second); from != graph_.end()) return &from->second;
    return nullptr;
  }

  /// A node's own value, or that of the node of one value that it is linked to.
  std::optional<json> value(const WorkflowNode& node, const std::string& name) const {
    if (const auto own = node.values.find(name); own != node.values.end()) return own->second;
    const auto* from = linked(node, {name});
    if (!from) return std::nullopt;
    if (const auto given = from->values.find("value");
        given != from->values.end() && from->type.starts_with("Primitive"))
      return given->second;
    refuse_node(node, fmt::format("takes its {} from node {}, {}, which is not known here", name, from->id,
                                  from->type));
  }

  void give(const std::string& field, const json& value) {
    video_.fields.push_back({field, value.is_string() ? value.get<std::string>() : value.dump()});
  }

  void give(const WorkflowNode& node, const std::string& name, const std::string& field) {
    if (const auto found = value(node, name)) give(field, *found);
  }

  /// But not the value by which a node says that nothing was set.
  void give_if_set(const WorkflowNode& node, const std::string& name, const std::string& field,
                   const json& unset) {
    if (const auto found = value(node, name); found && *found != unset) give(field, *found);
  }

  void read_sampling(const WorkflowNode& sampler) {
    give(sampler, "seed", "base_seed");
    give(sampler, "steps", "sample_steps");
    give(sampler, "cfg", "sample_guide_scale");
    give_if_set(sampler, "shift", "sample_shift", 0);
    give_if_set(sampler, "sync_frequency", "sync_frequency", 0);
    give_if_set(sampler, "enable_async_comm", "async_boundary_update", true);
    if (const auto part = value(sampler, "denoise"); part && *part != 1 && *part != 1.0)
      refuse_node(sampler, "begins with a video that is there, which is not built here");
    const auto name = value(sampler, "sampler_name");
    const auto solver =
        lower(name.value_or(value(sampler, "scheduler").value_or("unipc")).get<std::string>());
    static const std::map<std::string, const char*> kSolvers = {
        {"uni_pc", "unipc"},   {"uni_pc_bh2", "unipc"}, {"unipc", "unipc"},          {"euler", "euler"},
        {"dpmpp_2m", "dpm++"}, {"dpm++", "dpm++"},      {"flowmatch_euler", "euler"}};
    const auto known = kSolvers.find(solver);
    if (known == kSolvers.end())
      refuse_node(sampler,
                  fmt::format("takes the solver '{}'; unipc, dpm++ and euler are built here", solver));
    give("sample_solver", known->second);
  }

  void read_texts(const WorkflowNode& sampler) {
    if (const auto* both = linked(sampler, {"text_embeds"})) {
      give(*both, "positive_prompt", "prompt");
      give(*both, "negative_prompt", "negative_prompt");
      return;
    }
    for (const auto& [input, field] : {std::pair("positive", "prompt"), {"negative", "negative_prompt"}}) {
      if (sampler.values.count(input)) {
        give_if_set(sampler, input, field, "");
        continue;
      }
      const auto* node = linked(sampler, {input});
      if (!node) continue;
      if (node->type != "CLIPTextEncode")
        refuse_node(*node, fmt::format("makes the {} prompt of something else than a text", input));
      give(*node, "text", field);
    }
  }

  void read_size(const WorkflowNode& node) {
    const auto width = value(node, "width"), height = value(node, "height");
    if (width && height) give("size", width->dump() + "*" + height->dump());
    give(node, "length", "frame_num");
    give(node, "num_frames", "frame_num");
  }

  void read_latent(const WorkflowNode& sampler) {
    const auto* latent = linked(sampler, {"latent_image", "image_embeds", "samples"});
    if (!latent) return read_size(sampler);
    static const std::vector<std::string> kEmpty = {"EmptyHunyuanLatentVideo", "WanVideoEmptyEmbeds"};
    if (std::find(kEmpty.begin(), kEmpty.end(), latent->type) == kEmpty.end())
      refuse_node(*latent, "gives the sampler more than an empty video; only text to video is built here");
    read_size(*latent);
    if (const auto count = value(*latent, "batch_size"); count && *count != 1)
      refuse_node(*latent, "asks for several videos; give their prompts by --prompt_file");
  }

  void read_model(const WorkflowNode& sampler) {
    const auto* node = linked(sampler, {"model", "distrifusion_model"});
    for (int hop = 0; node && hop < 64; ++hop) {
      if (node->type == "ModelSamplingSD3") {
        give(*node, "shift", "sample_shift");
      } else if (contains(node->type, "Lora")) {
        refuse_node(*node, "adds a LoRA, which is not built here; take a checkpoint with it merged in");
      } else if (contains(node->type, "Loader")) {
        return check_model(*node);
      } else if (!is_of_several_gpus(node->type)) {
        refuse_node(*node, "changes the model in a way that is not known here");
      }
      node = linked(*node, {"model"});
    }
  }

  void check_model(const WorkflowNode& loader) {
    auto file = value(loader, "unet_name");
    if (!file) file = value(loader, "model");
    const auto name = lower(file && file->is_string() ? file->get<std::string>() : "");
    for (const auto* other : {"i2v", "2.2", "2_2", "vace", "flf2v", "s2v", "fun_", "alpha"})
      if (contains(name, other))
        refuse_node(loader, fmt::format("loads {}; Wan2.1's models of text to video are built here", name));
    for (const auto* input : {"block_swap_args", "compile_args", "lora", "vram_management_args"})
      if (linked(loader, {input}))
        video_.notes.push_back(
            fmt::format("{} of node {} has no counterpart, and is left out", input, loader.id));
    if (!name.empty())
      video_.notes.push_back(fmt::format("the model was {}; give the folder of its checkpoint", name));
  }

  void read_frame_rate() {
    for (const auto& [id, node] : graph_)
      for (const auto* name : {"fps", "frame_rate"})
        if (const auto rate = value(node, name); rate && rate->is_number())
          return give("fps", std::llround(rate->get<double>()));
  }

  /// What a node's own work is belongs to no configuration, nor does a value that says that nothing is set.
  void read_settings(const WorkflowNode& node) {
    static const std::vector<std::string> kOfTheNode = {"model", "vae",  "text_encoder", "steps",
                                                        "cfg",   "seed", "prompt"};
    for (const auto& [name, value] : node.values) {
      const bool is_own = std::find(kOfTheNode.begin(), kOfTheNode.end(), name) != kOfTheNode.end();
      const bool is_said = std::any_of(video_.fields.begin(), video_.fields.end(),
                                       [&](auto& one) { return one.name == name; });
      const bool is_unset =
          (name == "patch_overlap" && value == -1) || (name == "temporal_chunk_size" && value == 0);
      if (!is_own && !is_said && !is_unset && !value.is_null() && !value.is_structured()) give(name, value);
    }
  }

  const WorkflowGraph& graph_;
  std::string where_;
  WorkflowVideo video_;
};

}  // namespace

WorkflowVideo video_of(const WorkflowGraph& graph, const std::string& where) {
  return Reader(graph, where).read();
}

}  // namespace wan
