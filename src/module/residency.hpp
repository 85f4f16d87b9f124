#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/extend/module/interceptor.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "module/backward_pass.hpp"
#include "module/shard_schedule.hpp"

namespace wanpar {

/// Where the values of a unit of parameters are while it is not resident: peers' shards, a file, pinned
/// memory.
class Source {
 public:
  virtual ~Source() = default;

  using Buffers = std::vector<at::Tensor>;
  /// Starts fetching the values (an all-gather); the returned function, called once, waits for them.
  virtual std::function<Buffers()> fetch() = 0;

  /// A version that changes whenever an operator writes to the values.
  virtual int64_t version() const = 0;

  /// Copies values that were written while resident back to the source.
  virtual void write_back(const Buffers& buffers) = 0;
};

/// A storage of the module, and the bytes of the source's buffer that it is a view of.
struct StorageSlice {
  at::Tensor tensor;  ///< any tensor of that storage
  size_t buffer;
  int64_t begin, bytes;
  std::string name;  ///< the name of a parameter in it
};

/// Parameters that are unsharded and resharded together.
struct ResidentUnit {
  std::string name;
  std::shared_ptr<Source> source;
  std::vector<StorageSlice> storages;
};

//  Residency: parameters have memory only while operators use them.
//
//     order learnt    a     b     c     d               an operator uses b: wait for b, prefetch c, reshard
//     resident        ·    [b]   (c)    ·               a. At most prefetch + 1 units are resident or being
//                          now  prefetched              fetched.
//
// The parameter's own StorageImpl is emptied and refilled in place. Views that the module made or that
// autograd saved share it, so memory is really freed, and every view sees the values again. It is never
// refilled by a tensor operator, which would bump the version of saved tensors. In backward, a pre-hook on
// the node of each operator that used a unit unshards it again, so backward() works outside any scope.
class Residency : public OperatorHandler,
                  public RecomputableHandler,
                  public std::enable_shared_from_this<Residency> {
 public:
  explicit Residency(std::shared_ptr<ShardSchedule> schedule) : schedule_(std::move(schedule)) {}

  /// Takes over the unit's storages and frees their memory.
  void add(ResidentUnit unit);

  /// After a pass has failed on some rank: reshards all units and forgets the learnt orders.
  void reset_after_failure();
  void begin_forward();
  /// Call within the scope: the module's result, cloned if it aliases the memory of a unit.
  at::Tensor clone_if_aliased(at::Tensor result);
  void end_forward();

  Tensors around(const Operator& op, const Next& next) override;
  RecomputeScope recompute_scope(std::span<const at::Tensor> inputs) override;

  /// The versions of these units.
  std::vector<int64_t> versions(const std::vector<int>& units) const;
  /// Call from a hook: backward is about to use these units. Throws Error if they have changed since the
  /// forward.
  void need_in_backward(const std::vector<int>& units, const std::vector<int64_t>& versions);
  void unshard_all();
  /// Copies what was written to the resident units back to their sources.
  void write_back_all();
  void reshard_all();

  int64_t resident_bytes() const { return resident_bytes_; }
  int64_t peak_bytes() const { return peak_bytes_; }
  void reset_peak() { peak_bytes_ = resident_bytes_; }

 private:
  struct Entry {
    ResidentUnit unit;
    int64_t bytes = 0;
    std::function<Source::Buffers()> pending = {};
    Source::Buffers buffers = {};       // while resident
    std::vector<int64_t> written = {};  // version of each tensor when it became resident
  };

  int unit_of(const at::Tensor& tensor) const;
  void begin_backward();
  void need(const std::vector<int>& needed, bool in_backward);
  std::vector<int> units_of(std::span<const at::Tensor> tensors) const;
  void hook_nodes(std::span<const at::Tensor> outputs, const std::vector<int>& touched);
  void fetch(int unit);
  void finish_fetch(int unit);
  void reshard(int unit);
  void check_unwritten() const;
  bool hook(const at::Tensor& tensor, const std::vector<int>& units);
  void hook_units_without_node(std::span<const at::Tensor> tensors);

  std::shared_ptr<ShardSchedule> schedule_;
  std::vector<Entry> entries_;
  std::vector<Shards> shards_;  // of each entry
  std::unordered_map<c10::StorageImpl*, int> unit_of_storage_;
  BackwardPass pass_;
  /// Used by operators that made no node, inside a custom autograd function, whose node is created later.
  std::vector<int> units_without_node_;
  int64_t resident_bytes_ = 0, peak_bytes_ = 0;
};

}  // namespace wanpar
