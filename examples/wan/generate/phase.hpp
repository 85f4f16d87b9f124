#pragma once
#include <ATen/record_function.h>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>

#include "wan/generate/room.hpp"

namespace wan {

/// Runs what a rank does in a phase, as in "encoding the text". Where it fails, the sentence is one that a
/// user understands, and the other ranks hear it at their next call.
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

/// Collective. The same where each rank does it for itself: all end with the sentence of the first that
/// failed.
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
