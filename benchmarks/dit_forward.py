"""One forward of the Wan transformer, here and in diffusers: same weights, same inputs, same threads.

Both run in turn, in two processes of which one always waits; reported are medians. The model has the width of
Wan2.1 1.3B and two layers, since all layers are alike.

    .venv/bin/pip install diffusers transformers && cmake --build build --target dit_forward
    .venv/bin/python benchmarks/dit_forward.py

writes the table to benchmarks/results/dit_forward.md.
"""

import argparse
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import diffusers
import safetensors.torch
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
LATENTS = (1, 16, 4, 30, 52)  # 13 frames of 416 x 240: 4 * 15 * 26 = 1,560 tokens


def make_reference(folder, layers):
    """Random weights of a plausible size, and inputs, saved for both sides."""
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02)
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "weights.safetensors")
    inputs = {"latents": torch.randn(LATENTS), "timestep": torch.tensor([500.0]), "text": torch.randn(1, 512, 4096)}
    safetensors.torch.save_file(inputs, folder / "inputs.safetensors")
    return model.eval(), inputs


def cast(model, dtype):
    """As from_pretrained(torch_dtype=dtype) does it: some modules stay float32."""
    for name, parameter in model.named_parameters():
        if not set(name.split(".")) & set(model._keep_in_fp32_modules):
            parameter.data = parameter.data.to(dtype)


class Ours:
    def __init__(self, program, folder, dtype, threads):
        self.process = subprocess.Popen([program, folder, dtype, str(threads)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.process.stdout.readline() != "ready\n":
            sys.exit("dit_forward did not start")

    def seconds(self, line):
        print(line, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(model, inputs, ours, dtype, repeats):
    """The medians of diffusers, bare and wrapped, and diffusers' result."""
    def theirs():
        with torch.inference_mode():
            return model(inputs["latents"].to(dtype), inputs["timestep"], inputs["text"].to(dtype), return_dict=False)[0]

    velocity = theirs()
    times = {"diffusers": [], "bare": [], "wrapped": []}
    for _ in range(repeats):
        begin = time.perf_counter()
        theirs()
        times["diffusers"].append(time.perf_counter() - begin)
        for kind in ("bare", "wrapped"):
            times[kind].append(ours.seconds(kind))
    return {kind: statistics.median(values) for kind, values in times.items()}, velocity.float()


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return f"{model}, {platform.system()} {platform.machine()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--program", default=ROOT / "build/bin/dit_forward")
    parser.add_argument("--report", type=pathlib.Path, default=ROOT / "benchmarks/results/dit_forward.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model, inputs = make_reference(folder, options.layers)
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            cast(model, dtype)
            ours = Ours(options.program, folder, name, options.threads)
            times, velocity = measure(model, inputs, ours, dtype, options.repeats)
            ours.close()
            mine = safetensors.torch.load_file(folder / "output.safetensors")["velocity"]
            difference = ((mine - velocity).norm() / velocity.norm()).item()
            rows.append(f"| {name} | {times['diffusers']:.3f} | {times['bare']:.3f} | {times['diffusers'] / times['bare']:.2f} "
                        f"| {100 * (times['wrapped'] / times['bare'] - 1):+.1f} % | {difference:.1e} |")

    report = "\n".join([
        "# One forward of the transformer, beside diffusers",
        "",
        f"Width of Wan2.1 1.3B (1536, 12 heads, feed-forward 8960), {options.layers} layers, 1,560 tokens, batch 1; "
        f"{options.threads} threads; median of {options.repeats}, in turn.",
        "",
        f"Machine: {machine()}. torch {torch.__version__}, diffusers {diffusers.__version__}.",
        "Command: `python benchmarks/dit_forward.py`",
        "",
        "| dtype | diffusers, s | wanpar, s | times faster | wrapped over one rank | relative difference |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ])
    print(report)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
