#pragma once
#include <wanpar/core/communicator.hpp>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace wanpar {

/// A named axis of a Mesh and how many ranks lie along it.
struct Axis {
  std::string name;
  int64_t size;
};

/// Who is in which group: the ranks of a communicator laid out along named axes, row-major, the last one
/// fastest.
///
///     mesh({{"ring", 2}, {"ulysses", 3}})         ulysses 0 1 2
///                                       ring 0            0 1 2
///                                            1            3 4 5      rank 4: ring {1, 4}, ulysses {3, 4, 5}
class Mesh {
 public:
  /// Collective. Throws Error where the sizes do not multiply to the world size, or a name stands twice.
  Mesh(Communicator world, std::vector<Axis> axes);

  const Communicator& world() const;
  const std::vector<Axis>& axes() const;
  int64_t size(const std::string& axis) const;
  /// This rank's position along an axis.
  int64_t index(const std::string& axis) const;

  /// The group of the ranks that differ from this one along that axis only. Throws Error for an unknown name.
  Communicator operator[](const std::string& axis) const;

  /// Collective. Several axes as one group, ordered as they are named: the last one fastest.
  Communicator flatten(const std::vector<std::string>& axes) const;

 private:
  size_t position(const std::string& axis) const;
  std::vector<int> members(const std::vector<size_t>& axes) const;

  Communicator world_;
  std::vector<Axis> axes_;
  std::map<std::string, Communicator> groups_;
};

}  // namespace wanpar
