#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <set>
#include <wanpar/checkpoint/state_dict.hpp>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/files/json.hpp>
#include <wanpar/extend/files/part_file.hpp>
#include <wanpar/extend/module/interceptor.hpp>

#include "checkpoint/checkpoint_files.hpp"
#include "checkpoint/named_state.hpp"

namespace wanpar {
namespace {

/// What is read and checked on this rank, before anything is changed.
class Loading {
 public:
  Loading(const StateDict& state, const std::filesystem::path& folder) : state_(state), files_(folder) {
    for (auto* tensors : {&state_.tensors(), &state_.buffers()})
      for (auto& item : *tensors) {
        files_.check(item);
        wanted_.insert(item.name);
      }
    const auto saved = state_.optimizers().size();
    if (saved > 0 && files_.optimizers().size() != saved)
      refuse(fmt::format("{} optimizers were saved, and there are {}", files_.optimizers().size(), saved));
    for (size_t i = 0; i < saved; ++i) remember(state_.optimizers()[i], files_.optimizers()[i]);
  }

  /// Collective. Throws Error if the checkpoint has tensors that no rank takes.
  void check_all_are_wanted(const Communicator& world) const {
    std::vector<std::string> names;
    std::vector<int64_t> is_wanted;
    for (auto& [name, tensor] : files_.tensors()) {
      if (state_.optimizers().empty() && name.starts_with("optimizer/")) continue;
      names.push_back(name);
      is_wanted.push_back(wanted_.contains(name));
    }
    if (names.empty()) return;
    const auto all =
        world.all_reduce(at::tensor(is_wanted, at::kLong).to(world.device()), ReduceOp::max).get().cpu();
    for (size_t i = 0; i < names.size(); ++i)
      if (all[static_cast<int64_t>(i)].item<int64_t>() == 0)
        refuse(fmt::format("there is a tensor '{}' that nothing here has the name of", names[i]));
  }

  void apply() {
    for (auto* tensors : {&state_.tensors(), &state_.buffers()})
      for (auto& item : *tensors) files_.read(item);
    for (auto& [optimizer, options, memories] : remembered_) {
      for (size_t i = 0; i < options.size(); ++i)
        optimizer->param_groups()[i].set_options(std::move(options[i]));
      for (auto& [parameter, memory] : memories) {
        optimizer->state().erase(parameter);
        if (memory) optimizer->state()[parameter] = std::move(memory);
      }
    }
  }

 private:
  struct Remembered {
    torch::optim::Optimizer* optimizer;
    std::vector<std::unique_ptr<torch::optim::OptimizerOptions>> options = {};
    std::vector<std::pair<void*, std::unique_ptr<torch::optim::OptimizerParamState>>> memories = {};
  };

  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(fmt::format("{}: {}", files_.index().string(), why));
  }

  void remember(const NamedState::OptimizerState& mine, const nlohmann::json& saved) {
    auto& [optimizer, kind] = mine;
    const auto where = files_.index().string();
    const auto name = value_at<std::string>(saved, "class", where);
    if (name != kind->name())
      refuse(fmt::format("the optimizer was {}, and here it is {}", name, kind->name()));
    const auto groups = value_at<std::vector<nlohmann::json>>(saved, "groups", where);
    auto& own = optimizer->param_groups();
    if (groups.size() != own.size())
      refuse(
          fmt::format("{} had {} groups of parameters, and here it has {}", name, groups.size(), own.size()));

    Remembered all{.optimizer = optimizer};
    for (size_t i = 0; i < own.size(); ++i) {
      all.options.push_back(kind->options_from(value_at<nlohmann::json>(groups[i], "options", where), where));
      const auto names = value_at<std::set<std::string>>(groups[i], "parameters", where);
      for (auto& tensor : own[i].params()) {
        auto& parameter = state_.parameter(tensor);
        if (!names.contains(parameter.name))
          refuse(fmt::format("'{}' was not in group {} of {}, where it is here", parameter.name, i, name));
        all.memories.emplace_back(tensor.unsafeGetTensorImpl(), memory_of(*kind, parameter));
      }
    }
    remembered_.push_back(std::move(all));
  }

  /// Null if the optimizer had not stepped the parameter.
  std::unique_ptr<torch::optim::OptimizerParamState> memory_of(const OptimizerKind& kind,
                                                               const NamedTensor& parameter) {
    auto memory = kind.new_memory();
    bool is_any = false;
    auto find = [&](const char* field) -> const StoredTensor* {
      const auto name = memory_name(parameter.name, field);
      const auto found = files_.tensors().find(name);
      if (found == files_.tensors().end()) return nullptr;
      wanted_.insert(name);
      is_any = true;
      return &found->second;
    };
    auto read = [&](NamedTensor to) {
      files_.check(to);
      files_.read(to);
      return to.tensor;
    };
    kind.visit(
        *memory,
        [&](const char* field, at::Tensor& value) {
          auto* stored = find(field);
          if (!stored) return;
          value = read({memory_name(parameter.name, field), at::zeros_like(parameter.tensor.detach()),
                        parameter.placement, parameter.shard});
        },
        [&](const char* field, int64_t& value) {
          if (find(field))
            value = read({memory_name(parameter.name, field), at::zeros({}, at::kLong)}).item<int64_t>();
        });
    return is_any ? std::move(memory) : nullptr;
  }

  NamedState state_;
  CheckpointFiles files_;
  std::set<std::string> wanted_;
  std::vector<Remembered> remembered_;
};

}  // namespace

void load_state_dict(const StateDict& state, const std::filesystem::path& folder, const Communicator& world) {
  NoInterceptGuard no_intercept;
  at::NoGradGuard no_grad;
  std::unique_ptr<Loading> loading;
  all_or_none(world, [&] { loading = std::make_unique<Loading>(state, target_of(folder)); });
  loading->check_all_are_wanted(world);
  loading->apply();
}

}  // namespace wanpar
