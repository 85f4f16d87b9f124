"""The server that the nodes speak to: one that runs, or one that is started here and ends with ComfyUI.

WANPAR_SERVER says which: the address of a running one, or the path of the program wan_serve. Without it one at
http://127.0.0.1:7860 is taken, else the program is looked for on the PATH and beside these nodes, in build/bin.
WANPAR_API_KEY is the key, where the server wants one. A workflow can name neither a program nor an address.
"""

import atexit
import collections
import os
import pathlib
import queue
import shutil
import subprocess
import threading
import time

from . import host
from .client import Server
from .refused import Refused

ADDRESS = "http://127.0.0.1:7860"
START = 60  # seconds until a server that is started says its address
LOADING = 3600  # seconds that weights may take
LAST_WORDS = 4  # lines of a server that ended which are shown

_started = None


def server_for(wish, model):
    """The server for a wish, ready to make videos. Throws Refused where the one that runs is another."""
    place = os.environ.get("WANPAR_SERVER", "")
    key = os.environ.get("WANPAR_API_KEY")
    if place.startswith(("http://", "https://")):
        return _running(Server(place, key), wish, model)
    if place and not os.path.isfile(place):
        raise Refused("WANPAR_SERVER is '{}', which is neither an address, as in {}, nor a program".format(place, ADDRESS))
    program = place or _program()
    if not place:
        try:
            return _running(Server(ADDRESS, key), wish, model)
        except ConnectionError:
            pass
    if not program:
        raise Refused("no wan_serve answers at {}, and there is none to start; set WANPAR_SERVER to the address of one, or to the path of the program, "
                      "before ComfyUI starts".format(ADDRESS))
    return _start(program, wish, model)


def _program():
    beside = pathlib.Path(__file__).resolve().parents[2] / "build" / "bin" / "wan_serve"
    return shutil.which("wan_serve") or (str(beside) if beside.exists() else None)


def _running(server, wish, model):
    loaded = server.status().get("model")
    if model and loaded and os.path.basename(os.path.normpath(model)) != loaded:
        raise Refused("wan_serve at {} has {} loaded, and model is {}; leave model empty to take what it has".format(server.url, loaded, model))
    ranks = len(_wait_until_ready(server)["ranks"])  # which it knows of by then
    if ranks < wish.ranks:
        raise Refused("wan_serve at {} has {} ranks, and {} are asked for; start it with more, or ask for fewer".format(server.url, ranks, wish.ranks))
    return server


def _wait_until_ready(server, process=None):
    """The status of a server that has loaded its weights."""
    progress, until = host.Progress(100), time.monotonic() + LOADING
    while True:
        host.stop_where_interrupted()
        if process and process.ended():
            raise Refused("wan_serve ended while it loaded: " + process.last_words())
        if time.monotonic() > until:
            raise Refused("wan_serve at {} has not loaded its weights within {} s".format(server.url, LOADING))
        try:
            status = server.status()
        except ConnectionError:
            if not process:
                raise
            time.sleep(0.2)  # it is ending, and then says why
            continue
        if status["state"] == "ready":
            return status
        if status["state"] in ("failed", "stopping"):
            raise Refused("wan_serve at {} is {}: {}".format(server.url, status["state"], status.get("reason") or "no reason was given"))
        progress.show((status.get("loading") or {}).get("percent", 0), 100)
        time.sleep(0.2)


class _Process:
    """A wan_serve of our own, which ends with ComfyUI, also where that is killed."""

    def __init__(self, command, environment):
        self.command = command
        self.environment = environment
        self.process = None
        self.errors = collections.deque(maxlen=LAST_WORDS)
        self.told = queue.SimpleQueue()  # lines of its stdout, None when it ends, or why there is no process
        threading.Thread(target=self._live, daemon=True).start()
        atexit.register(self.end)

    def _live(self):
        # Why here: the signal that setpriv asks for comes when this thread ends, which is not before the server does.
        setpriv = shutil.which("setpriv")
        words = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
        try:
            self.process = subprocess.Popen(words + self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, text=True, errors="replace")
        except OSError as error:
            self.told.put(error)
            return
        threading.Thread(target=lambda: self.errors.extend(line.strip() for line in self.process.stderr), daemon=True).start()
        for line in self.process.stdout:
            self.told.put(line.strip())
        self.process.wait()
        self.told.put(None)

    def ended(self):
        return self.process is not None and self.process.poll() is not None

    def last_words(self):
        return " / ".join(self.errors) or "it said nothing (exit code {})".format(self.process.poll())

    def end(self):
        if self.process is None or self.ended():
            return
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _start(program, wish, model):
    global _started
    if not model:
        raise Refused("model is empty, and no wan_serve runs that has one; give the folder of a checkpoint")
    flags = {"ckpt_dir": host.checkpoint_of(model), "server_port": "0", "data_dir": host.scratch_folder(), **wish.flags}
    command = [program] + [word for name, value in flags.items() for word in ("--" + name, value) if word is not None]
    if wish.ranks > 1 and flags.get("device") == "cpu":
        command += ["--local_ranks", str(wish.ranks)]
    elif wish.ranks > 1:
        launcher = pathlib.Path(program).with_name("wanrun")  # a process for each GPU
        command = [str(launcher), "-n", str(wish.ranks), "--no_prefix", "--"] + command
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": wish.gpus} if wish.gpus else {})}
    if _started and not _started.ended() and (_started.command, _started.environment) == (command, environment):
        _wait_until_ready(_started.server, _started)
        return _started.server
    if _started:
        _started.end()  # its memory is wanted
    _started = _Process(command, environment)
    try:
        address = _started.told.get(timeout=START)
    except queue.Empty:
        _started.end()
        raise Refused("wan_serve has not begun to listen within {} s".format(START)) from None
    if address is None:
        raise Refused("wan_serve did not start: " + _started.last_words())
    if isinstance(address, OSError):
        raise Refused("cannot start {}: {}".format(command[0], address.strerror))
    _started.server = Server(address)
    _wait_until_ready(_started.server, _started)
    return _started.server
