#!/usr/bin/env python3
"""Writes tests/data/attention.pt, a small transformer of plain PyTorch, traced, that knows nothing of ranks, and
tests/data/fused_encoder.pt, a layer that PyTorch fuses into one operator."""
import pathlib
import zipfile

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


def save(module, file: pathlib.Path):
    """Saves without the debug records, which hold the paths of the machine that traced."""
    whole = file.with_suffix(".whole")
    module.save(str(whole))
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            if not name.endswith(".debug_pkl"):
                new.writestr(name.replace("whole", file.stem), old.read(name))
    whole.unlink()


def main():
    torch.manual_seed(0)
    model = torch.nn.Sequential(Block(48, 6), Block(48, 6)).eval()
    folder = pathlib.Path(__file__).resolve().parent.parent / "data"
    with torch.no_grad():
        save(torch.jit.trace(model, torch.randn(1, 11, 48)), folder / "attention.pt")
        encoder = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
        save(torch.jit.trace(encoder, torch.randn(1, 5, 16)), folder / "fused_encoder.pt")


if __name__ == "__main__":
    main()
