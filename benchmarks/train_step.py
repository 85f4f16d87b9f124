"""One optimizer step of wan_train, beside the same model trained by PyTorch's DistributedDataParallel in Python.

The same model (diffusers' transformer and transformers' umT5, from the checkpoint that wan_train writes), the same
batch, and for each process as many threads; two processes over Gloo. Both do all of a step: latents and noise of the
batch, forward, backward, clipping, AdamW, moving average. They run in turn; reported are medians.

    .venv/bin/pip install diffusers transformers ftfy && cmake --build build --target wan_train wan_judge
    .venv/bin/python benchmarks/train_step.py

writes the table to benchmarks/results/train_step.md.
"""

import argparse
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROCESSES = 2
CLIPS = 32


def train_by_ddp(checkpoint, latents, prompts, batch, steps):
    """What a process does; prints seconds of each step on rank 0."""
    import diffusers
    import safetensors.torch
    import torch
    import torch.distributed as dist
    import transformers

    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    each = batch // dist.get_world_size()

    class TextToVideo(torch.nn.Module):
        def __init__(self):
            super().__init__()
            load = {"torch_dtype": torch.float32}
            self.text_encoder = transformers.UMT5EncoderModel.from_pretrained(checkpoint / "text_encoder", **load)
            self.transformer = diffusers.WanTransformer3DModel.from_pretrained(checkpoint / "transformer", **load)

        def forward(self, x, timestep, ids, mask):
            text = self.text_encoder(ids, mask).last_hidden_state * mask.unsqueeze(-1)
            text = torch.nn.functional.pad(text, (0, 0, 0, 512 - text.shape[1]))
            return self.transformer(x, timestep, text, return_dict=False)[0]

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint / "tokenizer")
    texts = prompts.read_text(encoding="utf-8").splitlines()
    tokens = tokenizer(texts, padding="longest", return_tensors="pt")
    values = safetensors.torch.load_file(latents)["values"]
    model = TextToVideo().train()
    average = [p.detach().clone() for p in model.parameters()]
    model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True)

    for step in range(steps):
        dist.barrier()
        begin = time.perf_counter()
        clips = torch.randint(len(values), (each,))
        x, noise = values[clips].float(), torch.randn(each, *values.shape[1:])
        uniform = torch.rand(each)
        sigma = 3 * uniform / (1 + 2 * uniform)
        rows = clips % len(texts)
        velocity = model(torch.lerp(x, noise, sigma.view(-1, 1, 1, 1, 1)), 1000 * sigma, tokens.input_ids[rows], tokens.attention_mask[rows])
        loss = (velocity - (noise - x)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in model.parameters()], 0.001)
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        mean.item()
        if dist.get_rank() == 0:
            print(f"{time.perf_counter() - begin} s a step", flush=True)
    dist.destroy_process_group()


def seconds_a_step(words, options):
    """The median over all steps but the first ones, of a program that says `N s a step` of each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", str(PROCESSES), "--master-port", "29751"]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command + [str(word) for word in words], text=True, capture_output=True, env=environment)
    seconds = [float(found) for found in re.findall(r"(\S+) s a step", done.stdout + done.stderr)]
    if done.returncode != 0 or len(seconds) != options.steps:
        sys.exit(done.stdout + done.stderr)
    return statistics.median(seconds[options.steps // 4 :])


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return f"{model}, {platform.system()} {platform.machine()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=16, help="in each repeat")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build/bin")
    parser.add_argument("--report", type=pathlib.Path, default=ROOT / "benchmarks/results/train_step.md")
    parser.add_argument("--ddp", nargs=3, type=pathlib.Path, help=argparse.SUPPRESS)  # what a process of the other side works on
    options = parser.parse_args()
    if options.ddp:
        return train_by_ddp(*options.ddp, options.batch_size, options.steps)

    times = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        train = [options.programs / "wan_train", "--print_every", 1]
        subprocess.run([str(w) for w in train + ["--task", "vae", "--steps", 1, "--output_dir", folder / "vae"]], check=True)
        prompts = folder / "prompts.txt"
        prompts.write_text(subprocess.run([options.programs / "wan_judge", "captions", str(CLIPS)], check=True, text=True, capture_output=True).stdout)
        ours = train + ["--task", "t2v", "--vae", folder / "vae", "--clips", CLIPS, "--layers", options.layers]
        ours += ["--batch_size", options.batch_size, "--steps", options.steps]
        theirs = [sys.executable, __file__, "--steps", options.steps, "--batch_size", options.batch_size, "--ddp"]
        for repeat in range(options.repeats):
            run = folder / str(repeat)
            run.mkdir()
            if repeat > 0:
                shutil.copy(folder / "0/latents.safetensors", run)
            times["ours"].append(seconds_a_step(ours + ["--output_dir", run], options))
            times["theirs"].append(seconds_a_step(theirs + [run / "checkpoint", run / "latents.safetensors", prompts], options))
    medians = {side: statistics.median(values) for side, values in times.items()}
    faster = [b / a for a, b in zip(times["ours"], times["theirs"])]

    report = "\n".join([
        "# One optimizer step, beside DistributedDataParallel in Python",
        "",
        f"The demo's model (width 192, {options.layers} layers, 320 tokens, umT5 of two layers), batch {options.batch_size}, float32; {PROCESSES} "
        f"processes over Gloo with {options.threads} thread each; medians of {options.repeats} runs of {options.steps} steps, in turn.",
        "",
        f"Machine: {machine()}. torch {version('torch')}, diffusers {version('diffusers')}, transformers {version('transformers')}.",
        "Command: `python benchmarks/train_step.py`",
        "",
        "| DistributedDataParallel, s | wan_train, s | times faster | of each pair of runs |",
        "|---|---|---|---|",
        f"| {medians['theirs']:.3f} | {medians['ours']:.3f} | {medians['theirs'] / medians['ours']:.2f} | {min(faster):.2f} to {max(faster):.2f} |",
        "",
    ])
    print(report)
    options.report.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
