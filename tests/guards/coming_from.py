"""Each name that docs/coming-from.md gives as the counterpart of another program's is there: a path, a flag of a program, a variable,
or a word of the sources. What the page says is not there yet is not there.

usage: coming_from.py ROOT
"""

import pathlib
import re
import sys

QUOTED = re.compile(r"`([^`]+)`")
PAGE = "docs/coming-from.md"
SOURCES = ("include", "src", "examples", "scripts", "benchmarks")
TEXTS = (".hpp", ".cpp", ".py", ".sh", ".txt", ".cmake", "")


def rows(text):
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 2 and cells[0] not in ("there", ""):
            yield cells


def words_of(root):
    texts = [path.read_text(encoding="utf-8", errors="replace") for folder in SOURCES for path in sorted((root / folder).rglob("*"))
             if path.is_file() and path.suffix in TEXTS and path.stat().st_size < 1 << 20]
    words = set(re.findall(r"\w+", "\n".join(texts)))
    words |= {path.stem for folder in SOURCES for path in (root / folder).rglob("*")}
    flags = set(re.findall(r'\(\s*"(\w+)(?:,\w)?",', "\n".join(texts)))
    return words, flags


def is_there(root, name, words, flags):
    if name.startswith("--"):
        return name[2:].replace("-", "_") in flags
    if "/" in name or re.fullmatch(r"[\w-]+\.\w+", name):
        return (root / name).exists() or any(root.glob("examples/**/" + name))
    parts = [part for part in re.split(r"\W+", name) if part]
    return all(part in words for part in parts)


def faults(root):
    text = (root / PAGE).read_text(encoding="utf-8")
    words, flags = words_of(root)
    for there, here in rows(text):
        now, _, later = here.partition("not yet: ")
        future = later.split(";")[0]
        now += later[len(future):]
        names, future = QUOTED.findall(now), QUOTED.findall(future)
        if not names and not future and "not built" not in here and "cannot be" not in here and len(here.split()) < 2:
            yield "{} has no counterpart".format(there)
        for name in names:
            if not is_there(root, name, words, flags):
                yield "{} is said to be {}, which is not there".format(there, name)
        for name in future:
            if is_there(root, name, words, flags):
                yield "{} is there now; say so in the place of 'not yet'".format(name)


def main():
    root = pathlib.Path(sys.argv[1])
    problems = ["{}: {}".format(PAGE, fault) for fault in faults(root)]
    print("\n".join(problems) or "{} names of other programs have counterparts".format(len(list(rows((root / PAGE).read_text(encoding="utf-8"))))))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
