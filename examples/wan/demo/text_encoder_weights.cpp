#include "wan/demo/rules.hpp"
#include "wan/demo/weights.hpp"
#include "wan/text/umt5.hpp"

namespace wan::demo {

std::map<std::string, at::Tensor> text_encoder_weights(const TextEncoderConfig& config) {
  return draw_all(*Umt5(config), {
                                     {"token_embedding", small(1)},
                                     {"norm", constant(1)},
                                     {"pos_embedding", small(0.3)},
                                     {"attn.q", spread(0.2)},  // umT5 does not scale its scores down
                                     {"weight", spread(1)},
                                 });
}

}  // namespace wan::demo
