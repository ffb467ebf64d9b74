"""The same bits of embeddings for every ISA, number of threads, batch and order, and the same as when they were
committed, also on aarch64; and what MiniLM's levels cost."""

import hashlib
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import torch

from conftest import NATIVE, OUTPUTS, ROOT, load_model
from encoders import cosines, error_of, make_model, make_sequences
from model import library_of
from sentences import SENTENCES
from test_minilm import embed

GOLDEN = ROOT / "tests" / "golden" / "embeddings.json"
# Of the sixteen sequences that bench/compare/encoders.py runs.
RAGGED = json.loads((ROOT / "bench" / "compare" / "lengths.json").read_text())

# name -> options of `bitmill quantize` (None: the model itself), level, activation
RUNS = {
    "original": (None, "original", "float"),
    "fp16": (OUTPUTS["fp16"], None, "float"),
    "int8": (OUTPUTS["int8"], None, "float"),
    "int8 dynamic": (OUTPUTS["int8"], None, "dynamic-int8"),
    "int4 dynamic": (OUTPUTS["int4"], None, "dynamic-int8"),
    "nf4": (OUTPUTS["nf4"], None, "float"),
    "planes int8": (NATIVE["planes"], "int8", "float"),
    "planes int8 dynamic": (NATIVE["planes"], "int8", "dynamic-int8"),
    "planes int4 dynamic": (NATIVE["planes"], "int4", "dynamic-int8"),
    "int8 asymmetric dynamic": (NATIVE["native-int8"], None, "dynamic-int8"),
    "int2 dynamic": (NATIVE["int2"], None, "dynamic-int8"),
}


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array, "<f4").tobytes()).hexdigest()


def plain_ids(count, length):
    """Ids that need no tokenizer."""
    return [[101, *((i * 7919 + k * 104729) % 28000 + 2000 for k in range(length + i - 2)), 102] for i in range(count)]


# ---- on this machine ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(bitmill_path):
    library = library_of(bitmill_path)
    before = library.isa()
    yield library
    library.set_isa(before)


@pytest.fixture(scope="module")
def small(bitmill, tmp_path_factory):
    """A random BERT of rows of 128 and 160, milled; and sixteen sequences of 1 to 25 tokens."""
    base = tmp_path_factory.mktemp("small")
    model = make_model("bert", 128, 4, 160, 2, vocabulary=211, seed=10)
    model.save_pretrained(base / "model")
    done = {}

    def folder(options):
        if options is None:
            return base / "model"
        if tuple(options) not in done:
            done[tuple(options)] = out = base / str(len(done))
            bitmill("quantize", base / "model", "-o", out, *options)
        return done[tuple(options)]

    return folder, make_sequences(model, [length // 5 for length in RAGGED])


@pytest.mark.parametrize("name", RUNS)
def test_same_bits_for_every_isa_thread_batch_and_order(name, library, small):
    folder, sequences = small
    options, level, activation = RUNS[name]
    path, seen, hidden = folder(options), set(), set()
    order = np.random.default_rng(1).permutation(len(sequences))
    for threads in (1, 2, 3, 7):
        with library.open(path, level=level, activation=activation, threads=threads) as model:
            for isa in library.isas():
                library.set_isa(isa)
                assert library.isa() == isa
                seen.add(sha256(model.embed(sequences)))
                if threads != 3:
                    continue
                hidden.add(sha256(model.hidden(sequences)))
                alone = np.concatenate([model.embed([one]) for one in sequences])
                halves = np.concatenate([model.embed(sequences[:5]), model.embed(sequences[5:])])
                back = np.empty_like(alone)
                back[order] = model.embed([sequences[i] for i in order])
                seen |= {sha256(alone), sha256(halves), sha256(back)}
    assert len(seen) == 1 and len(hidden) == 1


# ---- everywhere --------------------------------------------------------------------------------------------


def test_golden_embeddings(bitmill_path, minilm, milled, request):
    """tests/golden/embeddings.json is rewritten by `pytest tests/parity -k golden --update-golden`."""
    program = pathlib.Path(bitmill_path).parent / "bitmill_embeddings"
    lines = "".join(" ".join(map(str, ids)) + "\n" for ids in plain_ids(3, 5)).encode()
    actual = {}
    for name, (options, level, activation) in RUNS.items():
        folder = minilm if options is None else milled(*options)
        command = [program, folder, level or "", activation]
        done = subprocess.run(command, input=lines, capture_output=True, env=os.environ)
        assert done.returncode == 0, done.stderr.decode()
        floats = np.frombuffer(done.stdout, "<f4").reshape(3, 384)
        assert np.isfinite(floats).all() and np.allclose(np.linalg.norm(floats, axis=1), 1, atol=1e-5)
        actual[name] = sha256(floats)
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(actual, indent=1, sort_keys=True) + "\n")
    assert GOLDEN.is_file(), "run once with --update-golden and commit the file"
    assert actual == json.loads(GOLDEN.read_text())


# ---- what MiniLM's levels cost -----------------------------------------------------------------------------

# name -> smallest mean and smallest single cosine to the original over SENTENCES
BARS = {
    "int8": (0.9994, 0.999),
    "int8 dynamic": (0.9985, 0.997),
    "planes int8": (0.9994, 0.999),
    "planes int8 dynamic": (0.9985, 0.997),
}


@pytest.fixture(scope="module")
def tokens(minilm):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(minilm))(SENTENCES, padding=True, return_tensors="pt")


@pytest.fixture(scope="module")
def sequences(tokens):
    """The ids without their padding."""
    return [ids[mask.bool()].tolist() for ids, mask in zip(tokens["input_ids"], tokens["attention_mask"])]


@pytest.fixture(scope="module")
def original(minilm, tokens):
    return embed(load_model(minilm, dtype=torch.float32), tokens).numpy()


def test_minilm_is_what_sentence_transformers_gives(library, minilm, sequences, original):
    with library.open(minilm) as model:
        assert (model.facts["pooling"], model.facts["normalize"]) == ("mean", True)
        assert model.facts["weight_bytes"] <= 1.15 * model.facts["file_bytes"]
        assert error_of(model.embed(sequences), original) <= 1e-4


@pytest.mark.parametrize("name", BARS)
def test_minilm_levels_are_near_the_original(name, library, milled, sequences, original):
    options, level, activation = RUNS[name]
    with library.open(milled(*options), level=level, activation=activation) as model:
        assert model.facts["weight_bytes"] <= 1.15 * model.facts["file_bytes"]
        found = cosines(model.embed(sequences), original)
    print(f"{name}: cosine to the original: mean {found.mean():.5f}, least {found.min():.5f}")
    mean, least = BARS[name]
    assert found.mean() >= mean and found.min() >= least
