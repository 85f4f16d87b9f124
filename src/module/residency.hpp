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
#include "module/visit_order.hpp"

namespace wanpar {

/// Where the bytes of a unit of parameters are while the unit is away: peers' shards, a file, pinned memory.
class Source {
 public:
  virtual ~Source() = default;

  using Buffers = std::vector<at::Tensor>;
  /// Begins to bring them; what is returned is called once, waits, and gives them.
  virtual std::function<Buffers()> fetch() = 0;

  /// Another number whenever an operator has written to the values since.
  virtual int64_t version() const = 0;

  /// Takes what was written to them meanwhile.
  virtual void write_back(const Buffers& buffers) = 0;
};

/// A storage of the module, and which bytes of which buffer of its source it is made of.
struct StorageSlice {
  at::Tensor tensor;  ///< any tensor of that storage
  size_t buffer;
  int64_t begin, bytes;
  std::string name;  ///< of a parameter in it
};

/// Parameters that come and go together.
struct ResidentUnit {
  std::string name;
  std::shared_ptr<Source> source;
  std::vector<StorageSlice> storages;
};

/// When a unit is let go of: once it is not among the next ones; after its backward; with the next forward.
enum class Reshard { after_use, after_backward, at_next_forward };

//  Residency: parameters are there when an operator wants them, and only then.
//
//     order learnt    a     b     c     d               operator touches b: wait for b, begin to fetch c,
//     resident        ·    [b]   (c)    ·               let go of a. At most prefetch + 1 units are here
//                          now  on its way              or on their way.
//
// What is emptied and filled is the parameter's own StorageImpl, in place: views that the module made or that
// autograd saved share it, so memory is really freed and every view sees the values again. It is never filled
// by a tensor operator, which would count as a change of a saved tensor. In a backward, a hook on the node of
// each operator that touched a unit brings the unit back, so backward() works outside of any scope.
class Residency : public OperatorHandler,
                  public RecomputableHandler,
                  public std::enable_shared_from_this<Residency> {
 public:
  Residency(int64_t prefetch, Reshard reshard) : prefetch_(prefetch), reshard_(reshard) {}

  /// Takes the unit's storages over and empties them.
  void add(ResidentUnit unit);

  /// Lets all units go and forgets the orders learnt: a pass has failed on some rank.
  void reset_after_failure();
  void begin_forward();
  /// To be called within the scope: what the module gives, copied where it lies in a unit's memory.
  at::Tensor clone_if_aliased(at::Tensor result);
  void end_forward();

  Tensors around(const Operator& op, const Next& next) override;
  RecomputeScope recompute_scope(std::span<const at::Tensor> inputs) override;

  /// How often each of these units has been written to.
  std::vector<int64_t> versions(const std::vector<int>& units) const;
  /// From a hook: these units are about to be needed by a backward, as they were in its forward.
  void need_in_backward(const std::vector<int>& units, const std::vector<int64_t>& versions);
  /// Brings them all; what is written to them until they are let go of is kept.
  void unshard_all();
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
    bool is_resident = false;
    Source::Buffers buffers = {};       // while it is
    std::vector<int64_t> written = {};  // of each slice: how often its tensor was written to when it came
  };

  int unit_of(const at::Tensor& tensor) const;
  void begin_backward();
  void need(const std::vector<int>& step, VisitOrder& order);
  std::vector<int> units_of(std::span<const at::Tensor> tensors) const;
  void hook_nodes(std::span<const at::Tensor> outputs, const std::vector<int>& touched);
  void fetch(int unit);
  void finish_fetch(int unit);
  void reshard(int unit);
  void check_unwritten() const;
  bool hook(const at::Tensor& tensor, const std::vector<int>& units);
  void hook_units_without_node(std::span<const at::Tensor> tensors);

  int64_t prefetch_;
  Reshard reshard_;
  std::vector<Entry> entries_;
  std::unordered_map<c10::StorageImpl*, int> unit_of_storage_;
  VisitOrder forward_, backward_;
  BackwardPass pass_;
  std::vector<int> step_;  // the units that the latest operator needed
  /// Touched by operators that made no node: a custom autograd function, whose node comes to be after them.
  std::vector<int> units_without_node_;
  int64_t resident_bytes_ = 0, peak_bytes_ = 0;
};

}  // namespace wanpar
