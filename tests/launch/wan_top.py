#!/usr/bin/env python3
"""wan_top on a library that says what two GPUs would, and on this host's own processors.

Usage: wan_top.py WAN_TOP_PROGRAM FOLDER_OF_FAKE_LIBRARY
"""

import json
import os
import pty
import signal
import subprocess
import sys
import time

from processes import check, environment, finish, run

program, fake = sys.argv[1:3]
GIGABYTE = 1 << 30

# A run of two ranks, one of them stopped; the shell that starts a rank has its variables, and is none.
ranks = [
    subprocess.Popen(["sh", "-c", "{} -c 'x = bytearray(32 << 20); import time; time.sleep(60)'; true".format(sys.executable)], start_new_session=True,
                     env=environment(RANK=rank, WORLD_SIZE=2, MASTER_PORT="wan_top_test"))
    for rank in range(2)
]
try:
    for _ in range(200):
        found = json.loads(run([program, "--once", "--json"]).out)
        ours = [rank for rank in found["ranks"] if rank["run"] == "wan_top_test"]
        if len(ours) == 2 and all(rank["memory"] > 32 << 20 for rank in ours):
            break
        time.sleep(0.1)
    check("without a GPU the processors are the device", found["source"] == "/proc" and len(found["devices"]) == 1, found)
    host = found["devices"][0]
    check("memory and utilisation come from /proc", 0 < host["memory_used"] < host["memory_total"] and 0 <= host["utilisation"] <= 100, host)
    check("the ranks of a run are there, each once", [(r["rank"], r["ranks"]) for r in ours] == [(0, 2), (1, 2)], found)
    check("a rank is the process that holds its memory", all(r["memory"] > 32 << 20 and r["process"] not in [p.pid for p in ranks] for r in ours), ours)

    os.kill(ours[1]["process"], signal.SIGSTOP)
    gpus = run([program, "--once", "--json"], LD_LIBRARY_PATH=fake, FAKE_NVML_PROCESS=ours[1]["process"])
    seen = json.loads(gpus.out)
    first, second, third = seen["devices"]
    check("NVML is asked where it is there", seen["source"] == "NVML" and gpus.status == 0, gpus)
    check("each column of a GPU is there", first == {
        "index": 0, "name": "Fake H100", "memory_used": GIGABYTE, "memory_total": 80 * GIGABYTE, "utilisation": 75.0, "temperature": 60.0,
        "power": 350.5, "power_limit": 700.0, "clock": 1000.0, "clock_limit": 1980.0, "throttled_by": ["power cap", "temperature (hardware)"], "fault": ""}, first)
    check("what a GPU does not say is absent, and to have nothing to do is no throttling", second["power"] is None and second["throttled_by"] == [], second)
    check("a GPU that is lost is left out, and said so", third["fault"] == "GPU is lost" and third["memory_total"] is None, third)
    stopped = [r for r in seen["ranks"] if r["run"] == "wan_top_test"][1]
    check("a rank that is stopped is said to be", stopped["state"] == "stopped", stopped)
    check("a rank's device is the one that it holds memory of", stopped["devices"] == [1] and stopped["device_memory"] == GIGABYTE // 2, stopped)

    text = run([program, "--once"], LD_LIBRARY_PATH=fake).out
    check("one screen has devices and ranks", all(word in text for word in ("Fake H100", "1.0/80.0", "350/700", "power cap", "0/2", "1/2", "GPU is lost")), text)

    # On a terminal it is shown again, in lines that fit, until it is asked to end.
    terminal, inside = pty.openpty()
    shown = subprocess.Popen([program, "--interval", "0.2"], stdin=inside, stdout=inside, env=environment())
    os.close(inside)
    time.sleep(1.5)
    shown.send_signal(signal.SIGINT)
    status = shown.wait(10)
    output = os.read(terminal, 1 << 20).decode()
    check("on a terminal it is shown again until Ctrl-C", status == 0 and output.count("\033[H\033[2J") >= 2, status, output)

    refused = run([program, "--once"], LD_LIBRARY_PATH=fake, FAKE_NVML_REFUSES=1)
    check("a driver that refuses is one sentence", refused.status == 1 and refused.error == "wan_top: NVML cannot begin: Driver Not Loaded\n", refused)
    for words in (["--interval", "0"], ["--interval", "nan"], ["--wrong"], ["word"]):
        wrong = run([program, *words])
        check("{} is refused".format(" ".join(words)), wrong.status == 2 and len(wrong.error.splitlines()) == 1, wrong)
finally:
    for rank in ranks:
        os.killpg(rank.pid, signal.SIGKILL)
        rank.wait()
finish()
