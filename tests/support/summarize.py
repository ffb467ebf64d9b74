"""Adds up JUnit files: what failed, a line per suite and last `N passed, M failed`. Exits 1 where anything failed."""

import pathlib
import sys
import xml.etree.ElementTree


def tell(suite, case):
    """The end of a long log is all that some readers get."""
    print(f"\nFAILED {suite}: {case.get('name')}")
    found = case.find("failure")
    text = [(found.get("message") or "") + "\n" + (found.text or "")] if found is not None else []
    text += [case.findtext("system-out") or ""]
    print("\n".join("\n".join(one.strip().splitlines()[-30:]) for one in text if one.strip()))


def count(path):
    passed = failed = skipped = 0
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        # ctest marks a case by its status, pytest by a child.
        children = {child.tag for child in case}
        if children & {"failure", "error"} or case.get("status") == "fail":
            failed += 1
            if failed <= 5:
                tell(path.stem, case)
        elif "skipped" in children or case.get("status") in ("notrun", "disabled"):
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main(paths):
    counts = {path.stem: count(path) for path in map(pathlib.Path, paths)}
    total = [sum(column) for column in zip(*counts.values())] or [0, 0, 0]
    print(f"{'suite':<24}{'passed':>8}{'failed':>8}{'skipped':>9}")
    for suite, numbers in counts.items():
        print(f"{suite:<24}{numbers[0]:>8}{numbers[1]:>8}{numbers[2]:>9}")
    print(f"{total[0]} passed, {total[1]} failed" + (f", {total[2]} skipped" if total[2] else ""))
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
