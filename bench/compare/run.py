#!/usr/bin/env python3
"""bitmill's codecs beside their peers: 256 MiB of f32 on two threads, one interleaved run, medians.

Every round runs the Google Benchmark program once and every peer once, so that a machine that slows down
slows all of them; each figure is the median over the rounds and is shown as a share of memcpy (encode) or
memset (decode) of the same rounds. Prints the README's table; --json FILE keeps the raw seconds.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MKL_NUM_THREADS", "2")

import machine
import peers

SOURCE_BYTES = peers.ROWS * peers.COLUMNS * 4
# Shares due: of memcpy for encode, of the write bandwidth for decode.
FLOOR_GOAL = {
    "encode/int8_channel": (0.9, 1.2),
    "encode/int8_group128": (0.9, 1.2),
    "encode/int4_group128": (0.9, 1.2),
    "encode/nf4_block64": (0.5, 0.8),
    "encode/int4_group128_mse": (0.10, 0.20),
    "decode/int8_channel": (0.8, 1.0),
    "decode/int8_group128": (0.8, 1.0),
    "decode/int4_group128": (0.8, 1.0),
    "decode/nf4_block64": (0.8, 1.0),
}


def google_benchmark(program, seconds):
    """name -> seconds of 256 MiB, from one run of the program."""
    command = [program, "--benchmark_format=json", f"--benchmark_min_time={seconds}"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    table = {}
    for row in json.loads(done.stdout)["benchmarks"]:
        table[row["name"].removesuffix("/real_time")] = SOURCE_BYTES / row["bytes_per_second"]
    return table


def load_peers():
    """([(name, side, body)], [name and reason of those that cannot run])."""
    x, ready, absent = peers.weights(), [], []
    for name, side, package, make in peers.PEERS:
        try:
            body = make(x)
            body()  # the first call allocates
            ready.append((peers.label(name, package), side, body))
        except ImportError as error:  # PackageNotFoundError is one
            absent.append(f"{name}: {error}")
    return ready, absent


def measure(rounds, program, seconds):
    peers.keep_pages()
    ready, absent = load_peers()
    samples = {}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for name, value in google_benchmark(program, seconds).items():
            samples.setdefault(("bitmill", name), []).append(value)
        for name, side, body in ready:
            gc.collect()
            start = time.perf_counter()
            body()
            samples.setdefault((side, name), []).append(time.perf_counter() - start)
    return samples, absent


def table(samples):
    medians = {key: statistics.median(values) for key, values in samples.items()}
    memcpy, memset = medians["bitmill", "memcpy"], medians["bitmill", "memset"]
    rows = []
    for side, base in (("encode", memcpy), ("decode", memset)):
        for (owner, name), value in medians.items():
            ours = owner == "bitmill" and name.startswith(side)
            if not ours and owner != side:
                continue
            floor, goal = FLOOR_GOAL.get(name, ("", "")) if ours else ("", "")
            label = "bitmill " + name.split("/", 1)[1].replace("_", " ") if ours else name
            rows.append(
                (
                    side,
                    label,
                    f"{SOURCE_BYTES / value / 1e9:.2f}",
                    f"{base / value:.2f}",
                    f"{floor} / {goal}" if floor else "",
                )
            )
        rows.append(
            (
                side,
                "memcpy (2 threads)" if base is memcpy else "memset (2 threads)",
                f"{SOURCE_BYTES / base / 1e9:.2f}",
                "1.00",
                "",
            )
        )
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--min-time", type=float, default=0.3, help="seconds for each of bitmill's benchmarks a round"
    )
    parser.add_argument("--json", metavar="FILE", help="write the raw seconds")
    options = parser.parse_args()
    program = machine.find_program("bitmill_bench_codec", "BITMILL_BENCH_BIN")
    samples, absent = measure(max(1, options.rounds), program, options.min_time)
    if options.json:
        with open(options.json, "w") as file:
            json.dump([{"side": s, "name": n, "seconds": v} for (s, n), v in samples.items()], file, indent=1)
    print(
        f"\n256 MiB of f32, 2 threads, median of {options.rounds} interleaved rounds. {machine.describe()}\n"
    )
    print(
        machine.markdown(
            ("", "what", "GB/s of f32", "share of memcpy / memset", "floor / goal"), table(samples)
        )
    )
    for line in absent:
        print(f"\nnot measured: {line} (pip install --no-deps -r bench/compare/requirements.txt)")


if __name__ == "__main__":
    main()
