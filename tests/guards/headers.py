"""Compiles each public header alone, and prints what an #include of it costs.

usage: headers.py INCLUDE_FOLDER COMPILER [FLAGS...]
"""

import concurrent.futures
import pathlib
import resource
import subprocess
import sys
import time


def compile_alone(command, folder, header):
    """The seconds that the header took, and what the compiler said where it failed."""
    source = "#include <{}>\n".format(header.relative_to(folder).as_posix())
    begin = time.monotonic()
    done = subprocess.run(command + ["-fsyntax-only", "-x", "c++", "-"], input=source, capture_output=True, text=True)
    return time.monotonic() - begin, done.stderr if done.returncode else ""


def main():
    folder, command = pathlib.Path(sys.argv[1]), sys.argv[2:]
    headers = sorted(folder.rglob("*.hpp"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda header: compile_alone(command, folder, header), headers))
    for header, (seconds, errors) in zip(headers, results):
        print("{:6.1f} s  {}{}".format(seconds, header.relative_to(folder), "  does not compile alone" if errors else ""))
    for _, errors in results:
        print(errors, end="")
    print("{:6.1f} s  in all".format(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime))
    return 1 if not headers or any(errors for _, errors in results) else 0


if __name__ == "__main__":
    sys.exit(main())
