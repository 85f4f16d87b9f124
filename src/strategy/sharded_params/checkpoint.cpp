// each_parameter() and load(): unsharded parameters by the module's names.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <wanpar/core/error.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "strategy/sharded_params/sharded_engine.hpp"

namespace wanpar {

void ShardedParamsStrategy::each_parameter(
    const std::function<void(const std::string& name, const at::Tensor& value)>& show) {
  at::NoGradGuard no_grad;
  engine_->each_flat([&](auto& flat) {
    flat.each_value([&](auto& leaf, auto& value) {
      for (auto& name : leaf.names) show(name, value);
    });
  });
}

void ShardedParamsStrategy::load(const ParameterSource& source) {
  at::NoGradGuard no_grad;
  auto ask = [&](const std::string& name, int64_t begin, int64_t end) {
    auto values = source(name, begin, end);
    if (values.numel() != end - begin)
      throw UsageError(
          fmt::format("ShardedParams::load: the source gave {} elements of '{}' where [{}, {}) was asked for",
                      values.numel(), name, begin, end));
    return values.flatten();
  };
  for (auto& unit : engine_->units())
    for (auto& flat : unit->flats) {
      if (flat.is_unsharded()) {
        flat.each_leaf([&](size_t, auto& leaf) {
          leaf.tensor.copy_(ask(leaf.names[0], 0, leaf.tensor.numel()).view(leaf.tensor.sizes()));
        });
        continue;
      }
      for (auto& item : flat.items()) {
        auto [from, count] = flat.own(item);
        if (count == 0) continue;
        auto& first = item.leaves[0];
        if (first.tensor.is_contiguous() && first.tensor.numel() == item.size) {
          flat.set(item, ask(first.names[0], from, from + count), from);
          continue;
        }
        auto whole = at::zeros({item.size}, flat.options());
        for (auto& leaf : item.leaves) {
          auto place = elements_of(whole, leaf.offset, leaf.tensor);
          auto values = ask(leaf.names[0], 0, leaf.tensor.numel()).view(leaf.tensor.sizes());
          for (int64_t dim = 0; dim < place.dim(); ++dim) values = values.narrow(dim, 0, place.size(dim));
          place.copy_(values);
        }
        flat.set(item, whole.narrow(0, from, count), from);
      }
    }
  engine_->has_values();
}

}  // namespace wanpar
