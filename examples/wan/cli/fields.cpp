#include "wan/cli/fields.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>

#include "wan/cli/foreign.hpp"
#include "wan/cli/nearest.hpp"
#include "wan/cli/patches.hpp"
#include "wan/cli/words.hpp"

namespace wan {
namespace {

bool is_in(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Goes over the fields once, and over those that must be seen together.
class Translation {
 public:
  Translation(const std::vector<Field>& fields, const std::vector<std::string>& flags, std::string where)
      : flags_(flags), where_(std::move(where)) {
    for (const auto& field : fields) take(field);
  }

  Translated done() {
    count_ranks();
    share_weights();
    share_blocks_or_prompts();
    share_tokens();
    deal_patches();
    check_rank();
    return {std::move(settings_), std::move(notes_)};
  }

 private:
  template <class... Parts>
  [[noreturn]] void refuse(fmt::format_string<Parts...> sentence, Parts&&... parts) const {
    throw UsageError(where_ + ": " + fmt::format(sentence, std::forward<Parts>(parts)...));
  }

  void take(const Field& field);
  void give(const std::string& flag, const std::string& value, const std::string& field);
  void drop(const std::string& flag);
  const Setting* setting(const std::string& flag) const;
  std::optional<int64_t> number(const std::string& flag) const;
  std::optional<std::string> said(const std::string& field) const;
  std::optional<bool> truth(const std::string& field) const;
  int64_t ranks_for(const std::string& field) const;

  void count_ranks();
  void share_weights();
  void share_blocks_or_prompts();
  void share_tokens();
  void deal_patches();
  void check_rank() const;

  std::vector<std::string> flags_;
  std::string where_;
  std::map<std::string, std::string> joint_;
  std::vector<Setting> settings_;
  std::vector<std::string> notes_;
};

void Translation::take(const Field& field) {
  const auto& name = field.name;
  const auto not_built = fields_not_built().find(name);
  const auto renamed = renamed_fields().find(name);
  if (name == "backend" && field.value == "inductor") {
    refuse(
        "backend 'inductor' is torch.compile's, which is known but not built here: the pipeline is compiled "
        "C++");
  } else if (renamed != renamed_fields().end()) {
    give(renamed->second, field.value, name);
  } else if (is_in(flags_, name)) {
    give(name, field.value, name);
  } else if (not_built != fields_not_built().end()) {
    if (!is_in(not_built->second.taken, field.value))
      refuse("{} '{}' is known but not built here: {}", name, field.value, not_built->second.instead);
  } else if (is_in(joint_fields(), name)) {
    joint_[name] = field.value;
  } else {
    auto names = foreign_fields();
    names.insert(names.end(), flags_.begin(), flags_.end());
    refuse("'{}' is no field of a configuration; did you mean {}?", name, nearest(name, names));
  }
}

void Translation::give(const std::string& flag, const std::string& said_value, const std::string& field) {
  auto value = said_value;
  if (flag == "dtype") {
    static const std::map<std::string, std::string> kNames = {{"fp32", "float32"}, {"bf16", "bfloat16"}};
    if (const auto full = kNames.find(value); full != kNames.end()) value = full->second;
    if (value == "fp16" || value == "float16")
      refuse("{} '{}' is known but not built here: bfloat16 takes as much memory, and holds larger numbers",
             field, said_value);
  }
  if (const auto* other = setting(flag)) {
    if (other->value == value) return;
    refuse("{} is {}, but {} is {}; leave one of them out", field, said_value, other->field, other->value);
  }
  settings_.push_back({flag, value, field});
}

void Translation::drop(const std::string& flag) {
  std::erase_if(settings_, [&](const auto& one) { return one.flag == flag; });
}

const Setting* Translation::setting(const std::string& flag) const {
  const auto found =
      std::find_if(settings_.begin(), settings_.end(), [&](auto& one) { return one.flag == flag; });
  return found == settings_.end() ? nullptr : &*found;
}

/// None where it is no number either: what reads the flag will say so.
std::optional<int64_t> Translation::number(const std::string& flag) const {
  const auto* one = setting(flag);
  if (!one) return std::nullopt;
  int64_t number = 0;
  const auto [end, error] = std::from_chars(one->value.data(), one->value.data() + one->value.size(), number);
  return error == std::errc() && end == one->value.data() + one->value.size() && number > 0
             ? std::optional(number)
             : std::nullopt;
}

std::optional<std::string> Translation::said(const std::string& field) const {
  const auto found = joint_.find(field);
  return found == joint_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<bool> Translation::truth(const std::string& field) const {
  const auto value = said(field);
  if (value && *value != "true" && *value != "false")
    refuse("{} '{}' is neither true nor false", field, *value);
  return value ? std::optional(*value == "true") : std::nullopt;
}

int64_t Translation::ranks_for(const std::string& field) const {
  if (const auto ranks = number("world_size")) return *ranks;
  refuse("{} needs the number of ranks beside it: world_size, num_gpus or gpu_ids", field);
}

/// Devices that are named are as many ranks, where nothing else says how many.
void Translation::count_ranks() {
  const auto* devices = setting("gpu_ids");
  if (!devices || setting("world_size") || said("parallelism_type") == "none") return;
  const auto& list = devices->value;
  give("world_size", std::to_string(1 + std::count(list.begin(), list.end(), ',')), "gpu_ids");
}

void Translation::share_weights() {
  const auto use = truth("use_fsdp");
  const auto strategy = said("sharding_strategy");
  static const std::vector<std::string> kStrategies = {"FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD"};
  if (strategy && !is_in(kStrategies, *strategy)) {
    if (strategy->starts_with("HYBRID_SHARD") || strategy->starts_with("_HYBRID"))
      refuse(
          "sharding_strategy '{}' is known but not built here: weights are sharded over all ranks that use "
          "them",
          *strategy);
    refuse("sharding_strategy '{}' is none of {}", *strategy, fmt::join(kStrategies, ", "));
  }
  const auto* sharded = setting("dit_fsdp");
  const bool is_wanted = use == true || (sharded && sharded->value == "true");
  if (!is_wanted) {
    if (strategy && *strategy != "NO_SHARD")
      notes_.push_back("sharding_strategy has no effect without use_fsdp or dit_fsdp");
    return;
  }
  const auto field = use == true ? std::string("use_fsdp") : sharded->field;
  drop("dit_fsdp");
  if (strategy.value_or("FULL_SHARD") == "FULL_SHARD") give("dit_fsdp", "true", field);
  if (strategy == "SHARD_GRAD_OP")
    notes_.push_back(
        "sharding_strategy SHARD_GRAD_OP shards gradients and optimizer state, which nobody has without "
        "training: "
        "every rank holds the transformer whole");
}

void Translation::share_blocks_or_prompts() {
  const auto type = said("parallelism_type");
  static const std::vector<std::string> kTypes = {"none", "data_parallel", "block_distribution",
                                                  "distributed"};
  if (type && !is_in(kTypes, *type))
    refuse("parallelism_type '{}' is none of {}", *type, fmt::join(kTypes, ", "));
  const auto blocks = truth("enable_block_distribution");
  if (type && *type != "distributed" && blocks && *blocks != (*type == "block_distribution"))
    refuse("parallelism_type is {}, but enable_block_distribution is {}; leave one of them out", *type,
           *blocks);
  if (type == "none") give("world_size", "1", "parallelism_type");
  if (type == "data_parallel")
    give("data_parallel_size", std::to_string(ranks_for("parallelism_type data_parallel")),
         "parallelism_type");
  if (type == "block_distribution" || blocks == true) {
    const auto* field = type == "block_distribution" ? "parallelism_type" : "enable_block_distribution";
    give("pipeline_size", std::to_string(ranks_for(field)), field);
  }
}

void Translation::share_tokens() {
  const auto use = truth("use_context_parallel");
  truth("use_usp");  // Ulysses and ring are what it stands for
  if (use != false) return;
  if (truth("use_usp") == true)
    refuse("use_context_parallel is false, but use_usp is true; leave one of them out");
  drop("ulysses_size");
  drop("ring_size");
  notes_.push_back(
      "use_context_parallel is false, so ulysses_size and ring_size are not asked for; ranks that nothing "
      "else "
      "shares the work of share tokens all the same, with the same result");
}

/// Who splits a video into patches says so, or says how.
void Translation::deal_patches() {
  const auto enabled = truth("enable_distrifusion");
  const auto describing = std::find_if(settings_.begin(), settings_.end(),
                                       [](auto& one) { return is_in(patch_fields(), one.flag); });
  if (enabled == false) {
    std::erase_if(settings_, [](auto& one) {
      return is_in(patch_fields(), one.flag) || one.flag == "patch_parallel_size";
    });
    return;
  }
  if (setting("patch_parallel_size") || (!enabled && describing == settings_.end())) return;
  const auto field = enabled ? std::string("enable_distrifusion") : describing->field;
  const auto ranks = ranks_for(field);
  int64_t taken = 1;
  for (const auto* flag : {"cfg_size", "ulysses_size", "ring_size", "pipeline_size", "data_parallel_size"})
    taken *= number(flag).value_or(1);
  if (ranks % taken != 0)
    refuse(
        "{} deals patches to the ranks that are left, but {} ranks are no multiple of {}, what the other "
        "degrees take",
        field, ranks, taken);
  give("patch_parallel_size", std::to_string(ranks / taken), field);
}

/// A rank's number comes from its launcher; a file is the same for all.
void Translation::check_rank() const {
  for (const auto* field : {"rank", "process_rank"}) {
    const auto text = said(field);
    if (!text) continue;
    int64_t rank = -1;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), rank);
    const bool is_number = error == std::errc() && end == text->data() + text->size() && rank >= 0;
    if (!is_number || rank >= number("world_size").value_or(rank + 1))
      refuse("{} is {}, but ranks are 0 to {}; leave it out, the launcher says which rank a process is",
             field, *text, number("world_size").value_or(1) - 1);
  }
}

}  // namespace

Translated flags_of_fields(const std::vector<Field>& fields, const std::vector<std::string>& flags,
                           const std::string& where) {
  return Translation(fields, flags, where).done();
}

std::vector<std::string> foreign_fields() {
  auto names = joint_fields();
  for (const auto& [name, flag] : renamed_fields()) names.push_back(name);
  for (const auto& [name, rest] : fields_not_built()) names.push_back(name);
  return names;
}

}  // namespace wan
