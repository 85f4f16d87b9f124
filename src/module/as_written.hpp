#pragma once
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <memory>
#include <string>

namespace wanpar {

/// The code of a graph, calls of submodules put in their places, without any optimisation: every operator
/// that stands in it is called, each for itself, and has its own node in the backward.
torch::jit::Code as_written(const std::shared_ptr<torch::jit::Graph>& graph, const std::string& name);

}  // namespace wanpar
