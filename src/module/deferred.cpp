#include "module/deferred.hpp"

#include <ATen/ATen.h>

#include <string>
#include <unordered_set>
#include <vector>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/module/deferred.hpp>

#include "module/storage_memory.hpp"

namespace wanpar {
namespace {

constexpr size_t kLarge = 64 << 10;  // bytes

const std::unordered_set<std::string> kWithoutValues{
    "aten::empty", "aten::empty_strided", "aten::empty_like", "aten::new_empty", "aten::normal",
    "aten::rand",  "aten::randn",         "aten::rand_like",  "aten::randn_like"};

/// In-place initialisers, which have no effect on deferred tensors.
const std::unordered_set<std::string> kInitialisers{"aten::uniform_", "aten::normal_", "aten::zero_",
                                                    "aten::fill_", "aten::copy_"};

/// Allocates zeros for the full storage, of which the tensor may be a view.
void fill(const at::Tensor& tensor) {
  int64_t end = tensor.storage_offset() + 1;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) end += (tensor.size(dim) - 1) * tensor.stride(dim);
  auto zeros = at::zeros({end}, tensor.options().requires_grad(false));
  auto bytes = zeros.nbytes();
  set_memory(tensor, std::move(zeros.storage().unsafeGetStorageImpl()->_mutable_data_ptr_no_checks()), bytes);
}

class Deferring : public OperatorHandler {
 public:
  Tensors around(const Operator& op, const Next& next) override {
    if (kInitialisers.contains(op.name) && is_deferred(op.inputs[0])) return {op.inputs[0]};  // as it is
    Tensors filled;
    for (auto& input : op.inputs)
      if (is_deferred(input)) {
        fill(input);
        filled.push_back(input);
      }
    auto outputs = next(op);
    bool is_without_values = !filled.empty() || kWithoutValues.contains(op.name);
    for (auto& output : outputs)
      if (is_without_values && output.defined() && !output.is_meta() && output.storage().nbytes() >= kLarge)
        free_memory(output);
    for (auto& input : filled) free_memory(input);
    return outputs;
  }
};

}  // namespace

namespace detail {

struct Deferral::State {
  std::unique_ptr<Handler> handler = std::make_unique<Deferring>();
  Scope scope{*handler};
};

Deferral::Deferral() : state_(std::make_unique<State>()) {}
Deferral::~Deferral() = default;

}  // namespace detail
}  // namespace wanpar
