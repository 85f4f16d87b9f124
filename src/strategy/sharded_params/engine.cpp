#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <wanpar/core/error.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "module/autocast_cache.hpp"
#include "module/claim.hpp"
#include "module/deferred.hpp"
#include "module/residency.hpp"
#include "module/same_module.hpp"
#include "strategy/sharded_params/flat_parameters.hpp"
#include "strategy/sharded_params/sharded_gradients.hpp"
#include "strategy/sharded_params/units.hpp"

namespace wanpar {
namespace {

/// A unit, of whose flat parameters each rank of the group holds a part: one for each dtype, and for what is
/// trained and what is not.
class ShardedUnit : public Source {
 public:
  ShardedUnit(std::string name, int64_t index) : name(std::move(name)), index_(index) {}

  std::function<Buffers()> fetch() override {
    if (auto told = gradients.lock()) told->before_gather(index_);
    auto coming = std::make_shared<std::vector<Pending<at::Tensor>>>();
    for (auto& flat : flats) coming->push_back(flat.gather());
    return [coming] {
      Buffers buffers;
      for (auto& one : *coming) buffers.push_back(one.get());
      return buffers;
    };
  }

  int64_t version() const override {
    int64_t sum = 0;
    for (auto& flat : flats)
      if (!flat.is_whole()) sum += flat.shard()._version();
    return sum;
  }

  std::string name;
  std::vector<FlatParameters> flats;
  std::weak_ptr<ShardedGradients> gradients;

 private:
  int64_t index_;
};

}  // namespace

/// One rank's side of the strategy: holds the shards, brings units through Residency, averages gradients.
class ShardedEngine {
 public:
  ShardedEngine(ShardedParamsOptions options, const NamedTensors& parameters, const NamedTensors& buffers)
      : claim_(parameters, {options.group, options.replicate}), options_(std::move(options)) {
    check(parameters, buffers);
    if (options_.sharding == Sharding::no_shard)
      alike_ = {std::exchange(options_.group, {}), options_.replicate};
    else
      alike_ = {options_.replicate};
    auto release = options_.group.size() == 1                     ? Release::never
                   : options_.sharding == Sharding::shard_grad_op ? Release::after_backward
                                                                  : Release::after_use;
    residency_ = std::make_shared<Residency>(options_.prefetch, release);

    at::NoGradGuard no_grad;
    c10::InferenceMode ordinary(false);
    for (auto& [name, tensor] : parameters)
      if (is_deferred(tensor)) without_values_ = name;
    if (options_.sync_module_states) {
      bool is_first = options_.group.rank() == 0 && options_.replicate.rank() == 0;
      if (is_first && !without_values_.empty())
        throw Error(fmt::format("ShardedParams: rank 0 has no values to give: '{}' was constructed deferred",
                                without_values_));
      without_values_.clear();
    }
    make_units(parameters);
    make_gradients();
    for (auto& [name, buffer] : buffers) settle(buffer);
  }

  Residency& residency() { return *residency_; }
  const ShardedParamsOptions& options() const { return options_; }
  /// Whether a forward can do without us.
  bool is_whole() const {
    if (!without_values_.empty())
      throw Error(fmt::format(
          "ShardedParams: parameter '{}' was constructed deferred and has no values yet; call load()",
          without_values_));
    return is_whole_;
  }
  void has_values() { without_values_.clear(); }
  std::vector<std::shared_ptr<ShardedUnit>>& units() { return units_; }
  template <class Action>
  void each_flat(const Action& action) const {
    for (auto& unit : units_)
      for (auto& flat : unit->flats) action(flat);
  }

  ShardedGradients& gradients() { return *gradients_; }

 private:
  void check(const NamedTensors& parameters, const NamedTensors& buffers) const {
    NamedTensors all = parameters;
    all.insert(all.end(), buffers.begin(), buffers.end());
    check_same_module("ShardedParams", {options_.group, options_.replicate}, all);
    if (options_.prefetch < 0)
      throw Error(
          fmt::format("ShardedParams: a prefetch of {} units; there must be 0 or more", options_.prefetch));
    if (parameters.empty())
      throw Error(
          "ShardedParams: the module has no parameters to shard; a frozen TorchScript module has none left: "
          "wrap "
          "it before freezing");
    for (auto& [name, tensor] : parameters)
      if (!tensor.defined() || !tensor.has_storage())
        throw Error(fmt::format(
            "ShardedParams: parameter '{}' has no memory of its own (sparse, or undefined)", name));
    for (auto& [name, tensor] : buffers)
      if (is_deferred(tensor))
        throw Error(
            fmt::format("ShardedParams: buffer '{}' was constructed deferred, but buffers are not loaded; "
                        "make it with at::zeros, at::full or from values",
                        name));
  }

  void make_units(const NamedTensors& parameters) {
    auto units =
        options_.units.empty() ? units_by_name(parameters) : units_by_prefix(parameters, options_.units);
    std::vector<std::map<std::pair<at::ScalarType, bool>, std::vector<Item>>> groups(units.names.size());
    for (auto& item : items_of(parameters, units)) {
      bool is_trained = std::any_of(item.leaves.begin(), item.leaves.end(),
                                    [](auto& leaf) { return leaf.tensor.requires_grad(); });
      auto dtype = item.leaves[0].tensor.scalar_type();
      groups[item.unit][{dtype, is_trained}].push_back(std::move(item));
    }
    is_whole_ = options_.group.size() == 1;
    for (size_t i = 0; i < groups.size(); ++i) {
      if (groups[i].empty()) continue;  // all its parameters are tied to those of units before it
      auto unit = std::make_shared<ShardedUnit>(units.names[i], static_cast<int64_t>(i));
      ResidentUnit resident{.name = unit->name, .source = unit, .places = {}};
      auto about = fmt::format("unit '{}'", unit->name);
      auto alike = alike_;
      for (auto& group : alike) group = group.about(about);
      for (auto& [kind, items] : groups[i]) {
        auto dtype = kind.first;
        auto compute = c10::isFloatingType(dtype) ? options_.param_dtype.value_or(dtype) : dtype;
        unit->flats.emplace_back(std::move(items), FlatParameters::Options{
                                                       .group = options_.group.about(about),
                                                       .alike = alike,
                                                       .compute = compute,
                                                       .reduce = options_.reduce_dtype,
                                                       .take_from_rank_0 = options_.sync_module_states,
                                                   });
        is_whole_ &= unit->flats.back().is_whole();
        auto places = unit->flats.back().places(unit->flats.size() - 1);
        resident.places.insert(resident.places.end(), places.begin(), places.end());
      }
      residency_->add(std::move(resident));
      units_.push_back(std::move(unit));
    }
    if (is_whole_) residency_->bring_all();
  }

  /// Buffers are whole on every rank.
  void settle(at::Tensor buffer) const {
    if (options_.sync_module_states) {
      auto from_rank_0 = options_.group.broadcast(buffer).get();
      for (auto& alike : alike_) from_rank_0 = alike.broadcast(std::move(from_rank_0)).get();
      buffer.copy_(from_rank_0);
    }
    if (options_.buffer_dtype && buffer.is_floating_point())
      buffer.set_data(buffer.to(*options_.buffer_dtype));
  }

  /// Backward goes from the last unit to the first, and gathers those that are not here any more meanwhile.
  void make_gradients() {
    auto count = static_cast<int64_t>(units_.size());
    bool is_gathered = options_.group.size() > 1 && options_.sharding == Sharding::full_shard;
    auto gathers = is_gathered ? std::max<int64_t>(0, count - options_.prefetch - 1) : 0;
    std::vector<ShardedGradients::Expected> order;
    for (int64_t i = 0; i < count; ++i)
      for (auto& flat : units_[count - 1 - i]->flats)
        if (flat.is_trained()) order.push_back({&flat, std::min(i, gathers)});
    gradients_ = std::make_shared<ShardedGradients>(options_.group, alike_, order);
    gradients_->listen();
    for (auto& unit : units_) unit->gradients = gradients_;
  }

  Claim claim_;
  ShardedParamsOptions options_;
  std::vector<Communicator> alike_;  // ranks that hold the same shards
  std::shared_ptr<Residency> residency_;
  std::vector<std::shared_ptr<ShardedUnit>> units_;
  bool is_whole_ = false;
  std::string without_values_;  // a parameter that was constructed deferred and has not been loaded

  std::shared_ptr<ShardedGradients> gradients_;
};

namespace detail {

struct ShardedForward::State {
  explicit State(std::shared_ptr<ShardedEngine> e) : engine(std::move(e)) {
    engine->residency().begin_forward();
    scope.emplace(engine->residency());
  }
  ~State() {
    scope.reset();
    engine->residency().end_forward();
  }

  std::shared_ptr<ShardedEngine> engine;
  NoAutocastCache no_cache;
  std::optional<Scope> scope;
};

ShardedForward::ShardedForward(std::shared_ptr<ShardedEngine> engine)
    : state_(std::make_unique<State>(std::move(engine))) {}

ShardedForward::~ShardedForward() = default;

void ShardedForward::rethrow() { Scope::rethrow(); }

at::Tensor ShardedForward::cast(const at::Tensor& x) {
  auto dtype = state_->engine->options().param_dtype;
  return dtype && x.defined() && x.is_floating_point() ? x.to(*dtype) : x;
}

at::Tensor ShardedForward::keep(at::Tensor result) {
  return state_->engine->residency().leave(std::move(result));
}

std::shared_ptr<ShardedEngine> make_sharded_engine(ShardedParamsOptions options, NamedTensors parameters,
                                                   NamedTensors buffers) {
  return std::make_shared<ShardedEngine>(std::move(options), parameters, buffers);
}

bool is_whole(const ShardedEngine& engine) { return engine.is_whole(); }

}  // namespace detail

NoSync ShardedParamsBase::no_sync() const {
  engine_->gradients().syncs = false;
  return NoSync([engine = engine_] { engine->gradients().syncs = true; });
}

std::vector<at::Tensor> ShardedParamsBase::parameters() const {
  std::vector<at::Tensor> shards;
  engine_->each_flat([&](auto& flat) {
    if (flat.is_trained()) shards.push_back(flat.shard());
  });
  return shards;
}

double ShardedParamsBase::clip_grad_norm(double max) {
  at::NoGradGuard no_grad;
  double squares = 0;
  for (auto& shard : parameters())
    if (shard.grad().defined())
      squares += std::pow(at::linalg_vector_norm(shard.grad(), 2, {}, false, at::kDouble).item<double>(), 2);
  auto& group = engine_->options().group;
  auto sum = at::full({1}, squares, at::TensorOptions(at::kDouble).device(group.device()));
  auto norm = std::sqrt(group.all_reduce(std::move(sum)).get().item<double>());
  if (auto scale = max / (norm + 1e-6); scale < 1)  // as torch::nn::utils::clip_grad_norm_ has it
    for (auto& shard : parameters())
      if (shard.grad().defined()) shard.mutable_grad().mul_(scale);
  return norm;
}

void ShardedParamsBase::each_parameter(
    const std::function<void(const std::string& name, const at::Tensor& value)>& show) {
  at::NoGradGuard no_grad;
  engine_->each_flat([&](auto& flat) {
    auto whole = flat.gather_values();
    for (auto& item : flat.items())
      for (auto& leaf : item.leaves) {
        auto value = whole.as_strided(leaf.tensor.sizes(), leaf.tensor.strides(),
                                      whole.storage_offset() + item.begin + leaf.offset);
        for (auto& name : leaf.names) show(name, value);
      }
  });
}

void ShardedParamsBase::load(const ParameterSource& source) {
  at::NoGradGuard no_grad;
  auto ask = [&](const std::string& name, int64_t begin, int64_t end) {
    auto values = source(name, begin, end);
    if (values.numel() != end - begin)
      throw Error(
          fmt::format("ShardedParams::load: the source gave {} elements of '{}' where [{}, {}) was asked for",
                      values.numel(), name, begin, end));
    return values.flatten();
  };
  for (auto& unit : engine_->units())
    for (auto& flat : unit->flats)
      for (auto& item : flat.items()) {
        auto [from, count] = flat.own(item);
        if (count == 0) continue;
        auto& first = item.leaves[0];
        if (first.tensor.is_contiguous() && first.tensor.numel() == item.size) {
          flat.set(item, ask(first.names[0], from, from + count), from);
          continue;
        }
        auto whole = at::zeros({item.size}, flat.shard().options().requires_grad(false));
        for (auto& leaf : item.leaves) {
          auto place = elements_of(whole, leaf.offset, leaf.tensor);
          auto values = ask(leaf.names[0], 0, leaf.tensor.numel()).view(leaf.tensor.sizes());
          for (int64_t dim = 0; dim < place.dim(); ++dim) values = values.narrow(dim, 0, place.size(dim));
          place.copy_(values);
        }
        flat.set(item, whole.narrow(0, from, count), from);
      }
  engine_->has_values();
}

std::shared_ptr<void> ShardedParamsBase::whole() {
  if (engine_->is_whole()) return {};
  Plain plain;
  engine_->residency().release_all();
  engine_->residency().bring_all();
  return {nullptr, [engine = engine_](void*) { engine->residency().release_all(); }};
}

std::vector<std::string> ShardedParamsBase::units() const {
  std::vector<std::string> names;
  for (auto& unit : engine_->units()) names.push_back(unit->name);
  return names;
}

ParameterMemory ShardedParamsBase::memory() const {
  int64_t shards = 0;
  engine_->each_flat([&](auto& flat) { shards += static_cast<int64_t>(flat.shard().nbytes()); });
  auto& residency = engine_->residency();
  return {shards, residency.resident_bytes(), residency.peak_bytes()};
}

void ShardedParamsBase::reset_peak() { engine_->residency().reset_peak(); }

}  // namespace wanpar
