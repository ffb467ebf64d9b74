"""Weights at the edges of their type and shape: no NaN out, the twin's codes, and nothing grows."""

import json

import numpy as np
import pytest

import checkpoints
import twins
from conftest import read_tensors
from synthetic import CONFIG, tiny_arrays, write_tiny

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
MODULE = Q_PROJ.removesuffix(".weight")


def noise(seed=4):
    return (np.random.default_rng(seed).standard_normal((64, 64)) * 0.05).astype(np.float32)


def with_one(value):
    array = noise()
    array[5, 9] = value
    return array


EDGES = {
    "zeros": np.zeros((64, 64), np.float32),
    "minus-zeros": np.full((64, 64), -0.0, np.float32),
    "equal": np.full((64, 64), 0.3, np.float32),
    "negative-equal": np.full((64, 64), -0.3, np.float32),
    # (8 / 7.5 of it must still fit float32, or the official int4 rule itself overflows)
    "one-huge": with_one(3e38),
    "one-minus-huge": with_one(-3e38),
    "all-huge": np.sign(noise()) * np.float32(3e38),
    "denormals": noise() * np.float32(1e-38),
    "smallest": np.sign(noise()) * np.float32(1e-45),
    "one-weight": np.where(np.arange(4096).reshape(64, 64) == 77, np.float32(0.5), np.float32(0)),
    "alternating": np.where(np.arange(4096).reshape(64, 64) % 2, np.float32(1), np.float32(-1)),
    "powers": np.ldexp(np.float32(1), np.arange(4096).reshape(64, 64) % 200 - 100).astype(np.float32),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_integer_codes_of_edge_weights(name, scheme, bitmill, tmp_path):
    weight = np.ascontiguousarray(EDGES[name], np.float32)
    source = write_tiny(tmp_path / "source", {**tiny_arrays(), Q_PROJ: weight})
    bitmill("quantize", source, "-o", tmp_path / "out", "--to", scheme, "--method", "absmax")
    layer = checkpoints.integer_layers(tmp_path / "out")[MODULE]
    bits = int(scheme[3:])
    granularity, group = ("per_channel", None) if bits == 8 else ("group", 64)
    codes, scale = twins.absmax_codes(weight, "float32", bits, granularity, group)
    assert np.array_equal(layer["scale"], scale) and np.array_equal(layer["codes"], codes)


@pytest.mark.parametrize("name", EDGES)
def test_mse_of_edge_weights(name, bitmill, tmp_path):
    """The search never loses to absmax by more than rounding, and gives finite weights."""
    weight = np.ascontiguousarray(EDGES[name], np.float32)
    source = write_tiny(tmp_path / "source", {**tiny_arrays(), Q_PROJ: weight})
    bitmill(
        "quantize", source, "-o", tmp_path / "out", "--to", "int4", "--method", "mse", "--group-size", "32"
    )
    decoded = checkpoints.integer_layers(tmp_path / "out")[MODULE]["weight"].astype(np.float64)
    simple = twins.decode_integers(*twins.absmax_codes(weight, "float32", 4, "group", 32)).astype(np.float64)
    assert np.isfinite(decoded).all()
    error, absmax = (np.square(w - weight.astype(np.float64)).sum() for w in (decoded, simple))
    assert error <= absmax * 1.000001


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
def test_book_codes_of_edge_weights(name, scheme, bitmill, tmp_path):
    weight = np.ascontiguousarray(EDGES[name], np.float32)
    source = write_tiny(tmp_path / "source", {**tiny_arrays(), Q_PROJ: weight})
    bitmill("quantize", source, "-o", tmp_path / "out", "--to", scheme)
    layer = checkpoints.book_layers(tmp_path / "out")[MODULE]
    packed, absmax = twins.book_codes(weight, scheme, 64)
    assert np.array_equal(layer["packed"].ravel(), packed)
    assert np.array_equal(layer["absmax"].view(np.uint32), absmax.view(np.uint32))


@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4"])
@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 3), (1, 64), (64, 1), (0, 64), (64, 0), (4096,), (4, 32, 32), ()], ids=str
)
def test_odd_shapes(shape, scheme, bitmill, tmp_path):
    """Whatever the shape, the output is valid, no larger, and gives back finite numbers."""
    array = np.random.default_rng(6).standard_normal(shape).astype(np.float32).reshape(shape)
    source = write_tiny(tmp_path / "source", {**tiny_arrays(), Q_PROJ: array})
    report = bitmill("quantize", source, "-o", tmp_path / "q", "--to", scheme, "--json").json()
    row = next(r for r in report["tensors"] if r["name"] == Q_PROJ)
    assert row["bytes"] <= row["source_bytes"]
    if row["effective"] == "keep":
        assert row["reason"]
        assert np.array_equal(read_tensors(tmp_path / "q")[Q_PROJ].numpy(), array)
    bitmill("dequantize", tmp_path / "q", "-o", tmp_path / "d")
    after = read_tensors(tmp_path / "d")[Q_PROJ].numpy()
    assert after.shape == array.shape and np.isfinite(after).all()


def test_fp16_keeps_a_tensor_that_overflows(bitmill, tmp_path):
    source = write_tiny(tmp_path / "source", {**tiny_arrays(), Q_PROJ: with_one(70000.0)})
    report = bitmill("quantize", source, "-o", tmp_path / "out", "--to", "fp16", "--json").json()
    row = next(r for r in report["tensors"] if r["name"] == Q_PROJ)
    assert row["effective"] == "keep" and row["reason"]
    kinds = {name: str(tensor.dtype) for name, tensor in read_tensors(tmp_path / "out").items()}
    assert kinds.pop(Q_PROJ) == "torch.float32" and set(kinds.values()) == {"torch.float16"}


def write_as(folder, arrays, dtype):
    """The arrays in another float type; float64 too, which safetensors can hold and torch rarely writes."""
    import torch
    from safetensors.torch import save_file

    write_tiny(folder)
    tensors = {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in arrays.items()}
    tensors["position_ids"] = torch.arange(8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**CONFIG, "dtype": dtype}))
    return {name: np.ascontiguousarray(tensor.float().numpy()) for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_absmax_of_other_source_dtypes(scheme, dtype, bitmill, tmp_path):
    """Scales are compressed-tensors' own; where a code differs from its, ours is the nearer one.

    compressed-tensors rounds the quotient w / scale to a 16-bit source dtype before it rounds to an integer;
    twice rounded, some codes are not the nearest. Both are codes of the same format against the same scale.
    """
    arrays = write_as(tmp_path / "source", tiny_arrays(), dtype)
    bitmill("quantize", tmp_path / "source", "-o", tmp_path / "out", "--to", scheme, "--method", "absmax")
    assert read_tensors(tmp_path / "out")["position_ids"].tolist() == list(range(8))
    bits, kind = int(scheme[3:]), "float32" if dtype == "float64" else dtype
    for module, layer in checkpoints.integer_layers(tmp_path / "out").items():
        weight = arrays[module + ".weight"]
        granularity = "per_channel" if layer["strategy"] == "channel" else "group"
        codes, scale = twins.absmax_codes(weight, kind, bits, granularity, layer["group_size"])
        assert layer["scale_dtype"] == kind and np.array_equal(layer["scale"], scale)
        theirs = twins.decode_integers(codes, scale).astype(np.float64)
        assert np.abs(layer["codes"].astype(int) - codes).max() <= 1
        assert (np.abs(layer["weight"] - weight.astype(np.float64)) <= np.abs(theirs - weight)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_books_of_other_source_dtypes(dtype, bitmill, tmp_path):
    arrays = write_as(tmp_path / "source", tiny_arrays(), dtype)
    bitmill("quantize", tmp_path / "source", "-o", tmp_path / "out", "--to", "nf4")
    for module, layer in checkpoints.book_layers(tmp_path / "out").items():
        packed, absmax = twins.book_codes(arrays[module + ".weight"], "nf4", 64)
        assert np.array_equal(layer["packed"].ravel(), packed) and np.array_equal(layer["absmax"], absmax)
        assert layer["state"]["dtype"] == dtype


def test_a_hostile_tensor_name_stays_on_one_line(bitmill, tmp_path):
    name = "model.layers.0.\n\x1b[31mred\r.weight"
    array = noise()
    array[0, 3] = np.nan
    source = write_tiny(tmp_path / "source", {**tiny_arrays(), name: array})
    for command in (["quantize", source, "-o", tmp_path / "out", "--to", "int8"], ["inspect", source]):
        done = bitmill(*command, code=None)
        assert "\x1b" not in done.err + done.out and "\r" not in done.err + done.out
        assert len(done.err.splitlines()) == (1 if done.code else 0)
