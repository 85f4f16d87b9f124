#include "train/state.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <sstream>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/files/safetensors.hpp>

#include "train/text_bytes.hpp"

namespace wan::train {
namespace {

constexpr const char *kWeights = "weights/", *kFirst = "first_moments/", *kSecond = "second_moments/",
                     *kAverage = "average/", *kStep = "step", *kSettings = "settings";

/// A file as it was saved.
class Saved {
 public:
  explicit Saved(const std::filesystem::path& file) : file_(file), tensors_(wanpar::read_safetensors(file)) {}

  const at::Tensor& at(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) return found->second;
    throw wanpar::Error(
        fmt::format("{}: there is no tensor '{}' in it; it is of another network", file_.string(), name));
  }

  Trainee::Source all_of(const char* kind) const {
    return [this, kind](const std::string& name) { return at(kind + name); };
  }

 private:
  std::filesystem::path file_;
  std::map<std::string, at::Tensor> tensors_;
};

void require_same_settings(const std::filesystem::path& file, const std::string& saved,
                           const std::string& settings) {
  std::istringstream theirs(saved), ours(settings);
  for (std::string a, b; true;) {
    const bool has_a = static_cast<bool>(std::getline(theirs, a)),
               has_b = static_cast<bool>(std::getline(ours, b));
    if (!has_a && !has_b) return;
    if (!has_a || !has_b || a != b)
      throw wanpar::Error(
          fmt::format("{} was made with '{}', and this run has '{}'; go on with the same flags, or begin "
                      "another run from its "
                      "weights by --init",
                      file.string(), has_a ? a : "", has_b ? b : ""));
  }
}

void add(NamedTensors& tensors, const char* kind, NamedTensors named) {
  for (auto& [name, tensor] : named) tensors[kind + name] = std::move(tensor);
}

}  // namespace

NamedTensors gathered(Trainee& trainee, const wanpar::Communicator& world,
                      const std::vector<at::Tensor>& values) {
  NamedTensors named;
  trainee.show(values, [&](const std::string& name, const at::Tensor& whole) {
    if (world.rank() == 0) named[name] = whole.detach().to(at::kCPU, whole.scalar_type(), false, true);
  });
  return named;
}

std::filesystem::path state_file(const std::filesystem::path& folder) { return folder / "state.safetensors"; }

void save(const State& state, Trainee& trainee, const wanpar::Communicator& world,
          const std::filesystem::path& file, const std::string& settings) {
  NamedTensors all;
  add(all, kWeights, gathered(trainee, world, state.optimizer.parameters));
  add(all, kFirst, gathered(trainee, world, state.optimizer.first));
  add(all, kSecond, gathered(trainee, world, state.optimizer.second));
  add(all, kAverage, gathered(trainee, world, state.average));
  all[kStep] = at::full({}, state.step, at::kLong);
  all[kSettings] = bytes_of(settings);
  wanpar::all_or_none(world, [&] {
    if (world.rank() == 0) wanpar::write_safetensors(file, all);
  });
}

void resume(State& state, Trainee& trainee, const wanpar::Communicator& world,
            const std::filesystem::path& file, const std::string& settings) {
  std::unique_ptr<Saved> saved;
  wanpar::all_or_none(world, [&] {
    saved = std::make_unique<Saved>(file);
    require_same_settings(file, text_of(saved->at(kSettings)), settings);
  });
  state.step = saved->at(kStep).item<int64_t>();
  trainee.fill(state.optimizer.parameters, saved->all_of(kWeights));
  trainee.fill(state.optimizer.first, saved->all_of(kFirst));
  trainee.fill(state.optimizer.second, saved->all_of(kSecond));
  trainee.fill(state.average, saved->all_of(kAverage));
  trainee.publish();
}

void start_from(State& state, Trainee& trainee, const wanpar::Communicator& world,
                const std::filesystem::path& file) {
  std::unique_ptr<Saved> saved;
  wanpar::all_or_none(world, [&] { saved = std::make_unique<Saved>(file); });
  trainee.fill(state.optimizer.parameters, saved->all_of(kAverage));
  trainee.fill(state.average, saved->all_of(kAverage));
  trainee.publish();
}

}  // namespace wan::train
