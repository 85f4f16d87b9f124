#pragma once
#include <ATen/record_function.h>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>

#include "wan/generate/room.hpp"

namespace wan {

/// Runs a phase ("encoding the text") on a rank. A failure becomes a message for users, and is signalled to
/// the other ranks, which throw at their next call.
template <class Action>
void in_phase(const wanpar::Communicator& world, const char* phase, Action action) {
  RECORD_USER_SCOPE(phase);
  try {
    action();
  } catch (const wanpar::AgreedError&) {
    throw;
  } catch (const wanpar::PeerLostError&) {  // which the others find out for themselves
    throw;
  } catch (...) {
    const auto why = sentence_of_failure(phase);
    world.fail(why);
    throw wanpar::Error(why);
  }
}

/// Collective. As above, for local work on each rank: all throw the message of the first rank that failed.
template <class Action>
void all_in_phase(const wanpar::Communicator& group, const char* phase, Action action) {
  RECORD_USER_SCOPE(phase);
  wanpar::all_or_none(group, [&] {
    try {
      action();
    } catch (const wanpar::AgreedError&) {
      throw;
    } catch (...) {
      throw wanpar::Error(sentence_of_failure(phase));
    }
  });
}

}  // namespace wan
