#include "checkpoint/optimizer_kind.hpp"

#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <type_traits>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/files/json.hpp>

namespace wanpar {
namespace {

namespace optim = torch::optim;

void each_option(optim::SGDOptions& of, const auto& visit) {
  visit("lr", of.lr());
  visit("momentum", of.momentum());
  visit("dampening", of.dampening());
  visit("weight_decay", of.weight_decay());
  visit("nesterov", of.nesterov());
}
template <class Options>
requires std::is_same_v<Options, optim::AdamOptions> || std::is_same_v<Options, optim::AdamWOptions>
void each_option(Options& of, const auto& visit) {
  visit("lr", of.lr());
  visit("beta1", std::get<0>(of.betas()));
  visit("beta2", std::get<1>(of.betas()));
  visit("eps", of.eps());
  visit("weight_decay", of.weight_decay());
  visit("amsgrad", of.amsgrad());
}
void each_option(optim::RMSpropOptions& of, const auto& visit) {
  visit("lr", of.lr());
  visit("alpha", of.alpha());
  visit("eps", of.eps());
  visit("weight_decay", of.weight_decay());
  visit("momentum", of.momentum());
  visit("centered", of.centered());
}
void each_option(optim::AdagradOptions& of, const auto& visit) {
  visit("lr", of.lr());
  visit("lr_decay", of.lr_decay());
  visit("weight_decay", of.weight_decay());
  visit("initial_accumulator_value", of.initial_accumulator_value());
  visit("eps", of.eps());
}

void each_memory(optim::SGDParamState& of, const auto& tensor, const auto&) {
  tensor("momentum_buffer", of.momentum_buffer());
}
template <class Memory>
requires std::is_same_v<Memory, optim::AdamParamState> || std::is_same_v<Memory, optim::AdamWParamState>
void each_memory(Memory& of, const auto& tensor, const auto& count) {
  count("step", of.step());
  tensor("exp_avg", of.exp_avg());
  tensor("exp_avg_sq", of.exp_avg_sq());
  tensor("max_exp_avg_sq", of.max_exp_avg_sq());
}
void each_memory(optim::RMSpropParamState& of, const auto& tensor, const auto& count) {
  count("step", of.step());
  tensor("square_avg", of.square_avg());
  tensor("momentum_buffer", of.momentum_buffer());
  tensor("grad_avg", of.grad_avg());
}
void each_memory(optim::AdagradParamState& of, const auto& tensor, const auto& count) {
  count("step", of.step());
  tensor("sum", of.sum());
}

template <class Optimizer, class OptionsOf, class MemoryOf>
class KnownKind : public OptimizerKind {
 public:
  explicit KnownKind(const char* name) : name_(name) {}
  static bool is(const optim::Optimizer& optimizer) {
    return dynamic_cast<const Optimizer*>(&optimizer) != nullptr;
  }

  const char* name() const override { return name_; }

  nlohmann::json options_of(const Options& options) const override {
    auto own = dynamic_cast<const OptionsOf&>(options);
    auto json = nlohmann::json::object();
    each_option(own, [&](const char* name, auto& value) { json[name] = value; });
    return json;
  }

  std::unique_ptr<Options> options_from(const nlohmann::json& json, const std::string& where) const override {
    auto own = std::make_unique<OptionsOf>(1e-3);
    each_option(*own, [&]<class Value>(const char* name, Value& value) {
      value = value_at<Value>(json, name, where);
    });
    return own;
  }

  std::unique_ptr<Memory> new_memory() const override { return std::make_unique<MemoryOf>(); }

  void visit(Memory& memory, const VisitTensor& tensor, const VisitCount& count) const override {
    each_memory(dynamic_cast<MemoryOf&>(memory), tensor, count);
  }

 private:
  const char* name_;
};

template <class... KnownKinds>
const OptimizerKind* first_of(const optim::Optimizer& optimizer, const KnownKinds&... kinds) {
  const OptimizerKind* found = nullptr;
  ((found = !found && KnownKinds::is(optimizer) ? &kinds : found), ...);
  return found;
}

}  // namespace

const OptimizerKind& kind_of(const optim::Optimizer& optimizer) {
  static const KnownKind<optim::SGD, optim::SGDOptions, optim::SGDParamState> sgd("SGD");
  static const KnownKind<optim::Adam, optim::AdamOptions, optim::AdamParamState> adam("Adam");
  static const KnownKind<optim::AdamW, optim::AdamWOptions, optim::AdamWParamState> adamw("AdamW");
  static const KnownKind<optim::RMSprop, optim::RMSpropOptions, optim::RMSpropParamState> rmsprop("RMSprop");
  static const KnownKind<optim::Adagrad, optim::AdagradOptions, optim::AdagradParamState> adagrad("Adagrad");
  if (auto* found = first_of(optimizer, sgd, adam, adamw, rmsprop, adagrad)) return *found;
  throw UsageError(
      "state_dict: what this optimizer remembers is not known by name; LibTorch's SGD, Adam, AdamW, RMSprop "
      "and Adagrad can be saved and loaded");
}

}  // namespace wanpar
