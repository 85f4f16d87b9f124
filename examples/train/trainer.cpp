#include "train/trainer.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ostream.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>

#include "train/losses.hpp"

namespace wan::train {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Run {
 public:
  Run(Trainee& trainee, Task& task, const wanpar::Communicator& world, const TrainerOptions& options)
      : trainee_(trainee),
        task_(task),
        world_(world),
        options_(options),
        state_{.optimizer = AdamW(trainee.parameters(), options.adamw), .average = {}},
        each_(options.batch / (world.size() * options.accumulate)) {
    for (const auto& parameter : state_.optimizer.parameters)
      state_.average.push_back(parameter.detach().clone());
    wanpar::all_or_none(world, [&] {
      if (world.rank() == 0) std::filesystem::create_directories(options.folder);
    });
    begin();
  }

  int64_t step() const { return state_.step; }

  /// One step of the optimizer; the losses of the mean sample over all ranks, and whether some rank is to
  /// stop.
  std::vector<double> advance(bool* stop) {
    ++state_.step;
    at::Tensor sums;
    for (int64_t part = 0; part < options_.accumulate; ++part) {
      std::unique_ptr<wanpar::NoSync> alone;
      if (part + 1 < options_.accumulate) alone.reset(new wanpar::NoSync(trainee_.no_sync()));
      const auto first = (world_.rank() * options_.accumulate + part) * each_;
      const auto losses = task_.losses(
          trainee_, {.step = state_.step, .first = first, .count = each_, .all = options_.batch});
      (losses.front() / static_cast<double>(options_.accumulate)).sum().backward();
      const auto values = at::cat(losses).detach().to(at::kDouble);
      sums = sums.defined() ? sums + values : values;
    }
    trainee_.take_gradients();
    const double norm = trainee_.clip_grad_norm(options_.clip);
    const double rate = options_.schedule(state_.step);
    state_.optimizer.step(state_.step, rate);
    trainee_.publish();
    follow();

    const auto wish = at::full({1}, *stop ? 1.0 : 0.0, sums.options());
    const auto all = world_.all_reduce(at::cat({sums, wish})).get().to(at::kCPU);
    *stop = all[-1].item<double>() > 0;
    std::vector<double> values;
    for (int64_t i = 0; i + 1 < all.size(0); ++i)
      values.push_back(all[i].item<double>() / static_cast<double>(options_.accumulate * world_.size()));
    if (!std::isfinite(values.front()) || !std::isfinite(norm))
      throw wanpar::AgreedError(
          fmt::format("step {}: the loss is {} and the gradient's norm {}; lower --learning_rate, the last "
                      "checkpoint is as it was",
                      state_.step, values.front(), norm));
    values.push_back(norm);
    values.push_back(rate);
    return values;
  }

  void save() { train::save(state_, trainee_, world_, file(), options_.settings); }

  /// What the average weights make of something unseen; and writes them.
  std::string sample() {
    std::string said;
    trainee_.with(state_.average, [&] {
      at::NoGradGuard no_grad;
      said = task_.sample(trainee_, world_, state_.step, options_.folder);
    });
    const auto weights = gathered(trainee_, world_, state_.average);
    wanpar::all_or_none(world_, [&] {
      if (world_.rank() == 0) task_.write(weights, options_.folder / "checkpoint");
    });
    return said;
  }

 private:
  std::filesystem::path file() const { return state_file(options_.folder); }

  void begin() {
    if (wanpar::on_any_rank(world_, std::filesystem::exists(file())))
      resume(state_, trainee_, world_, file(), options_.settings);
    else if (!options_.init.empty())
      start_from(state_, trainee_, world_, state_file(options_.init));
  }

  /// The average follows quickly at first, when the weights are far from where they will be.
  void follow() {
    at::NoGradGuard no_grad;
    const auto steps = static_cast<double>(state_.step);
    const double stays = std::min(options_.average, (1 + steps) / (10 + steps));
    at::_foreach_lerp_(state_.average, state_.optimizer.parameters, 1 - stays);
  }

  Trainee& trainee_;
  Task& task_;
  const wanpar::Communicator& world_;
  const TrainerOptions& options_;
  State state_;
  int64_t each_;
};

std::string line(int64_t step, const TrainerOptions& options, const std::vector<std::string>& names,
                 const std::vector<double>& values, double seconds_a_step) {
  std::string text = fmt::format("step {}/{}", step, options.schedule.steps);
  for (size_t i = 0; i < values.size(); ++i) text += fmt::format("  {} {:.4g}", names[i], values[i]);
  const auto left = static_cast<int64_t>(static_cast<double>(options.schedule.steps - step) * seconds_a_step);
  return text + fmt::format("  {:.3g} s a step, {}:{:02}:{:02} left", seconds_a_step, left / 3600,
                            left / 60 % 60, left % 60);
}

}  // namespace

void train(Trainee& trainee, Task& task, const wanpar::Communicator& world, const TrainerOptions& options,
           const std::atomic<bool>& stop, std::ostream& log) {
  const double started = now();
  Run run(trainee, task, world, options);
  auto names = task.names();
  names.insert(names.end(), {"gradient_norm", "learning_rate"});
  const bool tells = world.rank() == 0;
  std::unique_ptr<LossFile> losses;
  wanpar::all_or_none(world, [&] {
    if (tells) losses = std::make_unique<LossFile>(options.folder / "losses.csv", names, run.step());
  });
  if (tells && run.step() > 0) fmt::print(log, "resumed behind step {}\n", run.step());

  const auto keep = [&] {
    run.save();
    if (tells) losses->plot(options.folder / "losses.svg");
  };
  double since = now();
  int64_t steps_since = 0;
  bool stops = false;
  while (run.step() < options.schedule.steps && !stops) {
    stops = stop || (options.seconds && now() - started > *options.seconds);
    const auto values = run.advance(&stops);
    const auto step = run.step();
    ++steps_since;
    const bool ends = stops || step == options.schedule.steps;
    if (tells) {
      losses->add(step, values);
      if (step % options.print_every == 0 || ends) {
        fmt::print(log, "{}\n",
                   line(step, options, names, values, (now() - since) / static_cast<double>(steps_since)));
        log.flush();
        since = now(), steps_since = 0;
      }
    }
    if (step % options.save_every == 0 || ends) keep();
    if (step % options.sample_every == 0 || ends) {
      const auto said = run.sample();
      if (tells) fmt::print(log, "step {}: {}\n", step, said);
      log.flush();
    }
  }
}

}  // namespace wan::train
