#pragma once
#include <wanpar/extend/core/transport.hpp>

#include <memory>

namespace wanpar {

enum class Checks { automatic, on, off };

/// The same transport, but before any payload moves the ranks concerned compare what they are about to do:
/// operation, order, reduce op, dtype, shape, sizes; an exchange is compared between each pair. On a mismatch
/// each of them throws an Error with both sides and both call sites. The comparison is one small exchange; a
/// call waits for it.
///
/// Two calls that agree in all of this and differ only in which tensor is meant cannot be told apart.
std::shared_ptr<Transport> checked(std::shared_ptr<Transport> transport);

}  // namespace wanpar
