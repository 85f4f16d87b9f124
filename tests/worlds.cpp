#include "worlds.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>
#include <wanpar/core/error.hpp>
#include <wanpar/launch/connect.hpp>
#include <wanpar/transport/local.hpp>

#include <algorithm>

using wanpar::Communicator;

namespace {

Communicator started_in() {
  static auto world = wanpar::connect({.timeout = std::chrono::seconds(30)});
  return world;
}

}  // namespace

bool is_one_of_several_processes() { return started_in().size() > 1; }

void on_worlds(const std::function<void(Communicator)>& claim, const std::vector<int>& sizes) {
  if (is_one_of_several_processes()) {
    if (std::ranges::count(sizes, started_in().size())) CHECK_NOTHROW(claim(started_in()));
    return;
  }
  for (int size : sizes) {
    INFO(size, " ranks");
    CHECK_NOTHROW(wanpar::local::run(size, claim, {.timeout = std::chrono::seconds(30)}));
  }
}

void require(bool truth, const std::string& claim) {
  if (!truth) throw wanpar::Error("not so: " + claim);
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
  throw wanpar::Error(fmt::format("no error was thrown where one should say '{}'", part));
}

}  // namespace

void require_error(const std::function<void()>& action, const std::string& part) {
  require_thrown<wanpar::Error>(action, part);
}

void require_error_of_any_kind(const std::function<void()>& action, const std::string& part) {
  require_thrown<std::exception>(action, part);
}
