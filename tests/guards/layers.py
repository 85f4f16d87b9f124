"""Who may include whom, read from the #include lines; and a few words that may stand in few places.

    examples, benchmarks, tests -> { strategy -> module -> core;  checkpoint -> module, files;  files -> core;
                                     transport -> core;  launch -> transport, core }
"""

import pathlib
import re
import sys

# Decisions without side effects, which the tests of their folder ask directly.
TESTED_DIRECTLY = {"module/shard_schedule.hpp"}
MAY_INCLUDE = {
    "core": {"core"},
    "files": {"files", "core"},
    "module": {"module", "core"},
    "checkpoint": {"checkpoint", "files", "module", "core"},
    "transport": {"transport", "core"},
    "strategy": {"strategy", "module", "core"},
    "launch": {"launch", "transport", "core"},
    "conformance": {"conformance", "strategy", "module", "core"},
}
OUTSIDE = ("examples", "benchmarks", "tests")
C10D = "src/transport/c10d"
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
CONDITIONAL = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif|else)\b")


def sources(root, *folders):
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".hpp", ".cpp"):
                yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8").splitlines()


def layer_of(name):
    """The layer that a file, or an include of one, belongs to; None where it is no part of the library."""
    parts = name.split("/")
    if parts[:2] == ["include", "wanpar"]:
        parts = parts[2:]
    elif parts[0] in ("src", "wanpar"):
        parts = parts[1:]
    if parts[0] in ("extend", "detail"):
        parts = parts[1:]
    return parts[0] if len(parts) > 1 and parts[0] in MAY_INCLUDE else None


def strategy_of(name):
    """ring of wanpar/strategy/ring.hpp, src/strategy/ring.cpp and src/strategy/ring/merge.hpp."""
    return name.split("strategy/", 1)[1].split("/")[0].split(".")[0]


def check_include(file, target, public_strategies):
    layer, other = layer_of(file), layer_of(target)
    if layer is None or other is None:
        return None
    if other not in MAY_INCLUDE[layer]:
        return "{} may not include {}".format(layer, other)
    if layer == other == "strategy":
        mine, theirs = strategy_of(file), strategy_of(target)
        if theirs != mine and theirs in public_strategies and mine in public_strategies:
            return "one strategy may not include another"
    return None


def check_library(root):
    public_strategies = {path.stem for path in (root / "include/wanpar/strategy").glob("*.hpp")}
    mentions_key = []
    for file, lines in sources(root, "include", "src"):
        if any("DeferredInit" in line for line in lines):
            mentions_key.append(file)
        for number, line in enumerate(lines, 1):
            where = "{}:{}".format(file, number)
            include = INCLUDE.match(line)
            problem = include and check_include(file, include.group(1), public_strategies)
            if problem:
                yield "{}: {}: {}".format(where, problem, include.group(1))
            if re.search(r"\b[Ww]an\b", line):
                yield "{}: the library names Wan".format(where)
            if CONDITIONAL.match(line) and not file.startswith(C10D):
                yield "{}: conditional compilation belongs in {}*.cpp".format(where, C10D)
        if file.endswith(".hpp") and "#pragma once" not in lines:
            yield "{}: no #pragma once".format(file)
    if len(mentions_key) > 1:
        yield "the dispatch key is named in more than one file: " + ", ".join(mentions_key)


def check_users(root):
    """Examples, benchmarks and tests see what an installed wanpar shows, and nothing else of it."""
    for file, lines in sources(root, *OUTSIDE):
        for number, line in enumerate(lines, 1):
            where = "{}:{}".format(file, number)
            include = INCLUDE.match(line)
            target = include.group(1) if include else ""
            if target in TESTED_DIRECTLY and file.startswith("tests/"):
                continue
            if "src" in target.split("/") or (not target.startswith("wanpar/") and target.split("/")[0] in MAY_INCLUDE
                                    and (root / "src" / target).exists()):
                yield "{}: a private header of the library: {}".format(where, target)
            if target.startswith("wanpar/detail/"):
                yield "{}: a header that is no business of users: {}".format(where, target)
            if CONDITIONAL.match(line):
                yield "{}: conditional compilation".format(where)


def main():
    root = pathlib.Path(sys.argv[1])
    problems = list(check_library(root)) + list(check_users(root))
    print("\n".join(problems) or "every include keeps to its layer")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
