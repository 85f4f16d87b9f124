#pragma once
#include <string>
#include <utility>
#include <wanpar/module/block_ranges.hpp>
#include <wanpar/module/parameters.hpp>

#include "wan/model/transformer.hpp"

namespace wan {

/// The transformer as one stage of a pipeline has it: called as the whole, but its parameters are those of
/// its own blocks and of what lies outside of blocks.
class Stage {
 public:
  Stage(Transformer transformer, wanpar::BlockRange blocks)
      : transformer_(std::move(transformer)), blocks_(blocks) {}

  at::Tensor operator()(at::Tensor latents, at::Tensor timestep, at::Tensor text) {
    return transformer_(std::move(latents), std::move(timestep), std::move(text));
  }

  wanpar::NamedTensors named_parameters() const {
    auto parameters = wanpar::named_parameters(transformer_);
    std::erase_if(parameters, [&](const auto& parameter) { return is_elsewhere(parameter.name); });
    return parameters;
  }

 private:
  bool is_elsewhere(const std::string& name) const {
    const std::string blocks = "blocks.";
    if (!name.starts_with(blocks)) return false;
    const auto index = std::stoll(name.substr(blocks.size()));
    return index < blocks_.begin || index >= blocks_.end;
  }

  Transformer transformer_;
  wanpar::BlockRange blocks_;
};

}  // namespace wan
