#pragma once
#include <string>
#include <vector>

#include "wan/cli/config_file.hpp"
#include "wan/workflow/graph.hpp"

namespace wan {

/// What a workflow makes, as fields of a configuration.
struct WorkflowVideo {
  std::vector<Field> fields;
  std::vector<std::string> notes;  ///< what is another thing here than in ComfyUI
};

/// Reads a text-to-video graph with one sampler: prompts, size, frames, seed, steps, guidance, shift, frame
/// rate, and the settings of nodes for several GPUs. Throws UsageError, beginning with `where` and with the
/// node, for whatever would make another video: a second sampler, an image, a LoRA, a node of unknown effect.
WorkflowVideo video_of(const WorkflowGraph& graph, const std::string& where);

}  // namespace wan
