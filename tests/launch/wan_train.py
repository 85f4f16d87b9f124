#!/usr/bin/env python3
"""wan_train as its users start it: the losses of one rank on processes, a signal that loses nothing, a checkpoint that
wan_t2v takes, and one sentence for each mistake.

Usage: wan_train.py PROGRAM WAN_T2V PYTHON_WITH_TORCH
"""

import pathlib
import signal
import subprocess
import sys
import tempfile

from processes import check, environment, finish, free_port, mpirun, run, run_all, torchrun

program, wan_t2v, python = sys.argv[1:]
folder = pathlib.Path(tempfile.mkdtemp(prefix="wan_train_test."))


def words(name, task="vae", **changes):
    """A tiny run; changes replace flags, True has no value."""
    flags = dict(task=task, output_dir=folder / name, frame_size=32, frame_num=5, steps=4, warm_up=2, batch_size=4, dtype="float64")
    if task == "vae":
        flags |= dict(crop_size=16, crop_frames=5, vae_dim=4)
    else:
        flags |= dict(vae=folder / "one", dim=24, heads=2, layers=2, text_dim=16, clips=8)
    flags |= changes
    return [program] + [w for k, v in flags.items() for w in (["--" + k] if v is True else ["--" + k, str(v)])]


def losses(name):
    lines = (folder / name / "losses.csv").read_text().splitlines()[1:]
    return [[float(cell) for cell in line.split(",")] for line in lines]


def are_those_of(name, other):
    a, b = losses(name), losses(other)
    return len(a) == len(b) > 0 and all(abs(x - y) <= 1e-9 * abs(y) for row, same in zip(a, b) for x, y in zip(row, same))


def sentences(*outcomes):
    return [line for o in outcomes for line in o.error.splitlines() if line.startswith("wan_train")]


done = run(words("one"))
check("it runs alone", done.status == 0 and len(losses("one")) == 4, done)
starts = {
    "torchrun 2": torchrun(python, 2, words("torchrun")),
    "mpirun 2, sharded": mpirun(2, words("mpirun", shard="full")),
    "2 threads": words("threads", local_ranks=2),
}
for (how, command), name in zip(starts.items(), ("torchrun", "mpirun", "threads")):
    done = run(command)
    check("{}: the losses of one rank".format(how), done.status == 0 and are_those_of(name, "one"), done)

done = run(torchrun(python, 2, words("t2v", task="t2v", shard="full", activation_checkpointing=True)))
video = folder / "t2v.mp4"
made = run([wan_t2v, "--ckpt_dir", folder / "t2v" / "checkpoint", "--prompt", "a red ball moves left", "--size", "32*32",
            "--frame_num", "5", "--sample_steps", "2", "--local_ranks", "2", "--save_file", video])  # fmt: skip
check("wan_t2v takes the checkpoint", done.status == 0 and made.status == 0 and video.exists(), done, made)

long = dict(steps=100, print_every=1, save_every=1000, sample_every=1000)
run(words("whole", **long))
for how, command in {"alone": words("stopped", **long), "torchrun": torchrun(python, 2, words("stopped", **long))}.items():
    process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (line := process.stderr.readline()).startswith("step") and line:
        pass
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    check("{}: stopped behind a step, {} are done".format(how, len(losses("stopped"))), 0 < len(losses("stopped")) < 100)
done = run(words("stopped", **long))
check("stopped twice, it ends with the losses of one run", done.status == 0 and are_those_of("stopped", "whole"), done)

mistakes = {
    "no task": ([program], "--task"),
    "an unknown flag": (words("bad", step=3), "--steps"),
    "another setting than the run's": (words("one", batch_size=8), "batch_size 8"),
    "a VAE that is not there": (words("bad", task="t2v", vae=folder / "nowhere"), "nowhere"),
    "a run to begin with that is not there": (words("bad", init=folder / "nowhere"), "nowhere"),
    "a batch that ranks cannot share": (words("bad", local_ranks=3), "--batch_size 4"),
    "processes with such a batch": (torchrun(python, 3, words("bad")), "--batch_size 4"),
    "threads of processes": (mpirun(2, words("bad", local_ranks=2)), "--local_ranks 2"),
}
for name, (command, part) in mistakes.items():
    done = run(command, limit=60)
    said = sentences(done)
    check("{}: {}".format(name, said), 0 < done.status < 128 and len(said) == 1 and part in said[0], done)

port = free_port()
places = [dict(RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port) for rank in range(2)]
done = run_all([(words("differ", learning_rate=rate), environment(**place)) for rate, place in zip((1e-3, 2e-3), places)])
said = sentences(*done)
check("ranks with another --learning_rate are told before the work: {}".format(said),
      [o.status for o in done] == [1, 1] and len(said) == 1 and "learning_rate" in said[0] and not (folder / "differ").exists(), *done)  # fmt: skip

finish()
