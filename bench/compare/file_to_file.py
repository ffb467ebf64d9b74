#!/usr/bin/env python3
"""One gibibyte of f32 from file to file: bitmill's int8 beside `cp` + `sync`, interleaved, with peak memory.

The source is in the page cache for both; destinations are removed before every run; bitmill fsyncs what it
writes.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import sys
import tempfile

import machine

sys.path.insert(0, str(machine.ROOT / "tests" / "parity"))
from children import run_child
from synthetic import write_large


def timed(*command):
    """(seconds, peak RSS in MB) of one child."""
    code, rss, seconds = run_child(*command)
    if code != 0:
        sys.exit(f"{command} failed with {code}")
    return seconds, rss / 1e6


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", help="where the 2 GiB of files go (default: the system's temporary folder)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--to", nargs="*", default=["int8", "int4", "nf4", "fp16"])
    options = parser.parse_args()
    program = machine.find_program("bitmill", "BITMILL_BIN")
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="bitmill-bench-") as folder:
        rows = compare(pathlib.Path(folder), program, options)
    print(
        f"\n{options.mebibytes} MiB f32 model, file to file, median of {options.rounds} interleaved rounds. "
        f"{machine.describe()}\n"
    )
    print(machine.markdown(("what", "seconds", "GB/s of f32", "time / (cp + sync)", "peak RSS MB"), rows))


def compare(base, program, options):
    source, out, copy = base / "source", base / "out", base / "copy"
    write_large(source, options.mebibytes)
    size = (source / "model.safetensors").stat().st_size
    os.sync()
    work = {"cp + sync": None, **{f"bitmill quantize --to {to}": to for to in options.to}}
    samples = {name: [] for name in work}
    for _ in range(options.rounds):
        for name, to in work.items():
            shutil.rmtree(out, ignore_errors=True)
            copy.unlink(missing_ok=True)
            os.sync()
            if to is None:
                samples[name].append(
                    timed("sh", "-c", 'cp "$0" "$1" && sync', source / "model.safetensors", copy)
                )
            else:
                samples[name].append(
                    timed(program, "quantize", source, "-o", out, "--to", to, "--threads", options.threads)
                )
    base_seconds = statistics.median(s for s, _ in samples["cp + sync"])
    rows = []
    for name, values in samples.items():
        seconds = statistics.median(s for s, _ in values)
        rows.append(
            (
                name,
                f"{seconds:.2f}",
                f"{size / seconds / 1e9:.2f}",
                f"{seconds / base_seconds:.2f}",
                f"{max(rss for _, rss in values):.0f}" if work[name] else "",
            )
        )
    return rows


if __name__ == "__main__":
    main()
