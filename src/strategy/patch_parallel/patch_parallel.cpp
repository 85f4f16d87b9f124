#include <fmt/format.h>
#include <torch/types.h>
#include <wanpar/core/error.hpp>
#include <wanpar/strategy/patch_parallel.hpp>

#include "strategy/patch_parallel/patch_group.hpp"
#include "strategy/patch_parallel/patch_steps.hpp"
#include "strategy/split/split_forward.hpp"

namespace wanpar {
namespace {

const char* text_of(SplitMode mode) {
  switch (mode) {
    case SplitMode::spatial:
      return "spatial";
    case SplitMode::temporal:
      return "temporal";
    case SplitMode::spatiotemporal:
      return "spatiotemporal";
  }
  return "";
}

template <class T>
std::string text_of(const std::optional<T>& value) {
  return value ? fmt::format("{}", *value) : "none";
}

/// The split dimension of each video argument.
std::vector<SplitInput> cuts_of(const PatchParallelOptions& options) {
  std::vector<SplitInput> cuts;
  for (auto& video : options.split) {
    if (options.split_mode == SplitMode::spatiotemporal)
      throw UsageError(
          "PatchParallel: .split names arguments, of which one dimension is dealt, but .split_mode is "
          "spatiotemporal; take spatial or temporal, or state tokens by split_sequence with their grid");
    const bool is_spatial = options.split_mode == SplitMode::spatial;
    const auto& dim = is_spatial ? video.rows : video.frames;
    if (!dim)
      throw UsageError(
          fmt::format("PatchParallel: .split names argument {} without its {}, which .split_mode {} deals",
                      video.arg.text(), is_spatial ? "rows" : "frames", text_of(options.split_mode)));
    cuts.push_back({video.arg, *dim});
  }
  return cuts;
}

void check(const PatchParallelOptions& options) {
  auto& dtype = options.kv_dtype;
  if (dtype && *dtype != at::kBFloat16 && *dtype != at::kFloat8_e4m3fn)
    throw UsageError(fmt::format(
        "PatchParallel: .kv_dtype is {}; give at::kBFloat16 or at::kFloat8_e4m3fn, or leave it out",
        c10::toString(*dtype)));
  const bool is_both = options.split_mode == SplitMode::spatiotemporal;
  const auto parts = options.temporal_parts;
  if (is_both ? parts < 1 || options.group.size() % parts != 0 : parts != 1)
    throw UsageError(fmt::format("PatchParallel: .temporal_parts is {} for {} ranks, .split_mode {}; {}",
                                 parts, options.group.size(), text_of(options.split_mode),
                                 is_both ? "give a divisor of the ranks" : "it is for spatiotemporal"));
  if (options.patch_overlap && *options.patch_overlap < 0)
    throw UsageError(
        fmt::format("PatchParallel: .patch_overlap is {}; give 0 or more rows or frames, or leave it out "
                    "to see all",
                    *options.patch_overlap));
  if (options.temporal_chunk_size && *options.temporal_chunk_size < 1)
    throw UsageError(fmt::format("PatchParallel: .temporal_chunk_size is {}; give 1 or more frames",
                                 *options.temporal_chunk_size));
  if (options.temporal_chunk_size && options.split_mode != SplitMode::temporal)
    throw UsageError(
        fmt::format("PatchParallel: .temporal_chunk_size is {}, but .split_mode is {}; it is for temporal",
                    *options.temporal_chunk_size, text_of(options.split_mode)));
  if (options.patch_overlap && is_both)
    throw UsageError(
        "PatchParallel: .patch_overlap is for .split_mode spatial or temporal, not for spatiotemporal");
  if (options.max_staleness && !(*options.max_staleness >= 0))
    throw UsageError(fmt::format("PatchParallel: .max_staleness is {}; give 0 or more, a part of the norm",
                                 *options.max_staleness));
}

/// The options that must be equal on every rank, as text.
std::string text_of(const PatchParallelOptions& options) {
  return fmt::format(
             "split_mode {}\ntemporal_parts {}\nwarmup_steps {}\nsync_first_step {}\nsync_frequency {}\n"
             "patch_overlap {}\ntemporal_chunk_size {}\nasync_boundary_update {}\nnorm_mode {}\nkv_dtype {}\n"
             "max_staleness {}",
             text_of(options.split_mode), options.temporal_parts, options.warmup_steps,
             options.sync_first_step, options.sync_frequency, text_of(options.patch_overlap),
             text_of(options.temporal_chunk_size), options.async_boundary_update,
             static_cast<int>(options.norm_mode),
             options.kv_dtype ? c10::toString(*options.kv_dtype) : "none", text_of(options.max_staleness)) +
         text_of(cuts_of(options), options.gather);
}

class PatchForward : public SplitForward {
 public:
  PatchForward(const std::shared_ptr<const PatchGroup>& group, SplitEnds ends,
               std::shared_ptr<SplitModule> module, std::shared_ptr<PatchSteps> steps,
               const Arguments& arguments)
      : SplitForward(group, std::move(ends), std::move(module), arguments),
        group_(group),
        steps_(std::move(steps)) {}

  void enter(Arguments& arguments) override {
    steps_->begin_call(*group_, arguments.kinds);
    SplitForward::enter(arguments);
  }
  void leave(NamedTensors& results) override {
    SplitForward::leave(results);
    steps_->end_call();
  }
  /// After a failure ranks may have stored different data for this call: drop all.
  void fail() override { steps_->forget(); }

 private:
  std::shared_ptr<const PatchGroup> group_;
  std::shared_ptr<PatchSteps> steps_;
};

}  // namespace

PatchParallelStrategy::PatchParallelStrategy(Options options, const ModuleTensors& tensors)
    : options_(std::move(options)) {
  check(options_);
  const auto text = text_of(options_);
  steps_ = std::make_shared<PatchSteps>(options_);
  group_ = std::make_shared<PatchGroup>(options_, steps_);
  module_ = std::make_shared<SplitModule>(group_->name(), group_->grid(), text, tensors.parameters);
}

void PatchParallelStrategy::update_step(int64_t step) {
  try {
    steps_->update(step);
  } catch (const Error& error) {
    // The other ranks may have entered a call that this rank does not make.
    for (auto& group : groups()) {
      const auto that_call = group.forward();
      group.fail(error.what());
    }
    throw;
  }
}

void PatchParallelStrategy::synchronize() { steps_->forget(); }

PatchStatus PatchParallelStrategy::status() const {
  auto status = steps_->status();
  if (is_alone()) status.mode = text_of(PatchMode::exact);
  return status;
}

bool PatchParallelStrategy::is_alone() const { return group_->size() == 1; }

std::vector<Communicator> PatchParallelStrategy::groups() const { return group_->grid(); }

std::unique_ptr<ForwardScope> PatchParallelStrategy::begin_forward(const Arguments& arguments,
                                                                   std::shared_ptr<void>) const {
  return std::make_unique<PatchForward>(group_, SplitEnds{cuts_of(options_), options_.gather}, module_,
                                        steps_, arguments);
}

}  // namespace wanpar
