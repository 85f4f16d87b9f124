"""Starts programs as launchers do, and says what came of them. Nothing here waits longer than its time limit."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
failures = []


@dataclass
class Outcome:
    status: int
    out: str
    error: str


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(**values):
    plain = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES and not k.startswith(("WANPAR_", "OMPI_", "PMIX_", "PMI_", "SLURM_", "TORCHELASTIC_"))}
    return plain | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | {k: str(v) for k, v in values.items()}


def run_all(commands, limit=120):
    """Runs [(words, environment)] side by side."""
    started = [
        subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for words, env in commands
    ]
    outcomes = []
    for process in started:
        try:
            out, error = process.communicate(timeout=limit)
            outcomes.append(Outcome(process.returncode, out, error))
        except subprocess.TimeoutExpired:
            process.kill()
            out, error = process.communicate()
            outcomes.append(Outcome(-1, out, error + "\n(killed: it was still running after {} s)".format(limit)))
    return outcomes


def run(words, limit=300, **values):
    return run_all([(words, environment(**values))], limit)[0]


def torchrun(python, processes, words):
    return [python, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", str(processes), "--master-port", str(free_port())] + words


def mpirun(processes, words):
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", str(processes), "-x", "MASTER_PORT={}".format(free_port())] + words


def check(claim, truth, *evidence):
    print("{}: {}".format("ok" if truth else "FAILED", claim), flush=True)
    if not truth:
        failures.append(claim)
        for outcome in evidence:
            print("   ", outcome)


def finish():
    print("{} claims failed".format(len(failures)))
    sys.exit(bool(failures))
