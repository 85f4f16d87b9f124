#include "wan/workflow/graph.hpp"

#include <algorithm>
#include <vector>

#include "wan/cli/words.hpp"

namespace wan {
namespace {

using nlohmann::json;

/// The names of values that the editor writes without them, of nodes of text to video, and of those in
/// examples/comfyui.
const std::vector<std::string>& widgets_of(const std::string& type) {
  static const std::map<std::string, std::vector<std::string>> known = {
      {"KSampler", {"seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"}},
      {"CLIPTextEncode", {"text"}},
      {"EmptyHunyuanLatentVideo", {"width", "height", "length", "batch_size"}},
      {"ModelSamplingSD3", {"shift"}},
      {"UNETLoader", {"unet_name", "weight_dtype"}},
      {"CreateVideo", {"fps"}},
      {"SaveAnimatedWEBP", {"filename_prefix", "fps"}},
      {"SaveWEBM", {"filename_prefix", "codec", "fps"}},
      {"WanDistributedConfig",
       {"world_size", "rank", "backend", "use_fsdp", "use_context_parallel", "ulysses_size", "ring_size",
        "t5_fsdp", "dit_fsdp", "use_usp", "t5_cpu", "param_dtype", "reduce_dtype", "buffer_dtype",
        "sharding_strategy", "sync_module_states"}},
      {"WanDistributedModelLoader", {"model", "base_precision", "attention_mode"}},
      {"WanVideoMultiGPULoader",
       {"model", "base_precision", "load_device", "parallelism_type", "gpu_ids", "enable_block_distribution",
        "attention_mode"}},
      {"DistriFusionWanVideoModelLoader",
       {"model", "base_precision", "quantization", "load_device", "enable_distrifusion", "num_gpus",
        "split_mode", "patch_overlap", "warmup_steps", "process_rank", "attention_mode",
        "async_boundary_update", "sync_first_step", "temporal_chunk_size"}},
      {"DistriFusionWanVideoSampler",
       {"positive", "negative", "seed", "", "steps", "cfg", "sampler_name", "width", "height", "num_frames",
        "fps", "filename_prefix", "shift", "sync_frequency", "enable_async_comm"}},
      {"PrimitiveInt", {"value"}},
      {"PrimitiveFloat", {"value"}},
      {"PrimitiveNode", {"value"}},
      {"PrimitiveString", {"value"}},
      {"PrimitiveStringMultiline", {"value"}},
  };
  static const std::vector<std::string> none;
  const auto found = known.find(type);
  return found == known.end() ? none : found->second;
}

std::string text_of(const json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

WorkflowGraph of_api(const json& all) {
  WorkflowGraph graph;
  for (const auto& [id, node] : all.items()) {
    if (!node.is_object() || !node.contains("class_type")) continue;
    auto& one = graph[id] = {id, text_of(node["class_type"]), {}, {}};
    const auto inputs = node.value("inputs", json::object());
    for (const auto& [name, value] : inputs.items())
      if (value.is_array() && value.size() == 2 && value[1].is_number_integer())
        one.links[name] = text_of(value[0]);
      else
        one.values[name] = value;
  }
  return graph;
}

/// The editor's: where each link comes from is resolved through the nodes that hand on what they are given.
class Editor {
 public:
  explicit Editor(const json& all) {
    for (const auto& node : all.at("nodes")) nodes_[text_of(node.at("id"))] = &node;
    for (const auto& link : all.at("links")) links_[text_of(link.at(0))] = &link;
  }

  WorkflowGraph graph() const {
    WorkflowGraph graph;
    for (const auto& [id, node] : nodes_)
      if (mode(*node) == kRuns && node->at("type") != "Reroute") graph[id] = read(id, *node);
    return graph;
  }

 private:
  static constexpr int kRuns = 0, kBypassed = 4;
  static constexpr int kHops = 64;

  static int mode(const json& node) { return node.value("mode", kRuns); }

  WorkflowNode read(const std::string& id, const json& node) const {
    WorkflowNode one{id, text_of(node.at("type")), {}, {}};
    auto names = widgets_of(one.type);
    const bool is_known = !names.empty();
    for (const auto& input : node.value("inputs", json::array())) {
      const auto name = text_of(input.at("name"));
      if (input.contains("widget") && !is_known) {
        names.push_back(text_of(input["widget"].value("name", json(name))));
        if (names.back() == "seed" || names.back() == "noise_seed") names.emplace_back();  // what follows one
      }
      if (const auto from = origin(input); !from.empty()) one.links[name] = from;
    }
    const auto values = node.value("widgets_values", json());
    if (values.is_object())
      for (const auto& [name, value] : values.items()) one.values[name] = value;
    else
      for (size_t i = 0; i < std::min(names.size(), values.size()); ++i)
        if (!names[i].empty()) one.values[names[i]] = values[i];
    for (const auto& [name, from] : one.links) one.values.erase(name);  // what is linked goes before
    return one;
  }

  /// The node from which an input comes; empty where from none.
  std::string origin(const json& input) const {
    auto link = input.value("link", json());
    for (int hop = 0; hop < kHops && !link.is_null(); ++hop) {
      const auto found = links_.find(text_of(link));
      if (found == links_.end()) return {};
      const auto id = text_of(found->second->at(1));
      const auto node = nodes_.find(id);
      if (node == nodes_.end()) return {};
      const bool hands_on = mode(*node->second) == kBypassed || node->second->at("type") == "Reroute";
      if (!hands_on) return mode(*node->second) == kRuns ? id : "";
      const auto& type = found->second->at(5);
      link = json();
      for (const auto& one : node->second->value("inputs", json::array()))
        if (link.is_null() && (one.value("type", json()) == type || node->second->at("type") == "Reroute"))
          link = one.value("link", json());
    }
    return {};
  }

  std::map<std::string, const json*> nodes_, links_;
};

}  // namespace

bool is_workflow(const json& all) {
  return all.is_object() && (all.contains("nodes") || std::any_of(all.begin(), all.end(), [](auto& one) {
                               return one.is_object() && one.contains("class_type");
                             }));
}

WorkflowGraph read_graph(const json& all, const std::string& where) try {
  if (!is_workflow(all)) refuse("{} is no ComfyUI workflow: it has neither nodes nor class_type", where);
  if (!all.contains("nodes")) return of_api(all);
  const auto subgraphs = all.value("/definitions/subgraphs"_json_pointer, json::array());
  for (const auto& node : all["nodes"])
    for (const auto& one : subgraphs)
      if (one.value("id", json()) == node.value("type", json(0)))
        refuse("{} has the subgraph '{}'; save the workflow by ComfyUI's Export (API), which has none", where,
               text_of(one.value("name", json("?"))));
  return Editor(all).graph();
} catch (const json::exception&) {
  refuse("{} is no ComfyUI workflow: its nodes and links are not as ComfyUI writes them", where);
}

}  // namespace wan
