"""wanpar/wanpar.hpp includes each header for users, and none of those for others: wanpar/extend/ and wanpar/detail/.

That each of them, and wanpar.hpp, compiles alone is what headers.py sees to.

usage: umbrella.py INCLUDE_FOLDER
"""

import pathlib
import re
import sys

UMBRELLA = "wanpar/wanpar.hpp"
FOR_OTHERS = ("wanpar/extend/", "wanpar/detail/")
INCLUDED = re.compile(r"^#include <(wanpar/[^>]+)>", re.MULTILINE)


def main():
    folder = pathlib.Path(sys.argv[1])
    included = INCLUDED.findall((folder / UMBRELLA).read_text(encoding="utf-8"))
    there = {header.relative_to(folder).as_posix() for header in folder.rglob("*.hpp")} - {UMBRELLA}
    for_users = {name for name in there if not name.startswith(FOR_OTHERS)}
    problems = ["{} is not included in {}".format(name, UMBRELLA) for name in sorted(for_users.difference(included))]
    problems += ["{} includes {}, which is not for users".format(UMBRELLA, name) for name in included if name not in for_users]
    problems += ["{} includes {} twice".format(UMBRELLA, name) for name in sorted(for_users) if included.count(name) > 1]
    print("\n".join(problems) or "{} headers for users, {} for others".format(len(for_users), len(there - for_users)))
    return 1 if problems or not included else 0


if __name__ == "__main__":
    sys.exit(main())
