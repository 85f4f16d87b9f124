#include <wanpar/detail/module/forward.hpp>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <exception>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>

#include "core/sentence.hpp"
#include "module/crossing.hpp"
#include "module/wanted_operators.hpp"

namespace wanpar {
namespace {

/// The message to send to the ranks of a group about the current exception; unchanged if all ranks have it
/// already.
std::string sentence_for(const Communicator& group) {
  try {
    throw;
  } catch (const AgreedError& error) {
    return error.what();
  } catch (...) {
    return fmt::format("rank {} of {} failed: {}", group.rank(), group.size(), sentence_at_hand());
  }
}

/// Call in a catch block: rethrows a strategy's error, and a LibTorch error with the remark added.
[[noreturn]] void throw_on_with(const ForwardScope* scope) {
  try {
    Scope::rethrow();
  } catch (const Error&) {
    throw;
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const std::exception& error) {
    auto* of_torch = dynamic_cast<const c10::Error*>(&error);
    const std::string said = of_torch ? of_torch->what_without_backtrace() : error.what();
    const auto remark = scope ? scope->remark(said) : std::string();
    if (remark.empty()) throw;
    throw Error(fmt::format("{}; {}", of_torch ? first_line(said) : said, remark));
  }
}

}  // namespace

namespace detail {

void Collector::tensor(at::Tensor& x) {
  if (!x.defined()) return none();
  auto text = fmt::format("{}={}{};", path(), static_cast<int>(x.scalar_type()), x.sizes());
  signature += text, kinds += text;
  numbers += '*';
  tensors.push_back({path(), x});
}

void Collector::none() {
  for (auto* words : {&signature, &kinds}) *words += path() + "=none;";
  numbers += "none;";
  tensors.push_back({path(), {}});
}

void Collector::plain(std::string_view text) {
  for (auto* words : {&signature, &numbers}) ((*words += path() + '=') += text) += ';';
  // A single digit may be a flag.
  bool is_number = text.size() > 1 && text.find_first_not_of("0123456789.+-e") == text.npos;
  ((kinds += path() + '=') += is_number ? "number" : text) += ';';
  plain_names.push_back(path());
}

Forward::Forward(const std::vector<Communicator>& groups) : outer_handlers_(handlers().size()) {
  for (auto& group : groups)
    if (group.size() > 1) waiting_.push_back({group, group.failures(), group.forward()});
}

void Forward::begin(std::unique_ptr<ForwardScope> scope, Arguments& arguments) {
  scope_ = std::move(scope);
  const Crossing crossing(arguments.tensors);
  scope_->enter(arguments);
  crossing.tell(arguments.tensors);
}

void Forward::end(NamedTensors& results) {
  check_wanted_operators(outer_handlers_);
  const Crossing crossing(results);
  scope_->leave(results);
  crossing.tell(results);
}

void Forward::fail() try {
  if (scope_) scope_->fail();
  throw_on_with(scope_.get());
} catch (...) {
  for (auto& [group, failures, at_hand] : waiting_) {
    if (group.failures() > failures) continue;  // told by a wrapper inside of this one
    NoInterceptGuard no_intercept;
    group.fail(sentence_for(group));
  }
  throw;
}

}  // namespace detail
}  // namespace wanpar
