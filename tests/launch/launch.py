#!/usr/bin/env python3
"""connect() under the real launchers, and what it says when the ranks do not come together.

Usage: launch.py MEET_PROGRAM PYTHON_WITH_TORCH
"""

import socket
import sys

from processes import check, environment, finish, free_port, mpirun, run, run_all, torchrun

meet, python = sys.argv[1:3]


def ranks(port, *places, words=()):
    """Outcomes of processes started by hand, each with its (rank, world size)."""
    return run_all(
        [([meet, *words], environment(RANK=rank, WORLD_SIZE=size, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)) for rank, size in places]
    )


def all_say(outcomes, sentence):
    """Each failed, and said one line with that sentence."""
    return all(o.status == 1 and sentence in o.error and len(o.error.strip().splitlines()) == 1 for o in outcomes)


for count in (2, 3):
    done = run(torchrun(python, count, [meet]))
    check("torchrun starts {} ranks".format(count), done.status == 0 and done.out.count("of {} by torchrun".format(count)) == count, done)
    done = run(mpirun(count, [meet]))
    check("mpirun starts {} ranks".format(count), done.status == 0 and done.out.count("of {} by Open MPI".format(count)) == count, done)

both = run_all([(["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", meet], environment())] * 2)
check("two runs of mpirun at once do not meet each other", all(o.status == 0 and o.out.count("of 2 by Open MPI") == 2 for o in both), *both)

for name, places in (
    ("Slurm", [dict(SLURM_JOB_ID=free_port(), SLURM_STEP_ID=0, SLURM_PROCID=rank, SLURM_LOCALID=rank, SLURM_NODEID=0,
                    SLURM_STEP_NUM_TASKS=2, SLURM_STEP_TASKS_PER_NODE="2", SLURM_STEP_NODELIST="gpu[03-04]") for rank in (0, 1)]),
    ("MPICH", [dict(PMI_RANK=rank, PMI_SIZE=2, MPI_LOCALRANKID=rank, MPI_LOCALNRANKS=2, PMI_PORT="host:1") for rank in (0, 1)]),
):
    if name == "Slurm":
        places = [place | dict(SLURM_JOB_ID=places[0]["SLURM_JOB_ID"]) for place in places]
    done = run_all([([meet], environment(**place)) for place in places])
    check("the variables of {} are read".format(name), [o.out for o in done] == ["rank {} of 2 by {}\n".format(r, name) for r in (0, 1)], *done)

alone = run([meet])
check("without a launcher there is one rank", alone.out == "rank 0 of 1 by alone\n", alone)

by_hand = ranks(free_port(), (0, 2), (1, 2))
check("two ranks meet by hand", [o.out for o in by_hand] == ["rank 0 of 2 by torchrun\n", "rank 1 of 2 by torchrun\n"], *by_hand)

handled = ranks(free_port(), (0, 2), (1, 2), words=["--handler"])
check("SIGPIPE ends no rank, and a handler of the user's stays", all(o.status == 0 for o in by_hand + handled), *by_hand, *handled)

odd = ranks(free_port(), (0, 2), (1, 3))
check("ranks that disagree on the world size all say so", all_say(odd, "start every rank with the same world size"), *odd)

twice = ranks(free_port(), (0, 4), (1, 4), (1, 4))
check("a rank that was started twice is named", all_say(twice, "rank 1 was started twice"), *twice)

again = ranks(free_port(), (0, 2), (1, 2), words=["--again"])
check("a second call in one process says so", all_say(again, "this process has connected as rank"), *again)

lonely = ranks(free_port(), (0, 3), (2, 3))
check("a rank that never comes is named", all_say(lonely, "waited 4 s for rank 1 of 3, which never came"), *lonely)

headless = ranks(free_port(), (1, 2))
check("so is rank 0", all_say(headless, "no rank 0 answers at 127.0.0.1:"), *headless)

with socket.socket() as holder:
    holder.bind(("0.0.0.0", 0))
    holder.listen()
    held = ranks(holder.getsockname()[1], (0, 2), (1, 2))
check("a port that is held is named", all_say(held[:1], "is already held"), *held)
check("so it is by a rank that its holder does not answer", all_say(held[1:], "but did not answer as rank 0 would within 4 s"), *held)

gpus = ranks(free_port(), (0, 2), (1, 2), words=["--nccl"])
no_gpu = all("devices" in o.error for o in gpus)
check("too few GPUs are counted", not no_gpu or all_say(gpus, "Not enough GPUs available: 2 ranks on this node, 0 devices"), *gpus)

for values, sentence in (
    (dict(WANPAR_BACKEND="mpi"), "WANPAR_BACKEND is 'mpi'; it is gloo, nccl, or not set"),
    (dict(SLURM_PROCID=0, SLURM_STEP_NUM_TASKS=4, SLURM_LOCALID=0, SLURM_STEP_TASKS_PER_NODE="two"), "SLURM_STEP_TASKS_PER_NODE is 'two'"),
    (dict(RANK=2, WORLD_SIZE=2), "the rank is 2, but with a world size of 2 ranks are 0 to 1"),
    (dict(RANK=0), "WORLD_SIZE is not set"),
    (dict(RANK="one", WORLD_SIZE=2), "RANK is 'one', which is no number"),
    (dict(RANK=0, WORLD_SIZE=2, MASTER_PORT=99999), "the master port is 99999"),
):
    wrong = run([meet], **values)
    check("an environment that contradicts itself is refused: " + sentence, all_say([wrong], sentence), wrong)

finish()
