"""What makes a comparison fair: the same instruction set for all who can be held to one, two threads, the same rounds."""

import math
import os
import statistics
import time

import held

THREADS = 2

# Who reads what. FBGEMM and oneDNN were measured to obey (2026-11: 712 -> 205 and 801 -> 210 GOP/s a core); MKL takes
# AVX2 on AMD CPUs whatever is set; onnxruntime reads no variable, see held.py.
HELD = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "BITMILL_FORCE_ISA": "avx2",
    }
}


def hold(isa):
    """Before torch or onnxruntime are imported. Returns what to say about it."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(THREADS)
    os.environ["BITMILL_BENCH_THREADS"] = str(THREADS)
    if isa is None:
        return "everybody on the best instructions of this CPU"
    os.environ.update(HELD[isa])
    held.hold_onnxruntime()
    return f"everybody held to {isa}"


def add_options(parser):
    parser.add_argument("--isa", choices=sorted(HELD), help="hold all who can be held to it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the raw seconds")


def seconds_of(body, least):
    """Mean of as many calls as take `least` seconds together; the first call is not counted."""
    time.sleep(0.05)  # threads of the one before still spin, and would take a core
    body()
    calls, start = 0, time.perf_counter()
    while True:
        body()
        calls += 1
        passed = time.perf_counter() - start
        if passed >= least:
            return passed / calls


class Samples(dict):
    """key -> seconds of every round."""

    def add(self, key, seconds):
        self.setdefault(key, []).append(seconds)

    def median(self, key):
        return statistics.median(self[key])


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def verdict(value, floor, goal, more_is_better=True):
    """"1.21 (floor 1.0, goal 1.15: goal)" """
    beats = (lambda bar: value >= bar) if more_is_better else (lambda bar: value <= bar)
    word = "goal" if beats(goal) else "floor" if beats(floor) else "MISSED"
    return f"{value:.2f} (floor {floor}, goal {goal}: {word})"
