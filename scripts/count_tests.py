"""Counts the tests of a ctest report: prints those that were skipped, and "N passed, N failed" as the last line.

A doctest program counts as many as it has test cases, any other test as one. A doctest program that did not
reach its summary, or failed in spite of it, counts as one failure more.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree

SUMMARY = re.compile(r"\[doctest\] test cases:\s*\d+ \|\s*(\d+) passed \|\s*(\d+) failed")


def count(test):
    """The passed and failed cases of one ctest test."""
    failed = test.get("status") != "run"
    summaries = SUMMARY.findall(test.findtext("system-out") or "")
    if len(summaries) != 1:  # not doctest, or several processes of it, which are one test together
        return (0, 1) if failed else (1, 0)
    cases_passed, cases_failed = map(int, summaries[0])
    return cases_passed, max(cases_failed, int(failed))


def is_skipped(test):
    """Said so itself, or is switched off; one whose program is missing is not skipped but failed."""
    skipped = test.find("skipped")
    said_so = skipped is not None and skipped.get("message", "").startswith("SKIP_")
    return said_so or test.get("status") == "disabled"


def main():
    tests = ElementTree.parse(sys.argv[1]).getroot().findall("testcase")
    skipped = [test for test in tests if is_skipped(test)]
    counts = [count(test) for test in tests if test not in skipped]
    passed, failed = (sum(column) for column in zip(*counts)) if counts else (0, 0)
    for test in skipped:
        print("skipped: {}".format(test.get("name")))
    print("{} passed, {} failed".format(passed, failed))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
