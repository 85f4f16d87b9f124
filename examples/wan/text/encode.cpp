#include "wan/text/encode.hpp"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace wan {

at::Tensor encode_text(wanpar::Model encoder, const std::vector<std::vector<int64_t>>& rows,
                       int64_t max_tokens) {
  // Rows past a prompt's end are zero in the result, so the encoder need not see more than the longest
  // prompt.
  int64_t longest = 0;
  for (const auto& row : rows) longest = std::max(longest, static_cast<int64_t>(row.size()));
  const auto batch = static_cast<int64_t>(rows.size());
  auto ids = at::zeros({batch, longest}, at::kLong), mask = at::zeros({batch, longest}, at::kLong);
  for (int64_t i = 0; i < batch; ++i) {
    const auto length = static_cast<int64_t>(rows[i].size());
    ids[i].narrow(0, 0, length).copy_(at::tensor(rows[i]));
    mask[i].narrow(0, 0, length).fill_(1);
  }

  const auto device = encoder.named_parameters().front().tensor.device();
  ids = ids.to(device), mask = mask.to(device);
  auto encoding = encoder(ids, mask);
  encoding = encoding.masked_fill(mask.eq(0).unsqueeze(-1), 0);
  return at::constant_pad_nd(encoding, {0, 0, 0, max_tokens - longest});
}

}  // namespace wan
