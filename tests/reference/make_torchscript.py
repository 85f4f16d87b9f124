#!/usr/bin/env python3
"""Writes tests/data/attention.pt: a small transformer of plain PyTorch, traced, that knows nothing of ranks."""
import pathlib

import torch
import torch.nn.functional as F


class Block(torch.nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = torch.nn.LayerNorm(dim)
        self.qkv = torch.nn.Linear(dim, 3 * dim)
        self.out = torch.nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + F.gelu(x)


def main():
    torch.manual_seed(0)
    model = torch.nn.Sequential(Block(48, 6), Block(48, 6)).eval()
    folder = pathlib.Path(__file__).resolve().parent.parent / "data"
    with torch.no_grad():
        torch.jit.trace(model, torch.randn(1, 11, 48)).save(str(folder / "attention.pt"))
        encoder = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
        torch.jit.trace(encoder, torch.randn(1, 5, 16)).save(str(folder / "fused_encoder.pt"))


if __name__ == "__main__":
    main()
