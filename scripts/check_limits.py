#!/usr/bin/env python3
"""Runs wan_t2v on the demo's checkpoint at the edges of what a machine gives it, and says what held.

    scripts/check_limits.py [memory] [signals] [start] [bfloat16] [--steps 100] [--program PROGRAM]

memory    address space (ulimit -v) from 200 MB to 2 GB in steps; alone, 2 thread ranks, 2 processes: it works, or says
          one sentence, and never ends by a signal
signals   SIGINT and SIGTERM in each phase; alone, 2 thread ranks, torchrun: gone within 2 s, no file, no process left
start     time from the start to the first line of progress: 1.0 s at most, on a machine that has nothing else to do
bfloat16  latents on 2 to 8 ranks against one, in units of one rank's distance from float32: 2 at most

Schedule: before a release, and after a change to examples/wan/generate or src/transport; half an hour on 2 cores. A part
of it is in scripts/test (tests/launch/wan_t2v.py). torchrun wants scripts/setup --full.
"""

import argparse
import array
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/launch"))
from processes import environment, free_port  # noqa: E402


class Trial:
    def __init__(self, program, work):
        self.program, self.work, self.faults = program, work, 0
        subprocess.run([program.parent / "wan_demo_checkpoint", work / "demo"], check=True)

    def words(self, size="64*64", frames=5, steps=2, more=()):
        return [str(w) for w in (self.program, "--ckpt_dir", self.work / "demo", "--prompt", "a red fox", "--size", size, "--frame_num", frames,
                                 "--sample_steps", steps, "--base_seed", 1, "--save_file", self.work / "out.mp4", *more)]

    def leftovers(self):
        return sorted(file.name for file in self.work.iterdir() if file.name not in ("demo", "out.st"))

    def clear(self):
        (self.work / "out.mp4").unlink(missing_ok=True)

    def note(self, fine, what):
        self.faults += not fine
        print("{} {}".format("ok   " if fine else "FAULT", what), flush=True)


def memory(trial, steps):
    starts = {"alone": [trial.words()], "2 threads": [trial.words(more=("--local_ranks", "2"))], "2 processes": [trial.words()] * 2}
    for how, commands in starts.items():
        outcomes = {}
        for step in range(steps):
            megabytes = 200 + step * 1800 // max(1, steps - 1)

            def limit():
                resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

            port = free_port()
            started = []
            for rank, words in enumerate(commands):
                place = dict(RANK=rank, WORLD_SIZE=len(commands), MASTER_ADDR="127.0.0.1", MASTER_PORT=port) if len(commands) > 1 else {}
                env = {k: v for k, v in environment(**place).items() if k != "OMP_NUM_THREADS"}
                started.append(subprocess.Popen(words + ["--timeout", "20"], env=env, preexec_fn=limit, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            fine, said = True, []
            for process in started:
                try:
                    _, error = process.communicate(timeout=120)
                except subprocess.TimeoutExpired:
                    process.kill()
                    _, error = process.communicate()
                lines = [line for line in error.splitlines() if "wan_t2v" in line or "libgomp" in line]
                said += lines
                fine &= process.returncode == 0 or (0 < process.returncode < 128 and len(lines) <= 1)
            works = all(process.returncode == 0 for process in started)
            fine &= works or (bool(said) and not trial.leftovers())
            outcomes.setdefault("works" if works else "a sentence", []).append(megabytes)
            if not fine:
                trial.note(False, "{} MB, {}: {} {} {}".format(megabytes, how, [p.returncode for p in started], said, trial.leftovers()))
            trial.clear()
        for outcome, at in outcomes.items():
            trial.note(True, "memory, {}: {} at {} limits of {} to {} MB".format(how, outcome, len(at), min(at), max(at)))


def signals(trial):
    torchrun = [str(ROOT / ".venv/bin/python"), "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", "2", "--master-port"]
    long = dict(size="128*128", frames=33, steps=4)
    phases = {"start": None, "text": "rank", "denoise": "text", "decode": "denoise 4/4", "write": "decode 9/9"}
    for how in ("alone", "2 threads", "torchrun"):
        for phase, mark in phases.items():
            for number in (signal.SIGINT, signal.SIGTERM):
                words = trial.words(**long, more=("--local_ranks", "2") if how == "2 threads" else ())
                if how == "torchrun":
                    words = torchrun + [str(free_port())] + words
                process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
                if mark is None:
                    time.sleep(0.2)
                line = process.stderr.readline() if mark else ""
                while line and mark not in line:
                    line = process.stderr.readline()
                own = [int(line) for line in subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True, text=True).stdout.split()]
                begin = time.monotonic()
                os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)  # as a terminal, and as a person, sends it
                def alive():
                    return [pid for pid in own if Path("/proc/{}".format(pid)).exists() and "Z" not in Path("/proc/{}/stat".format(pid)).read_text().split()[2]]
                limit = 2 if how != "torchrun" else 2 + 8  # torchrun's agent has its own pace
                while time.monotonic() - begin < limit + 10:
                    process.poll()
                    try:
                        if not alive():
                            break
                    except OSError:
                        continue
                    time.sleep(0.02)
                taken = time.monotonic() - begin
                finished = process.poll() == 0  # it may have come to its end before
                fine = taken < limit and (finished or not trial.leftovers())
                trial.note(fine, "{}, {} in {}: gone after {:.2f} s, left {}".format(how, number.name, phase, taken, trial.leftovers()))
                process.stderr.close()
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                trial.clear()


def start(trial):
    times = []
    for _ in range(7):
        begin = time.monotonic()
        process = subprocess.Popen(trial.words(), env={k: v for k, v in environment().items() if k != "OMP_NUM_THREADS"}, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        line = process.stderr.readline()
        while line and not line.startswith("text"):
            line = process.stderr.readline()
        times.append(time.monotonic() - begin)
        process.communicate()
    times.sort()
    trial.note(times[len(times) // 2] <= 1.0, "start to the first line of progress: {:.2f} s (median of {}; {:.2f} to {:.2f})".format(times[len(times) // 2], len(times), times[0], times[-1]))


def latents(trial, *more):
    done = subprocess.run(trial.words(size="128*128", frames=9, steps=6, more=("--save_tensors", trial.work / "out.st", *more)), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    raw = (trial.work / "out.st").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    begin, end = json.loads(raw[8 : 8 + length])["latents"]["data_offsets"]
    return array.array("f", raw[8 + length + begin : 8 + length + end])


def distance(a, b):
    return max(abs(x - y) for x, y in zip(a, b))


def bfloat16(trial):
    exact = latents(trial, "--dtype", "float32")
    one = latents(trial, "--dtype", "bfloat16")
    unit = distance(one, exact)
    print("      one rank in bfloat16 is {:.4f} from float32, whose largest latent is {:.2f}".format(unit, max(map(abs, exact))))
    splits = {2: ("--cfg_size 2", "--ulysses_size 2 --cfg_size 1", "--ring_size 2 --cfg_size 1", "--pipeline_size 2 --cfg_size 1", "--dit_fsdp --cfg_size 1"),
              3: ("--ring_size 3", "--ulysses_size 3"), 4: ("", "--ring_size 4 --cfg_size 1", "--ulysses_size 4 --cfg_size 1", "--ring_size 2 --ulysses_size 2 --cfg_size 1"),
              6: ("",), 8: ("", "--ring_size 8 --cfg_size 1", "--ulysses_size 8 --cfg_size 1")}
    for ranks, ways in splits.items():
        for way in ways:
            many = latents(trial, "--dtype", "bfloat16", "--local_ranks", str(ranks), *way.split())
            trial.note(distance(many, one) <= 2 * unit, "{} ranks {}: {:.2f} of that from one rank, {:.2f} from float32".format(
                ranks, way, distance(many, one) / unit, distance(many, exact) / unit))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("parts", nargs="*", choices=["memory", "signals", "start", "bfloat16"], default=["memory", "signals", "start", "bfloat16"])
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--program", default=ROOT / "build/bin/wan_t2v", type=Path)
    options = arguments.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would its children
    with tempfile.TemporaryDirectory() as work:
        trial = Trial(options.program, Path(work))
        for part in options.parts:
            if part == "memory":
                memory(trial, options.steps)
            else:
                {"signals": signals, "start": start, "bfloat16": bfloat16}[part](trial)
    print("{} faults".format(trial.faults))
    return 1 if trial.faults else 0


if __name__ == "__main__":
    sys.exit(main())
