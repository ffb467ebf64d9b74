#!/usr/bin/env python3
"""Runs the libFuzzer programs of BUILD/bin for some seconds each, on a copy of the committed corpus.

What they find stays in BUILD/corpus/TARGET, so that the next run goes on from there; inputs that break something go
to BUILD/crashes. Exits 1 where a target broke.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

HERE = pathlib.Path(__file__).resolve().parent
PREFIX = "bitmill_fuzz_"
# The limits of one input: 5 s, 1 GiB in all, 256 MiB at once.
LIMITS = ["-timeout=5", "-rss_limit_mb=1024", "-malloc_limit_mb=256", "-max_len=16384"]


def run(build, target, seconds, temp):
    corpus, crashes, log = (build / part for part in (f"corpus/{target}", "crashes", f"logs/{target}.log"))
    for folder in (corpus, crashes, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for path in (HERE / "corpus" / target).iterdir():
        shutil.copy(path, corpus)
    before = len(list(corpus.iterdir()))
    scratch = tempfile.mkdtemp(dir=temp)  # what a crash leaves behind goes with it
    symbolizer = shutil.which("llvm-symbolizer-19") or ""
    environment = {
        **os.environ,
        "TMPDIR": scratch,
        "ASAN_OPTIONS": f"detect_stack_use_after_return=1:external_symbolizer_path={symbolizer}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:external_symbolizer_path={symbolizer}",
    }
    command = [build / "bin" / (PREFIX + target), corpus, f"-max_total_time={seconds}", "-print_final_stats=1"]
    command += [*LIMITS, f"-artifact_prefix={crashes}/{target}-"]
    with open(log, "wb") as file:
        # libFuzzer looks at the clock between inputs only.
        code = subprocess.run(command, stdout=file, stderr=file, env=environment, timeout=seconds + 300).returncode
    shutil.rmtree(scratch)
    text = log.read_text(errors="replace")

    def number(name):
        found = re.search(rf"stat::{name}:\s+(\d+)", text)
        return int(found.group(1)) if found else 0

    return {
        "target": target,
        "executions": number("number_of_executed_units"),
        "per second": number("average_exec_per_sec"),
        "new inputs": len(list(corpus.iterdir())) - before,
        "crashes": int(code != 0),
        "log": log,
        "reproducer": re.findall(r"Test unit written to (\S+)", text),
    }


def write_junit(path, rows):
    suite = xml.Element("testsuite", name="fuzz")
    for row in rows:
        case = xml.SubElement(suite, "testcase", name=f"fuzz: {row['target']}")
        if row["crashes"]:
            failure = xml.SubElement(case, "failure", message=" ".join(row["reproducer"]) or str(row["log"]))
            # Without what no XML may hold.
            lines = re.sub(r"[^\n\x20-\x7e]", "?", row["log"].read_text(errors="replace")).splitlines()
            told = [i for i, line in enumerate(lines) if "does not hold" in line or "ERROR" in line]
            failure.text = "\n".join(lines[told[0] :][:25] if told else lines[-25:])
    xml.ElementTree(suite).write(path)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--junit", type=pathlib.Path)
    parser.add_argument("targets", nargs="*")
    arguments = parser.parse_args()
    known = sorted(path.name.removeprefix(PREFIX) for path in (arguments.build / "bin").glob(PREFIX + "*"))
    unknown = set(arguments.targets) - set(known)
    if unknown or not known:
        sys.exit(f"no target {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    memory = pathlib.Path("/dev/shm")  # a disk would be the slowest part
    with (
        tempfile.TemporaryDirectory(prefix="bitmill-fuzz-", dir=memory if os.access(memory, os.W_OK) else None) as temp,
        concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool,
    ):
        work = [
            pool.submit(run, arguments.build.resolve(), target, arguments.seconds, temp)
            for target in arguments.targets or known
        ]
        rows = [one.result() for one in work]
    columns = ["target", "executions", "per second", "new inputs", "crashes"]
    for line in [dict(zip(columns, columns)), *rows]:
        print(f"{line['target']:<20}" + "".join(f"{line[column]!s:>12}" for column in columns[1:]))
    broken = [row for row in rows if row["crashes"]]
    for row in broken:
        print(f"{row['target']}: {' '.join(row['reproducer']) or 'no input written'}, see {row['log']}", file=sys.stderr)
        # Where the folder is thrown away, as in CI, this is all that stays of it.
        print(*row["log"].read_text(errors="replace").splitlines()[-60:], sep="\n", file=sys.stderr)
    if arguments.junit:
        write_junit(arguments.junit, rows)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
