"""Compiles each public header alone, and prints what an #include of it costs beyond LibTorch's headers in it.

usage: headers.py INCLUDE_FOLDER COMPILER [FLAGS...]
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

LIMIT = 1.5  # CPU seconds over LibTorch's own headers
LIMIT_OF_ALL = 4.0  # of the header that includes all others
INCLUDE = re.compile(r"^\s*#\s*include\s*(<[^>]+>)", re.MULTILINE)


def compile_text(command, source):
    """The CPU seconds that the compiler took, and what it said where it failed."""
    compiler = subprocess.Popen(command + ["-fsyntax-only", "-x", "c++", "-"], stdin=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)
    compiler.stdin.write(source)
    compiler.stdin.close()
    said = compiler.stderr.read()
    _, status, usage = os.wait4(compiler.pid, 0)
    return usage.ru_utime + usage.ru_stime, said if status else ""


def others(folder, header, seen):
    """The headers that are not ours, of this header and all of ours that it includes, in order."""
    found = []
    if header in seen:
        return found
    seen.add(header)
    for include in INCLUDE.findall(header.read_text(encoding="utf-8")):
        ours = folder / include[1:-1]
        found += others(folder, ours, seen) if ours.exists() else [include]
    return found


def text_of_others(folder, header):
    return "".join("#include {}\n".format(name) for name in others(folder, header, set()))


def main():
    folder, command = pathlib.Path(sys.argv[1]), sys.argv[2:]
    headers = sorted(folder.rglob("*.hpp"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        names = ["#include <{}>\n".format(header.relative_to(folder).as_posix()) for header in headers]
        own = list(pool.map(lambda name: compile_text(command, name), names))
        bases = sorted({text_of_others(folder, header) for header in headers})  # many have the same
        of_others = dict(zip(bases, pool.map(lambda text: compile_text(command, text)[0], bases)))
    results = [(seconds, of_others[text_of_others(folder, header)], errors)
               for header, (seconds, errors) in zip(headers, own)]
    slow = []
    for header, (seconds, base, errors) in zip(headers, results):
        name = header.relative_to(folder).as_posix()
        print("{:6.1f} s, {:4.1f} s over LibTorch's  {}{}".format(
            seconds, seconds - base, name, "  does not compile alone" if errors else ""))
        if seconds - base > (LIMIT_OF_ALL if name == "wanpar/wanpar.hpp" else LIMIT):
            slow.append(name)
    for _, _, errors in results:
        print(errors, end="")
    print("{:6.1f} s  in all".format(sum(seconds for seconds, _, _ in results)))
    if slow:
        print("more than {} s ({} s for wanpar.hpp) over LibTorch's own headers: {}".format(LIMIT, LIMIT_OF_ALL, ", ".join(slow)))
    return 1 if not headers or slow or any(errors for _, _, errors in results) else 0


if __name__ == "__main__":
    sys.exit(main())
