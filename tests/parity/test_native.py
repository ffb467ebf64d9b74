"""The bitmill format: what its files hold, read by numpy alone; what its levels cost beside the direct schemes."""

import json
import shutil

import numpy as np
import pytest
import torch

import synthetic
from conftest import NATIVE, float_array, load_model, read_tensors
from sentences import SENTENCES
from test_minilm import mean_cosine


def unpack(words, bits, columns):
    """Codes of packed rows, low bits first; offset binary."""
    rows = words.numpy().view(np.uint8).reshape(words.shape[0], -1)
    per_byte = 8 // bits
    spread = (rows[:, :, None] >> (np.arange(per_byte, dtype=np.uint8) * bits)) & (2**bits - 1)
    return spread.reshape(rows.shape[0], -1)[:, :columns].astype(np.int32) - 2 ** (bits - 1)


def decode(folder, level):
    """name -> float32 array, of every tensor of the folder, at a level."""
    tensors = read_tensors(folder)
    out = {}
    for name, tensor in tensors.items():
        if not name.endswith(("_packed", "_scale", "_shape", "_residual", "_zero_point")):
            out[name] = float_array(tensor)
        if not name.endswith(".weight_packed"):
            continue
        weight = name.removesuffix("_packed")
        rows, columns = tensors[weight + "_shape"].tolist()
        bits = next(b for b in (8, 4, 2) if -(-columns * b // 32) == tensor.shape[1])
        codes = unpack(tensor, bits, columns)
        scales = tensors[weight + "_scale"].float().numpy()
        if weight + "_residual" in tensors and level == "int8":
            residual = tensors[weight + "_residual"].numpy()
            codes = 16 * codes + unpack(torch.from_numpy(residual), 4, columns)
            scales = scales / 16
        if weight + "_zero_point" in tensors:
            # int2 counts its zero points in 32nds of a step.
            unit = np.float32(32 if bits == 2 else 1)
            zeros = tensors[weight + "_zero_point"].numpy().astype(np.float32) / unit
            codes = codes.astype(np.float32) - np.repeat(zeros, columns // zeros.shape[1], axis=1)
        out[weight] = codes.astype(np.float32) * np.repeat(scales, columns // scales.shape[1], axis=1)
    return out


def snr(originals, decoded):
    noise = sum(float(np.sum((originals[n].astype(np.float64) - decoded[n]) ** 2)) for n in originals)
    return 10 * np.log10(sum(float(np.sum(originals[n].astype(np.float64) ** 2)) for n in originals) / noise)


@pytest.fixture(scope="module")
def linears(minilm):
    model = load_model(minilm, dtype=torch.float32)
    return {
        n + ".weight": float_array(m.weight.data)
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Linear)
    }


@pytest.mark.parametrize("name, level", [*((n, None) for n in NATIVE), ("planes", "int4"), ("planes", "int8")])
def test_dequantize_gives_what_the_files_say(name, level, bitmill, milled, tmp_path):
    folder, out = milled(*NATIVE[name]), tmp_path / "out"
    bitmill("dequantize", folder, "-o", out, *(["--level", level] if level else []))
    expected, got = decode(folder, level or "int8"), read_tensors(out)
    assert expected.keys() == got.keys()
    for tensor, values in expected.items():
        assert np.array_equal(values, float_array(got[tensor])), tensor


def test_codes_are_an_int8_level(milled, linears):
    tensors = read_tensors(milled(*NATIVE["planes"]))
    for name in linears:
        columns = tensors[name + "_shape"][1].item()
        codes = 16 * unpack(tensors[name + "_packed"], 4, columns)
        codes += unpack(torch.from_numpy(tensors[name + "_residual"].numpy()), 4, columns)
        assert codes.min() >= -128 and codes.max() <= 119
        # Not clipped, and nowhere farther from the weight than half a step.
        scale = np.repeat(tensors[name + "_scale"].float().numpy() / 16, 128, axis=1)
        inside = (codes > -128) & (codes < 119)
        assert np.all(np.abs(linears[name] - codes * scale)[inside] <= np.abs(scale[inside]) * 0.5001)


def test_levels_beside_direct_schemes(milled, minilm, linears, bitmill, tmp_path):
    """The bars: int8 as good as direct int8 per channel, int4 within 0.6 dB and a cosine of 0.012 of direct mse."""
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(str(minilm))(SENTENCES, padding=True, return_tensors="pt")
    original = load_model(minilm, dtype=torch.float32)
    planes = milled(*NATIVE["planes"])
    found = {}
    for level in ("int8", "int4"):
        out = tmp_path / level
        bitmill("dequantize", planes, "-o", out, "--level", level)
        decoded = {n: a for n, a in decode(planes, level).items() if n in linears}
        found[level] = snr(linears, decoded), mean_cosine(load_model(out), original, tokens)
    for name, options in {"direct int8": ["--to", "int8"], "direct int4": ["--to", "int4"]}.items():
        out = tmp_path / name
        bitmill("dequantize", milled(*options), "-o", out)
        decoded = {n: float_array(t) for n, t in read_tensors(out).items() if n in linears}
        found[name] = snr(linears, decoded), mean_cosine(load_model(out), original, tokens)
    for name, (noise, cosine) in found.items():
        print(f"{name}: SNR {noise:.2f} dB, sentence cosine {cosine:.4f}")
    assert found["int8"][0] >= found["direct int8"][0]
    assert found["int4"][0] >= found["direct int4"][0] - 0.6
    assert found["int4"][1] >= found["direct int4"][1] - 0.012
    assert found["int8"][1] >= found["direct int8"][1] - 0.001


def encoder(model_type, vocabulary, positions, types, hidden=768, layers=12, inner=3072):
    """Names and shapes of a base-sized encoder, as transformers saves it."""
    shapes = {
        "embeddings.word_embeddings.weight": [vocabulary, hidden],
        "embeddings.position_embeddings.weight": [positions, hidden],
        "embeddings.token_type_embeddings.weight": [types, hidden],
        "embeddings.LayerNorm.weight": [hidden],
        "embeddings.LayerNorm.bias": [hidden],
        "pooler.dense.weight": [hidden, hidden],
        "pooler.dense.bias": [hidden],
    }
    for i in range(layers):
        layer = f"encoder.layer.{i}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{layer}attention.{part}.weight"] = [hidden, hidden]
            shapes[f"{layer}attention.{part}.bias"] = [hidden]
        shapes[layer + "intermediate.dense.weight"] = [inner, hidden]
        shapes[layer + "intermediate.dense.bias"] = [inner]
        shapes[layer + "output.dense.weight"] = [hidden, inner]
        shapes[layer + "output.dense.bias"] = [hidden]
        for part in ("attention.output", "output"):
            shapes[f"{layer}{part}.LayerNorm.weight"] = [hidden]
            shapes[f"{layer}{part}.LayerNorm.bias"] = [hidden]
    return {"model_type": model_type}, shapes


BASE_MODELS = pytest.mark.parametrize(
    "config, shapes, most",
    [(*encoder("bert", 30522, 512, 2), 113e6), (*encoder("xlm-roberta", 250002, 514, 1), 285e6)],
    ids=["bert-base", "xlm-r-base"],
)


def write_encoder(model, config, shapes, weights=None):
    """weights(shape) -> f32; without it they are a hole in a file."""
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    with open(model / "model.safetensors", "wb") as file:
        file.write(synthetic.header_bytes(header))
        if weights is None:
            file.truncate(file.tell() + end)
        else:
            for shape in shapes.values():
                file.write(weights(shape).tobytes())


def linear_snr(report, key="snr_db"):
    """Of the Linears together, whose weights have one variance."""
    rows = [t for t in report["tensors"] if t["effective"] != "keep" and "embeddings" not in t["name"]]
    noise = sum(t["elements"] * 10 ** (-t[key] / 10) for t in rows) / sum(t["elements"] for t in rows)
    return -10 * np.log10(noise)


@pytest.mark.slow
@BASE_MODELS
def test_levels_of_base_models_beside_direct_schemes(config, shapes, most, bitmill, tmp_path):
    """Gaussian weights: what a level costs and gives does not depend on the model then, its size does."""
    dice = np.random.default_rng(1)
    write_encoder(tmp_path / "model", config, shapes, lambda s: dice.standard_normal(s, dtype=np.float32) * np.float32(0.02))

    def mill(*options):
        return bitmill("quantize", tmp_path / "model", "-o", tmp_path / "out", *options, "--force", "--json").json()

    planes, int8, int4 = mill(*NATIVE["planes"]), mill("--to", "int8"), mill("--to", "int4")
    levels = {one["level"]: one["bytes"] for one in planes["levels"]}
    rows = {
        "bitmill, level int8": (levels["int8"], linear_snr(planes)),
        "bitmill, level int4": (levels["int4"], linear_snr(planes, "base_snr_db")),
        "direct int8": (int8["bytes"], linear_snr(int8)),
        "direct int4": (int4["bytes"], linear_snr(int4)),
    }
    for name, (size, snr) in rows.items():
        print(f"{name:20} {size / 1e6:7.1f} MB {snr:6.2f} dB")
    assert rows["bitmill, level int8"][0] <= most
    assert rows["bitmill, level int8"][1] > 40
    assert rows["bitmill, level int4"][1] > rows["direct int4"][1] - 0.6


@BASE_MODELS
def test_sizes_of_base_models(config, shapes, most, bitmill, tmp_path):
    """A dry run gives exact sizes."""
    model = tmp_path / "model"
    write_encoder(model, config, shapes)
    report = bitmill("quantize", model, *NATIVE["planes"], "--dry-run", "--json").json()
    print(f"{report['bytes'] / 1e6:.1f} MB, {report['coded_bits_per_weight']:.3f} bits a milled weight")
    assert report["bytes"] <= most
    assert report["coded_bits_per_weight"] <= 8.25
    assert report["levels"][0]["bytes"] < report["levels"][1]["bytes"] == report["bytes"]


def test_the_residual_file_is_the_level(bitmill, milled, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(milled(*NATIVE["planes"]), folder)
    bitmill("dequantize", folder, "-o", tmp_path / "int4", "--level", "int4")
    (folder / "model.int8.safetensors").rename(tmp_path / "aside")
    bitmill("dequantize", folder, "-o", tmp_path / "alone")
    assert (tmp_path / "alone/model.safetensors").read_bytes() == (tmp_path / "int4/model.safetensors").read_bytes()
    missing = bitmill("dequantize", folder, "-o", tmp_path / "no", "--level", "int8", code=3)
    assert "model.int8.safetensors" in missing.err and "copy it back" in missing.err
    (tmp_path / "aside").rename(folder / "model.int8.safetensors")
    report = bitmill("dequantize", folder, "-o", tmp_path / "both", "--json").json()
    assert any("planes" in row["reason"] for row in report["tensors"])


def test_planes_of_another_model_are_refused(bitmill, milled, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(milled(*NATIVE["planes"]), folder)
    tiny = synthetic.write_tiny(tmp_path / "tiny")
    bitmill("quantize", tiny, "-o", tmp_path / "other", *NATIVE["planes"])
    shutil.copy(tmp_path / "other/model.int8.safetensors", folder)
    assert "another model" in bitmill("inspect", folder, code=3).err


def test_what_does_not_go_together(bitmill, tmp_path):
    tiny = synthetic.write_tiny(tmp_path / "tiny")
    for options, said in [
        (["--to", "nf4", "--format", "bitmill"], "bitsandbytes"),
        (["--to", "fp16", "--format", "bitmill"], "plain"),
        (["--to", "int8", "--levels", "int8,int4"], "format bitmill"),
        (["--to", "int4", "--format", "bitmill", "--levels", "int8,int4"], "int4 only"),
        (["--to", "int8", "--format", "bitmill", "--levels", "int8,int4", "--asymmetric"], "planes"),
        (["--to", "int8", "--format", "bitmill", "--activation", "dynamic-int8"], "dynamic-int8"),
    ]:
        assert said in bitmill("quantize", tiny, "-o", tmp_path / "out", *options, code=2).err
