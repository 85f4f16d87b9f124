#pragma once
#include <wanpar/core/communicator.hpp>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace wanpar {

/// A named axis of a Mesh, and its size in ranks.
struct Axis {
  std::string name;
  int64_t size;
};

/// The ranks of a communicator arranged along named axes, row-major: the last axis varies fastest.
///
///     mesh({{"ring", 2}, {"ulysses", 3}})         ulysses 0 1 2
///                                       ring 0            0 1 2
///                                            1            3 4 5      rank 4: ring {1, 4}, ulysses {3, 4, 5}
class Mesh {
 public:
  /// Collective. Throws Error if the sizes do not multiply to the world size, or a name occurs twice.
  Mesh(Communicator world, std::vector<Axis> axes);

  const Communicator& world() const;
  const std::vector<Axis>& axes() const;
  int64_t size(const std::string& axis) const;
  /// This rank's position along an axis.
  int64_t index(const std::string& axis) const;

  /// The group of the ranks that differ from this one along that axis only. Throws Error for an unknown axis.
  Communicator operator[](const std::string& axis) const;

  /// Collective. Several axes as one group, in the given order: the last one varies fastest.
  Communicator flatten(const std::vector<std::string>& axes) const;

 private:
  size_t position(const std::string& axis) const;
  std::vector<int> members(const std::vector<size_t>& axes) const;

  Communicator world_;
  std::vector<Axis> axes_;
  std::map<std::string, Communicator> groups_;
};

}  // namespace wanpar
