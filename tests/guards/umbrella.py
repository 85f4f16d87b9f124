"""wanpar/wanpar.hpp includes each public header, or names it in a comment as one that is not for users.

That each of them, and wanpar.hpp, compiles alone is what headers.py sees to.

usage: umbrella.py INCLUDE_FOLDER
"""

import pathlib
import re
import sys

UMBRELLA = "wanpar/wanpar.hpp"
INCLUDED = re.compile(r"^#include <(wanpar/[^>]+)>", re.MULTILINE)
NAMED = re.compile(r"^// +(wanpar/\S+\.hpp)\b", re.MULTILINE)


def main():
    folder = pathlib.Path(sys.argv[1])
    text = (folder / UMBRELLA).read_text(encoding="utf-8")
    included, named = INCLUDED.findall(text), NAMED.findall(text)
    there = {header.relative_to(folder).as_posix() for header in folder.rglob("*.hpp")} - {UMBRELLA}
    problems = ["{} is neither included nor named in {}".format(name, UMBRELLA) for name in sorted(there.difference(included, named))]
    problems += ["{} speaks twice of {}".format(UMBRELLA, name) for name in sorted(there) if (included + named).count(name) > 1]
    problems += ["{} speaks of {}, which is not there".format(UMBRELLA, name) for name in sorted({*included, *named} - there)]
    print("\n".join(problems) or "{} headers for users, {} for others".format(len(included), len(named)))
    return 1 if problems or not included else 0


if __name__ == "__main__":
    sys.exit(main())
