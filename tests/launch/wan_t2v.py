#!/usr/bin/env python3
"""wan_t2v as its users start it: the reference's latents on any number of ranks, and one sentence for each mistake.

Usage: wan_t2v.py PROGRAM TEST_DATA PYTHON_WITH_TORCH
"""

import array
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import time

from processes import check, environment, finish, free_port, mpirun, run, run_all, torchrun

program, data, python = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
checkpoint = data / "diffusers"
manifest = json.loads((data / "manifest.json").read_text(encoding="utf8"))
settings = manifest["pipeline"]
folder = pathlib.Path(tempfile.mkdtemp(prefix="wan_t2v_test."))


def read(file):
    raw = pathlib.Path(file).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    body = raw[8 + length :]
    return {
        k: (v["shape"], array.array("f", body[slice(*v["data_offsets"])])) for k, v in header.items() if v["dtype"] == "F32"
    }


def write(file, **tensors):
    header, body = {}, b""
    for key, (shape, values) in tensors.items():
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + 4 * len(values)]}
        body += values.tobytes()
    text = json.dumps(header).encode()
    pathlib.Path(file).write_bytes(struct.pack("<Q", len(text)) + text + body)


def difference(a, b):
    return max(abs(x - y) for x, y in zip(a[1], b[1])) if len(a[1]) == len(b[1]) else float("inf")


def words(name, **changes):
    """A command line that makes the reference's video; changes replace flags, None removes one, True has no value."""
    flags = dict(
        ckpt_dir=checkpoint,
        prompt=manifest["prompts"][settings["prompt"]],
        negative_prompt=manifest["prompts"][settings["negative_prompt"]],
        size="{}*{}".format(settings["width"], settings["height"]),
        frame_num=settings["frames"],
        sample_steps=settings["steps"],
        sample_shift=settings["shift"],
        sample_guide_scale=settings["guidance"],
        noise=folder / "noise.safetensors",
        device="cpu",
        save_file=folder / (name + ".mp4"),
        save_tensors=folder / (name + ".safetensors"),
    )
    flags.update(changes)
    return [program] + [w for k, v in flags.items() if v is not None for w in (["--" + k] if v is True else ["--" + k, str(v)])]


reference = read(data / "reference.safetensors")
write(folder / "noise.safetensors", latents=reference["pipe.noise"])

for solver in ("unipc", "dpm++", "euler", "diffusers_unipc"):
    done = run(words(solver, sample_solver=solver))
    made = read(folder / (solver + ".safetensors")) if done.status == 0 else None
    for what, tolerance in (("latents", 1e-4), ("frames", 1e-4)):
        off = difference(made[what], reference["pipe.{}.{}".format(solver, what)]) if made else None
        scale = max(map(abs, reference["pipe.{}.{}".format(solver, what)][1]))
        check("{}: the {} are the reference's ({})".format(solver, what, off), made and off <= tolerance * scale, done)
check("the mp4 is there, no part of it beside it", (folder / "unipc.mp4").exists() and not list(folder.glob(".wan_t2v*")))

one = read(folder / "unipc.safetensors")
starts = {
    "2 threads": words("t2", local_ranks=2, trace=folder / "t2.json"),
    "3 threads": words("t3", local_ranks=3),
    "4 threads, ring": words("t4", local_ranks=4, cfg_size=1, ulysses_size=2, ring_size=2),
    "8 threads, more than heads": words("t8", local_ranks=8, cfg_size=1, ulysses_size=8),
    "torchrun 3": torchrun(python, 3, words("p3", trace=folder / "p3.json")),
    "mpirun 2": mpirun(2, words("p2")),
    "torchrun 2, sharded": torchrun(python, 2, words("s2", cfg_size=1, dit_fsdp=True, t5_fsdp=True)),
    "3 threads, sharded": words("s3", local_ranks=3, dit_fsdp=True, t5_fsdp=True),
    "mpirun 2, pipeline": mpirun(2, words("b2", pipeline_size=2)),
    "2 threads, one of which decodes": words("v2", local_ranks=2, vae_parallel="false"),
    "8 threads, all at once": words("b8", local_ranks=8, cfg_size=2, pipeline_size=2, ulysses_size=2, dit_fsdp=True, t5_fsdp=True),
}
files = dict(zip(starts, ("t2", "t3", "t4", "t8", "p3", "p2", "s2", "s3", "b2", "v2", "b8")))
for how, command in starts.items():
    done = run(command)
    made = read(folder / (files[how] + ".safetensors")) if done.status == 0 else None
    off = max(difference(made[key], one[key]) for key in ("latents", "frames")) if made else None
    check("{}: the same latents and frames as one rank ({})".format(how, off), made and off <= 1e-4, done)

for name, ranks in (("t2", 2), ("p3", 3)):
    trace = folder / (name + ".json")
    events = json.loads(trace.read_text())["traceEvents"] if trace.exists() else []
    scopes = [{e["name"] for e in events if e["pid"] == rank and e.get("cat") == "scope"} for rank in range(ranks)]
    kinds = [{e.get("cat") for e in events if e["pid"] == rank} for rank in range(ranks)]
    fine = all({"encoding the text", "loading the transformer", "denoising", "decoding and writing the video"} <= names for names in scopes)
    check("--trace has all {} ranks, their phases, computing, transfers and waits".format(ranks),
          fine and all({"compute", "transfer", "wait"} <= found for found in kinds) and {e["pid"] for e in events} == set(range(ranks)), scopes, kinds)

exactly = dict(patch_parallel_size=2, warmup_steps=settings["steps"])
for solver in ("unipc", "dpm++", "euler", "diffusers_unipc"):
    done = run(words("patches", local_ranks=2, sample_solver=solver, **exactly))
    made = read(folder / "patches.safetensors") if done.status == 0 else None
    off = difference(made["latents"], read(folder / (solver + ".safetensors"))["latents"]) if made else None
    check("{}: patches that are all warm-up make the same latents as one rank ({})".format(solver, off), made and off <= 1e-4, done)
slow = dict(sample_steps=10, local_ranks=2)
run(words("ten", **slow))
done = run(words("stale", patch_parallel_size=2, warmup_steps=2, stats=True, **slow))
made = read(folder / "stale.safetensors") if done.status == 0 else None
off = difference(made["latents"], read(folder / "ten.safetensors")["latents"]) if made else None
check("displaced patches make other latents, but little so ({})".format(off), made and 1e-6 < off < 0.5, done)
check("what they held and sent is told", "PatchParallel: displaced, step 9" in done.error and "bytes held" in done.error, done)

prompts = folder / "prompts.txt"
prompts.write_text("a cat\n\n{}\r\nthe sea\n".format(manifest["prompts"][settings["prompt"]]), encoding="utf8")
several = dict(prompt=None, prompt_file=prompts)
groups = {
    "1 rank, prompts in turn": words("turn", **several),
    "torchrun 2, 2 prompts at a time": torchrun(python, 2, words("deal", data_parallel_size=2, **several)),
    "4 threads, 2 prompts at a time, sharded": words(
        "both", local_ranks=4, data_parallel_size=2, dit_fsdp=True, t5_fsdp=True, **several
    ),
}
turn = None
for (how, command), name in zip(groups.items(), ("turn", "deal", "both")):
    done = run(command)
    made = [read(folder / "{}_{}.safetensors".format(name, i)) for i in (1, 2, 3)] if done.status == 0 else None
    turn = turn or made
    off = max(difference(a[key], b[key]) for a, b in zip(made, turn) for key in ("latents", "frames", "text_embeds")) if made and turn else None
    alone = difference(made[1]["latents"], one["latents"]) if made else None
    fine = made and off <= 1e-4 and alone <= 1e-4 and difference(made[0]["latents"], one["latents"]) > 0.1
    check("{}: each prompt's video is the one that it makes alone ({}, {})".format(how, alone, off), fine, done)
    check("{}: an mp4 for each prompt".format(how), all((folder / "{}_{}.mp4".format(name, i)).exists() for i in (1, 2, 3)))

small = dict(size="32*32", frame_num=1, sample_steps=2, noise=None, save_tensors=None)
run(words("seed_a", base_seed=5, **small | dict(save_tensors=folder / "a.safetensors")))
run(words("seed_b", base_seed=5, **small | dict(save_tensors=folder / "b.safetensors")))
run(words("seed_c", base_seed=6, **small | dict(save_tensors=folder / "c.safetensors")))
a, b, c = (read(folder / "{}.safetensors".format(n)) for n in "abc")
check("a seed is a video", difference(a["latents"], b["latents"]) == 0 and difference(a["latents"], c["latents"]) > 0.1)
half = run(words("half", dtype="bfloat16", local_ranks=2, **small))
check("bfloat16 runs on two ranks", half.status == 0, half)

(folder / "empty").mkdir()
(folder / "blank.txt").write_text("\n \n")
(folder / "text.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
exact = dict(warmup_steps=settings["steps"])
mistakes = {
    "a size that 16 does not divide": (dict(size="50*32"), "50"),
    "a frame number that is not 4n+1": (dict(frame_num=8), "8"),
    "degrees that do not fit": (dict(local_ranks=3, ulysses_size=2, ring_size=2), "is 4, but 3 ranks were started"),
    "a folder that is not there": (dict(ckpt_dir=folder / "nowhere"), "nowhere"),
    "a folder without a model": (dict(ckpt_dir=folder / "empty"), "empty"),
    "an unknown solver": (dict(sample_solver="heun"), "heun"),
    "neither true nor false": (dict(vae_parallel="on"), "--vae_parallel on is unknown; choose one of true, false"),
    "patches that nobody asked for": (dict(warmup_steps=2), "--warmup_steps says how patches are dealt"),
    "patches in few steps": (dict(local_ranks=2, patch_parallel_size=2, sample_steps=4, warmup_steps=2), "fewer than 8 steps"),
    "more patches than rows": (dict(local_ranks=4, patch_parallel_size=4, **exact), "rows of tokens, fewer than the 4 ranks"),
    "an overlap larger than a patch": (dict(local_ranks=2, patch_parallel_size=2, patch_overlap=512, **exact), "--patch_overlap 512"),
    "a chunk of space": (dict(local_ranks=2, patch_parallel_size=2, temporal_chunk_size=4), "--temporal_chunk_size 4"),
    "an overlap in both": (dict(local_ranks=4, patch_parallel_size=4, split_mode="spatiotemporal", patch_overlap=16), "--patch_overlap 16"),
    "two patches cut both ways": (dict(local_ranks=2, patch_parallel_size=2, split_mode="spatiotemporal", **exact), "no product of two numbers"),
    "a ring within patches": (dict(local_ranks=4, patch_parallel_size=2, ring_size=2, **exact), "--ring_size 2 with"),
    "a first step that is not exact after all": (dict(local_ranks=2, patch_parallel_size=2, sync_first_step="false"), "--sync_first_step false"),
    "an unknown mode": (dict(patch_parallel_size=2, split_mode="diagonal"), "--split_mode diagonal"),
    "an unknown dtype of keys": (dict(patch_parallel_size=2, kv_dtype="int8"), "--kv_dtype int8"),
    "a staleness below nothing": (dict(patch_parallel_size=2, max_staleness=-1), "--max_staleness -1"),
    "an unknown flag": (dict(sample_step=3), "sample_step"),
    "no prompt": (dict(prompt=None), "--prompt"),
    "noise without its tensor": (dict(noise=data / "reference.safetensors"), "there is no tensor 'latents'"),
    "noise of another shape": (dict(size="32*32"), "needs [16, 3, 4, 4]"),
    "a trace where the noise is": (dict(trace=folder / "noise.safetensors"), "it is the file of --noise"),
    "noise that git-lfs holds": (dict(noise=folder / "text.safetensors"), "LFS"),
    "a folder to save to that is not there": (dict(save_file=folder / "none" / "a.mp4"), "none"),
    "another task's checkpoint": (dict(task="t2v-14B"), "t2v-14B"),
    "more groups than prompts": (dict(local_ranks=2, data_parallel_size=2), "--data_parallel_size 2"),
    "groups that do not fit": (dict(local_ranks=3, data_parallel_size=2, **several), "--data_parallel_size 2 x"),
    "more stages than blocks": (dict(local_ranks=3, pipeline_size=3), "--pipeline_size 3"),
    "a file of prompts that is not there": (several | dict(prompt_file=folder / "no.txt"), "no.txt"),
    "a file without a prompt": (several | dict(prompt_file=folder / "blank.txt"), "blank.txt"),
    "a prompt and a file of them": (dict(prompt_file=prompts), "--prompt_file"),
    "no CUDA device": (dict(device="cuda"), "no CUDA device"),
}
for name, (changes, part) in mistakes.items():
    if name == "no CUDA device" and os.path.exists("/dev/nvidiactl"):
        continue
    before = set(folder.rglob("*.mp4*"))
    done = run(words("mistake", **changes), limit=60)
    lines = [line for line in done.error.splitlines() if line.startswith("wan_t2v")]
    fine = done.status not in (0, -1) and done.status < 128 and len(lines) == 1 and part in lines[0]
    check("{}: {}".format(name, lines[0] if lines else done), fine and set(folder.rglob("*.mp4*")) == before, done)

done = run(words("cut", prompt="fox " * 700, **small))
check("a prompt that is too long is cut, and it is said", done.status == 0 and "the model takes 511" in done.error, done)
run(words("empty_negative", negative_prompt="", **small | dict(save_tensors=folder / "empty_negative.safetensors", base_seed=5)))
empty = read(folder / "empty_negative.safetensors")["text_embeds"][1]
check("an empty negative prompt is the empty text", not any(empty[len(empty) // 2 + 64 :]) and any(empty[len(empty) // 2 :]))

limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash"]  # files end at 1 KiB, as on a disk that fills up
done = run(limited + words("full", save_tensors=None, local_ranks=2), limit=60)
said = [line for line in done.error.splitlines() if line.startswith("wan_t2v")]
check("a disk that fills up while writing: {}".format(said), done.status == 1 and len(said) == 1 and not list(folder.glob("full*")), done)

blank = torchrun(python, 2, words("blank", data_parallel_size=2, **several | dict(prompt_file=folder / "blank.txt")))
done = run(blank, limit=60)
said = [line for line in done.error.splitlines() if line.startswith("wan_t2v")]
check("processes that have no prompt all end: {}".format(said), done.status != 0 and len(said) == 1 and "blank.txt" in said[0], done)

done = run(torchrun(python, 2, words("world", ulysses_size=3)), limit=60)
said = [line for line in done.error.splitlines() if line.startswith("wan_t2v")]
check("processes that were asked for other degrees all end", done.status != 0 and said and "ranks were started" in said[0], done)

done = run(words("named", save_tensors=None))
check("the result's name alone goes to stdout", done.out == "{}\n".format(folder / "named.mp4") and "denoise" in done.error, done)


def by_hand(*commands):
    """Processes with a rank each, as a launcher without an agent starts them."""
    port = free_port()
    places = [dict(RANK=rank, WORLD_SIZE=len(commands), MASTER_ADDR="127.0.0.1", MASTER_PORT=port) for rank in range(len(commands))]
    return run_all([(command, environment(**place)) for command, place in zip(commands, places)])


def sentences(outcomes):
    return [line for o in outcomes for line in o.error.splitlines() if line.startswith("wan_t2v")]


for flag, value in dict(sample_steps=1, prompt="another", base_seed=8, sample_solver="euler", save_file=folder / "other.mp4").items():
    done = by_hand(words("differ", **small), words("differ", **small | {flag: value}))
    said = sentences(done)
    fine = [o.status for o in done] == [1, 1] and len(said) == 1 and "--" + flag in said[0] and not list(folder.glob("differ*"))
    check("ranks with another --{} are told before the work: {}".format(flag, said), fine, *done)
for what, changes, code, part in (
    ("a flag that is wrong on one rank", dict(sample_steps="ten"), 2, "rank 1: --sample_steps 'ten'"),
    ("a checkpoint that is not there on one rank", dict(ckpt_dir=folder / "nowhere"), 1, "rank 1: {}".format(folder / "nowhere")),
):
    done = by_hand(words("lone", **small), words("lone", **small | changes))
    said = sentences(done)
    check("{}: {}".format(what, said), [o.status for o in done] == [code, code] and len(said) == 1 and part in said[0], *done)
done = by_hand(*[words("all", **small | dict(ckpt_dir=folder / "nowhere"))] * 3)
check("a checkpoint that is nowhere is told once", [o.status for o in done] == [1, 1, 1] and len(sentences(done)) == 1, *done)

# Signals, in a job that takes longer than the test.
long = dict(size="256*256", frame_num=33, sample_steps=50, noise=None, save_tensors=None)
starts = {"alone": words("gone", **long), "2 threads": words("gone", local_ranks=2, **long), "torchrun": torchrun(python, 2, words("gone", **long))}
for how, command in starts.items():
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        line = process.stderr.readline()
        while line and "text" not in line:
            line = process.stderr.readline()
        process.send_signal(number)
        begin = time.monotonic()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
        taken = time.monotonic() - begin
        # torchrun itself takes its time; wan_t2v under it does not.
        gone = process.returncode not in (0, None) and taken < (10 if how == "torchrun" else 2) and not list(folder.glob("*gone*"))
        check("{}, {}: gone after {:.1f} s, nothing left".format(how, number.name, taken), gone)

# Memory: limits below, at and above what LibTorch takes to start.
for megabytes in (250, 560, 620, 700, 1000, 1600):
    limit = ["bash", "-c", 'ulimit -v $0; exec "$@"', str(megabytes * 1024)]
    done = run(limit + words("limit", local_ranks=2, **small | dict(size="256*256", frame_num=9)), limit=120)
    said = [line for line in done.error.splitlines() if "wan_t2v: " in line]
    fine = done.status == 0 or (0 < done.status < 128 and len(said) == 1 and not list(folder.glob("*limit*")))
    check("{} MB of address space: {}".format(megabytes, said or "works"), fine, done)
    (folder / "limit.mp4").unlink(missing_ok=True)

# A symbol that two libraries define is one object, and each would write to it as its own.
libraries = [line.split()[2] for line in run(["ldd", program]).out.splitlines() if "=> /" in line]
flags = [name for file in libraries for name in sorted({line.split()[-1] for line in run(["nm", "-D", "--defined-only", file]).out.splitlines() if " FLAGS_" in line})]
check("no flag is defined by two of the libraries ({} are)".format(len(flags)), flags and len(flags) == len(set(flags)), run(["ldd", program]))

finish()
