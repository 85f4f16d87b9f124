#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace wan {

/// A node of a ComfyUI workflow: its own values, and from which nodes its other inputs come.
struct WorkflowNode {
  std::string id, type;
  std::map<std::string, nlohmann::json> values;
  std::map<std::string, std::string> links;  ///< an input's name to a node's id
};

/// A ComfyUI workflow, whichever of the two formats it was saved in: the one of its editor (nodes, links, and
/// values by their order), or the one of its API (class_type, and inputs by name). Muted nodes are not there,
/// and bypassed ones are passed by.
using WorkflowGraph = std::map<std::string, WorkflowNode>;

/// Whether the file is a workflow at all.
bool is_workflow(const nlohmann::json& json);

/// Throws UsageError, beginning with `where`, for one that is in neither format, or has subgraphs, which only
/// the editor's has.
WorkflowGraph read_graph(const nlohmann::json& json, const std::string& where);

}  // namespace wan
