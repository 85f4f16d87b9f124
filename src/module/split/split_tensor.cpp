#include "module/split/split_tensor.hpp"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <mutex>
#include <wanpar/extend/module/interceptor.hpp>

#include <wanpar/extend/module/linear_map.hpp>
#include "module/dispatch_keys.hpp"
#include "module/split/dispatch.hpp"

namespace wanpar {
namespace {

c10::DispatchKeySet keys_for(const at::Tensor& part) {
  const auto backend = part.key_set().highestBackendKey();
  c10::DispatchKeySet keys({kSplit, kAttention});
  keys = keys | c10::getAutocastRelatedKeySetFromBackend(backend);
  if (c10::InferenceMode::is_enabled()) return keys;
  return keys | c10::getAutogradRelatedKeySetFromBackend(backend) |
         c10::DispatchKeySet(c10::DispatchKey::ADInplaceOrView);
}

/// Global strides from those of a shard of any length: dimensions outside the sharded one stride over its
/// global extent. (With one local element, the stride of the sharded dimension is arbitrary.)
at::DimVector whole_strides(const at::Tensor& part, const at::DimVector& sizes, const SplitPlacement& place) {
  if (part.is_contiguous()) return c10::contiguous_strides(sizes);
  at::DimVector strides(part.strides());
  const auto here = std::max<int64_t>(1, place.extent());
  const auto span = strides[place.dim] * here;
  for (int64_t d = 0; d < part.dim(); ++d)
    if (d != place.dim && strides[d] >= span && span > 0)
      strides[d] = strides[d] / here * place.global_extent();
  return strides;
}

/// A hook that unshards the gradient of one tensor.
struct WholeGradient : torch::autograd::FunctionPreHook {
  explicit WholeGradient(size_t which) : index(which) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& gradients) override {
    auto whole = gradients;
    auto& mine = whole.at(index);
    if (as_split(mine)) mine = unsplit(mine);
    return whole;
  }
  size_t index;  // among the outputs of a node
};

void add_once(std::vector<std::unique_ptr<torch::autograd::FunctionPreHook>>& hooks, size_t index) {
  bool is_there = std::any_of(hooks.begin(), hooks.end(), [&](auto& hook) {
    auto* known = dynamic_cast<WholeGradient*>(hook.get());
    return known && known->index == index;
  });
  if (!is_there) hooks.push_back(std::make_unique<WholeGradient>(index));
}

/// This rank's shard of a gradient, which may be split or full.
at::Tensor as_part(const at::Tensor& gradient, const SplitPlacement& place) {
  auto* own = placement_of(gradient);
  if (own && own->dim == place.dim && own->is_like(place)) return as_split(gradient)->part();
  return part_of(full_tensor(gradient), place).contiguous();
}

}  // namespace

SplitTensor::SplitTensor(at::Tensor part, SplitPlacement place, std::shared_ptr<const SplitGroup> group,
                         const std::optional<Geometry>& geometry, Writes writes)
    : TensorImpl(keys_for(part), part.dtype(), part.device()),
      part_(std::move(part)),
      place_(std::move(place)),
      group_(std::move(group)),
      writes_(std::move(writes)) {
  at::DimVector sizes(part_.sizes());
  sizes[place_->dim] = place_->global_extent();
  auto strides = geometry ? at::DimVector() : whole_strides(part_, sizes, *place_);
  settle(geometry ? *geometry : Geometry{std::move(sizes), std::move(strides), 0});
}

SplitTensor::SplitTensor(at::Tensor content, std::shared_ptr<View> view,
                         std::shared_ptr<const SplitGroup> group, const Geometry& geometry, Writes writes)
    : TensorImpl(keys_for(content), content.dtype(), content.device()),
      part_(std::move(content)),
      view_(std::move(view)),
      group_(std::move(group)),
      writes_(std::move(writes)) {
  settle(geometry);
}

void SplitTensor::settle(const Geometry& geometry) {
  set_sizes_and_strides(geometry.sizes, geometry.strides, geometry.offset);
  set_storage_access_should_throw();
}

at::Tensor SplitTensor::Geometry::without_memory(at::ScalarType dtype) const {
  c10::InferenceMode no_versions;
  auto tensor = at::empty({0}, at::TensorOptions(at::kMeta).dtype(dtype));
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides, offset);
  return tensor;
}

SplitTensor::Geometry SplitTensor::geometry() const {
  return {at::DimVector(sizes()), at::DimVector(strides()), storage_offset()};
}

c10::intrusive_ptr<SplitTensor> SplitTensor::copied() const {
  auto copy = place_ ? c10::make_intrusive<SplitTensor>(part_, *place_, group_, geometry(), writes_)
                     : c10::make_intrusive<SplitTensor>(part_, view_, group_, geometry(), writes_);
  copy->is_read_only_ = is_read_only_;
  return copy;
}

c10::intrusive_ptr<c10::TensorImpl> SplitTensor::shallow_copy_and_detach(const c10::VariableVersion& version,
                                                                         bool allow_change) const {
  auto copy = copied();
  if (!copy->is_inference()) copy->set_version_counter(version);
  copy->set_allow_tensor_metadata_change(allow_change);
  return copy;
}

c10::intrusive_ptr<c10::TensorImpl> SplitTensor::shallow_copy_and_detach(c10::VariableVersion&& version,
                                                                         bool allow_change) const {
  auto copy = copied();
  if (!copy->is_inference()) copy->set_version_counter(std::move(version));
  copy->set_allow_tensor_metadata_change(allow_change);
  return copy;
}

void SplitTensor::shallow_copy_from(const c10::intrusive_ptr<TensorImpl>& other) {
  const auto& from = static_cast<const SplitTensor&>(*other);  // LibTorch has compared the key sets
  copy_tensor_metadata(&from, this, version_counter(), allow_tensor_metadata_change());
  part_ = from.part_, place_ = from.place_, view_ = from.view_, group_ = from.group_, writes_ = from.writes_;
  is_read_only_ = from.is_read_only_;
}

const char* SplitTensor::tensorimpl_type_name() const {
  return "a tensor that is split over ranks, of which this rank has a part (read it by operators, or by "
         "wanpar::unshard)";
}

SplitTensor* as_split(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.key_set().has(kSplit) || tensor.has_storage()) return nullptr;
  return static_cast<SplitTensor*>(tensor.unsafeGetTensorImpl());
}

const SplitPlacement* placement_of(const at::Tensor& tensor) {
  auto* one = as_split(tensor);
  return one && one->place() ? &*one->place() : nullptr;
}

at::Tensor split_tensor(at::Tensor part, SplitPlacement place, std::shared_ptr<const SplitGroup> group,
                        const std::optional<SplitTensor::Geometry>& geometry) {
  return at::detail::make_tensor<SplitTensor>(std::move(part), std::move(place), std::move(group), geometry,
                                              std::make_shared<int64_t>(0));
}

at::Tensor part_of(const at::Tensor& whole, const SplitPlacement& place) {
  if (!place.is_merged()) return select_ranges(whole, place.dim, place.layout->of(place.rank));
  return select_ranges(whole, place.dim, place.elements().of(place.rank));
}

at::Tensor full_tensor(const at::Tensor& tensor) {
  auto* one = as_split(tensor);
  if (!one) return tensor;
  const BelowAutograd below;
  if (!one->place()) return renewed(*one);
  const auto& place = *one->place();
  return one->group()->joined(one->part(), place.dim, place.elements());
}

at::Tensor split(const at::Tensor& whole, const SplitPlacement& place,
                 std::shared_ptr<const SplitGroup> group) {
  return linear_map(
      whole,
      [&](const at::Tensor& x) {
        const auto whole = full_tensor(x);
        return split_tensor(part_of(whole, place).clone(at::MemoryFormat::Contiguous), place, group,
                            SplitTensor::Geometry::of(whole));
      },
      [](const at::Tensor& gradient) { return full_tensor(gradient); });
}

at::Tensor unsplit(const at::Tensor& tensor) {
  auto* one = as_split(tensor);
  if (!one) return tensor;
  if (!one->place())
    return linear_map(
        tensor, [](const at::Tensor& x) { return full_tensor(x).clone(); },
        [](const at::Tensor& gradient) { return gradient; });
  return linear_map(
      tensor, [](const at::Tensor& x) { return full_tensor(x); },
      [place = *one->place(), group = one->group()](const at::Tensor& gradient) {
        return split_tensor(as_part(gradient, place), place, group);
      });
}

at::Tensor part_in_graph(const at::Tensor& tensor) {
  auto* one = as_split(tensor);
  return linear_map(
      tensor, [](const at::Tensor& x) { return as_split(x)->part(); },
      [place = *one->place(), group = one->group()](const at::Tensor& gradient) {
        return split_tensor(gradient, place, group);
      });
}

at::Tensor of_parts(const at::Tensor& part, const SplitPlacement& place,
                    std::shared_ptr<const SplitGroup> group,
                    const std::optional<SplitTensor::Geometry>& geometry) {
  return linear_map(
      part, [&](const at::Tensor& x) { return split_tensor(x, place, group, geometry); },
      [place](const at::Tensor& gradient) { return as_part(gradient, place); });
}

void keep_gradient_replicated(const at::Tensor& whole) {
  if (!whole.requires_grad()) return;
  if (auto& made_by = whole.grad_fn()) return add_once(made_by->tensor_pre_hooks(), whole.output_nr());
  static std::mutex mutex;  // ranks that are threads may share a weight
  std::lock_guard lock(mutex);
  add_once(torch::autograd::impl::hooks(whole), 0);
}

}  // namespace wanpar
