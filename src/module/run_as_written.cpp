#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <map>
#include <memory>
#include <mutex>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/extend/module/invoke.hpp>

#include "module/as_written.hpp"

namespace wanpar {
namespace {

using torch::jit::Code;
using torch::jit::Graph;

/// The compiled code of a graph, cached.
Code code_of(const std::shared_ptr<Graph>& graph) {
  struct Entry {
    std::weak_ptr<Graph> graph;
    Code code;
  };
  static std::mutex mutex;
  static std::map<const Graph*, Entry> known;
  std::lock_guard lock(mutex);
  std::erase_if(known, [](auto& entry) { return entry.second.graph.expired(); });
  auto found = known.find(graph.get());
  if (found == known.end()) {
    found = known.emplace(graph.get(), Entry{graph, as_written(graph, "forward")}).first;
  }
  return found->second.code;
}

}  // namespace

Code as_written(const std::shared_ptr<Graph>& graph, const std::string& name) {
  auto inlined = graph->copy();
  torch::jit::Inline(*inlined);
  torch::jit::runRequiredPasses(inlined);
  return Code(inlined, name);
}

c10::IValue run_as_written(const torch::jit::Module& module, std::vector<c10::IValue> inputs) {
  if (handlers().empty())
    return torch::jit::Module(module).forward(std::move(inputs));  // no strategy is active
  auto method = module.get_method("forward");
  inputs.insert(inputs.begin(), module._ivalue());
  method.function().getSchema().checkAndNormalizeInputs(inputs, {});
  torch::jit::InterpreterState(code_of(torch::jit::toGraphFunction(method.function()).graph())).run(inputs);
  return std::move(inputs.at(0));
}

}  // namespace wanpar
