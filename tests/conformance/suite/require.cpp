#include <wanpar/extend/conformance/require.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

#include <exception>
#include <wanpar/core/error.hpp>

namespace wanpar::conformance {

void require(bool truth, const std::string& claim) {
  if (!truth) throw Error("not so: " + claim);
}

void require_equal(const at::Tensor& actual, const at::Tensor& expected, const std::string& claim) {
  auto same_kind = actual.sizes() == expected.sizes() && actual.scalar_type() == expected.scalar_type();
  auto bytes = [](const at::Tensor& t) { return t.contiguous().view({-1}).view(at::kByte); };
  require(same_kind && (actual.numel() == 0 || torch::equal(bytes(actual), bytes(expected))),
          fmt::format("{}: {}{} holds what is expected, {}{}", claim, c10::toString(actual.scalar_type()),
                      actual.sizes(), c10::toString(expected.scalar_type()), expected.sizes()));
}

void require_close(const at::Tensor& actual, const at::Tensor& expected, double tolerance,
                   const std::string& claim) {
  require(actual.sizes() == expected.sizes(),
          fmt::format("{}: shape {} is {}", claim, actual.sizes(), expected.sizes()));
  if (actual.numel() == 0) return;
  auto difference = (actual.to(at::kDouble) - expected.to(at::kDouble)).abs().max().item<double>();
  require(difference <= tolerance,
          fmt::format("{}: difference {:.2e} is at most {:.0e}", claim, difference, tolerance));
}

namespace {

template <class Kind>
void require_thrown(const std::function<void()>& action, const std::string& part) {
  try {
    action();
  } catch (const Kind& error) {
    require(std::string(error.what()).find(part) != std::string::npos,
            fmt::format("the error '{}' says '{}'", error.what(), part));
    return;
  }
  throw Error(fmt::format("no error was thrown where one should say '{}'", part));
}

}  // namespace

void require_error(const std::function<void()>& action, const std::string& part) {
  require_thrown<Error>(action, part);
}

void require_error_of_any_kind(const std::function<void()>& action, const std::string& part) {
  require_thrown<std::exception>(action, part);
}

}  // namespace wanpar::conformance
