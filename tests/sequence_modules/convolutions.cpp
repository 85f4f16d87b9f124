#include <torch/nn.h>

#include "table.hpp"

/// Convolutions and shifts along the tokens.
namespace sequence_modules {
namespace convolutions_cases {
namespace {

namespace F = torch::nn::functional;

/// On channels first, and back.
template <class Run>
auto along(Run run) {
  return
      [run](const Tensor& x, const Tensor& w) { return attend(run(x.transpose(1, 2), w).transpose(1, 2)); };
}
Tensor pad_left(const Tensor& x, int64_t by) { return F::pad(x, F::PadFuncOptions({by, 0})); }

}  // namespace
}  // namespace convolutions_cases

void convolutions(Table& table) {
  using namespace convolutions_cases;
  table.kind("convolution");
  table.add("conv1_kernel_one", exact,
            along([](const Tensor& x, const Tensor& w) { return at::conv1d(x, w); }), tokens({{16, 16, 1}}));
  table.add("conv1_same", exact,
            along([](const Tensor& x, const Tensor& w) { return at::conv1d(x, w, {}, 1, 1); }),
            tokens({{16, 16, 3}}));
  table.add("conv1_same_by_name", exact,
            along([](const Tensor& x, const Tensor& w) { return at::conv1d(x, w, {}, 1, "same"); }),
            tokens({{16, 16, 3}}));
  table.add("conv1_wide", exact,
            along([](const Tensor& x, const Tensor& w) { return at::conv1d(x, w, {}, 1, 3); }),
            tokens({{16, 16, 7}}));
  table.add("conv1_dilated", exact,
            along([](const Tensor& x, const Tensor& w) { return at::conv1d(x, w, {}, 1, 2, 2); }),
            tokens({{16, 16, 3}}));
  table.add("conv1_depthwise", exact,
            along([](const Tensor& x, const Tensor& w) { return at::conv1d(x, w, {}, 1, 1, 1, 16); }),
            tokens({{16, 1, 3}}));
  table.add("conv1_causal_pad_left", exact,
            along([](const Tensor& x, const Tensor& w) { return at::conv1d(pad_left(x, 2), w); }),
            tokens({{16, 16, 3}}));
  table.add("conv1_causal_constant_pad", exact, along([](const Tensor& x, const Tensor& w) {
              return at::conv1d(at::constant_pad_nd(x, {2, 0}), w);
            }),
            tokens({{16, 16, 3}}));
  table.add("conv1_mamba", exact, along([](const Tensor& x, const Tensor& w) {
              // more padding than needed, the end cut off
              return at::silu(at::conv1d(x, w, {}, 1, 3, 1, 16).slice(2, 0, x.size(2)));
            }),
            tokens({{16, 1, 4}}));
  table.add("conv1_causal_zeros_cat", exact, along([](const Tensor& x, const Tensor& w) {
              return at::conv1d(at::cat({at::zeros({x.size(0), 16, 2}, x.options()), x}, 2), w);
            }),
            tokens({{16, 16, 3}}));
  table.add("conv1_causal_first_repeated", exact, along([](const Tensor& x, const Tensor& w) {
              // video autoencoders: the first frame again and again in front
              return at::conv1d(at::cat({x.slice(2, 0, 1).repeat({1, 1, 2}), x}, 2), w);
            }),
            tokens({{16, 16, 3}}));
  table.add("conv1_causal_replicate", exact, along([](const Tensor& x, const Tensor& w) {
              return at::conv1d(at::replication_pad1d(x, {2, 0}), w);
            }),
            tokens({{16, 16, 3}}));
  table.add("conv1_strided", exact,
            along([](const Tensor& x, const Tensor& w) { return at::conv1d(x, w, {}, 2, 1); }),
            tokens({{16, 16, 3}}));
  table
      .add("conv1_valid", exact, along([](const Tensor& x, const Tensor& w) { return at::conv1d(x, w); }),
           tokens({{16, 16, 3}}))
      .of({37, 16, 8, 5, 3});
  table.add("conv1_transposed", exact,
            along([](const Tensor& x, const Tensor& w) { return at::conv_transpose1d(x, w, {}, 2); }),
            tokens({{16, 16, 2}}));
  table.add(
      "pad_channels", exact,
      [](const Tensor& x) {
        return attend(F::pad(x, F::PadFuncOptions({0, 4})).slice(2, 0, 16));
      },
      tokens());
  table.add(
      "pad_tokens_and_cut", exact,
      [](const Tensor& x) {
        // to a multiple of four, as windows want it
        auto more = (4 - x.size(1) % 4) % 4;
        auto y = F::pad(x, F::PadFuncOptions({0, 0, 0, more}));
        return attend(y).slice(1, 0, x.size(1));
      },
      tokens());
  table.add(
      "pool_of_three", exact,
      [](const Tensor& x) { return attend(at::avg_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2) - x); },
      tokens());
  table.add(
      "max_pool_of_three", either,
      [](const Tensor& x) { return attend(at::max_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2)); },
      tokens());

  table.kind("shift");
  table.add(
      "token_shift_zeros_cat", exact,
      [](const Tensor& x) {
        auto before = at::cat({at::zeros({x.size(0), 1, 16}, x.options()), x.slice(1, 0, -1)}, 1);
        return attend(x + 0.5 * before);
      },
      tokens());
  table.add(
      "token_shift_zeros_like", exact,
      [](const Tensor& x) {
        auto before = at::cat({at::zeros_like(x.slice(1, 0, 1)), x.slice(1, 0, -1)}, 1);
        return attend(x + 0.5 * before);
      },
      tokens());
  table.add(
      "token_shift_rwkv_pad", exact,
      [](const Tensor& x, const Tensor& mix) {
        // nn.ZeroPad2d((0, 0, 1, -1))
        auto before = F::pad(x, F::PadFuncOptions({0, 0, 1, -1}));
        return attend(x * mix + before * (1 - mix));
      },
      tokens({{16}}));
  table.add(
      "token_shift_learned_start", exact,
      [](const Tensor& x, const Tensor& start) {
        auto before = at::cat({start.expand({2, 1, 16}), x.slice(1, 0, -1)}, 1);
        return attend(before) + x;
      },
      tokens({{1, 1, 16}}));
  table
      .add(
          "token_difference", exact,
          [](const Tensor& x) { return attend(x.slice(1, 1) - x.slice(1, 0, -1)); }, tokens())
      .of({37, 16, 8, 5, 3, 2});
  table.add(
      "token_roll", exact, [](const Tensor& x) { return attend(x.roll(1, 1) + x); }, tokens());
  table.add(
      "token_flip", exact, [](const Tensor& x) { return attend(x.flip(1)) + x; }, tokens());
  table
      .add(
          "shifted_windows_by_roll", exact,
          [](const Tensor& x) {
            auto y = x.roll(-2, 1).reshape({-1, 4, 16});
            return attend(y).reshape(x.sizes()).roll(2, 1);
          },
          tokens())
      .of({16, 8, 4});
  table.add(
      "every_second_token", exact, [](const Tensor& x) { return attend(x.slice(1, 0, x.size(1), 2)); },
      tokens());
  table.add(
      "unfold_of_three", exact,
      [](const Tensor& x) {
        auto y = F::pad(x, F::PadFuncOptions({0, 0, 1, 1})).unfold(1, 3, 1);
        return attend(y.mean(-1));
      },
      tokens());
  table.add(
      "scan_loop_over_tokens", exact,
      [](const Tensor& x) {
        Tensors all;
        auto h = at::zeros({x.size(0), 16}, x.options());
        for (auto& t : x.unbind(1)) all.push_back(h = 0.9 * h + t);
        return at::stack(all, 1);
      },
      tokens());
  table.add(
      "scan_by_cumsum", exact, [](const Tensor& x) { return attend(x.cumsum(1) * 0.1); }, tokens());
  table.add(
      "lstm_over_tokens", exact,
      [](const Tensor& x, const Tensor& wi, const Tensor& wh) {
        auto zero = at::zeros({1, x.size(0), 4}, x.options());
        return std::get<0>(at::lstm(x, {zero, zero}, {wi, wh}, false, 1, 0.0, false, false, true));
      },
      tokens({{16, 16}, {16, 4}}));
}

void video(Table& table) {
  table.kind("video");
  // [B, C, F, h, w], split by frames or by rows
  const Inputs frames = [](Draw& draw, int64_t n) { return Tensors{draw({2, 16, n, 2, 3})}; };
  const Inputs rows = [](Draw& draw, int64_t n) { return Tensors{draw({2, 16, 2, n, 3})}; };
  const Inputs picture = [](Draw& draw, int64_t n) { return Tensors{draw({2, 16, n, 3})}; };
  const std::vector<int64_t> few{16, 8, 5, 4, 3, 2, 1};
  const auto flattened = [](const Tensor& x) {
    auto y = attend(x.flatten(2).transpose(1, 2));
    return y.transpose(1, 2).reshape(x.sizes());
  };
  table.add("video_flatten_by_frames", exact, flattened, frames).at({{0, 2}}).of(few);
  table.add("video_flatten_by_rows", exact, flattened, rows).at({{0, 3}}).of(few);
  table
      .add(
          "video_flatten_unflatten", exact,
          [](const Tensor& x) {
            auto y = x.flatten(2).transpose(1, 2);
            return attend(y).transpose(1, 2).unflatten(2, {x.size(2), 2, 3});
          },
          frames)
      .at({{0, 2}})
      .of(few);
  table
      .add(
          "video_unet_attention", exact,
          [](const Tensor& x) {
            auto y =
                at::group_norm(x, 4).permute({0, 2, 3, 1}).reshape({x.size(0), x.size(2) * x.size(3), 16});
            return x + attend(y).reshape({x.size(0), x.size(2), x.size(3), 16}).permute({0, 3, 1, 2});
          },
          picture)
      .at({{0, 2}})
      .of(few);
  table
      .add(
          "video_unet_attention_view", exact,
          [](const Tensor& x) {
            // AttentionBlock of latent diffusion: channels first, flattened
            auto y = at::group_norm(x, 4).view({x.size(0), 16, -1}).transpose(1, 2);
            return x + attend(y).transpose(1, 2).view(x.sizes());
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, 16, n, 3})};
          })
      .at({{0, 2}})
      .of(few);
  table
      .add(
          "video_patch_embedding", exact,
          [](const Tensor& x, const Tensor& w) {
            auto y = at::conv3d(x, w, {}, {1, 2, 2});
            return attend(y.flatten(2).transpose(1, 2));
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, 4, n, 4, 2}), draw.weight({16, 4, 1, 2, 2})};
          })
      .at({{0, 2}})
      .of(few);
  table
      .add(
          "video_spatial_attention", exact,
          [](const Tensor& x) {
            // tokens of one frame, frames in the batch
            auto y = x.permute({0, 2, 3, 4, 1}).reshape({-1, 6, 16});
            return attend(y).view({x.size(0), x.size(2), 2, 3, 16}).permute({0, 4, 1, 2, 3});
          },
          frames)
      .at({{0, 2}})
      .of(few);
  table
      .add(
          "video_temporal_attention", exact,
          [](const Tensor& x) {
            auto y = x.permute({0, 3, 4, 2, 1}).reshape({x.size(0) * 6, x.size(2), 16});
            return attend(y).view({x.size(0), 2, 3, x.size(2), 16}).permute({0, 4, 3, 1, 2});
          },
          frames)
      .at({{0, 2}})
      .of(few);
  // [B, F, S, C] tokens, split by frames
  const Inputs grid = [](Draw& draw, int64_t n) { return Tensors{draw({2, n, 3, 16})}; };
  table
      .add(
          "latte_spatial_then_temporal", exact,
          [](const Tensor& x) {
            auto B = x.size(0), F = x.size(1);
            auto y = x + attend(x.reshape({B * F, 3, 16})).reshape({B, F, 3, 16});
            auto t = attend(y.transpose(1, 2).reshape({B * 3, F, 16}));
            return y + t.reshape({B, 3, F, 16}).transpose(1, 2);
          },
          grid)
      .of(few);
  table
      .add(
          "latte_flattened_batch", exact,
          [](const Tensor& x) {
            auto y = attend(x.flatten(0, 1)).unflatten(0, {x.size(0), x.size(1)});
            return attend(y.flatten(1, 2)).unflatten(1, {x.size(1), 3});
          },
          grid)
      .of(few);
  table
      .add(
          "frame_major_merge", exact,
          [](const Tensor& x) {
            auto y = attend(x.reshape({x.size(0), x.size(1) * 3, 16}));
            return y.reshape({x.size(0), x.size(1), 3, 16});
          },
          grid)
      .of(few);
  table
      .add(
          "joints_of_one_frame", exact,
          [](const Tensor& x) {
            return attend(x.view({x.size(0), -1, 16})).view(x.sizes());
          },
          grid)
      .of(few);
  table
      .add(
          "open_sora_merged_tokens", exact,
          [](const Tensor& x) {
            // [B, F·S, C] split; frames of three tokens counted from the length
            auto F = x.size(1) / 3;
            auto y = attend(x.view({2, F, 3, 16}).flatten(0, 1)).view({2, F, 3, 16});
            return attend(y.transpose(1, 2).flatten(0, 1)).view({2, 3, F, 16}).transpose(1, 2).flatten(1, 2);
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, 3 * n, 16})};
          })
      .of(few);
  table
      .add(
          "axial_rows_columns", exact,
          [](const Tensor& x) {
            auto y = attend(x.permute({0, 2, 3, 1}).flatten(0, 1)).unflatten(0, {x.size(0), x.size(2)});
            y = attend(y.transpose(1, 2).flatten(0, 1)).unflatten(0, {x.size(0), 3}).transpose(1, 2);
            return y.permute({0, 3, 1, 2});
          },
          picture)
      .at({{0, 2}})
      .of(few);
  const Inputs frames_in_batch = [](Draw& draw, int64_t n) {
    return Tensors{draw({n, 3, 16}), draw({1, 5, 16})};
  };
  table
      .add(
          "keys_by_frame", exact,
          [](const Tensor& x, const Tensor& text) {
            auto k = heads((at::arange(x.size(0), x.options()).view({-1, 1, 1}) + text).cos());
            auto y = x + merge(sdpa(heads(x), k, k));
            return attend(y.transpose(0, 1)).transpose(0, 1);
          },
          frames_in_batch)
      .at({{0, 0}})
      .of(few);
  table
      .add(
          "text_by_frame", exact,
          [](const Tensor& x, const Tensor& text) {
            auto k = heads(text.slice(0, 0, x.size(0)));
            auto y = x + merge(sdpa(heads(x), k, k));
            return attend(y.transpose(0, 1)).transpose(0, 1);
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({n, 3, 16}), draw({n, 5, 16})};
          })
      .at({{0, 0}})
      .of(few);
  table
      .add(
          "text_repeated_by_frame", exact,
          [](const Tensor& x, const Tensor& text) {
            auto k = heads(text.repeat({x.size(0), 1, 1}));
            auto y = x + merge(sdpa(heads(x), k, k));
            return attend(y.transpose(0, 1)).transpose(0, 1);
          },
          frames_in_batch)
      .at({{0, 0}})
      .of(few);
  table
      .add(
          "text_expanded_by_frame", exact,
          [](const Tensor& x, const Tensor& text) {
            auto k = heads(text.expand({x.size(0), 5, 16}));
            auto y = x + merge(sdpa(heads(x), k, k));
            return attend(y.transpose(0, 1)).transpose(0, 1);
          },
          frames_in_batch)
      .at({{0, 0}})
      .of(few);
  table
      .add(
          "text_split_with_frames", exact,
          [](const Tensor& x, const Tensor& text) {
            auto y = x + merge(sdpa(heads(x), heads(text), heads(text)));
            return attend(y.transpose(0, 1)).transpose(0, 1);
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({n, 3, 16}), draw({n, 5, 16})};
          })
      .at({{0, 0}, {1, 0}})
      .of(few);
  auto& repeated =
      table
          .add(
              "text_repeated_for_frames", exact,
              [](const Tensor& x, const Tensor& text) {
                // [B·F, S, C] frames, the text once for each
                auto F = x.size(1);
                auto y = x.flatten(0, 1), t = text.repeat_interleave(F, 0);
                y = (y + merge(sdpa(heads(y), heads(t), heads(t)))).unflatten(0, {2, F}).transpose(1, 2);
                return attend(y.reshape({2 * y.size(1), F, 16})).view(y.sizes()).transpose(1, 2);
              },
              [](Draw& draw, int64_t n) {
                return Tensors{draw({2, n, 3, 16}), draw({2, 5, 16})};
              })
          .of({16, 8, 5, 4, 3, 2, 1});
  repeated.with_gradients = true;
  table
      .add(
          "frame_mask_inside", exact,
          [](const Tensor& x) {
            // tokens see their own frame and the frames before it
            auto frame = at::arange(x.size(1)).repeat_interleave(3);
            auto y = attend(x.flatten(1, 2), frame.unsqueeze(1).ge(frame.unsqueeze(0)));
            return y.unflatten(1, {x.size(1), 3});
          },
          grid)
      .of(few);
  table
      .add(
          "conv3d_causal_frames", exact,
          [](const Tensor& x, const Tensor& w) {
            namespace F = torch::nn::functional;
            return at::conv3d(F::pad(x, F::PadFuncOptions({1, 1, 1, 1, 2, 0})), w);
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({1, 4, n, 2, 3}), draw.weight({4, 4, 3, 3, 3})};
          })
      .at({{0, 2}})
      .of(few);
  table
      .add(
          "conv2d_same_rows", exact,
          [](const Tensor& x, const Tensor& w) {
            return at::silu(at::group_norm(at::conv2d(x, w, {}, 1, 1), 4));
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, 4, n, 3}), draw.weight({16, 4, 3, 3})};
          })
      .at({{0, 2}})
      .of(few);
  table
      .add(
          "upsampled_rows", exact,
          [](const Tensor& x, const Tensor& w) {
            auto y = at::upsample_nearest2d(x, {2 * x.size(2), 6});
            return at::conv2d(y, w, {}, 1, 1);
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, 4, n, 3}), draw.weight({16, 4, 3, 3})};
          })
      .at({{0, 2}})
      .of(few);
  table
      .add(
          "pixel_shuffle_rows", exact, [](const Tensor& x) { return at::pixel_shuffle(x, 2); }, picture)
      .at({{0, 2}})
      .of(few);
}

}  // namespace sequence_modules
