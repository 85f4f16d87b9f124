#pragma once
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <memory>
#include <string>

namespace wanpar {

/// Compiles a graph with submodule calls inlined but without optimization, so that every operator is called
/// individually, and has its own autograd node.
torch::jit::Code as_written(const std::shared_ptr<torch::jit::Graph>& graph, const std::string& name);

}  // namespace wanpar
