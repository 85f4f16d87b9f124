#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>

#include <map>
#include <string>
#include <vector>

/// The gradients of the whole module, by name, put together from the shards.
template <class Sharded>
std::map<std::string, at::Tensor> whole_gradients(Sharded& sharded) {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> values;
  for (auto& shard : sharded.parameters()) {
    values.push_back(shard.clone());
    shard.copy_(shard.grad().defined() ? shard.grad() : at::zeros_like(shard));
  }
  std::map<std::string, at::Tensor> all;
  sharded.each_parameter([&](auto& name, auto& value) { all[name] = value.clone(); });
  auto value = values.begin();
  for (auto& shard : sharded.parameters()) shard.copy_(*value++);
  return all;
}
