#include "cuda.hpp"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <fmt/format.h>
#include <torch/cuda.h>

#include "worlds.hpp"

bool no_cuda() { return !torch::cuda::is_available(); }

void without_tf32() {
  at::globalContext().setAllowTF32CuBLAS(false);
  at::globalContext().setAllowTF32CuDNN(false);
}

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  auto plain = [](const at::Tensor& t) { return t.detach().cpu().to(at::kDouble); };
  auto a = plain(actual), e = plain(expected);
  auto size = e.norm().item<double>();
  return (a - e).norm().item<double>() / (size > 0 ? size : 1);
}

void require_relative(const at::Tensor& actual, const at::Tensor& expected, double tolerance,
                      const std::string& claim) {
  require(actual.defined() && actual.sizes() == expected.sizes(), claim + ": there, of the same shape");
  auto error = relative_error(actual, expected);
  require(error <= tolerance,
          fmt::format("{}: relative error {:.2e} is at most {:.0e}", claim, error, tolerance));
}
