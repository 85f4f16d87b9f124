#include <fmt/format.h>
#include <fmt/ranges.h>

#include <wanpar/core/mesh.hpp>

namespace wanpar {
namespace {

std::string text(const std::vector<Axis>& axes) {
  std::vector<std::string> parts;
  for (auto& axis : axes) parts.push_back(fmt::format("{} {}", axis.name, axis.size));
  return fmt::format("{}", fmt::join(parts, " x "));
}

}  // namespace

Mesh::Mesh(Communicator world, std::vector<Axis> axes) : world_(std::move(world)), axes_(std::move(axes)) {
  int64_t product = 1;
  for (size_t i = 0; i < axes_.size(); ++i) {
    if (axes_[i].size < 1)
      throw UsageError(
          fmt::format("Mesh: axis '{}' has size {}; the least is 1", axes_[i].name, axes_[i].size));
    for (size_t j = 0; j < i; ++j)
      if (axes_[i].name == axes_[j].name)
        throw UsageError(fmt::format("Mesh: two axes are named '{}'", axes_[i].name));
    product *= axes_[i].size;
  }
  if (product != world_.size())
    throw UsageError(
        fmt::format("Mesh: {} is {} ranks, but the group has {}", text(axes_), product, world_.size()));
  for (size_t i = 0; i < axes_.size(); ++i) groups_.emplace(axes_[i].name, world_.subgroup(members({i})));
}

const Communicator& Mesh::world() const { return world_; }
const std::vector<Axis>& Mesh::axes() const { return axes_; }
int64_t Mesh::size(const std::string& axis) const { return axes_[position(axis)].size; }

int64_t Mesh::index(const std::string& axis) const {
  int64_t stride = 1;
  for (size_t i = position(axis) + 1; i < axes_.size(); ++i) stride *= axes_[i].size;
  return world_.rank() / stride % size(axis);
}

Communicator Mesh::operator[](const std::string& axis) const {
  return groups_.at(axes_[position(axis)].name);
}

Communicator Mesh::flatten(const std::vector<std::string>& names) const {
  std::vector<size_t> axes;
  for (auto& name : names) axes.push_back(position(name));
  return world_.subgroup(members(axes));
}

size_t Mesh::position(const std::string& axis) const {
  for (size_t i = 0; i < axes_.size(); ++i)
    if (axes_[i].name == axis) return i;
  throw UsageError(fmt::format("Mesh: there is no axis '{}'; there is {}", axis, text(axes_)));
}

/// The ranks with this one's position on all other axes; the last of the given axes varies fastest.
std::vector<int> Mesh::members(const std::vector<size_t>& axes) const {
  std::vector<int64_t> strides(axes_.size(), 1);
  for (size_t i = axes_.size(); i-- > 1;) strides[i - 1] = strides[i] * axes_[i].size;

  int64_t base = world_.rank();
  for (auto axis : axes) base -= index(axes_[axis].name) * strides[axis];
  std::vector<int> ranks{static_cast<int>(base)};
  for (auto axis : axes) {
    std::vector<int> longer;
    for (auto rank : ranks)
      for (int64_t i = 0; i < axes_[axis].size; ++i)
        longer.push_back(static_cast<int>(rank + i * strides[axis]));
    ranks = std::move(longer);
  }
  return ranks;
}

}  // namespace wanpar
