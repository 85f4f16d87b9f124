#pragma once
#include "wan/text/unigram.hpp"

namespace wan::demo {

/// A small vocabulary: the letters and words of a few sentences and of the official negative prompt. Always
/// the same.
Unigram::Pieces vocabulary();

}  // namespace wan::demo
