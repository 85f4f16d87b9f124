#!/usr/bin/env python3
"""Loses one of three ranks in the middle of a call, and asks whom the others name.

Usage: lost.py LOST_PROGRAM [REPEATS JOBS]

Three ranks on Gloo make one call again and again, with a timeout of 5 s. Once all say that they are connected, and after a random
time of up to 0.3 s, the victim gets a signal, or returns. Both others must end by themselves within 15 s with one sentence, which
names the victim and nobody else. They end as soon as they know, so to each of them the other one is a rank that ended because of
the victim.

With REPEATS: each of all_reduce, broadcast, all_gather, barrier and a pipeline's exchanges, checked and unchecked, with SIGKILL,
SIGSTOP and a rank 1 that returns early, that often, the victim each rank in turn, JOBS at a time, in random order. 19 of 20
survivors must be right. Prints for each: right, another (somebody else is named), nobody, hung, died (by a signal of its own),
and the longest time that survivors took.

Without, as a test: each of these calls and SIGKILL, a few with the others, once. Then too subgroup() of ranks 1 and 2, while
rank 0, which keeps the store, is killed or stopped; and with a timeout of 1 s, while rank 0 works for a minute and the others
wait for it: all end when one is killed or stopped, and none for being slow. Ranks that wait for each other are too late.

Exit codes of the program say the kind of error: 3 a rank is lost, 4 a timeout.
"""

import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from processes import check, environment, finish, free_port, run_all

program = sys.argv[1]
repeats, jobs = (int(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) > 2 else (1, 2)
BLAMED = re.compile(r": ((?:rank \d(?: and )?)+) (?:ended|left|gave|answered|did not come)")
KEEPER = re.compile(r": .*rank 0(?: of the run (?:ended|gave|did not)|, which keeps)")
OPERATIONS = ("all_reduce", "broadcast", "all_gather", "barrier", "pipeline")
KINDS = ("right", "another", "nobody", "hung", "died")


def start(operation, words):
    """Three ranks that are at it."""
    port = free_port()
    ranks = [
        subprocess.Popen(
            [program, operation, *words],
            env=environment(RANK=rank, WORLD_SIZE=3, MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    for rank in ranks:
        rank.stdout.readline()
    return ranks


def lose(operation, words, how, victim):
    """What each survivor makes of it, what it says, and how long the last one took."""
    victim = victim if how else 1
    ranks = start(operation, words if how else (*words, "--returns"))
    time.sleep(random.random() * 0.3)
    if how:
        ranks[victim].send_signal(how)
    begin = time.time()
    outcomes = []
    for survivor in (rank for rank in ranks if rank is not ranks[victim]):
        try:
            said = survivor.communicate(timeout=max(1, begin + 15 - time.time()))[1].strip()
            blamed = BLAMED.search(said)
            if survivor.returncode != 3:
                outcomes.append(("died", "{} {}".format(survivor.returncode, said)))
            elif not blamed:
                outcomes.append(("nobody", said))
            else:
                outcomes.append(("right" if blamed.group(1) == "rank {}".format(victim) else "another", said))
        except subprocess.TimeoutExpired:
            survivor.kill()
            outcomes.append(("hung", survivor.communicate()[1]))
    took = time.time() - begin
    ranks[victim].kill()
    ranks[victim].communicate()
    return outcomes, took


def cases():
    if len(sys.argv) > 2:
        return [(o, w, s) for s in (signal.SIGKILL, None, signal.SIGSTOP) for o in OPERATIONS for w in ((), ("--unchecked",))]
    kills = [(o, ("--unchecked",) if i % 2 else (), signal.SIGKILL) for i, o in enumerate(OPERATIONS)]
    stops = [("all_reduce", ("--unchecked",), signal.SIGSTOP), ("pipeline", (), signal.SIGSTOP)]
    returns = [("all_gather", (), None), ("all_reduce", ("--unchecked",), None)]
    return kills + stops + returns


runs = [(case, i % 3) for case in cases() for i in range(repeats)]
random.shuffle(runs)
with ThreadPoolExecutor(jobs) as pool:
    results = list(pool.map(lambda run: (run[0], *lose(*run[0], run[1])), runs))
for case in cases():
    mine = [(outcomes, took) for ran, outcomes, took in results if ran == case]
    counts = Counter(kind for outcomes, _ in mine for kind, _ in outcomes)
    operation, words, how = case
    claim = "{:10} {:9} {}: {}, at most {:.2f} s".format(
        operation, "unchecked" if words else "checked", how.name if how else "returns",
        ", ".join("{} {}".format(counts[kind], kind) for kind in KINDS), max(took for _, took in mine),
    )
    others = [said for outcomes, _ in mine for kind, said in outcomes if kind != "right"]
    check(claim, counts["right"] * 20 >= sum(counts.values()) * 19, *others)

if len(sys.argv) == 2:
    for how in (signal.SIGKILL, signal.SIGSTOP):
        outcomes, took = lose("busy", (), how, 2)
        claim = "{} of rank 2, while rank 0 works: both others name it after {:.1f} s".format(how.name, took)
        check(claim, [kind for kind, _ in outcomes] == ["right"] * 2, *outcomes)
    slow = start("slow", ("--once",))
    slow[2].send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    slow[2].send_signal(signal.SIGCONT)
    said = [(*rank.communicate(timeout=60), rank.returncode) for rank in slow]
    check("a rank that works six times as long as the timeout is waited for, and one that was held up for 1.5 s goes on",
          [status for _, _, status in said] == [0] * 3, *said)
    apart = run_all([([program, "apart", "--unchecked", "--once"], environment(RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port))
                     for port in [free_port()] for rank in range(2)])
    late = all(o.status == 4 and "did not come within 5 s" in o.error for o in apart) or sorted(o.status for o in apart) == [3, 4]
    check("ranks that wait for each other are too late", late, *apart)
    for how in (signal.SIGKILL, signal.SIGSTOP):
        outcomes, took = lose("subgroup", (), how, 0)
        said = [said for _, said in outcomes]
        claim = "{} of rank 0, while 1 and 2 make groups: both end after {:.1f} s and name it".format(how.name, took)
        check(claim, all(KEEPER.search(s) and kind not in ("hung", "died") for kind, s in outcomes), *said)
finish()
