#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

// Claims that are made on ranks: what does not hold is thrown as an Error, which any test program can catch.
namespace wanpar::conformance {

/// Throws Error, "not so: …", unless the truth is told.
void require(bool truth, const std::string& claim);
/// Shape, dtype and every bit.
void require_equal(const at::Tensor& actual, const at::Tensor& expected, const std::string& claim);
/// Shape, and no element further away than the tolerance.
void require_close(const at::Tensor& actual, const at::Tensor& expected, double tolerance,
                   const std::string& claim);
/// Throws unless `action` throws an Error whose text holds `part`.
void require_error(const std::function<void()>& action, const std::string& part);
/// The same for any std::exception.
void require_error_of_any_kind(const std::function<void()>& action, const std::string& part);

}  // namespace wanpar::conformance
