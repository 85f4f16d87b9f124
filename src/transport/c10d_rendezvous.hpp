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

/// What a rank has after the rendezvous of its run.
struct Meeting {
  c10::intrusive_ptr<c10d::Store> store;
  std::shared_ptr<Pulse> pulse;
};

/// Rendezvous of all ranks of a run in its store. If one is missing, duplicate or has another world size,
/// every rank throws the same `Error` within the timeout; likewise if two have the same GPU: `gpu` is any
/// unique name of it, empty for none.
Meeting meet_in_store(const Rendezvous& rendezvous, const std::string& gpu, const Deadline& deadline);

}  // namespace wanpar
