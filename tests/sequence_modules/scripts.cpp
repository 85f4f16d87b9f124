#include <torch/script.h>

#include "table.hpp"

/// The same kinds of modules in TorchScript, where Python's words are a graph.
namespace sequence_modules {
namespace scripts_cases {
namespace {

constexpr auto kAttend = R"(
def attend(self, x):
    h = x.unflatten(-1, [4, 4]).transpose(1, 2)
    return torch.scaled_dot_product_attention(h, h, h).transpose(1, 2).flatten(2)
)";

/// A module of one weight w [16, 16] and the given forward.
std::function<Model()> script(std::string forward) {
  return [forward] {
    torch::jit::Module m("Stranger");
    m.register_parameter("w", (at::randn({16, 16}) / 4).requires_grad_(), false);
    m.define(kAttend);
    m.define(forward);
    m.eval();
    return Model(m);
  };
}

Inputs with_words() {
  return [](Draw& draw, int64_t n) { return Tensors{draw({2, n, 16}), draw({2, 5, 16})}; };
}

}  // namespace
}  // namespace scripts_cases

void scripts(Table& table) {
  using namespace scripts_cases;
  table.kind("script");  // dtype 11 is bool
  table.made("script_block", exact, script(R"(
def forward(self, x):
    y = x + self.attend(torch.layer_norm(x, [16], None, None))
    return y + torch.gelu(torch.linear(y, self.w))
)"),
             tokens());
  table.made("script_view_sizes", exact, script(R"(
def forward(self, x):
    B, T, C = x.size(0), x.size(1), x.size(2)
    h = torch.linear(x, self.w).view(B, T, 4, C // 4).transpose(1, 2)
    y = torch.scaled_dot_product_attention(h, h, h, None, 0.0, True)
    return x + y.transpose(1, 2).contiguous().view(B, T, C)
)"),
             tokens());
  table.made("script_shape_free", exact, script(R"(
def forward(self, x):
    h = x.reshape(x.shape[0], -1, 4, 4).transpose(1, 2)
    y = torch.scaled_dot_product_attention(h, h, h)
    return torch.linear(y.transpose(1, 2).reshape(x.shape[0], -1, 16), self.w)
)"),
             tokens());
  table.made("script_hf5_reshape", exact, script(R"(
def forward(self, x):
    h = x.view(x.size(0), -1, 4, 4).transpose(1, 2)
    y = torch.scaled_dot_product_attention(h, h, h).reshape(x.size(0), -1, x.size(1), 4)
    return y.transpose(1, 2).reshape(x.size(0), x.size(1), -1)
)"),
             tokens());
  table.made("script_written_out", exact, script(R"(
def forward(self, x):
    q = torch.linear(x, self.w)
    weights = torch.softmax(torch.bmm(q, q.transpose(1, 2)) / 4.0, -1)
    return torch.bmm(weights, x)
)"),
             tokens());
  table.made("script_cross", exact, script(R"(
def forward(self, x, text):
    q = x.unflatten(-1, [4, 4]).transpose(1, 2)
    k = torch.linear(text, self.w).unflatten(-1, [4, 4]).transpose(1, 2)
    y = torch.scaled_dot_product_attention(q, k, k).transpose(1, 2).flatten(2)
    return self.attend(x + y)
)"),
             with_words());
  table.made("script_joint", exact, script(R"(
def forward(self, x, text):
    y = self.attend(torch.linear(torch.cat([text, x], 1), self.w))
    return x + y[:, text.size(1):]
)"),
             with_words());
  table.made("script_class_token", exact, script(R"(
def forward(self, x):
    first = self.w[0].expand(x.size(0), 1, 16)
    return self.attend(torch.cat([first, x], 1))[:, 0]
)"),
             tokens());
  table.made("script_arange", exact, script(R"(
def forward(self, x):
    p = torch.arange(x.size(1), dtype=x.dtype, device=x.device)
    return self.attend(x + torch.sin(p).unsqueeze(-1))
)"),
             tokens());
  table.made("script_causal_mask", exact, script(R"(
def forward(self, x):
    n = x.size(1)
    mask = torch.tril(torch.ones([n, n], dtype=11))
    h = x.unflatten(-1, [4, 4]).transpose(1, 2)
    return torch.scaled_dot_product_attention(h, h, h, mask).transpose(1, 2).flatten(2)
)"),
             tokens());
  table.made("script_mean", exact, script(R"(
def forward(self, x):
    return torch.linear(self.attend(x).mean(1), self.w)
)"),
             tokens());
  table.made("script_last_token", exact, script(R"(
def forward(self, x):
    return torch.linear(self.attend(x)[:, -1], self.w)
)"),
             tokens());
  table.made("script_kv_buffer", exact, script(R"(
def forward(self, x):
    k = torch.zeros([x.size(0), x.size(1), 16], dtype=x.dtype)
    k[:, :x.size(1)] = torch.linear(x, self.w)
    h = k.unflatten(-1, [4, 4]).transpose(1, 2)
    q = x.unflatten(-1, [4, 4]).transpose(1, 2)
    return torch.scaled_dot_product_attention(q, h, h).transpose(1, 2).flatten(2)
)"),
             tokens());
  table.made("script_setitem_positions", exact, script(R"(
def forward(self, x):
    p = torch.zeros_like(x[:, :, 0])
    p[:] = torch.arange(x.size(1), dtype=x.dtype)
    return self.attend(x + p.unsqueeze(-1))
)"),
             tokens());
  table.made("script_loop_of_layers", exact, script(R"(
def forward(self, x):
    for i in range(3):
        x = x + self.attend(torch.linear(x, self.w))
    return x
)"),
             tokens());
  table.made("script_loop_over_tokens", exact, script(R"(
def forward(self, x):
    h = torch.zeros_like(x[:, 0])
    for t in range(x.size(1)):
        h = 0.9 * h + x[:, t]
    return self.attend(x) + h.unsqueeze(1)
)"),
             tokens());
  table.made("script_length_divides", exact, script(R"(
def forward(self, x):
    return self.attend(x / float(x.size(1)))
)"),
             tokens());
  table.made("script_length_branch", exact, script(R"(
def forward(self, x):
    if x.size(1) > 8:
        x = x * 0.5
    return self.attend(x)
)"),
             tokens());
  table.made("script_tolist", unseen, script(R"(
def forward(self, x):
    values : List[float] = x.reshape(-1).tolist()
    total = 0.0
    for v in values:
        total += v
    return self.attend(x + total)
)"),
             tokens());
  table.made("script_data", exact, script(R"(
def forward(self, x):
    return self.attend(x / x.data.abs().amax())
)"),
             tokens());
  table.made("script_item_decides", exact, script(R"(
def forward(self, x):
    if float(x.mean()) > 0.0:
        return self.attend(x)
    return self.attend(x * 2.0)
)"),
             tokens());
  table.made("script_einsum", exact, script(R"(
def forward(self, x):
    return self.attend(torch.einsum('bnc,dc->bnd', [x, self.w]))
)"),
             tokens());
  table.made("script_indexed_by_tensors", exact, script(R"(
def forward(self, x):
    y = x.clone()
    y[y > 1.0] = 1.0
    i = torch.tensor([0, 2])
    y[:, :, i] = y[:, :, i] * 2.0
    return y + x[x > 0.5].mean()
)"),
             tokens());
  table.made("script_inplace", exact, script(R"(
def forward(self, x):
    y = torch.linear(x, self.w)
    y += x
    y.mul_(0.5)
    return self.attend(y)
)"),
             tokens());
  table.made("script_causal_conv", exact, script(R"(
def forward(self, x):
    y = torch.constant_pad_nd(x.transpose(1, 2), [2, 0], 0)
    kernel = self.w.unsqueeze(-1).expand(16, 16, 3)
    return self.attend(torch.conv1d(y, kernel).transpose(1, 2))
)"),
             tokens());
  table.made("script_gqa", exact, script(R"(
def forward(self, x):
    q = torch.linear(x, self.w).view(x.size(0), x.size(1), 4, 4).transpose(1, 2)
    k = x[:, :, :8].reshape(x.size(0), x.size(1), 2, 4).transpose(1, 2)
    k = k[:, :, None].expand(x.size(0), 2, 2, x.size(1), 4).reshape(x.size(0), 4, x.size(1), 4)
    return torch.scaled_dot_product_attention(q, k, k).transpose(1, 2).reshape(x.size(0), x.size(1), 16)
)"),
             tokens());
  table.made("script_dropout_off", exact, script(R"(
def forward(self, x):
    return self.attend(torch.dropout(torch.linear(x, self.w), 0.5, False))
)"),
             tokens());
}

}  // namespace sequence_modules
