#!/usr/bin/env python3
"""Linear layers beside torch and onnxruntime: one interleaved run on two threads, medians over the rounds.

Every round goes shape by shape, ours (the Google Benchmark program) and every peer one after the other, so that a slow
second of the machine meets all of them. GOP/s count two operations for a multiply-add.
Ratios are times of the peer over ours, geometric means over the shapes with 128 and 2048 rows. Shares of the peak are
of a loop that multiplies registers only, with the instruction that exact int8 needs on the instruction set in use.
"""

import argparse
import json
import subprocess
import sys

import fair
import machine

SHAPES = [(768, 768), (768, 3072), (3072, 768), (4096, 4096)]
BATCHES = [1, 16, 128, 2048]
OURS = ["int8_dynamic", "planes_dynamic", "int4_dynamic", "f32"]
# What is compared: ours -> peers, floor, goal.
BARS = {"int8_dynamic": (1.0, 1.15), "int4_dynamic": (1.4, 1.8)}
TORCH_INT8 = ["torch int8 x86", "torch int8 onednn"]
INT8_PEERS = [*TORCH_INT8, "onnxruntime int8"]
# Of one row, by level: share of the read bandwidth.
MEMORY_BAR = (0.85, 0.95)
MEMORY = ["int8_dynamic", "planes_dynamic", "int4_dynamic", "int8", "int4", "nf4", "f32"]


def google_benchmark(program, names, seconds):
    """name -> its row of the program's JSON."""
    wanted = "^(" + "|".join(names) + ")/real_time$"
    command = [program, f"--benchmark_filter={wanted}", "--benchmark_format=json", f"--benchmark_min_time={seconds}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    out = json.loads(done.stdout)
    return out["context"]["bitmill_isa"], {r["name"].removesuffix("/real_time"): r for r in out["benchmarks"]}


def torch_peers(rows, columns, value=None):
    """name -> function of a batch; weights are `value` all over, or random."""
    import torch

    torch.set_num_threads(fair.THREADS)
    linear = torch.nn.Sequential(torch.nn.Linear(rows, columns)).eval()
    if value is not None:
        torch.nn.init.constant_(linear[0].weight, value)
        torch.nn.init.zeros_(linear[0].bias)
    peers = {"torch fp32": linear}
    for name in TORCH_INT8:
        engine = name.rsplit(" ", 1)[1]
        # Where a weight is packed decides who multiplies; x86, the default, is FBGEMM here.
        torch.backends.quantized.engine = engine
        peers[name] = torch.ao.quantization.quantize_dynamic(linear, {torch.nn.Linear}, dtype=torch.qint8)

    def call(model, batch):
        tensor = torch.from_numpy(batch)
        with torch.inference_mode():
            return model(tensor).numpy()

    return {name: lambda batch, model=model: call(model, batch) for name, model in peers.items()}


def onnx_peer(rows, columns, folder, value=None):
    """A MatMul and an Add, quantized by quantize_dynamic; per channel, as ours. Weights as torch_peers."""
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

    weight = (np.random.default_rng(0).standard_normal((rows, columns)) * 0.05).astype(np.float32)
    bias = np.full(columns, 0.5, np.float32)
    if value is not None:
        weight[:], bias[:] = value, 0
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", columns])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    plain, coded = folder / f"{rows}x{columns}.onnx", folder / f"{rows}x{columns}-int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), plain)
    quantize_dynamic(plain, coded, weight_type=QuantType.QInt8, per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = fair.THREADS, 1
    session = onnxruntime.InferenceSession(str(coded), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"x": batch})[0]


def make_peers():
    """(rows, columns) -> {name: function of a batch}"""
    folder = machine.ROOT / "build" / "bench-onnx"
    folder.mkdir(parents=True, exist_ok=True)
    return {s: {**torch_peers(*s), "onnxruntime int8": onnx_peer(*s, folder)} for s in SHAPES}


def measure(program, options):
    import numpy as np

    peers = make_peers()
    batches = {n: {k: np.random.default_rng(n).standard_normal((n, k)).astype(np.float32) for k, _ in SHAPES} for n in BATCHES}
    memory = ["peak/.*", "read", f"memory/({'|'.join(MEMORY)})/4096x4096"]
    samples, rates, isa = fair.Samples(), fair.Samples(), ""
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        isa, rows = google_benchmark(program, memory, options.min_time)
        for name, row in rows.items():
            rates.add(name, row["items_per_second" if name.startswith("peak/") else "bytes_per_second"])
        for shape in SHAPES:
            for count in BATCHES:
                at = f"{shape[0]}x{shape[1]}/{count}"
                _, rows = google_benchmark(program, [f"layer/({'|'.join(OURS)})/{at}"], options.min_time)
                for name in OURS:
                    samples.add((name, shape, count), rows[f"layer/{name}/{at}"]["real_time"] * 1e-6)
                batch = batches[count][shape[0]]
                for name, call in peers[shape].items():
                    samples.add((name, shape, count), fair.seconds_of(lambda: call(batch), options.min_time))
    return isa, samples, rates


def print_extremes():
    """What the peers make of a sum of products as large as 8 bits allow."""
    import numpy as np

    folder = machine.ROOT / "build" / "bench-onnx"
    depth, value = 768, 0.5
    batch = np.ones((1, depth), np.float32)
    batch[0, 0] = -1  # the range of the inputs lies about 0
    peers = {**torch_peers(depth, 16, value), "onnxruntime int8": onnx_peer(depth, 16, folder, value)}
    want = (depth - 2) * value
    rows = [(name, f"{want:.1f}", f"{float(call(batch)[0, 0]):.1f}") for name, call in peers.items()]
    print("\nThe inputs 1 (and once -1) times weights of 0.5, 768 of them:\n")
    print(machine.markdown(("peer", "exact", "computed"), rows))


def gops(shape, rows, seconds):
    return 2 * rows * shape[0] * shape[1] / seconds / 1e9


def print_tables(samples, rates):
    names = [*OURS, "torch fp32", *INT8_PEERS]
    rows = []
    for shape in SHAPES:
        for count in BATCHES:
            rates_of = [f"{gops(shape, count, samples.median((name, shape, count))):.0f}" for name in names]
            rows.append((f"{shape[0]}x{shape[1]}", count, *rates_of))
    print(machine.markdown(("K x N", "rows", *names), rows))

    large = [(shape, count) for shape in SHAPES for count in (128, 2048)]

    def ratio(ours, theirs):
        return fair.geometric_mean(
            min(samples.median((name, *at)) for name in theirs) / samples.median((ours, *at)) for at in large
        )

    rows = []
    for ours, bars in BARS.items():
        for label, theirs in {**{name: [name] for name in INT8_PEERS}, "torch int8, the faster": TORCH_INT8}.items():
            # The bars are of torch's dynamic int8, whose default is x86; the others are there to be fair.
            text = fair.verdict(ratio(ours, theirs), *bars) if label in TORCH_INT8[:1] else f"{ratio(ours, theirs):.2f}"
            rows.append((ours, label, text))
    rows.append(("f32", "torch fp32", f"{ratio('f32', ['torch fp32']):.2f}"))
    print("\n128 and 2048 rows, geometric mean of the peer's time / ours:\n")
    print(machine.markdown(("ours", "peer", "ratio"), rows))

    if "peak/int8" in rates:
        rows = []
        for ours in OURS:
            peak = rates.median(f"peak/{ours.split('_')[0].replace('planes', 'int8')}") / 1e9
            best = max(gops(*at, samples.median((ours, *at))) for at in large)
            mean = fair.geometric_mean(gops(*at, samples.median((ours, *at))) for at in large)
            rows.append((ours, f"{peak:.0f}", f"{mean:.0f}", f"{mean / peak:.2f}", f"{best / peak:.2f}"))
        print("\nGOP/s of two threads and the share of the multiplier's peak:\n")
        print(machine.markdown(("ours", "peak", "128, 2048 rows", "share", "best share"), rows))

    if "peak/saturating" in rates:
        peers, ours = (rates.median(f"peak/{name}") / 1e9 for name in ("saturating", "int8"))
        print(f"\nAt best u8 x s8 that saturates, as of the peers, runs at {peers:.0f} GOP/s, exact int8 at {ours:.0f}: {ours / peers:.2f} of it.")

    read = rates.median("read")
    rows = [
        (name, f"{rates.median(f'memory/{name}/4096x4096') / 1e9:.1f}", fair.verdict(rates.median(f"memory/{name}/4096x4096") / read, *MEMORY_BAR))
        for name in MEMORY
    ]
    print(f"\nOne row through layers of 4096 x 4096 from memory; reading alone gives {read / 1e9:.1f} GB/s:\n")
    print(machine.markdown(("ours", "GB/s of weights", "share of the bandwidth"), rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    fair.add_options(parser)
    parser.add_argument("--min-time", type=float, default=0.1, help="seconds for each layer a round")
    options = parser.parse_args()
    held = fair.hold(options.isa)
    program = machine.find_program("bitmill_bench_nn", "BITMILL_BENCH_NN_BIN")
    isa, samples, rates = measure(program, options)
    if options.json:
        with open(options.json, "w") as file:
            rows = [{"name": n, "shape": s, "rows": c, "seconds": v} for (n, s, c), v in samples.items()]
            json.dump({"isa": isa, "layers": rows, "rates": rates}, file, indent=1)
    print(f"\nLinear layers, {fair.THREADS} threads, median of {options.rounds} interleaved rounds; bitmill on {isa}, {held}.")
    print(f"{machine.describe()}\n")
    print_tables(samples, rates)
    print_extremes()


if __name__ == "__main__":
    main()
