#pragma once
#include <wanpar/extend/module/module_kinds.hpp>
#include <wanpar/module/block_ranges.hpp>
#include <wanpar/module/parameters.hpp>

#include <charconv>
#include <string>
#include <utility>

namespace wanpar {

/// A module as seen by one pipeline stage: it is called like the full module, but lists only the parameters
/// and buffers of the stage's own blocks and of everything outside the blocks. So a rank loads, shards and
/// trains nothing else:
///
///     auto mine = wanpar::equal_ranges(40, stages.size())[stages.rank()];
///     auto model = wanpar::OwnStage(transformer, "blocks", mine) | wanpar::block_pipeline({.stages =
///     stages});
template <Wrappable Module>
class OwnStage {
 public:
  /// `list` is the name of the block list: "blocks" for "blocks.3.attn.weight".
  OwnStage(Module module, std::string list, BlockRange mine)
      : module_(std::move(module)), list_(std::move(list) + "."), mine_(mine) {}

  template <class... Args>
  requires Invocable<Module, Args...>
  auto operator()(Args&&... args) { return invoke(module_, std::forward<Args>(args)...); }

  NamedTensors named_parameters() const { return mine(wanpar::named_parameters(module_)); }
  NamedTensors module_parameters() const { return mine(wanpar::module_parameters(module_)); }
  NamedTensors named_buffers() const { return mine(wanpar::named_buffers(module_)); }
  void train(bool on = true) requires HasMode<Module> { module_of(module_).train(on); }
  bool is_training() const requires HasMode<Module> { return module_of(module_).is_training(); }
  Module& inner() { return module_; }

 private:
  NamedTensors mine(NamedTensors tensors) const {
    std::erase_if(tensors, [this](const NamedTensor& item) {
      if (!item.name.starts_with(list_)) return false;
      int64_t block = -1;
      auto* number = item.name.data() + list_.size();
      bool is_block = std::from_chars(number, item.name.data() + item.name.size(), block).ec == std::errc();
      return is_block && (block < mine_.begin || block >= mine_.end);
    });
    return tensors;
  }

  mutable Module module_;
  std::string list_;
  BlockRange mine_;
};

}  // namespace wanpar
