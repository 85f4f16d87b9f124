#pragma once
#include <c10/core/ScalarType.h>
#include <wanpar/core/reduce_op.hpp>

#include <chrono>
#include <cstdint>
#include <source_location>
#include <string>
#include <vector>

namespace wanpar {

enum class Operation {
  all_reduce,
  all_gather,
  reduce_scatter,
  all_to_all,
  broadcast,
  exchange,
  barrier,
  subgroup
};

/// A call of a collective: shown in errors, compared by `checked`, counted by `recording`.
struct Call {
  Operation operation{};
  ReduceOp reduce = ReduceOp::sum;
  at::ScalarType dtype = at::kByte;
  std::vector<int64_t>
      shape;  ///< must agree on every rank: the global shape, with uneven dimensions as totals
  std::vector<int64_t> sizes;  ///< each rank's extent of an uneven dimension; empty if even
  int root = -1;               ///< broadcast only
  uint64_t sequence = 0;  ///< sequence number among the group's collectives; 0 for calls of some ranks only
  uint64_t forward = 0;   ///< number of forwards of wrapped modules that this rank has started on the group
  int rank = 0;
  int size = 1;
  std::chrono::milliseconds timeout{60'000};
  std::source_location site;
  std::string about = {};  ///< the caller's label: "unit 'blocks.3'"
};

const char* name(Operation operation);
const char* name(ReduceOp op);

/// `all_reduce(sum, Float[3, 4]) #7 of unit 'blocks.3', called at model.cpp:12`.
std::string describe(const Call& call);

/// `rank 1 of 4, all_reduce(sum, Float[3, 4]) #7, called at model.cpp:12`: the start of error messages.
std::string where(const Call& call);

/// `rank 1 of 4, ...: rank 0 did not come within 30 s`: the message when waiting for `who` has timed out.
std::string too_late(const Call& call, const std::string& who);

}  // namespace wanpar
