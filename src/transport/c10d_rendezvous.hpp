#pragma once
#include <c10/util/intrusive_ptr.h>

#include <string>

#include "transport/c10d.hpp"

namespace c10d {
class Store;
}

namespace wanpar {

/// The store of a run, once all of its ranks have come to it. Where one is missing, doubled or told of
/// another world, every rank throws the same `Error` within the timeout.
c10::intrusive_ptr<c10d::Store> meet_in_store(const Rendezvous& rendezvous);

}  // namespace wanpar
