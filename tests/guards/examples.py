"""Each numbered example is short, says what it shows and how it is run, and README.md names it; what documents quote of an
example is in it. A quotation is a block of C++ behind a line `<!-- examples/02_data_parallel.cpp -->`.

usage: examples.py ROOT
"""

import pathlib
import re
import sys

LONGEST = 60
QUOTATION = re.compile(r"^<!-- (examples/\S+) -->\n```cpp\n(.*?)^```", re.MULTILINE | re.DOTALL)


def faults_of(example, readme):
    files = sorted(example.glob("*.?pp")) if example.is_dir() else [example]
    for file in files:
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST:
            yield "{}: {} lines, more than {}".format(file.name, lines, LONGEST)
    main = (example / "main.cpp" if example.is_dir() else example).read_text(encoding="utf-8")
    if not main.startswith("// ") or "//     build/bin/{}\n".format(example.stem) not in main:
        yield "{}: does not begin with what it shows and how it is run".format(example.name)
    if example.stem not in readme:
        yield "{}: README.md does not name it".format(example.name)


def quotations(document):
    for name, text in QUOTATION.findall(document.read_text(encoding="utf-8")):
        yield name, text


def main():
    root = pathlib.Path(sys.argv[1])
    readme = (root / "README.md").read_text(encoding="utf-8")
    examples = sorted((root / "examples").glob("0*"))
    problems = [fault for example in examples for fault in faults_of(example, readme)]
    quoted = 0
    for document in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        for name, text in quotations(document):
            quoted += 1
            if text not in (root / name).read_text(encoding="utf-8"):
                problems.append("{} quotes what is not in {}".format(document.relative_to(root), name))
    print("\n".join(problems) or "{} examples, {} quotations".format(len(examples), quoted))
    return 1 if problems or not examples or not quoted else 0


if __name__ == "__main__":
    sys.exit(main())
