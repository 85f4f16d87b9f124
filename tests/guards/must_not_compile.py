"""Compiles each file of a folder, which must fail, and say what its first line demands: `// says: ...`.

usage: must_not_compile.py FOLDER COMPILER [FLAGS...]
"""

import concurrent.futures
import pathlib
import re
import subprocess
import sys


def fault(command, source):
    """What is wrong with a case; empty where it fails as it should."""
    wanted = source.read_text(encoding="utf-8").splitlines()[0].removeprefix("// says: ")
    done = subprocess.run(command + ["-fsyntax-only", str(source)], capture_output=True, text=True)
    if done.returncode == 0:
        return "compiles"
    if wanted not in re.sub(r"\s+", " ", done.stderr):
        return "does not say '{}' but\n{}".format(wanted, done.stderr[:2000])
    return ""


def main():
    folder, command = pathlib.Path(sys.argv[1]), sys.argv[2:]
    sources = sorted(folder.glob("*.cpp"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        faults = list(pool.map(lambda source: fault(command, source), sources))
    for source, text in zip(sources, faults):
        print("{}: {}".format(source.name, text or "fails as it should"))
    return 1 if not sources or any(faults) else 0


if __name__ == "__main__":
    sys.exit(main())
