#!/usr/bin/env python3
"""Write small .pth files of the two kinds that Wan-AI publishes. Usage: make_pth.py tests/data

pth/state_dict.pth: an OrderedDict with _metadata, as torch.save(model.state_dict()) writes it, with views of one
storage among its tensors. pth/plain.pth: a plain dict of bfloat16 tensors.
official/: a VAE and a text encoder of just the tensors from which their shapes are read, and their config.json.
"""
import json
import os
import sys
from collections import OrderedDict

import torch


def state_dict(**tensors):
    state = OrderedDict((key.replace("__", "."), tensor) for key, tensor in tensors.items())
    state._metadata = OrderedDict({"": {"version": 1}, "layer": {"version": 2}})
    return state


def main(folder):
    pth, official = os.path.join(folder, "pth"), os.path.join(folder, "official")
    os.makedirs(pth, exist_ok=True), os.makedirs(official, exist_ok=True)

    matrix = torch.arange(6.0).reshape(2, 3)
    torch.save(state_dict(matrix=matrix, transpose=matrix.t(), column=matrix[:, 1], scalar=torch.tensor(2.5),
                          counts=torch.tensor([1, 2**40, -3])), f"{pth}/state_dict.pth")
    torch.save({"blocks.0.weight": torch.arange(8).bfloat16().reshape(2, 4), "empty": torch.zeros(0, 5).bfloat16()},
               f"{pth}/plain.pth")

    torch.save(state_dict(decoder__conv1__weight=torch.ones(24, 16, 1, 1, 1), conv2__weight=torch.ones(16, 16, 1, 1, 1)),
               f"{official}/Wan2.1_VAE.pth")
    shapes = {"token_embedding.weight": (20, 8), "blocks.0.attn.q.weight": (12, 8), "blocks.0.norm2.weight": (8,),
              "blocks.0.pos_embedding.embedding.weight": (32, 3), "blocks.0.ffn.gate.0.weight": (10, 8),
              "blocks.1.norm2.weight": (8,)}
    torch.save({key: torch.ones(shape).bfloat16() for key, shape in shapes.items()},
               f"{official}/models_t5_umt5-xxl-enc-bf16.pth")
    config = {"_class_name": "WanModel", "dim": 128, "eps": 1e-6, "ffn_dim": 288, "freq_dim": 256, "in_dim": 16,
              "model_type": "t2v", "num_heads": 4, "num_layers": 2, "out_dim": 16, "text_len": 512}
    with open(f"{official}/config.json", "w") as file:
        json.dump(config, file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1])
