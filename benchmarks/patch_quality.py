"""What displaced patches do to the videos of the trained model: PSNR of their frames against those of one rank.

    cmake --build build --target wan_t2v && python3 benchmarks/patch_quality.py

writes the table to benchmarks/results/patch_quality.md. Every run of a prompt begins with the same noise.
"""

import array
import json
import math
import os
import pathlib
import struct
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = 30
PROMPTS = (
    "a red ball moves left on a dark blue background",
    "a small white triangle moves quickly up on a brown background",
)
MODES = {
    "all steps exact": dict(patch_parallel_size=2, warmup_steps=STEPS),
    "spatial": dict(patch_parallel_size=2),
    "spatial, 4 ranks": dict(patch_parallel_size=4),
    "spatial, 1 step of warm-up": dict(patch_parallel_size=2, warmup_steps=1),
    "spatial, 10 steps of warm-up": dict(patch_parallel_size=2, warmup_steps=10),
    "spatial, every 5th step exact": dict(patch_parallel_size=2, sync_frequency=5),
    "spatial, a step exact after a change above 0.2": dict(patch_parallel_size=2, max_staleness=0.2),
    "spatial, keys in float8": dict(patch_parallel_size=2, kv_dtype="float8_e4m3fn"),
    "spatial, an overlap of 16 pixels": dict(patch_parallel_size=2, patch_overlap=16),
    "spatial, an overlap of 32 pixels": dict(patch_parallel_size=2, patch_overlap=32),
    "temporal": dict(patch_parallel_size=2, split_mode="temporal"),
    "spatiotemporal, 4 ranks": dict(patch_parallel_size=4, split_mode="spatiotemporal"),
}


def frames(folder, prompt, **flags):
    """All values of the frames that wan_t2v makes, in [-1, 1]."""
    tensors, ranks = folder / "made.safetensors", flags.get("patch_parallel_size", 1)
    flags = dict(
        ckpt_dir=ROOT / "examples/train/model", prompt=prompt, size="128*128", frame_num=17, sample_steps=STEPS,
        sample_guide_scale=4, base_seed=1, device="cpu", local_ranks=ranks, save_file=folder / "made.mp4", save_tensors=tensors,
        **flags,
    )
    words = [w for k, v in flags.items() for w in ("--" + k, str(v))]
    subprocess.run([ROOT / "build/bin/wan_t2v", *words], check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    raw = tensors.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    begin, end = json.loads(raw[8 : 8 + length])["frames"]["data_offsets"]
    return array.array("f", raw[8 + length + begin : 8 + length + end])


def psnr(a, b):
    error = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)
    return 10 * math.log10(2**2 / error) if error else math.inf


def main():
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        exact = [frames(folder, prompt) for prompt in PROMPTS]
        rows = {mode: [psnr(frames(folder, p, **flags), e) for p, e in zip(PROMPTS, exact)] for mode, flags in MODES.items()}
    shown = lambda value: "equal" if value == math.inf else "{:.1f}".format(value)
    lines = [
        "# What displaced patches do to videos",
        "",
        "The trained model of examples/train/model, {} prompts, 17 frames of 128x128, {} steps of unipc, guidance 4, warm-up of 4 steps "
        "on 2 ranks where not said otherwise; PSNR of the frames against those of one rank, in dB.".format(len(PROMPTS), STEPS),
        "",
        "Command: `python3 benchmarks/patch_quality.py`",
        "",
        "| | mean | least |",
        "|---|---|---|",
        *("| {} | {} | {} |".format(mode, shown(sum(v) / len(v)), shown(min(v))) for mode, v in rows.items()),
    ]
    (ROOT / "benchmarks/results/patch_quality.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
