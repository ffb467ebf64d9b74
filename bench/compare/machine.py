"""What every comparison prints above its table, and how it finds what it measures."""

import datetime
import os
import pathlib
import platform
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def describe():
    """CPU, cores, memory, kernel and date in one line."""
    model = platform.processor() or "unknown CPU"
    flags = ""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
        if line.startswith("flags"):
            present = line.split()
            flags = next((f for f in ("avx512_vnni", "avx512bw", "avx2", "sse2") if f in present), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model} ({flags}), {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, "
        f"{datetime.date.today().isoformat()}"
    )


def find_program(name, variable):
    """A built program or library: the environment's, else the release build's."""
    named = os.environ.get(variable)
    places = (
        [pathlib.Path(named)]
        if named
        else [ROOT / "build" / "release" / p / name for p in ("bin", "capi", ".")]
    )
    for path in places:
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    sys.exit(
        f"no {name}: build the release preset or set {variable}; looked for {', '.join(map(str, places))}"
    )


def markdown(header, rows):
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    lines = [[str(cell).ljust(width) for cell, width in zip(row, widths)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
