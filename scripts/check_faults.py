#!/usr/bin/env python3
"""Loses one of three ranks in each phase of a run, and asks whether every other rank names it, and how soon.

    scripts/check_faults.py [--repeats 20] [--phases text denoise …] [--kinds kill stop cut] [--programs build/bin]

Phases are those of wan_t2v on the demo's random checkpoint (start, text, load, denoise, decode, write), and "idle": ranks that
wait for one that does nothing for a minute (tests/launch/lost.cpp). The victim is each rank in turn. Kinds:

kill   SIGKILL; every survivor has ended with a sentence that names the victim within 2 s
stop   SIGSTOP; within 5 s
cut    idle alone: rank 0 in a network namespace of its own, whose link goes down; each side names the other within 5 s
       (wants root, and ip of iproute2)

Nobody knows of a rank that has not come yet: where the signal meets it before (start), the others wait for the timeout, of 5 s there,
and name it within 2 s more. A run that was done before the signal is tried again. Prints a line for each phase and kind: how many of how many were right, and the longest time.

Schedule: before a release, and after a change to src/transport or examples/wan/launch; half an hour on 2 cores that do nothing
else. A part of it is in scripts/test (tests/launch/lost.py).
"""

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/launch"))
from processes import environment, free_port  # noqa: E402

MARKS = {"start": "", "text": "3 ranks:", "load": "text", "denoise": "denoise 1/", "decode": "denoise 6/6", "write": "decode"}
LIMITS = {"kill": 2, "stop": 5, "cut": 5}
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
START_TIMEOUT = 5
NAMES = re.compile(r": ((?:rank \d(?: and )?)+)(?: \(rank \d of the run\))? (?:ended|left|gave|did not come)")


def names(sentence, expected, phase):
    """Whether a rank's last line blames who is expected, and nobody else."""
    found = NAMES.search(sentence)
    if found:
        return found.group(1) == expected
    early = "no {0} answers|is {0} stopped or overloaded|for {0} of 3, which never came|connection to {0}, which keeps|: {0}, which keeps"
    return phase == "start" and bool(re.search(early.format(expected), sentence))


def start(words, port, inside=lambda rank: [], host="127.0.0.1"):
    return [
        subprocess.Popen(
            [*inside(rank), *map(str, words)],
            env=environment(RANK=rank, WORLD_SIZE=3, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=3, MASTER_ADDR=host, MASTER_PORT=port),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]


def wait_for(stream, mark):
    """Whether a line with the mark came."""
    for line in iter(stream.readline, ""):
        if mark in line:
            return True
    return False


def end(ranks):
    for rank in ranks:
        rank.kill()
        rank.communicate()


def outcome(ranks, lost, limit, phase=""):
    """Whether all others name the ranks that are `lost`, how long that took, and what they say. `lost` is by survivor."""
    begin = time.monotonic()
    open_ranks = set(lost)
    took = 0.0
    while open_ranks and time.monotonic() - begin < limit + 10:
        for rank in sorted(open_ranks):
            if ranks[rank].poll() is not None:
                took = time.monotonic() - begin
                open_ranks.discard(rank)
        time.sleep(0.01)
    said, right = [], not open_ranks
    for rank, expected in lost.items():
        if rank in open_ranks:
            ranks[rank].kill()
        text = (ranks[rank].communicate()[1] or "").strip().splitlines()
        said.append("{}: {} {}".format(rank, ranks[rank].returncode, text[-1] if text else ""))
        right &= names(said[-1], expected, phase)
    return right and took <= limit, took, said


def lose_in_phase(options, work, phase, kind, victim):
    """None where the run was done before."""
    if phase == "idle":
        ranks = start([options.programs / "lost", "busy"], free_port())
        for rank in ranks:
            rank.stdout.readline()
        time.sleep(0.5)
    else:
        words = [options.programs / "wan_t2v", "--ckpt_dir", work / "demo", "--prompt", "a red fox", "--size", "128*128", "--frame_num", 33,
                 "--sample_steps", 6, "--base_seed", 1, "--save_file", work / "out.mp4", "--timeout", START_TIMEOUT if phase == "start" else 60]
        ranks = start(words, free_port())
        if phase == "start":
            time.sleep(random.random())  # the ranks have met, or are about to
        elif not wait_for(ranks[0].stderr, MARKS[phase]):
            end(ranks)
            return None
    if ranks[victim].poll() is not None:
        end(ranks)
        return None
    ranks[victim].send_signal(SIGNALS[kind])
    limit = START_TIMEOUT + 2 if phase == "start" else LIMITS[kind]
    result = outcome(ranks, {rank: "rank {}".format(victim) for rank in range(3) if rank != victim}, limit, phase)
    done = all(rank.returncode == 0 for i, rank in enumerate(ranks) if i != victim)
    end(ranks)
    (work / "out.mp4").unlink(missing_ok=True)
    return None if done else result


def cut(options):
    """Rank 0 behind a pair of virtual links, one of which goes down."""
    ip = ["ip"]
    space, here, there = "wanpar-{}".format(free_port()), "wp{}a".format(free_port()), "wp{}b".format(free_port())

    def run(*words):
        subprocess.run([*ip, *words], check=True)

    run("netns", "add", space)
    try:
        run("link", "add", here, "type", "veth", "peer", "name", there, "netns", space)
        run("addr", "add", "10.213.7.1/24", "dev", here)
        run("link", "set", here, "up")
        run("-n", space, "addr", "add", "10.213.7.2/24", "dev", there)
        run("-n", space, "link", "set", there, "up")
        run("-n", space, "link", "set", "lo", "up")
        inside = ["ip", "netns", "exec", space, "env", "GLOO_SOCKET_IFNAME=" + there]
        ranks = start([options.programs / "lost", "busy"], free_port(), lambda rank: inside if rank == 0 else ["env", "GLOO_SOCKET_IFNAME=" + here],
                      host="10.213.7.2")
        for rank in ranks:
            rank.stdout.readline()
        time.sleep(0.5)
        run("link", "set", here, "down")
        result = outcome(ranks, {0: "rank 1 and rank 2", 1: "rank 0", 2: "rank 0"}, LIMITS["cut"])
        end(ranks)
        return result
    finally:
        subprocess.run([*ip, "netns", "del", space], check=False)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--repeats", type=int, default=20)
    arguments.add_argument("--phases", nargs="+", choices=[*MARKS, "idle"], default=[*MARKS, "idle"])
    arguments.add_argument("--kinds", nargs="+", choices=[*LIMITS], default=[*LIMITS])
    arguments.add_argument("--programs", default=ROOT / "build/bin", type=Path)
    options = arguments.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        subprocess.run([options.programs / "wan_demo_checkpoint", work / "demo"], check=True)
        for phase in options.phases:
            for kind in options.kinds:
                if kind == "cut" and phase != "idle":
                    continue
                results = []
                for trial in range(3 * options.repeats):
                    if len(results) == options.repeats:
                        break
                    result = cut(options) if kind == "cut" else lose_in_phase(options, work, phase, kind, trial % 3)
                    if result:
                        results.append(result)
                right = sum(is_right for is_right, _, _ in results)
                faults += right < len(results) or not results
                print("{} {:7} {:4}: {} of {} right, {:.2f} s at most".format(
                    "ok   " if right == len(results) > 0 else "FAULT", phase, kind, right, len(results), max((took for _, took, _ in results), default=0)), flush=True)
                for is_right, took, said in results:
                    if not is_right:
                        print("      after {:.2f} s: {}".format(took, said), flush=True)
    print("{} faults".format(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
