#!/usr/bin/env python3
"""Time and memory per weight from 20 million to 4 billion weights, as a table and an SVG plot.

The sources are sparse bf16 files: zeros that take no room on disk. What is written is written for real, 4 GB for
4 billion weights at int8, so on a slow disk its speed shows; with --dir in memory the mill's own does. Every round
runs all sizes once; times are medians, memory is the largest.
"""

import argparse
import math
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

MATRIX = 2048 * 2048
SIZES = [5, 16, 50, 160, 500, 954]  # matrices: 21 million to 4.0 billion weights
SLACK = 64 * 2**20


def measure(base, program, options):
    """(level, weights) -> [(seconds, peak RSS in bytes), ...]"""
    samples = {}
    for _ in range(options.rounds):
        for count in SIZES:
            source = base / "source"
            write_large(source, count * MATRIX * 2 // 2**20, 2048, 2048, "BF16", sparse=True)
            for level in options.to:
                os.sync()
                command = ["quantize", source, "-o", base / "out", "--to", level, "--threads", options.threads]
                code, rss, seconds = run_child(program, *command, "--memory-limit", f"{options.limit}M")
                if code != 0:
                    sys.exit(f"{command} failed with {code}")
                shutil.rmtree(base / "out")
                samples.setdefault((level, count * MATRIX), []).append((seconds, rss))
            shutil.rmtree(source)
            print(f"{count * MATRIX / 1e6:.0f} million weights", file=sys.stderr)
    return {
        key: (statistics.median(s for s, _ in values), max(rss for _, rss in values))
        for key, values in samples.items()
    }


# ---- the plot --------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, TOP, GAP = 420, 260, 60, 30, 90
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]


def text(x, y, words, anchor="middle", color="#333"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{words}</text>'


def line(x1, y1, x2, y2, color="#ccc", dash=""):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-dasharray="{dash}"/>'


def panel(left, title, series, bound=0):
    """One diagram: series is {name: [(weights, value), ...]}; weights run logarithmically from 10^7 to 10^10."""
    highest = 1.1 * max(bound, *(value for points in series.values() for _, value in points))
    step = 10 ** math.floor(math.log10(highest))
    step *= next(part for part in (0.2, 0.5, 1, 2) if highest <= 6 * part * step)
    top = step * math.ceil(highest / step)

    def at(weights, value):
        return left + WIDTH * (math.log10(weights) - 7) / 3, TOP + HEIGHT * (1 - value / top)

    parts = [text(left + WIDTH / 2, TOP - 12, title)]
    for power in (7, 8, 9, 10):
        x, y = at(10**power, 0)
        parts += [line(x, TOP, x, y), text(x, y + 16, f"10<tspan dy='-5' font-size='9'>{power}</tspan>")]
    for number in range(round(top / step) + 1):
        x, y = at(1e7, step * number)
        parts += [line(x, y, left + WIDTH, y), text(x - 6, y + 4, f"{step * number:g}", "end")]
    if bound:
        x, y = at(1e7, bound)
        parts += [line(x, y, left + WIDTH, y, "#d00", "6 3"), text(x + 6, y - 5, "limit + 64 MiB", "start", "#d00")]
    for number, (color, (name, points)) in enumerate(zip(COLORS, series.items())):
        dots = [at(*point) for point in points]
        parts.append(
            f'<polyline fill="none" stroke="{color}" stroke-width="2" points="'
            + " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
            + '"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in dots]
        parts.append(text(left + WIDTH - 8, TOP + HEIGHT / 2 + 16 * number, name, "end", color))
    return parts


def plot(results, options):
    levels = {level: [(n, *results[level, n]) for name, n in results if name == level] for level in options.to}
    bound = (options.limit * 2**20 + SLACK) / 1e6
    time = {level: [(n, 1e9 * s / n) for n, s, _ in rows] for level, rows in levels.items()}
    memory = {level: [(n, rss / 1e6) for n, _, rss in rows] for level, rows in levels.items()}
    second = LEFT + WIDTH + GAP
    parts = [
        *panel(LEFT, "nanoseconds a weight, by weights", time),
        *panel(second, "peak memory in MB, by weights", memory, bound),
    ]
    width, height = second + WIDTH + GAP, TOP + HEIGHT + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", help="where up to 5 GB of files go (default: the system's temporary folder)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=32, help="--memory-limit, in MiB")
    parser.add_argument("--to", nargs="*", default=["int8", "int4", "nf4"])
    parser.add_argument("--svg", help="where the plot goes (default: build/scaling.svg)")
    options = parser.parse_args()
    program = machine.find_program("bitmill", "BITMILL_BIN")
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="bitmill-bench-") as folder:
        results = measure(pathlib.Path(folder), program, options)
    rows = [
        (level, f"{n / 1e6:.0f}", f"{seconds:.2f}", f"{1e9 * seconds / n:.3f}", f"{rss / 1e6:.1f}")
        for level in options.to
        for (name, n), (seconds, rss) in results.items()
        if name == level
    ]
    print(
        f"\nSparse bf16 models, --memory-limit {options.limit}M, median of {options.rounds} rounds. "
        f"{machine.describe()}\n"
    )
    print(machine.markdown(("level", "million weights", "seconds", "ns a weight", "peak RSS MB"), rows))
    svg = pathlib.Path(options.svg or machine.ROOT / "build" / "scaling.svg")
    svg.parent.mkdir(parents=True, exist_ok=True)
    svg.write_text(plot(results, options))
    print(f"\nplot: {svg}")


if __name__ == "__main__":
    main()
