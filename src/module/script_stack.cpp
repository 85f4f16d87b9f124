// Splits a TorchScript module at its blocks. Its forward is a graph in which submodules are called by name:
//
//     %a = embed(x)    %b = blocks.0(%a, t)    %c = blocks.1(%b, t)    %y = head(%c)
//     ──── before ───  ───────────────── blocks ──────────────────    ─── after ──
#include <fmt/format.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <map>
#include <set>
#include <wanpar/core/error.hpp>
#include <wanpar/module/by_blocks.hpp>

#include "module/as_written.hpp"

namespace wanpar {
namespace {

using torch::jit::Graph;
using torch::jit::Node;
using GraphValue = torch::jit::Value;

/// The path of a submodule value, as its parts ("blocks", "0"); nullopt for other values.
std::vector<std::string> path_of(const GraphValue* object) {
  std::vector<std::string> path;
  while (object->node()->kind() == c10::prim::GetAttr) {
    path.insert(path.begin(), object->node()->s(c10::attr::name));
    object = object->node()->input();
  }
  return object == object->owningGraph()->inputs()[0] ? path : std::vector<std::string>{};
}

bool is_call_of_submodule(const Node* node) {
  return node->kind() == c10::prim::CallMethod && node->s(c10::attr::name) == "forward" &&
         !path_of(node->input(0)).empty() && node->outputs().size() == 1 &&
         node->output()->type()->isSubtypeOf(*c10::TensorType::get());
}

/// Inlines calls of a Sequential, so that calls of its children become visible.
void open_sequentials(Graph& graph) {
  for (bool found = true; found;) {
    found = false;
    for (auto* node : graph.nodes()) {
      if (!is_call_of_submodule(node)) continue;
      auto type = node->input(0)->type()->cast<c10::ClassType>();
      if (!type || !type->name() || type->name()->name() != "Sequential") continue;
      auto& forward = type->getMethod("forward");
      torch::jit::inlineCallTo(node, torch::jit::tryToGraphFunction(forward));
      found = true;
      break;  // the list of nodes has changed
    }
  }
}

/// Consecutive calls; `position` is the index of x among the arguments, where self is 0.
struct Run {
  std::vector<Node*> calls;
  size_t position = 1;
};

/// The position at which `call` takes the result of `before`, with all other arguments equal; 0 if it does
/// not.
size_t follows(const Node* before, const Node* call) {
  if (before->inputs().size() != call->inputs().size() || before->output()->uses().size() != 1) return 0;
  auto parent = [](const Node* node) {
    auto path = path_of(node->input(0));
    path.pop_back();
    return path;
  };
  if (parent(before) != parent(call)) return 0;
  size_t position = 0;
  for (size_t i = 1; i < call->inputs().size(); ++i) {
    if (call->input(i) == before->output())
      position = i;
    else if (call->input(i) != before->input(i))
      return 0;
  }
  return position;
}

Run longest_run(Graph& graph) {
  Run longest;
  std::map<const GraphValue*, Run> ending_in;  // by the output of its last call
  for (auto* node : graph.nodes()) {
    if (!is_call_of_submodule(node)) continue;
    Run run{{node}};
    for (auto* input : node->inputs()) {
      auto before = ending_in.find(input);
      if (before == ending_in.end()) continue;
      auto position = follows(before->second.calls.back(), node);
      if (position == 0) continue;
      bool continues = before->second.calls.size() == 1 || before->second.position == position;
      run = continues ? before->second : Run{{before->second.calls.back()}};
      run.calls.push_back(node);
      run.position = position;
      break;
    }
    if (run.calls.size() > longest.calls.size()) longest = run;
    ending_in[node->output()] = run;
  }
  return longest;
}

std::vector<Node*> nodes_of(Graph& graph) { return {graph.nodes().begin(), graph.nodes().end()}; }

/// Nodes that can be cloned into another graph without side effects.
bool is_free(const Node* node) {
  return node->kind() == c10::prim::GetAttr || node->kind() == c10::prim::Constant;
}

/// The location of a value, to find it in a copy of its graph.
struct Place {
  int64_t node;  // −1: an input of the graph
  size_t output;
};

GraphValue* value_at(Graph& graph, const std::vector<Node*>& nodes, Place place) {
  return place.node < 0 ? graph.inputs()[place.output] : nodes[place.node]->outputs()[place.output];
}

}  // namespace

struct ScriptStack::Parts {
  explicit Parts(const torch::jit::Module& m) : module(m) {}

  torch::jit::Module module;
  std::vector<torch::jit::Module> blocks;
  size_t position = 0;  // of x among a block's arguments, without self
  size_t others = 0;    // number of its other arguments
  torch::jit::Code before, after;
};

ScriptStack::ScriptStack(const torch::jit::Module& module) {
  auto parts = std::make_shared<Parts>(module);
  auto method = module.find_method("forward");
  auto* function = method ? torch::jit::tryToGraphFunction(method->function()) : nullptr;
  std::shared_ptr<Graph> whole = function ? function->graph()->copy() : std::make_shared<Graph>();
  open_sequentials(*whole);
  auto run = longest_run(*whole);
  if (run.calls.size() < 2 || whole->outputs().size() != 1)
    throw UsageError(
        "this TorchScript module has no blocks: its forward does not call submodules of one parent one after "
        "the other (a trace of a function, a frozen or inlined module); export the module with its "
        "submodules, by torch.jit.script or by torch.jit.trace of the unfrozen module");

  auto nodes = nodes_of(*whole);
  std::map<const Node*, int64_t> index;
  for (size_t i = 0; i < nodes.size(); ++i) index[nodes[i]] = static_cast<int64_t>(i);
  auto first = index[run.calls.front()];
  std::set<const Node*> calls(run.calls.begin(), run.calls.end());
  auto place = [&](const GraphValue* value) {
    auto inputs = whole->inputs();
    auto input = std::find(inputs.begin(), inputs.end(), value);
    if (input != inputs.end()) return Place{-1, static_cast<size_t>(input - inputs.begin())};
    return Place{index.at(value->node()), value->offset()};
  };

  // Values that go from before to the blocks (x, then their other arguments), and past them to after.
  std::vector<Place> to_blocks{place(run.calls.front()->input(run.position))}, past;
  for (size_t i = 1; i < run.calls.front()->inputs().size(); ++i)
    if (i != run.position) to_blocks.push_back(place(run.calls.front()->input(i)));
  for (auto* node : nodes) {
    if (index[node] >= first || is_free(node)) continue;
    for (auto* value : node->outputs()) {
      auto used = std::any_of(value->uses().begin(), value->uses().end(), [&](auto& use) {
        auto* user = use.user;
        while (user->owningBlock() != whole->block() && user->owningBlock()->owningNode())
          user = user->owningBlock()->owningNode();
        return user == whole->return_node() || (index.at(user) > first && !calls.contains(user));
      });
      if (used) past.push_back(place(value));
    }
  }

  auto before = whole->copy();
  {
    auto copies = nodes_of(*before);
    before->eraseOutput(0);
    for (auto& list : {to_blocks, past})
      for (auto& p : list) before->registerOutput(value_at(*before, copies, p));
    for (auto i = static_cast<int64_t>(copies.size()); i-- > first;) copies[i]->destroy();
    torch::jit::EliminateDeadCode(before);
  }

  auto after = whole->copy();
  {
    auto copies = nodes_of(*after);
    auto replace = [&](GraphValue* value) {
      auto* input = after->addInput();
      input->setType(value->type());
      value->replaceAllUsesWith(input);
    };
    replace(copies[index[run.calls.back()]]->output());
    for (auto& p : past) replace(value_at(*after, copies, p));
    for (auto call = run.calls.rbegin(); call != run.calls.rend(); ++call) copies[index[*call]]->destroy();
    for (auto i = first; i-- > 0;)
      if (!copies[i]->hasUses()) copies[i]->destroy();
    torch::jit::EliminateDeadCode(after);
  }

  for (auto* call : run.calls) {
    auto block = module;
    for (auto& name : path_of(call->input(0))) block = block.attr(name).toModule();
    parts->blocks.push_back(block);
  }
  parts->position = run.position - 1;
  parts->others = to_blocks.size() - 1;
  parts->before = as_written(before, "before the blocks");
  parts->after = as_written(after, "after the blocks");
  parts_ = std::move(parts);
}

int64_t ScriptStack::size() const { return static_cast<int64_t>(parts_->blocks.size()); }

c10::IValue ScriptStack::forward(std::vector<c10::IValue> inputs) const {
  torch::jit::Stack stack{parts_->module._ivalue()};
  for (auto& input : inputs) stack.emplace_back(std::move(input));
  parts_->module.get_method("forward").function().getSchema().checkAndNormalizeInputs(stack);
  auto arguments = stack;
  torch::jit::InterpreterState(parts_->before)
      .run(stack);  // pushes x, the blocks' other arguments, and the values that go past them

  auto past = stack.begin() + 1 + static_cast<std::ptrdiff_t>(parts_->others);
  std::vector<c10::IValue> others(stack.begin() + 1, past);
  std::vector<at::Tensor> side;  // the tensors among them
  for (auto& other : others)
    if (other.isTensor()) side.push_back(other.toTensor());

  auto run = [parts = parts_, others](int64_t index, at::Tensor x, const std::vector<at::Tensor>& side) {
    auto given = others;
    auto next = side.begin();
    for (auto& other : given)
      if (other.isTensor()) other = *next++;
    given.insert(given.begin() + static_cast<std::ptrdiff_t>(parts->position), std::move(x));
    return detail::tensor_of(run_as_written(parts->blocks[index], std::move(given)));
  };
  auto tensors = [parts = parts_](int64_t index) { return tensors_of(parts->blocks[index]); };
  c10::IValue result = at::Tensor();
  run_blocks_then(BlockStack{size(), run, tensors}, stack[0].toTensor(), std::move(side), [&](at::Tensor y) {
    arguments.emplace_back(std::move(y));
    arguments.insert(arguments.end(), past, stack.end());
    torch::jit::InterpreterState(parts_->after).run(arguments);
    result = arguments.back();
  });
  return result;
}

}  // namespace wanpar
