#include "module/absent_memory.hpp"

#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>

#include <string_view>
#include <unordered_set>
#include <wanpar/core/error.hpp>

#include "module/storage_memory.hpp"

namespace wanpar {
namespace {

/// Operators that need only shape, dtype or autograd history.
bool needs_no_memory(const std::string& name) {
  static const std::unordered_set<std::string> names{"aten::detach",
                                                     "aten::alias",
                                                     "aten::requires_grad_",
                                                     "aten::set_data",
                                                     "aten::is_leaf",
                                                     "aten::output_nr",
                                                     "aten::_version",
                                                     "aten::retain_grad",
                                                     "aten::data",
                                                     "aten::retains_grad",
                                                     "aten::sym_size",
                                                     "aten::sym_numel",
                                                     "aten::is_same_size",
                                                     "aten::size",
                                                     "aten::sym_stride",
                                                     "aten::result_type",
                                                     "aten::_fw_primal",
                                                     "aten::stride",
                                                     "aten::numel",
                                                     "aten::is_complex",
                                                     "aten::is_pinned",
                                                     "aten::can_cast",
                                                     "aten::sym_storage_offset"};
  return names.contains(name) || name.ends_with("_like") || name.starts_with("aten::new_");
}

}  // namespace

void require_memory(const c10::OperatorHandle& op, std::span<const at::Tensor> inputs) {
  for (auto& x : inputs) {
    auto* name = name_of_absent(x);
    if (!name) continue;
    auto& called = op.schema().name();
    if (needs_no_memory(called)) return;
    throw UsageError(
        fmt::format("{} on '{}', which is sharded: outside of a forward of the wrapper this rank has not its "
                    "values; step, clip, save and load what the wrapper's own functions give, and hold "
                    "unshard() to read or write whole parameters",
                    called, *name));
  }
}

}  // namespace wanpar
