#pragma once
#include <c10/util/intrusive_ptr.h>

#include <string>

#include "transport/c10d.hpp"
#include "transport/deadline.hpp"
#include "transport/pulse.hpp"

namespace c10d {
class Store;
}

namespace wanpar {

/// What a rank has once all of its run have come.
struct Meeting {
  c10::intrusive_ptr<c10d::Store> store;
  std::shared_ptr<Pulse> pulse;
};

/// Meets all ranks of a run in its store. Where one is missing, doubled or told of another world, every rank
/// throws the same `Error` within the timeout; so where two have the same GPU, which goes by any name that is
/// its own, empty for none.
Meeting meet_in_store(const Rendezvous& rendezvous, const std::string& gpu, const Deadline& deadline);

}  // namespace wanpar
