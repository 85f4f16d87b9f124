#pragma once
#include <ATen/core/Tensor.h>

#include <initializer_list>

namespace wanpar {

/// A tensor that runs beside the tokens (a RoPE table, a per-token modulation), and its token dimension.
struct Companion {
  at::Tensor& tensor;
  int64_t dim;
};

/// States that the tokens of x begin here, along `dim`: a listening strategy returns this rank's share
/// and cuts each companion in place likewise; without one, x is returned as it is.
at::Tensor split_sequence(at::Tensor x, int64_t dim, std::initializer_list<Companion> companions = {});

/// States that the tokens of x end here: a listening strategy returns them whole, in order, on every rank;
/// without one, x is returned as it is.
at::Tensor gather_sequence(at::Tensor x, int64_t dim);

}  // namespace wanpar
