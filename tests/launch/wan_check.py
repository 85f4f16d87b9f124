#!/usr/bin/env python3
"""The setup check: right on a good machine, and on each of a list of planted faults.

Usage: wan_check.py WAN_CHECK_PROGRAM WANRUN_PROGRAM CHECKPOINT_FOLDER
"""

import json
import os
import shutil
import socket
import sys
import tempfile

from processes import check, environment, finish, free_port, mpirun, run, run_all

program, wanrun, model = sys.argv[1:4]
STEPS = ("launcher", "versions", "cores", "devices", "memory", "disk", "files", "shared memory", "host name", "ranks", "model")
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "barrier")


def findings(outcome):
    return {one["what"]: one for one in json.loads(outcome.out)["findings"]}


def looked(words, **values):
    """The findings of a run with --json, and what came of it."""
    done = run(words + ["--json"], **values)
    try:
        return findings(done), done
    except ValueError:
        return {}, done


def is_told(claim, words, what, state, sentence, **values):
    found, done = looked(words, **values)
    one = found.get(what, {})
    right = one.get("state") == state and sentence in one.get("found", "") and bool(one.get("remedy")) and done.status == (state == "fail")
    check(claim, right, done)


found, done = looked([program])
check("a good machine is well, alone", done.status == 0 and all(found.get(s, {}).get("state") in ("ok", "warn") for s in STEPS + ("port",)), done)
for launcher, words in (("wanrun", [wanrun, "-n", "2", "--no_prefix", "--"]), ("Open MPI", mpirun(2, []))):
    found, done = looked(words + [program, "--ckpt_dir", model])
    wanted = STEPS + COLLECTIVES + ("checkpoint", "transformer", "text encoder", "VAE")
    check("the table is complete on two ranks of " + launcher, done.status == 0 and all(found.get(w, {}).get("state") in ("ok", "warn") for w in wanted), done)
    check("and says who started them", launcher in found["launcher"]["found"], done)
found, done = looked([program, "--local_ranks", "3"])
check("thread ranks are ranks", done.status == 0 and all(c in found for c in COLLECTIVES), done)

is_told("a folder that is not there", [program, "--ckpt_dir", "/nothing/here"], "checkpoint", "fail", "/nothing/here")
with tempfile.TemporaryDirectory() as folder:
    is_told("a folder of something else", [program, "--ckpt_dir", folder], "checkpoint", "fail", folder)
    copy = os.path.join(folder, "model")
    shutil.copytree(model, copy)
    weights = next(os.path.join(at, f) for at, _, files in os.walk(os.path.join(copy, "transformer")) for f in files if f.endswith(".safetensors"))
    with open(weights, "r+b") as file:
        file.truncate(os.path.getsize(weights) // 2)
    is_told("a file that was downloaded in part", [program, "--ckpt_dir", copy], "checkpoint", "fail", os.path.basename(weights))
    os.remove(weights)
    is_told("a file that is missing", [program, "--ckpt_dir", copy], "checkpoint", "fail", "transformer")
is_told("few files may be open", ["bash", "-c", "ulimit -n 100; exec \"$@\"", "bash", program], "files", "fail", "100 open at once")
is_told("a CUDA device that is not there", [program, "--device", "cuda"], "devices", "fail", "no CUDA device")
port = free_port()
is_told("a rank that never comes", [program, "--timeout", "2"], "ranks", "fail", "rank 1 of 2, which never came",
        RANK=0, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
with socket.socket() as holder:
    holder.bind(("0.0.0.0", 0))
    holder.listen()
    held = holder.getsockname()[1]
    is_told("a port that is held, alone", [program], "port", "warn", "is held by another program", MASTER_PORT=held)
    is_told("a port that is held, of two ranks", [program, "--timeout", "2"], "ranks", "fail", "is already held",
            RANK=0, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=held)
odd = run_all([([program, "--json", "--timeout", "4"], environment(RANK=r, WORLD_SIZE=s, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)) for r, s in ((0, 2), (1, 3))])
check("ranks that disagree on their number", all(o.status == 1 for o in odd) and "same world size" in odd[0].out, *odd)
many = str(min(os.cpu_count() + 1, 64))
is_told("too many ranks for the cores", [program, "--local_ranks", many], "cores", "warn", "for {} ranks".format(many))

for words, sentence in (
    (["--ckpt", "x"], "--ckpt is not a flag of wan_check; did you mean --ckpt_dir?"),
    (["--local_ranks", "none"], "--local_ranks"),
):
    done = run([program] + words)
    check("refused: " + sentence, done.status == 2 and sentence in done.error and len(done.error.splitlines()) == 1 and done.out == "", done)

finish()
