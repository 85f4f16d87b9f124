#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include <functional>
#include <string>
#include <vector>

bool is_one_of_several_processes();

/// Runs a claim on every world: on thread ranks of each size, or, where this program was started as one of
/// several processes, in the world that it was started in, if that is of one of the sizes.
void on_worlds(const std::function<void(wanpar::Communicator)>& claim,
               const std::vector<int>& sizes = {1, 2, 3, 4, 6, 8});

/// Throws what failed; to be used on ranks, where doctest's own checks are not safe.
void require(bool truth, const std::string& claim);
void require_equal(const at::Tensor& actual, const at::Tensor& expected, const std::string& claim);
void require_close(const at::Tensor& actual, const at::Tensor& expected, double tolerance,
                   const std::string& claim);
/// Throws unless `action` throws an Error whose text holds `part`.
void require_error(const std::function<void()>& action, const std::string& part);
/// The same for any std::exception.
void require_error_of_any_kind(const std::function<void()>& action, const std::string& part);
