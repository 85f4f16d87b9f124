"""Writes diffusers' Wan modules as an official Wan2.1 folder: the same weights under the official names."""

import json
import re
import shutil
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

# Regular expressions from diffusers to official names, applied in order.
TRANSFORMER = [
    (r"^condition_embedder\.(time|text)_embedder\.linear_1", r"\1_embedding.0"),
    (r"^condition_embedder\.(time|text)_embedder\.linear_2", r"\1_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^scale_shift_table", "head.modulation"),
    (r"^proj_out", "head.head"),
    (r"\.scale_shift_table", ".modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_(q|k|v)\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
]
VAE = [
    (r"^quant_conv", "conv1"),
    (r"^post_quant_conv", "conv2"),
    (r"coder\.conv_in", "coder.conv1"),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"mid_block\.resnets\.(\d)", lambda m: f"middle.{2 * int(m[1])}"),
    (r"mid_block\.attentions\.0", "middle.1"),
    (r"down_blocks\.", "downsamples."),
    (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}"),
    (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"upsamples.{4 * int(m[1]) + 3}"),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"((?:samples|middle)\.\d+)\.norm([12])\.", lambda m: f"{m[1]}.residual.{3 * int(m[2]) - 3}."),
    (r"((?:samples|middle)\.\d+)\.conv([12])\.", lambda m: f"{m[1]}.residual.{4 * int(m[2]) - 2}."),
]
TEXT_ENCODER = [
    (r"^shared\.", "token_embedding."),
    (r"^encoder\.final_layer_norm", "norm"),
    (r"^encoder\.block\.", "blocks."),
    (r"\.layer\.0\.SelfAttention\.relative_attention_bias", ".pos_embedding.embedding"),
    (r"\.layer\.0\.SelfAttention\.", ".attn."),
    (r"\.layer\.0\.layer_norm", ".norm1"),
    (r"\.layer\.1\.layer_norm", ".norm2"),
    (r"\.layer\.1\.DenseReluDense\.wi_0", ".ffn.gate.0"),
    (r"\.layer\.1\.DenseReluDense\.wi_1", ".ffn.fc1"),
    (r"\.layer\.1\.DenseReluDense\.wo", ".ffn.fc2"),
]


def official_name(name, rules):
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def official_weights(module, rules):
    tied = "encoder.embed_tokens."  # the same tensor as `shared`
    return OrderedDict((official_name(name, rules), tensor.detach().clone().contiguous())
                       for name, tensor in module.state_dict().items() if not name.startswith(tied))


def write_official(folder, transformer, vae, text_encoder, spiece):
    folder = Path(folder)
    (folder / "google/umt5-xxl").mkdir(parents=True, exist_ok=True)
    shutil.copy(spiece, folder / "google/umt5-xxl/spiece.model")
    save_file(official_weights(transformer, TRANSFORMER), folder / "diffusion_pytorch_model.safetensors",
              metadata={"format": "pt"})
    config = transformer.config
    (folder / "config.json").write_text(json.dumps({
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "dim": config.num_attention_heads * config.attention_head_dim,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "in_dim": config.in_channels,
        "model_type": "t2v",
        "num_heads": config.num_attention_heads,
        "num_layers": config.num_layers,
        "out_dim": config.out_channels,
        "text_len": 512,
    }, indent=2) + "\n")
    vae_weights = official_weights(vae, VAE)
    vae_weights._metadata = {"": {"version": 1}}  # as torch.save(model.state_dict()) stores it
    torch.save(vae_weights, folder / "Wan2.1_VAE.pth")
    torch.save({name: tensor.bfloat16() for name, tensor in official_weights(text_encoder, TEXT_ENCODER).items()},
               folder / "models_t5_umt5-xxl-enc-bf16.pth")
