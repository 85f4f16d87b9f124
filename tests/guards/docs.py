"""Each path that the documents at the top and in docs/ write in backticks exists, and none is of somebody's machine."""

import pathlib
import re
import sys

QUOTED = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?:[\w.{},*-]+/)+[\w.{},*-]*|[\w-]+\.(?:hpp|cpp|py|txt|cmake|md|json)")
MACHINE = re.compile(r"(?<![\w.~$}/])/(?:work|home|root|tmp|opt|mnt)/")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
OF_OTHERS = "coming-from.md"  # names files of other programs; tests/guards/coming_from.py looks at ours
ELSEWHERE = ("build", ".venv", "torch", "ATen", "c10")  # made by a build, or of LibTorch


def names(document, text):
    """The paths that a document speaks of: in backticks, or as the aim of a link."""
    for quoted in QUOTED.findall(text) if document.name != OF_OTHERS else ():
        for word in quoted.split():
            if PATH.fullmatch(word):
                yield word
    yield from LINK.findall(text)


def expand(name):
    """a/{b,c}.hpp names two files."""
    braces = re.search(r"\{([^}]*)\}", name)
    if not braces:
        return [name]
    return [p for part in braces.group(1).split(",") for p in expand(name[: braces.start()] + part + name[braces.end():])]


def exists(root, document, name):
    name = name.rstrip("/")
    if name.split("/")[0].split("-")[0] in ELSEWHERE:
        return True
    bases = (root, document.parent, root / "include", root / "examples")
    return any(any(base.glob(name)) for base in bases)


def main():
    root = pathlib.Path(sys.argv[1])
    problems = []
    for document in [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        where = document.relative_to(root)
        problems += ["{}: a path of one machine: {}".format(where, line) for line in text.splitlines() if MACHINE.search(line)]
        problems += ["{}: there is no {}".format(where, one)
                     for name in names(document, text) for one in expand(name) if not exists(root, document, one)]
    print("\n".join(problems) or "every path named in the documents exists")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
