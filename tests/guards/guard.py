"""What every guard shares: the arguments, the verdict, and the proof that the guard can fail."""

import argparse
import pathlib
import sys
import tempfile


def run(parser: argparse.ArgumentParser, check, samples, check_sample=None) -> None:
    """check(root, args) returns complaints about the tree below root.

    samples is a list of (name, files, expected): files maps a path to its text, expected is a part of one
    complaint, or None where the tree is right. check_sample prepares a sample's tree (compiles it, say) and
    checks it; by default it is check itself.
    """
    parser.add_argument("--source", type=pathlib.Path)
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    sys.exit(self_test(check_sample or check, samples, args) if args.self_test else verdict(check(args.source, args)))


def verdict(complaints) -> int:
    for complaint in complaints:
        print(complaint)
    print(f"{len(complaints)} complaints")
    return 1 if complaints else 0


def self_test(check, samples, args) -> int:
    wrong = 0
    for name, files, expected in samples:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for path, text in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
            complaints = check(root, args)
        good = not complaints if expected is None else any(expected in line for line in complaints)
        wrong += not good
        print(f"{'ok  ' if good else 'FAIL'} {name}: {complaints or 'no complaint'}")
    return 1 if wrong else 0
