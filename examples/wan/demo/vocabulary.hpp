#pragma once
#include <string>

namespace wan::demo {

/// A small SentencePiece model with umT5's special ids (pad 0, eos 1, bos 2, unk 3), trained on a few
/// sentences and the official negative prompt. The bytes of its file; always the same.
std::string vocabulary();

}  // namespace wan::demo
