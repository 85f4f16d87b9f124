#pragma once
#include <string>

namespace wan::demo {

/// A small SentencePiece model with umT5's special ids (pad 0, eos 1, bos 2, unk 3): the letters and
/// words of a few sentences and of the official negative prompt, as likely as they are frequent. The bytes of
/// its file; always the same.
std::string vocabulary();

}  // namespace wan::demo
