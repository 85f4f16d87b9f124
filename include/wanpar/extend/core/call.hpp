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

/// What a rank is about to do: named in errors, compared by `checked`, counted by `recording`.
struct Call {
  Operation operation{};
  ReduceOp reduce = ReduceOp::sum;
  at::ScalarType dtype = at::kByte;
  std::vector<int64_t>
      shape;  ///< what every rank must agree on: the whole shape, uneven dimensions as totals
  std::vector<int64_t> sizes;  ///< each rank's extent of an uneven dimension; empty where even
  int root = -1;               ///< broadcast only
  uint64_t sequence = 0;       ///< how many collectives this group has begun; 0 where only some take part
  uint64_t forward = 0;        ///< how many forwards of wrapped modules this rank has begun in this group
  int rank = 0;
  int size = 1;
  std::chrono::milliseconds timeout{60'000};
  std::source_location site;
  std::string about = {};  ///< what it moves, where the caller said so: "unit 'blocks.3'"
};

const char* name(Operation operation);
const char* name(ReduceOp op);

/// `all_reduce(sum, Float[3, 4]) #7 of unit 'blocks.3', called at model.cpp:12`.
std::string describe(const Call& call);

/// `rank 1 of 4, all_reduce(sum, Float[3, 4]) #7, called at model.cpp:12`: how errors begin.
std::string where(const Call& call);

/// `rank 1 of 4, ...: rank 0 did not come within 30 s`: how a wait for `who` ends that took the call's
/// timeout.
std::string too_late(const Call& call, const std::string& who);

}  // namespace wanpar
