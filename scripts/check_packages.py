#!/usr/bin/env python3
"""Tries wanpar's packages as a stranger would: from an empty folder, by what README.md says and nothing else.

Each way of "In your project" (find_package, deb, conan, pkg_config) is a block of commands there, run as it stands, with
the example that README.md quotes as train.cpp; two ranks must train. What it costs is printed. The .deb is installed on this
machine and removed again, so it takes root, or sudo. LibTorch is .venv of this clone, so nothing is downloaded but Conan.

    scripts/check_packages.py [--build FOLDER] [WAY...]

FOLDER is where wanpar was built; by default it is built, in build-package.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"<!-- trial: (\S+) -->\n```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLE = "examples/02_data_parallel.cpp"
PROOF = "2 ranks with the same parameters"
WAYS = ("find_package", "deb", "conan", "pkg_config")
LONGEST = 15 * 60  # seconds from the empty folder to the trained module, that a stranger is promised

# What the commands of README.md find beside what every machine has.
PREAMBLE = """set -euo pipefail
wanpar={root}
if [[ $(id -u) -eq 0 ]]; then sudo() {{ "$@"; }}; fi
apt-get() {{ command apt-get -y -q --no-install-recommends "$@"; }}
"""


def blocks():
    return dict(BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")))


def conan_environment(work):
    """A Conan of its own, with a home of its own: nothing of the user's is touched."""
    subprocess.run([sys.executable, "-m", "venv", work / "conan"], check=True)
    subprocess.run([work / "conan/bin/pip", "install", "-q", "-r", ROOT / "scripts/requirements-conan.txt"], check=True)
    return {"PATH": "{}:{}".format(work / "conan/bin", os.environ["PATH"]), "CONAN_HOME": str(work / "conan_home")}


def empty_folder(work, way, texts):
    folder = work / way
    folder.mkdir()
    shutil.copy(ROOT / EXAMPLE, folder / "train.cpp")
    (folder / "CMakeLists.txt").write_text(texts["CMakeLists.txt"], encoding="utf-8")
    (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
    return folder


def attempt(work, way, texts, build):
    """Seconds that the way took, or what it said where it failed."""
    folder = empty_folder(work, way, texts)
    commands = texts[way].replace("$wanpar/build-package", str(build))
    environment = {**os.environ, **(conan_environment(work) if way == "conan" else {})}
    for name in ("CMAKE_PREFIX_PATH", "Torch_DIR", "VIRTUAL_ENV"):
        environment.pop(name, None)
    begin = time.monotonic()
    done = subprocess.run(["bash", "-c", PREAMBLE.format(root=ROOT) + commands], cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seconds = time.monotonic() - begin
    if done.returncode or PROOF not in done.stdout:
        return None, done.stdout[-4000:]
    return seconds, ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, help="where wanpar was built")
    parser.add_argument("ways", nargs="*", metavar="WAY", help="of " + ", ".join(WAYS))
    given = parser.parse_args()
    for way in given.ways:
        if way not in WAYS:
            parser.error("there is no way {}; choose of {}".format(way, ", ".join(WAYS)))

    texts = blocks()
    missing = [name for name in ("CMakeLists.txt", *WAYS) if name not in texts]
    if missing:
        sys.exit("README.md does not say how to try {}".format(", ".join(missing)))
    build = (given.build or ROOT / "build-package").resolve()
    if not given.build:
        begin = time.monotonic()
        for command in (["cmake", "--preset", "package"], ["cmake", "--build", "--preset", "package"]):
            subprocess.run(command, cwd=ROOT, check=True)
        print("wanpar itself was built in {:.0f} s".format(time.monotonic() - begin), flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is installed is removed all the same
    failed = False
    with tempfile.TemporaryDirectory() as work:
        for way in given.ways or WAYS:
            try:
                seconds, said = attempt(pathlib.Path(work), way, texts, build)
            finally:
                if way == "deb":
                    subprocess.run("if [[ $(id -u) -eq 0 ]]; then sudo() { \"$@\"; }; fi; sudo dpkg --remove libwanpar-dev",
                                   shell=True, executable="/bin/bash", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if seconds is None:
                print(said)
                print("{:14} failed".format(way), flush=True)
            else:
                print("{:14} {:6.0f} s{}".format(way, seconds, "" if seconds < LONGEST else ", which is too long"), flush=True)
            failed |= seconds is None or seconds >= LONGEST
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
