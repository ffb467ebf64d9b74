"""--weight-threshold, --prune-relative, --target-sparsity against numpy: what is milled is what numpy pruned."""

import math

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from synthetic import write_tiny

RULES = {
    "weight-threshold": 0.02,
    "prune-relative": 0.03,
    "target-sparsity": 0.6,
}
LEVELS = {
    "fp32": ["--to", "fp32"],
    "int8": ["--to", "int8"],
    "planes": ["--to", "int8", "--format", "bitmill"],
    "nf4-double-quant": ["--to", "nf4", "--double-quant"],
}


def prune(array, rule, value):
    """A copy with zeros: strictly below a threshold, or the smallest by a stable sort."""
    flat = array.astype(np.float32).ravel()
    size = np.abs(flat)
    if rule == "target-sparsity":
        gone = np.argsort(size, kind="stable")[: math.ceil(value * flat.size)]
    else:
        limit = np.float32(value) if rule == "weight-threshold" else value * float(size.max())
        gone = size < limit
    out = array.copy().ravel()
    out[gone] = 0
    return out.reshape(array.shape)


def milled_names(report):
    return {row["name"] for row in report["tensors"] if row["effective"] not in ("keep", "tied")}


def is_pruned(name, array):
    return array.ndim >= 2 and not name.endswith("bias")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rule", RULES)
def test_minilm_as_numpy_prunes_it(rule, level, bitmill, minilm, memory_folder):
    """EXACT: every weight file, byte for byte."""
    value = RULES[rule]
    out, source, expected = (memory_folder / f"{name}-{rule}-{level}" for name in ("out", "source", "expected"))
    report = bitmill("quantize", minilm, "-o", out, *LEVELS[level], f"--{rule}", value, "--json").json()
    milled = milled_names(report)
    arrays = load_file(minilm / "model.safetensors")
    zeros = 0
    for name, array in arrays.items():
        if name in milled and is_pruned(name, array):
            zeros += np.count_nonzero(array == 0)
            arrays[name] = prune(array, rule, value)
    source.mkdir()
    save_file(arrays, source / "model.safetensors", metadata={"format": "pt"})
    (source / "config.json").write_bytes((minilm / "config.json").read_bytes())
    bitmill("quantize", source, "-o", expected, *LEVELS[level])
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert files == sorted(path.name for path in expected.glob("*.safetensors"))
    for name in files:
        ours, theirs = load_file(out / name), load_file(expected / name)
        assert ours.keys() == theirs.keys()
        for key, array in ours.items():
            assert array.tobytes() == theirs[key].tobytes(), key
    assert report["pruning"] == f"{rule.replace('-', '_')} {value}"
    if level == "fp32":
        assert report["zeros_before"] == zeros
        assert report["zeros_after"] == sum(np.count_nonzero(arrays[name] == 0) for name in milled)


@pytest.mark.parametrize("share", [1e-9, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_share_is_reached_exactly(share, dtype, bitmill, tmp_path):
    """Seven magnitudes only: ties at every share. EXACT counts, on any number of threads."""
    rng = np.random.default_rng(3)
    values = rng.choice(np.array([-3, -2, -1, 0, 1, 2, 3, 0.5], dtype=dtype), (1000, 333))
    source = write_tiny(tmp_path / "source", {"a.weight": values, "b.weight": np.full((64, 64), 0.5, dtype)})
    bytes_seen = set()
    for threads in (1, 3):
        out = tmp_path / f"out{threads}"
        bitmill("quantize", source, "-o", out, "--to", "fp32", "--target-sparsity", share, "--threads", threads)
        pruned = load_file(out / "model.safetensors")
        for name, array in load_file(source / "model.safetensors").items():
            wanted = max(math.ceil(share * array.size), np.count_nonzero(array == 0))
            assert np.count_nonzero(pruned[name] == 0) == wanted
            assert np.array_equal(pruned[name], prune(array, "target-sparsity", share))
        bytes_seen.add((out / "model.safetensors").read_bytes())
    assert len(bytes_seen) == 1


def test_what_the_command_says_of_zeros(bitmill, tmp_path):
    source = write_tiny(tmp_path / "source")
    done = bitmill("quantize", source, "-o", tmp_path / "out", "--to", "int8", "--target-sparsity", "0.5", "-v")
    assert "pruned (target_sparsity 0.5): zeros 0.00 % -> 50." in done.out and "save no bytes" in done.out
    assert "zeros %" in done.out
    bitmill("verify", source, tmp_path / "out")
    plain = bitmill("quantize", source, "-o", tmp_path / "plain", "--to", "int8")
    assert "pruned" not in plain.out
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("out", "plain")]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("rule", RULES)
def test_matrices_that_stay_unpruned_are_named(rule, bitmill, tmp_path):
    square = np.ones((64, 64))
    doubles = {"a.weight": square, "b.weight": square.astype("float32"), "c.bias": square}
    save_file(doubles, tmp_path / "doubles.safetensors")
    for source, to, named in [
        (tmp_path / "doubles.safetensors", "fp32", "1, first a.weight"),
        (write_tiny(tmp_path / "tiny"), "int8", "2, first lm_head.weight"),
        (tmp_path / "tiny", "fp32", None),
    ]:
        args = ["quantize", source, "-o", tmp_path / "out", "--to", to, "--force", "--json"]
        warnings = bitmill(*args, f"--{rule}", RULES[rule]).json()["warnings"]
        told = [line for line in warnings if "not pruned" in line]
        assert len(told) == (named is not None) and (named is None or named in told[0])
        assert not any("not pruned" in line for line in bitmill(*args).json()["warnings"])


def test_a_batch_with_a_share_of_zeros(bitmill, tmp_path):
    write_tiny(tmp_path / "models" / "one")
    told = bitmill("batch", tmp_path / "models", "--bit-depth", "32", "--target-sparsity", "0.25", "--json").json()
    report = told["models"]["one"]["report"]
    assert report["pruning"] == "target_sparsity 0.25"
    total = sum(row["elements"] for row in report["tensors"] if row["effective"] != "keep")
    assert 0.25 <= report["zeros_after"] / total < 0.251
    bitmill("batch", tmp_path / "models", "--prune-relative", "0.1", "--weight-threshold", "0.1", code=2)
