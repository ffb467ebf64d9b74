"""Encoders beside transformers: random models of the four families and odd sizes.

Floats: the largest error is at most 1e-4 of the largest output. Milled models with float inputs: the same against the
plain model that our `dequantize` makes of them. With 8-bit inputs: SNR of the hidden states against that model.
"""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import encoders
from conftest import ROOT, load_model
from encoders import error_of, make_model, make_sequences, run_all, snr_of, split
from model import Error, library_of

TOLERANCE = 1e-4
# hidden, heads, inner, layers: what divides by nothing that kernels like.
SIZES = {"48": (48, 3, 90, 2), "80": (80, 5, 77, 2), "100": (100, 4, 130, 1), "12": (12, 2, 7, 3)}
LENGTHS = [1, 2, 17, 5, 33, 16, 1]


@pytest.fixture(scope="module")
def library(bitmill_path):
    return library_of(bitmill_path)


def save(model, folder, dtype=torch.float32):
    model.to(dtype).save_pretrained(folder)
    model.float()
    return folder


def types_of(family, sequences):
    """BERT's segments: the first half and the second."""
    if family != "bert":
        return None
    return [[0] * (len(one) // 2) + [1] * (len(one) - len(one) // 2) for one in sequences]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", encoders.FAMILIES)
def test_hidden_states_and_embeddings(family, size, library, tmp_path):
    model = make_model(family, *SIZES[size], seed=1)
    sequences = make_sequences(model, LENGTHS)
    types = types_of(family, sequences)
    with library.open(save(model, tmp_path)) as ours:
        facts = ours.facts
        assert (facts["model_type"], facts["hidden_size"], facts["heads"]) == (family, *SIZES[size][:2])
        assert (facts["labels"], facts["vocabulary"], facts["effective"]) == (0, 101, "original")
        expected = run_all(model, sequences, types)
        assert error_of(ours.hidden(sequences, types), expected) <= TOLERANCE
        means = np.stack([one.mean(0) for one in split(expected, sequences)])
        assert error_of(ours.embed(sequences, types), means) <= TOLERANCE
        with pytest.raises(Error) as refused:
            ours.logits(sequences)
        assert refused.value.status == "unsupported"


def test_a_ragged_batch_beside_a_padded_one(library, tmp_path):
    """The sixteen lengths that bench/compare/encoders.py runs."""
    lengths = json.loads((ROOT / "bench/compare/lengths.json").read_text())
    model = make_model("bert", *SIZES["48"], positions=128, seed=11)
    sequences = make_sequences(model, lengths)
    ids = torch.zeros((len(lengths), max(lengths)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, one in enumerate(sequences):
        ids[i, : len(one)], mask[i, : len(one)] = torch.tensor(one), 1
    with torch.no_grad():
        padded = model(input_ids=ids, attention_mask=mask).last_hidden_state
    with library.open(save(model, tmp_path)) as ours:
        assert error_of(ours.hidden(sequences), padded[mask.bool()].numpy()) <= TOLERANCE


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("family", encoders.FAMILIES)
def test_classes_of_sequences(family, labels, library, tmp_path):
    model = make_model(family, *SIZES["48"], labels=labels, seed=2)
    sequences = make_sequences(model, LENGTHS)
    types = types_of(family, sequences)
    with library.open(save(model, tmp_path)) as ours:
        assert ours.facts["labels"] == labels
        assert error_of(ours.logits(sequences, types), run_all(model, sequences, types)) <= TOLERANCE
        base = run_all(model.base_model, sequences, types)
        assert error_of(ours.hidden(sequences, types), base) <= TOLERANCE


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("family", encoders.FAMILIES)
def test_folders_of_16_bits(family, dtype, library, tmp_path):
    model = make_model(family, *SIZES["80"], seed=3)
    sequences = make_sequences(model, LENGTHS)
    save(model, tmp_path, getattr(torch, dtype))
    upcast = load_model(tmp_path, dtype=torch.float32)
    with library.open(tmp_path) as ours:
        assert error_of(ours.hidden(sequences), run_all(upcast, sequences)) <= TOLERANCE


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_activations(activation, library, tmp_path):
    model = make_model("bert", *SIZES["48"], seed=4, hidden_act=activation)
    sequences = make_sequences(model, LENGTHS)
    with library.open(save(model, tmp_path)) as ours:
        assert error_of(ours.hidden(sequences), run_all(model, sequences)) <= TOLERANCE


def test_a_cast_to_fp16_at_load(library, tmp_path):
    model = make_model("bert", *SIZES["48"], seed=5)
    sequences = make_sequences(model, LENGTHS)
    save(model, tmp_path)
    with library.open(tmp_path, level="fp16") as ours:
        assert ours.facts["requested"] == ours.facts["effective"] == "fp16"
        assert error_of(ours.hidden(sequences), run_all(model.half().float(), sequences)) <= 1e-3


def test_older_names(library, tmp_path):
    """`bert.` before a model without a head, and LayerNorms with gamma and beta."""
    model = make_model("bert", *SIZES["48"], seed=6)
    sequences = make_sequences(model, LENGTHS)
    save(model, tmp_path)
    tensors = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        tensors["bert." + name] = tensor
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with library.open(tmp_path) as ours:
        assert error_of(ours.hidden(sequences), run_all(model, sequences)) <= TOLERANCE


POOLINGS = {
    "cls": ("pooling_mode_cls_token", lambda rows: rows[0]),
    "mean": ("pooling_mode_mean_tokens", lambda rows: rows.mean(0)),
    "max": ("pooling_mode_max_tokens", lambda rows: rows.max(0)),
    "last": ("pooling_mode_lasttoken", lambda rows: rows[-1]),
}


def write_modules(folder, *kinds, pooling=None):
    """modules.json as sentence-transformers writes it: Transformer, then these."""
    paths = {"Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2_Dense"}
    names = [("", "Transformer"), *((paths[kind], kind) for kind in kinds)]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    if pooling is not None:
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling(pooling, normalize, library, tmp_path):
    model = make_model("bert", *SIZES["48"], seed=7)
    sequences = make_sequences(model, LENGTHS)
    save(model, tmp_path)
    key, reduce = POOLINGS[pooling]
    modes = {name: name == key for name, _ in POOLINGS.values()}
    kinds = ["Pooling", "Normalize"] if normalize else ["Pooling"]
    write_modules(tmp_path, *kinds, pooling={"word_embedding_dimension": 48, **modes})
    expected = np.stack([reduce(one) for one in split(run_all(model, sequences), sequences)])
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    with library.open(tmp_path) as ours:
        assert (ours.facts["pooling"], ours.facts["normalize"]) == (pooling, normalize)
        assert error_of(ours.embed(sequences), expected) <= TOLERANCE


# ---- milled ----------------------------------------------------------------------------------------------

# name -> options of `bitmill quantize`, what it opens as, and SNR in dB of hidden states with 8-bit inputs; None where
# inputs are floats whatever is asked for.
MILLED = {
    "int8": (["--to", "int8"], [None], 33),
    "int8-dynamic": (["--to", "int8", "--activation", "dynamic-int8"], [None], 33),
    "int8-per-tensor": (["--to", "int8", "--per-tensor"], [None], 33),
    "int8-group-64": (["--to", "int8", "--group-size", "64"], [None], 33),
    "int4": (["--to", "int4"], [None], 33),
    "int4-group-64": (["--to", "int4", "--group-size", "64"], [None], 33),
    "int4-group-32": (["--to", "int4", "--group-size", "32"], [None], 33),
    "planes": (["--to", "int8", "--format", "bitmill"], ["int8", "int4"], 33),
    "native-int8": (["--to", "int8", "--format", "bitmill", "--levels", "int8", "--asymmetric"], [None], 33),
    "native-int4": (["--to", "int4", "--format", "bitmill"], [None], 33),
    "int2": (["--to", "int2"], [None], 33),
    "nf4": (["--to", "nf4"], [None], None),
    "nf4-double-quant": (["--to", "nf4", "--double-quant"], [None], None),
    "fp4": (["--to", "fp4"], [None], None),
    "fp16": (["--to", "fp16"], [None], None),
    "bf16": (["--to", "bf16"], [None], None),
}
# Rows of 256, 160 and 96: groups of 128, of 32, and what falls back.
MILLED_SIZE = (160, 5, 256, 2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """family -> (model, folder); f16, so that its integers go into every container."""
    made = {}

    def make(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            model = make_model(family, *MILLED_SIZE, seed=8, labels=3)
            made[family] = model, save(model, folder, torch.float16)
        return made[family]

    return make


def check_level(library, bitmill, folder, level, snr, sequences, out):
    """Ours of a milled folder against the plain model of the same weights."""
    wanted = ["--level", level] if level else []
    bitmill("dequantize", folder, "-o", out, "--dtype", "f32", *wanted)
    plain = load_model(out, "AutoModelForSequenceClassification", dtype=torch.float32)
    hidden, logits = run_all(plain.base_model, sequences), run_all(plain, sequences)
    with library.open(folder, level=level) as ours:
        assert not ours.facts["dynamic_int8"]
        assert error_of(ours.hidden(sequences), hidden) <= TOLERANCE
        assert error_of(ours.logits(sequences), logits) <= TOLERANCE
    with library.open(folder, level=level, activation="dynamic-int8") as ours:
        found = snr_of(ours.hidden(sequences), hidden)
        print(f"{folder.name} {level or ''}: SNR of dynamic-int8 {found:.1f} dB")
        if snr is None:
            assert not ours.facts["dynamic_int8"]
            assert error_of(ours.hidden(sequences), hidden) <= TOLERANCE
        else:
            assert ours.facts["dynamic_int8"] and snr <= found < 60


@pytest.mark.parametrize("name", MILLED)
def test_milled_models_beside_their_own_weights(name, library, bitmill, source, tmp_path):
    options, levels, snr = MILLED[name]
    model, folder = source("bert")
    bitmill("quantize", folder, "-o", tmp_path / name, *options)
    sequences = make_sequences(model, LENGTHS)
    for level in levels:
        check_level(library, bitmill, tmp_path / name, level, snr, sequences, tmp_path / f"plain-{level}")


@pytest.mark.parametrize("family", [name for name in encoders.FAMILIES if name != "bert"])
@pytest.mark.parametrize("name", ["int8", "planes"])
def test_milled_models_of_other_families(family, name, library, bitmill, source, tmp_path):
    options, levels, snr = MILLED[name]
    model, folder = source(family)
    bitmill("quantize", folder, "-o", tmp_path / name, *options)
    sequences = make_sequences(model, LENGTHS)
    check_level(library, bitmill, tmp_path / name, levels[-1], snr, sequences, tmp_path / "plain")


@pytest.mark.parametrize("container", ["gptq", "awq"])
def test_others_containers(container, library, bitmill, source, tmp_path):
    model, folder = source("bert")
    bitmill("quantize", folder, "-o", tmp_path / "int4", "--to", "int4", "--group-size", "32", "--exclude", "classifier")
    bitmill("convert", tmp_path / "int4", "-o", tmp_path / container, "--format", container)
    sequences = make_sequences(model, LENGTHS)
    with library.open(tmp_path / "int4") as integers, library.open(tmp_path / container) as ours:
        assert error_of(ours.hidden(sequences), integers.hidden(sequences)) <= TOLERANCE


def test_levels_of_a_model_s_folder(library, bitmill, tmp_path):
    """MODEL/<level>/ where it is there; what was asked for, what it is, and why, are three fields."""
    model = make_model("bert", *MILLED_SIZE, seed=9)
    folder = save(model, tmp_path / "model")
    bitmill("quantize", folder, "-o", folder, "--to", "both")
    sequences = make_sequences(model, LENGTHS)
    for level in ("int8", "int4"):
        with library.open(folder, level=level) as ours, library.open(folder / level) as direct:
            assert ours.facts["requested"] == ours.facts["effective"] == level
            assert np.array_equal(ours.hidden(sequences), direct.hidden(sequences))
    with library.open(folder, level="original") as ours:
        assert error_of(ours.hidden(sequences), run_all(model, sequences)) <= TOLERANCE
    with library.open(folder) as ours:
        assert ours.facts["requested"] == "" and ours.facts["effective"] == "original"
    shutil.rmtree(folder / "int4")
    with pytest.raises(Error, match="int4"):
        library.open(folder, level="int4")


# ---- what does not fit -------------------------------------------------------------------------------------


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


BAD_CONFIGS = {
    "hidden_size": ({"hidden_size": 96}, "bad_input", "word_embeddings|embeddings"),
    "layers": ({"num_hidden_layers": 3}, "bad_input", "layer.2"),
    "vocabulary": ({"vocab_size": 102}, "bad_input", "word_embeddings"),
    "positions": ({"max_position_embeddings": 128}, "bad_input", "position_embeddings"),
    "intermediate": ({"intermediate_size": 91}, "bad_input", "intermediate"),
    "types": ({"type_vocab_size": 4}, "bad_input", "token_type_embeddings"),
    "heads": ({"num_attention_heads": 5}, "bad_input", "num_attention_heads|heads"),
    "family": ({"model_type": "gpt2"}, "unsupported", "gpt2"),
    "no family": ({"model_type": None}, "bad_input|unsupported", "model_type"),
    "activation": ({"hidden_act": "silly"}, "unsupported", "silly"),
    "positions by key": ({"position_embedding_type": "relative_key"}, "unsupported", "relative_key"),
    "a text for a number": ({"hidden_size": "many"}, "bad_input", "hidden_size"),
    "a huge number": ({"num_hidden_layers": 10**18}, "bad_input", "layer"),
    "a negative number": ({"num_hidden_layers": -1}, "bad_input", "num_hidden_layers"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_configs_that_do_not_fit_the_tensors(name, library, tmp_path):
    fields, status, said = BAD_CONFIGS[name]
    save(make_model("bert", *SIZES["48"]), tmp_path)
    change_config(tmp_path, **fields)
    with pytest.raises(Error, match=said) as refused:
        library.open(tmp_path)
    assert refused.value.status in status.split("|"), refused.value
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    "tensor",
    ["embeddings.word_embeddings.weight", "encoder.layer.1.attention.self.key.weight", "encoder.layer.0.output.LayerNorm.bias"],
)
@pytest.mark.parametrize("how", ["missing", "transposed"])
def test_tensors_that_do_not_fit(tensor, how, library, tmp_path):
    save(make_model("bert", *SIZES["48"]), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    changed = tensors.pop(tensor)
    if how == "transposed":
        tensors[tensor] = torch.zeros(*reversed(changed.shape)) if changed.dim() == 2 else torch.zeros(7)
        if changed.dim() == 2 and changed.shape[0] == changed.shape[1]:
            tensors[tensor] = torch.zeros(changed.shape[0] + 1, changed.shape[1])
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Error, match=tensor.rpartition(".")[0]) as refused:
        library.open(tmp_path)
    assert refused.value.status == "bad_input" and str(tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    "kinds, pooling, said",
    [
        (["Pooling", "Dense"], {"pooling_mode_mean_tokens": True}, "modules.json.*Dense"),
        (["Pooling"], {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "1_Pooling.*m.*, m"),
        (["Pooling"], {"pooling_mode_weightedmean_tokens": True}, "1_Pooling.*weightedmean_tokens"),
    ],
)
def test_sentence_heads_that_are_not_supported(kinds, pooling, said, library, tmp_path):
    """Hidden states are the encoder's alone; embed() names what it lacks, and opening warns of it."""
    model = make_model("bert", *SIZES["48"])
    sequences = make_sequences(model, LENGTHS)
    write_modules(save(model, tmp_path), *kinds, pooling=pooling)
    with library.open(tmp_path) as ours:
        assert any(re.search(said, warning) for warning in ours.facts["warnings"])
        assert error_of(ours.hidden(sequences), run_all(model, sequences)) <= TOLERANCE
        with pytest.raises(Error, match=said) as refused:
            ours.embed(sequences)
    assert refused.value.status == "unsupported"


def test_sentence_heads_that_do_not_fit(library, tmp_path):
    folder = save(make_model("bert", *SIZES["48"]), tmp_path)
    write_modules(folder, "Pooling")
    with pytest.raises(Error, match="1_Pooling"):
        library.open(folder)
    write_modules(folder, "Pooling", pooling={"word_embedding_dimension": 49, "pooling_mode_mean_tokens": True})
    with pytest.raises(Error, match="word_embedding_dimension is 49"):
        library.open(folder)


def test_what_is_no_model(library, tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(Error, match=str(folder)):
            library.open(folder)
    save(make_model("bert", *SIZES["48"]), tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Error, match="config.json"):
        library.open(tmp_path)
