"""MiniLM through every output: it loads with plain from_pretrained, runs, and costs what its twin does.

EXACT for codes, scales and plain casts; the embeddings' cosine to the original may lie 0.001 below the
twin's, a model built here from de-quantized twin weights and run on the same sentences.
"""

import copy

import numpy as np
import pytest
import torch

import checkpoints
import twins
from conftest import OUTPUTS, float_array, load_model, read_tensors
from sentences import SENTENCES

INTEGER = [name for name in OUTPUTS if name.startswith("int")]
BOOKS = ["nf4", "fp4", "nf4-double-quant"]
PLAIN = {"fp16": torch.float16, "bf16": torch.bfloat16}
GRANULARITY = {"tensor": "per_tensor", "channel": "per_channel", "group": "group"}


@pytest.fixture(scope="module")
def tokens(minilm):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(minilm))(SENTENCES, padding=True, return_tensors="pt")


@pytest.fixture(scope="module")
def original(minilm):
    return load_model(minilm, dtype=torch.float32)


@pytest.fixture(scope="module")
def linears(original):
    return {
        n: float_array(m.weight.data) for n, m in original.named_modules() if isinstance(m, torch.nn.Linear)
    }


def embed(model, tokens):
    """Mean-pooled sentence embeddings, normalized."""
    with torch.no_grad():
        hidden = model(**tokens).last_hidden_state.float()
    mask = tokens["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def mean_cosine(model, original, tokens):
    return (embed(model, tokens) * embed(original, tokens)).sum(-1).mean().item()


def fake_quantize_tokens(module, inputs):
    """compressed-tensors' dynamic activations: one symmetric int8 scale a token, max / 127.5."""
    x = inputs[0]
    scale = (x.abs().amax(-1, keepdim=True) / 127.5).clamp(min=torch.finfo(x.dtype).eps)
    return (torch.clamp(torch.round(x / scale), -128, 127) * scale,)


def twin_weight(name, weight):
    """The weight that the twin of an output makes of a Linear."""
    if name in PLAIN:
        return twins.round_to(weight, {"fp16": "float16", "bf16": "bfloat16"}[name])
    if name in BOOKS:
        quant_type = name[:3]
        packed, absmax = twins.book_codes(weight, quant_type, 64)
        if name == "nf4-double-quant":
            offset = np.float32(absmax.astype(np.float64).mean())
            absmax = twins.decode_nested(*twins.nested_codes(absmax, offset), offset)
        return twins.decode_book(packed, absmax, quant_type, 64, weight.shape)
    bits = 8 if name.startswith("int8") else 4
    granularity, group = "per_channel", None
    if name == "int8-per-tensor":
        granularity = "per_tensor"
    elif bits == 4 or "group" in name:
        granularity, group = "group", 32 if name.endswith("32") else 128
    method = twins.least_squares_codes if bits == 4 else twins.absmax_codes
    return twins.decode_integers(*method(weight, "float32", bits, granularity, group))


def twin_model(name, original):
    model = copy.deepcopy(original)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = torch.from_numpy(twin_weight(name, float_array(module.weight.data)))
            if name == "int8-dynamic":
                module.register_forward_pre_hook(fake_quantize_tokens)
    if name in PLAIN:  # plain outputs cast every tensor, not only the Linears
        model = model.to(PLAIN[name]).float()
    return model


@pytest.mark.parametrize("name", OUTPUTS)
def test_plain_from_pretrained_runs(name, milled, tokens):
    folder = milled(*OUTPUTS[name])
    model = load_model(folder)
    batch = {key: value[:2] for key, value in tokens.items()}
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    assert hidden.shape[-1] == 384 and torch.isfinite(hidden.float()).all()


@pytest.mark.parametrize("name", OUTPUTS)
def test_embeddings_are_as_near_as_the_twin(name, milled, original, tokens, portable_bitsandbytes):
    model = load_model(milled(*OUTPUTS[name]), dtype=torch.float32)
    ours = mean_cosine(model, original, tokens)
    twin = mean_cosine(twin_model(name, original), original, tokens)
    print(f"{name}: mean cosine {ours:.5f}, twin {twin:.5f}")
    assert ours >= twin - 0.001
    assert ours >= {"int4": 0.93, "int4-group-32": 0.95, "nf4": 0.95, "fp4": 0.90}.get(name, 0.95)


def test_nf4_equals_bitsandbytes_own_model(milled, minilm, tokens, portable_bitsandbytes):
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    ours = load_model(milled("--to", "nf4"), dtype=torch.float32)
    theirs = load_model(minilm, dtype=torch.float32, quantization_config=config)
    with torch.no_grad():
        assert torch.equal(ours(**tokens).last_hidden_state, theirs(**tokens).last_hidden_state)


@pytest.mark.parametrize("name", BOOKS)
def test_book_bytes_equal_bitsandbytes(name, milled, linears):
    import bitsandbytes.functional as bnb

    layers = checkpoints.book_layers(milled(*OUTPUTS[name]))
    assert layers.keys() == linears.keys()
    for module, layer in layers.items():
        nested = name == "nf4-double-quant"
        weight = torch.from_numpy(linears[module])
        packed, state = bnb.quantize_4bit(
            weight, blocksize=64, quant_type=name[:3], compress_statistics=False
        )
        assert layer["packed"].shape == tuple(packed.shape) and np.array_equal(
            layer["packed"], packed.numpy()
        )
        official = state.as_dict(packed=True)
        assert np.array_equal(layer["quant_map"].view(np.uint32), state.code.numpy().view(np.uint32))
        if not nested:
            assert np.array_equal(layer["absmax"].view(np.uint32), state.absmax.numpy().view(np.uint32))
            assert (
                layer["state_text"].encode()
                == official[f"quant_state.bitsandbytes__{name[:3]}"].numpy().tobytes()
            )
            continue
        absmax = state.absmax.numpy()
        mean, offset = np.float32(absmax.astype(np.float64).mean()), layer["state"]["nested_offset"]
        assert np.float32(offset) == offset, "the offset is a float32"
        # torch's own mean depends on its thread count by an ulp; ours is the correctly rounded one.
        assert abs(offset - mean) <= 2 * np.spacing(mean)
        assert abs(offset - state.absmax.mean().item()) <= 2 * np.spacing(mean)
        codes, nested_absmax = twins.nested_codes(absmax, offset)
        assert np.array_equal(layer["absmax"], codes)
        assert np.array_equal(layer["nested_absmax"], nested_absmax)
        assert np.array_equal(layer["nested_quant_map"], bnb.create_dynamic_map().numpy())
        assert layer["state"]["nested_blocksize"] == 256 and layer["state"]["nested_dtype"] == "float32"


@pytest.mark.parametrize("name", INTEGER)
def test_absmax_codes_equal_compressed_tensors(name, milled, linears):
    from test_twins import official_absmax

    layers = checkpoints.integer_layers(milled(*OUTPUTS[name], "--method", "absmax"))
    assert layers.keys() == linears.keys()
    for module, layer in layers.items():
        group = layer["group_size"] if layer["strategy"] == "group" else None
        codes, scale = official_absmax(
            torch.from_numpy(linears[module]), layer["bits"], GRANULARITY[layer["strategy"]], group
        )
        assert np.array_equal(layer["codes"], codes), module
        assert layer["scale"].shape == scale.shape and np.array_equal(layer["scale"], scale), module
        assert layer["scale_dtype"] == "float32"
        assert layer["scheme"]["weights"]["symmetric"] is True
        dynamic = name == "int8-dynamic"
        assert bool(layer["scheme"].get("input_activations")) == dynamic


@pytest.mark.parametrize("name", ["int4", "int4-group-32"])
def test_mse_is_at_least_as_good_as_the_twin(name, milled, linears):
    """Weight error of the search, summed over all layers: ours may not lose 1 % to the twin's."""
    layers = checkpoints.integer_layers(milled(*OUTPUTS[name]))
    ours = sum(np.square(layers[m]["weight"] - w, dtype=np.float64).sum() for m, w in linears.items())
    twin = sum(np.square(twin_weight(name, w) - w, dtype=np.float64).sum() for w in linears.values())
    absmax = sum(
        np.square(
            twins.decode_integers(
                *twins.absmax_codes(w, "float32", 4, "group", 32 if name.endswith("32") else 128)
            )
            - w,
            dtype=np.float64,
        ).sum()
        for w in linears.values()
    )
    assert ours <= 1.01 * twin and ours < absmax


@pytest.mark.parametrize("name", PLAIN)
def test_plain_file_equals_safetensors_writer(name, milled, minilm, tmp_path):
    from safetensors.torch import save_file

    cast = {k: t.to(PLAIN[name]) if t.is_floating_point() else t for k, t in read_tensors(minilm).items()}
    save_file(cast, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert (milled(*OUTPUTS[name]) / "model.safetensors").read_bytes() == (
        tmp_path / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("dtype", [None, "f32", "f16", "bf16"])
def test_dequantize_equals_the_decoded_codes(name, dtype, milled, minilm, bitmill, tmp_path):
    folder = milled(*OUTPUTS[name])
    bitmill("dequantize", folder, "-o", tmp_path / "out", *(["--dtype", dtype] if dtype else []))
    tensors, source = read_tensors(tmp_path / "out"), read_tensors(minilm)
    assert tensors.keys() == source.keys()
    target = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, None: None}[dtype]
    expected = {}
    if name not in PLAIN:
        layers = (checkpoints.book_layers if name in BOOKS else checkpoints.integer_layers)(folder)
        expected = {module + ".weight": torch.from_numpy(layer["weight"]) for module, layer in layers.items()}
        assert len(expected) == 37
    kept = read_tensors(folder)
    for key, tensor in tensors.items():
        value = expected.get(key, kept.get(key))
        if value.is_floating_point() and target:
            value = value.to(target)
        assert tensor.dtype == value.dtype and torch.equal(tensor, value), key


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_dequantized_folder_loads_as_a_plain_model(
    name, milled, bitmill, tokens, tmp_path, portable_bitsandbytes
):
    bitmill("dequantize", milled(*OUTPUTS[name]), "-o", tmp_path / "out", "--dtype", "f32")
    quantized = load_model(milled(*OUTPUTS[name]), dtype=torch.float32)
    plain = load_model(tmp_path / "out", dtype=torch.float32)
    assert torch.allclose(embed(plain, tokens), embed(quantized, tokens), rtol=0, atol=1e-6)


def test_side_files_come_along(milled, minilm):
    import json

    out = milled("--to", "int8")
    for path in minilm.rglob("*"):
        name = path.relative_to(minilm)
        if path.is_dir() or path.suffix == ".safetensors" or name.parts[0].startswith("."):
            continue
        assert (out / name).is_file(), name
        if str(name) not in ("config.json", "README.md"):
            assert (out / name).read_bytes() == path.read_bytes(), name
    ours, theirs = (json.loads((f / "config.json").read_text()) for f in (out, minilm))
    assert ours.pop("quantization_config")["quant_method"] == "compressed-tensors"
    for config in (ours, theirs):  # transformers 5 renamed torch_dtype
        config["dtype"] = config.pop("torch_dtype", config.get("dtype"))
    assert {k: v for k, v in ours.items() if k != "dtype"} == {
        k: v for k, v in theirs.items() if k != "dtype"
    }
