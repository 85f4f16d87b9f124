#!/usr/bin/env python3
"""The launcher: what it tells its ranks, and that it ends them all, whoever fails or is killed.

Usage: wanrun.py WANRUN_PROGRAM MEET_PROGRAM
"""

import os
import signal
import subprocess
import sys
import time

from processes import check, environment, finish, run, run_all

wanrun, meet = sys.argv[1:3]


def shell(options, script):
    return run([wanrun, *options, "--", "bash", "-c", script])


def are_running(word):
    return subprocess.run(["pgrep", "-f", "^" + word], stdout=subprocess.DEVNULL).returncode == 0


def start(options, script):
    return subprocess.Popen([wanrun, *options, "--", "bash", "-c", script], env=environment(), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


for count in (1, 3):
    done = run([wanrun, "-n", str(count), meet])
    check("{} ranks meet".format(count), done.status == 0 and done.out.count("of {} by wanrun".format(count)) == count, done)
both = run_all([([wanrun, "-n", "2", "--", meet], environment())] * 2)
check("two runs at once do not meet each other", all(o.status == 0 and o.out.count("of 2 by") == 2 for o in both), *both)

done = shell(["-n", "2", "--master-port", "4321"], "echo $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR:$MASTER_PORT")
check("a rank is told where it stands", sorted(done.out.splitlines()) == ["[0] 0/2 0/2 127.0.0.1:4321", "[1] 1/2 1/2 127.0.0.1:4321"], done)
done = shell(["--nproc-per-node", "2", "--master-port", "4321", "--no-prefix"], "echo $RANK:$MASTER_PORT --no-flag")
check("flags are those of torchrun, with either stroke", sorted(done.out.splitlines()) == ["0:4321 --no-flag", "1:4321 --no-flag"], done)
done = shell(["-n", "2", "--nnodes", "3", "--node_rank", "2", "--master_addr", "host0", "--no_prefix"], "echo $RANK/$WORLD_SIZE $MASTER_ADDR:$MASTER_PORT")
check("so it is on one host of several", sorted(done.out.splitlines()) == ["4/6 host0:29500", "5/6 host0:29500"], done)
done = run([wanrun, "-np", "2", "bash", "-c", "echo $RANK -np"])
check("so is mpirun's -np", sorted(done.out.splitlines()) == ["[0] 0 -np", "[1] 1 -np"], done)
done = shell(["--gpus", "1,3", "--backend", "gloo"], "echo $RANK $CUDA_VISIBLE_DEVICES $WANPAR_BACKEND")
check("devices make ranks", sorted(done.out.splitlines()) == ["[0] 0 1,3 gloo", "[1] 1 1,3 gloo"], done)
done = shell(["-n", "2"], "seq 1 50000; seq 1 50000 >&2")
check("lines stay whole", len(done.out.splitlines()) == 100000 and all(line[:4] in ("[0] ", "[1] ") for line in done.out.splitlines()), done.status)

done = shell(["-n", "1"], r"printf 'a\r'; sleep 0.2; printf '\nb\r\nc\rd\n'")
check("\\r and \\r\\n end lines", done.out == "".join("[0] {}\n".format(c) for c in "abcd"), done)
done = run(["bash", "-c", r'"$0" --no_prefix -- printf "a\r\nb\rc" | od -An -c', wanrun])
check("without a prefix all is as it was printed", done.out.split() == ["a", r"\r", r"\n", "b", r"\r", "c"], done)
process = start(["-n", "1", "--no_prefix"], "printf 'name: '; sleep 20")
check("and at once", os.read(process.stdout.fileno(), 9) == b"name: ")
process.terminate()
process.communicate(timeout=20)
done = run(["bash", "-c", '"$0" -n 2 -- yes | head -1', wanrun], 20)
check("who prints to nobody ends", done.out in ("[0] y\n", "[1] y\n"), done)
done = run([sys.executable, "-c", """
import os, subprocess, sys, time
end, start = os.pipe()
os.set_blocking(start, False)
child = subprocess.Popen([sys.argv[1], "--", "seq", "1", "100000"], stdout=start)
os.close(start)
time.sleep(0.5)
print(len(os.fdopen(end).readlines()))
""", wanrun])
check("no line is lost on a pipe that does not block", done.out == "100000\n", done)
begin = time.monotonic()
done = shell(["-n", "1"], "(while true; do echo on; sleep 0.05; done) & sleep 0.3")
check("who prints on behind a rank's end is ended", done.status == 0 and time.monotonic() - begin < 4, done)

begin = time.monotonic()
done = shell(["-n", "3"], 'if [ $RANK = 1 ]; then echo "out of luck" >&2; exit 7; fi; sleep 61')
check("the first that fails is named, with what it said last",
      done.status == 7 and "rank 1 failed first" in done.error and "exit code 7" in done.error and done.error.count("out of luck") == 2, done)
check("the others are ended at once", time.monotonic() - begin < 4 and not are_running("sleep 61"))
begin = time.monotonic()
done = shell(["-n", "2"], 'if [ $RANK = 1 ]; then kill -9 $$; fi; trap "" TERM; sleep 62; sleep 62')
check("one that a signal ended says so", done.status == 137 and "signal 9" in done.error, done)
check("who does not end when asked to is made to", time.monotonic() - begin < 10 and not are_running("sleep 62"))
done = shell(["-n", "1"], "sleep 63 & echo done")
check("nothing is left behind by a rank that ended well", done.status == 0 and not are_running("sleep 63"), done)

for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
    process = start(["-n", "2"], "trap 'echo asked' INT TERM; sleep 64 & wait; wait")
    time.sleep(1)
    process.send_signal(number)
    out, error = process.communicate(timeout=20)
    check("{} is handed on once".format(number.name), process.returncode == status and out.count("asked") == 2 and not are_running("sleep 64"), out, error)

process = start(["-n", "2"], "sleep 65 & sleep 65")
time.sleep(1)
process.kill()
process.wait()
for _ in range(50):
    if not are_running("sleep 65"):
        break
    time.sleep(0.1)
check("when it is killed itself, no process is left", not are_running("sleep 65"))

for milliseconds in range(1, 31, 3):
    process = start(["-n", "8"], "sleep 66 & wait")
    time.sleep(milliseconds / 1000)
    process.kill()
    process.wait()
time.sleep(0.5)
check("so it is in the moment when it starts them", not are_running("sleep 66"))
done = run(["bash", "-c", 'ulimit -n 40; exec "$0" -n 32 -- bash -c "sleep 67 & wait"', wanrun])
check("ranks that were started end with a start that fails", done.status == 1 and "Too many open files" in done.error and not are_running("sleep 67"), done)
process = subprocess.Popen([wanrun, "yes"], env=environment(), stdout=subprocess.PIPE)
time.sleep(1)
process.terminate()
check("it ends although what it prints is not read", process.wait(10) == 143)

for options, sentence in (
    ([], "there is no program to start"),
    (["-n", "0", "true"], "'0' is no whole number from 1 to 1024"),
    (["--gpus", "0,0", "true"], "names device 0 twice"),
    (["--gpus", "2", "-n", "3", "true"], "-n 3 ranks, but --gpus 2 has 2 devices"),
    (["--backend", "mpi", "true"], "--backend mpi is unknown; choose one of nccl, gloo"),
    (["--create-script"], "takes one of --workflow FILE and --config FILE"),
    (["--config", "a.json", "true"], "--config is for --create_script"),
    (["--nnodes", "2", "true"], "--nnodes 2 needs --node_rank"),
    (["--ranks", "2", "true"], "--ranks is not a flag of wanrun; did you mean"),
):
    done = run([wanrun, *options])
    check("refused: " + sentence, done.status == 2 and sentence in done.error and len(done.error.splitlines()) == 1, done)
done = run([wanrun, "-n", "2", "./no_such_program"])
check("a program that is not there is one sentence", done.status == 1 and "cannot start './no_such_program': No such file" in done.error, done)

finish()
