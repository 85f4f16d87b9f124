#include "module/split/split_call.hpp"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <wanpar/core/error.hpp>

#include "module/boxed_tensors.hpp"
#include "module/split/dispatch.hpp"
#include "module/split/rules.hpp"

namespace wanpar {
namespace {

using c10::IValue;

/// Calls `action`, which may replace it, for each tensor among the values.
template <class Action>
void each_tensor(IValue& value, const Action& action) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) action(value);
  } else if (value.isList()) {
    const std::span<IValue> one(&value, 1);
    auto tensors = tensors_among(one);
    for (auto& x : tensors) {
      IValue item = x;
      action(item);
      x = item.toTensor();
    }
    put_back(tensors, one);
  }
}

std::shared_ptr<const SplitGroup> group_of(std::span<const IValue> arguments) {
  std::shared_ptr<const SplitGroup> group;
  look_at_tensors(arguments, [&](const at::Tensor& x) {
    if (auto* one = as_split(x); one && !group) group = one->group();
  });
  return group;
}

/// The full tensor of a split tensor, with its global strides, on which operators may depend.
at::Tensor laid_out(const at::Tensor& x) {
  auto whole = full_tensor(x);
  if (whole.is_same(x)) return whole;
  const auto geometry = as_split(x)->geometry();
  if (whole.strides() == geometry.strides && whole.storage_offset() == geometry.offset) return whole;
  int64_t extent = geometry.offset + 1;
  auto once = geometry.sizes;  // expanded dimensions are stored once
  for (size_t d = 0; d < once.size(); ++d) {
    if (geometry.strides[d] == 0) once[d] = std::min<int64_t>(once[d], 1);
    if (once[d] < whole.size(d)) whole = whole.narrow(d, 0, once[d]);
    extent += (once[d] - 1) * geometry.strides[d];
  }
  auto memory = at::zeros({std::max<int64_t>(extent, 0)}, whole.options());
  memory.as_strided(once, geometry.strides, geometry.offset).copy_(whole);
  return memory.as_strided(geometry.sizes, geometry.strides, geometry.offset);
}

}  // namespace

const at::Tensor& renewed(SplitTensor& one) {
  auto& view = *one.view();
  if (view.as_of == *one.writes()) return one.part();
  auto arguments = view.arguments;
  arguments[0] = laid_out(view.base);
  const BelowAutograd below;
  view.op.callBoxed(arguments);
  one.renew(tensors_among(arguments).at(view.output).clone());
  view.as_of = *one.writes();
  return one.part();
}

namespace {

/// Writes a modified copy that stands for a view back to its base.
void write_through(SplitTensor& one) {
  auto& view = *one.view();
  auto* base = as_split(view.base);
  auto arguments = view.arguments;
  auto whole = laid_out(view.base);
  if (!base->place()) whole = whole.clone();
  arguments[0] = whole;
  view.op.callBoxed(arguments);
  tensors_among(arguments).at(view.output).copy_(one.part());
  if (base->place()) {
    as_split(view.base)->part().copy_(part_of(whole, *base->place()));
  } else {
    base->part().copy_(whole);
    write_through(*base);
    base->view()->as_of = *base->writes() + 1;
  }
  view.as_of = *one.writes() + 1;
}

}  // namespace

SplitCall::SplitCall(const c10::OperatorHandle& op, const SplitFacts& facts, torch::jit::Stack& stack)
    : op_(op),
      facts_(facts),
      stack_(stack),
      count_(op.schema().arguments().size()),
      first_(stack.size() - count_) {
  const std::span<IValue> arguments(stack.data() + first_, count_);
  group_ = group_of(arguments);
  here_.append(arguments.begin(), arguments.end());
  for (auto& value : here_)
    each_tensor(value, [](IValue& item) {
      auto* one = as_split(item.toTensor());
      if (one && !one->place()) item = renewed(*one);
    });
}

std::optional<size_t> SplitCall::index(std::string_view name) const {
  auto& arguments = op_.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i)
    if (arguments[i].name() == name) return i;
  return {};
}

const IValue* SplitCall::named(std::string_view name) const {
  auto i = index(name);
  return i ? &argument(*i) : nullptr;
}

const at::Tensor& SplitCall::tensor(size_t i) const {
  static const at::Tensor none;
  return i < count_ && argument(i).isTensor() ? argument(i).toTensor() : none;
}

std::optional<size_t> SplitCall::first_split() const {
  for (size_t i = 0; i < count_; ++i)
    if (place(i)) return i;
  return {};
}

bool SplitCall::has_parts() const {
  bool found = false;
  look_at_tensors(arguments(), [&](const at::Tensor& x) { found = found || placement_of(x); });
  return found;
}

std::optional<int64_t> SplitCall::dim(std::string_view name, int64_t dims) const {
  auto* value = named(name);
  if (!value || !value->isInt()) return {};
  const auto d = value->toInt();
  return d < 0 ? d + dims : d;
}

std::optional<std::vector<int64_t>> SplitCall::dims(std::string_view name, int64_t dims) const {
  auto* value = named(name);
  if (!value) return {};
  std::vector<int64_t> list;
  if (value->isInt())
    list = {value->toInt()};
  else if (value->isIntList())
    list = value->toIntVector();
  else
    return {};
  for (auto& d : list)
    if (d < 0) d += dims;
  return list;
}

at::Tensor SplitCall::part(const at::Tensor& x, const SplitPlacement& place) const {
  auto* own = placement_of(x);
  if (own && own->dim == place.dim && own->is_like(place)) return as_split(x)->part();
  return part_of(full_tensor(x), place);
}

void SplitCall::give_part(size_t i, const SplitPlacement& place) { here_[i] = part(tensor(i), place); }

bool SplitCall::give_broadcast(size_t i, const SplitPlacement& place) {
  auto& x = tensor(i);
  if (place.dim < 0 || (x.size(place.dim) == 1 && place.global_extent() != 1))
    give_full(i);
  else if (x.size(place.dim) == place.global_extent())
    give_part(i, place);
  else
    return false;
  return true;
}

void SplitCall::check_writes() const {
  for (auto i : facts_.written) {
    auto* one = as_split(tensor(i));
    if (one && one->is_read_only())
      throw UsageError(fmt::format(
          "{}: {} writes into a view {} of split tokens, of which this is a copy here; write to all of them "
          "(at::where, index_put), or make a new tensor",
          group_->name(), name(), tensor(i).sizes()));
  }
}

void SplitCall::wrote() const {
  for (auto i : facts_.written)
    for (auto& x : tensors_among(std::span(&argument(i), 1)))
      if (auto* one = as_split(x)) {
        if (!one->place()) write_through(*one);
        ++*one->writes();
      }
}

/// Elementwise outputs have the strides of their input.
std::optional<SplitTensor::Geometry> SplitCall::geometry_like(const SplitPlacement& place,
                                                              const at::Tensor& part) const {
  if (!facts_.keeps_strides) return {};
  auto* format = named("memory_format");
  bool is_preserved = !format || format->isNone() || format->toMemoryFormat() == at::MemoryFormat::Preserve;
  if (!is_preserved) return {};
  at::DimVector sizes(part.sizes());
  sizes[place.dim] = place.global_extent();
  for (size_t i = 0; i < count_; ++i) {
    auto& x = tensor(i);
    if (this->place(i) && x.sizes() == sizes && x.is_non_overlapping_and_dense())
      return Geometry{sizes, at::DimVector(x.strides()), 0};
  }
  return Geometry{sizes, c10::contiguous_strides(sizes), 0};
}

at::Tensor SplitCall::combined(const at::Tensor& result, const OutputPlacement& given) const {
  if (!result.defined()) return result;
  switch (given.kind) {
    case OutputPlacement::replicated:
      return result;
    case OutputPlacement::sharded:
      if (result.dim() <= given.place->dim || result.size(given.place->dim) != given.place->extent())
        throw UsageError(fmt::format("{}: {} gave {}, which does not hold the split dimension {}",
                                     group_->name(), name(), result.sizes(), given.place->dim));
      {
        auto parts =
            split_tensor(result.is_conj() || result.is_neg() ? result.resolve_conj().resolve_neg() : result,
                         *given.place, group_, geometry_like(*given.place, result));
        if (facts_.is_view) as_split(parts)->make_read_only();
        return parts;
      }
    case OutputPlacement::partial_sum:
      return group_->sum(result);
    case OutputPlacement::partial_max:
      return group_->greatest(result);
  }
  return result;
}

void SplitCall::replace(torch::jit::Stack results) {
  torch::jit::drop(stack_, count_);
  stack_.insert(stack_.end(), std::make_move_iterator(results.begin()),
                std::make_move_iterator(results.end()));
}

torch::jit::Stack SplitCall::ran() const {
  check_writes();
  torch::jit::Stack call(here_.begin(), here_.end());
  op_.callBoxed(call);
  return call;
}

torch::jit::Stack SplitCall::ran_for_none(const at::Tensor& part, int64_t dim, int64_t extent) {
  auto sizes = part.sizes().vec();
  sizes[dim] = extent;
  give(0, at::zeros(sizes, part.options()));
  auto results = ran();
  for (auto& item : results) item = item.toTensor().narrow(dim, 0, 0).contiguous();
  return results;
}

bool SplitCall::run(std::initializer_list<OutputPlacement> given) { return result(ran(), given); }

bool SplitCall::run_scaled(double factor, const OutputPlacement& given) {
  auto results = ran();
  for (auto& item : results) item = item.toTensor() * factor;
  return result(std::move(results), {given});
}

bool SplitCall::result(torch::jit::Stack results, std::initializer_list<OutputPlacement> given) {
  for (size_t i = 0; i < results.size(); ++i) {
    auto& what = given.begin()[std::min(i, given.size() - 1)];
    const auto argument_it_is = i < facts_.returns_argument.size() ? facts_.returns_argument[i] : -1;
    if (argument_it_is >= 0)
      results[i] = argument(argument_it_is);
    else
      each_tensor(results[i], [&](IValue& item) { item = combined(item.toTensor(), what); });
  }
  wrote();
  replace(std::move(results));
  return true;
}

std::vector<SplitTensor::Geometry> SplitCall::geometry() const {
  torch::jit::Stack call(stack_.begin() + first_, stack_.end());
  call[0] = as_split(tensor(0))->geometry().without_memory(tensor(0).scalar_type());
  c10::InferenceMode no_versions;
  op_.callBoxed(call);
  std::vector<Geometry> geometries;
  for (auto& view : tensors_among(call)) geometries.push_back(Geometry::of(view));
  return geometries;
}

bool SplitCall::run_view(const std::vector<SplitPlacement>& places) {
  torch::jit::Stack call(here_.begin(), here_.end());
  op_.callBoxed(call);
  return result_view(tensors_among(call), places);
}

void SplitCall::replace_by_tensors(const std::vector<at::Tensor>& results) {
  auto& returns = op_.schema().returns();
  bool is_list = returns.size() == 1 && returns[0].type()->kind() == c10::TypeKind::ListType;
  replace(is_list ? torch::jit::Stack{IValue(results)} : torch::jit::Stack(results.begin(), results.end()));
}

at::Tensor SplitCall::view_of_first(at::Tensor part, const SplitPlacement& place,
                                    const Geometry& geometry) const {
  const auto& base = *as_split(tensor(0));
  const c10::InferenceMode as_its_base(tensor(0).is_inference());
  auto view =
      at::detail::make_tensor<SplitTensor>(std::move(part), place, base.group(), geometry, base.writes());
  if (base.is_read_only()) as_split(view)->make_read_only();
  return view;
}

bool SplitCall::result_view(at::Tensor part, const SplitPlacement& place, const Geometry& geometry) {
  replace({view_of_first(std::move(part), place, geometry)});
  return true;
}

bool SplitCall::result_view(const std::vector<at::Tensor>& parts, const std::vector<SplitPlacement>& places) {
  const auto geometries = geometry();
  std::vector<at::Tensor> views;
  for (size_t i = 0; i < parts.size(); ++i)
    views.push_back(view_of_first(parts[i], places[std::min(i, places.size() - 1)], geometries.at(i)));
  replace_by_tensors(views);
  return true;
}

bool SplitCall::result_copy(const at::Tensor& base, const c10::OperatorHandle& op,
                            std::vector<IValue> arguments, const std::vector<at::Tensor>& copies) {
  const auto geometries = geometry();
  auto& writes = as_split(base)->writes();
  const c10::InferenceMode as_its_base(base.is_inference());
  std::vector<at::Tensor> views;
  for (size_t i = 0; i < copies.size(); ++i) {
    auto view = std::make_shared<SplitTensor::View>(SplitTensor::View{base, op, arguments, i, *writes});
    views.push_back(at::detail::make_tensor<SplitTensor>(copies[i].clone(), std::move(view), group_,
                                                         geometries.at(i), writes));
  }
  replace_by_tensors(views);
  return true;
}

void SplitCall::run_replicated() {
  check_writes();
  struct Written {
    at::Tensor split, whole;
  };
  std::vector<Written> written;
  torch::jit::Stack call(here_.begin(), here_.end());
  for (size_t i = 0; i < count_; ++i)
    each_tensor(call[i], [&](IValue& item) {
      const at::Tensor x = item.toTensor();
      if (!placement_of(x)) return;
      auto known =
          std::find_if(written.begin(), written.end(), [&](auto& one) { return one.split.is_same(x); });
      auto whole = known != written.end() ? known->whole : laid_out(x);
      if (facts_.writes(i)) written.push_back({x, whole});
      item = std::move(whole);
    });
  op_.callBoxed(call);
  for (auto& one : written) {
    if (one.whole.sizes() != one.split.sizes())
      throw UsageError(
          fmt::format("{}: {} gives split tokens {} another shape, {}, in place; make a new tensor",
                      group_->name(), name(), one.split.sizes(), one.whole.sizes()));
    auto* split = as_split(one.split);
    split->part().copy_(part_of(one.whole, *split->place()));
  }
  if (facts_.is_view && facts_.written.empty() && as_split(tensor(0))) {
    result_copy(tensor(0), op_, {stack_.begin() + first_, stack_.end()}, tensors_among(call));
    return;
  }
  for (size_t i = 0; i < call.size(); ++i)
    if (i < facts_.returns_argument.size() && facts_.returns_argument[i] >= 0)
      call[i] = argument(facts_.returns_argument[i]);
  wrote();
  replace(std::move(call));
}

}  // namespace wanpar
