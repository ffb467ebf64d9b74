"""GGUF in and GGUF out: gguf-py reads what the mill writes; every key stays; its numbers are the truth."""

import hashlib
import os
import pathlib

import gguf
import numpy as np
import pytest

Q = gguf.GGMLQuantizationType
TYPES = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"]
LEAST_DB = {"q8_0": 40, "q4_0": 18, "q4_1": 19, "q5_0": 24, "q5_1": 25, "q4_k": 20, "q5_k": 26, "q6_k": 31}
FALLBACK = {"q4_k": "Q5_0", "q5_k": "Q5_1", "q6_k": "Q8_0"}


def matrices(seed=7):
    random = np.random.default_rng(seed)

    def gaussian(*shape):
        return (random.standard_normal(shape, dtype=np.float32) * 0.05).astype(np.float32)

    return {
        "token_embd.weight": gaussian(64, 256),
        "blk.0.attn_norm.weight": 1 + gaussian(256),
        "blk.0.attn_q.weight": gaussian(256, 256),
        "blk.0.attn_q.bias": gaussian(256),
        "blk.0.ffn_gate_inp.weight": gaussian(4, 256),
        "blk.0.ffn_up_exps.weight": gaussian(4, 96, 256),
        "blk.0.ffn_down.weight": gaussian(256, 96),
        "blk.0.odd.weight": gaussian(5, 40),
        "output_norm.weight": 1 + gaussian(256),
        "output.weight": gaussian(64, 256),
    }


def write(path, weights, kinds=None, alignment=None):
    """`kinds`: {name: type} for those that are not written in their own dtype."""
    writer = gguf.GGUFWriter(str(path), "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_name("a test")
    writer.add_context_length(64)
    writer.add_embedding_length(256)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"täken{i}" for i in range(64)])
    writer.add_token_scores([float(-i) for i in range(64)])
    writer.add_token_types([1] * 64)
    writer.add_array("test.deep", [1, 2, 3])
    writer.add_bool("test.yes", True)
    writer.add_float64("test.pi", 3.141592653589793)
    writer.add_int64("test.negative", -(2**40))
    for name, values in weights.items():
        kind = (kinds or {}).get(name)
        if kind is None:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path):
    return {t.name: t for t in gguf.GGUFReader(str(path)).tensors}


def keys(path):
    return keys_of(gguf.GGUFReader(str(path)))


def keys_of(reader):
    return {
        name: [field.types, [bytes(part) for part in field.parts[2:]]]
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }


def floats(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def snr_db(truth, got):
    truth, got = truth.astype(np.float64).ravel(), got.astype(np.float64).ravel()
    noise = ((truth - got) ** 2).sum()
    return 10 * np.log10((truth**2).sum() / noise) if noise else np.inf


def sha(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "source.gguf", matrices())


@pytest.mark.parametrize("to", TYPES)
def test_every_type(bitmill, source, tmp_path, to):
    out = tmp_path / "out.gguf"
    report = bitmill("quantize", source, "-o", out, "--to", to, "--json").json()
    assert os.listdir(tmp_path) == ["out.gguf"] and out.stat().st_size == report["bytes"]
    before, after, weights = keys(source), keys(out), matrices()
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {"general.file_type"}
    assert set(after) - set(before) == {"general.quantization_version"}
    got = read(out)
    assert list(got) == list(read(source))
    rows = {row["name"]: row for row in report["tensors"]}
    for name, values in weights.items():
        kind = got[name].tensor_type.name
        if values.ndim == 1 or "gate_inp" in name:
            assert kind == "F32" and (floats(got[name]) == values).all()
            continue
        whole = name in ("token_embd.weight", "output.weight")
        want = "Q8_0" if whole else "F16" if values.shape[-1] % 32 else to.upper()
        if values.shape[-1] % 256 and not values.shape[-1] % 32:
            want = FALLBACK.get(to, want)
        assert kind == want, name
        assert list(got[name].shape) == list(reversed(values.shape))
        got_db = snr_db(values, floats(got[name]))
        assert got_db >= LEAST_DB.get(kind.lower(), 60), (name, kind)
        if rows[name]["snr_db"] is not None:
            assert rows[name]["snr_db"] == pytest.approx(got_db, abs=1e-3)
        if want.lower() != to:
            assert rows[name]["reason"]


@pytest.mark.parametrize("to", ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1"])
def test_absmax_is_ggml_s_rule(bitmill, source, tmp_path, to):
    out = tmp_path / "out.gguf"
    bitmill("quantize", source, "-o", out, "--to", to, "--method", "absmax")
    values = matrices()["blk.0.attn_q.weight"]
    want = gguf.quants.quantize(values, Q[to.upper()])
    assert read(out)["blk.0.attn_q.weight"].data.tobytes() == want.tobytes()


@pytest.mark.parametrize("to", ["fp16", "bf16"])
def test_half_precision_leaves_norms(bitmill, source, tmp_path, to):
    out = tmp_path / "out.gguf"
    bitmill("quantize", source, "-o", out, "--to", to)
    kind = {"fp16": "F16", "bf16": "BF16"}[to]
    for name, tensor in read(out).items():
        assert tensor.tensor_type.name == (kind if name.endswith("weight") and len(tensor.shape) > 1 and "gate_inp" not in name else "F32")


def test_levels_that_users_know(bitmill, source, tmp_path):
    for level, kind in (("int8", "q8_0"), ("int4", "q4_k")):
        bitmill("quantize", source, "-o", tmp_path / level, "--to", level)
        bitmill("quantize", source, "-o", tmp_path / kind, "--to", kind)
        assert sha(tmp_path / level / "model.gguf") == sha(tmp_path / kind / "model.gguf")


def test_requantize_takes_the_values_that_are_there(bitmill, tmp_path):
    """A coded source gives what the same values in f32 give."""
    weights = matrices()
    kinds = {"blk.0.attn_q.weight": Q.Q8_0, "blk.0.ffn_down.weight": Q.Q5_1, "token_embd.weight": Q.Q4_0}
    coded = write(tmp_path / "coded.gguf", weights, kinds)
    plain = write(tmp_path / "plain.gguf", {n: floats(t).reshape(weights[n].shape) for n, t in read(coded).items()})
    for source, out in ((coded, "a"), (plain, "b")):
        bitmill("quantize", source, "-o", tmp_path / f"{out}.gguf", "--to", "q4_k")
    a, b = read(tmp_path / "a.gguf"), read(tmp_path / "b.gguf")
    for name in weights:
        if name == "token_embd.weight":  # coded smaller than q8_0 already
            assert a[name].tensor_type == Q.Q4_0
        else:
            assert a[name].tensor_type == b[name].tensor_type and a[name].data.tobytes() == b[name].data.tobytes()
    # What has the type already is copied.
    bitmill("quantize", tmp_path / "a.gguf", "-o", tmp_path / "c.gguf", "--to", "q4_k")
    c = read(tmp_path / "c.gguf")
    assert all(c[n].data.tobytes() == a[n].data.tobytes() for n in ("blk.0.attn_q.weight", "token_embd.weight"))


def test_dequantize_equals_gguf_py(bitmill, tmp_path):
    weights = matrices()
    kinds = {"blk.0.attn_q.weight": Q.Q8_0, "blk.0.ffn_down.weight": Q.Q5_1, "token_embd.weight": Q.Q4_0}
    coded = write(tmp_path / "coded.gguf", weights, kinds)
    bitmill("quantize", coded, "-o", tmp_path / "k.gguf", "--to", "q6_k", "--exclude", "token_embd")
    for source in (coded, tmp_path / "k.gguf"):
        bitmill("dequantize", source, "-o", tmp_path / "plain.gguf", "--force")
        before, after = read(source), read(tmp_path / "plain.gguf")
        for name in weights:
            plain = before[name].tensor_type in (Q.F32, Q.F16)
            assert after[name].tensor_type == (before[name].tensor_type if plain else Q.F32)
            assert floats(before[name]).tobytes() == floats(after[name]).tobytes()


def test_folder_manifest_and_verify(bitmill, source, tmp_path):
    out = tmp_path / "out"
    bitmill("quantize", source, "-o", out, "--to", "q4_k")
    assert sorted(os.listdir(out)) == ["manifest.json", "model.gguf"]
    bitmill("validate", out)
    bitmill("verify", source, out)
    assert bitmill("quantize", source, "-o", out, "--to", "q4_k", "--json").json()["already_milled"]
    good = (out / "model.gguf").read_bytes()
    random = np.random.default_rng(3)
    for _ in range(60):
        bad = bytearray(good)
        bad[random.integers(len(bad))] ^= 1 << random.integers(8)
        (out / "model.gguf").write_bytes(bad)
        assert bitmill("validate", out, code=None).code == 6
    (out / "model.gguf").write_bytes(good)
    bitmill("verify", source, out)
    # Padding is listed, too: 40 columns of f16 leave some after the last row.
    bitmill("quantize", source, "-o", out, "--to", "q8_0", "--force")
    bitmill("verify", source, out)


@pytest.mark.slow
def test_gemma(bitmill, gemma, tmp_path):
    """A real model that is quantized already: every key stays, and the numbers are those of its own codes."""
    out = tmp_path / "out.gguf"
    bitmill("quantize", gemma, "-o", out, "--to", "q4_k")
    readers = [gguf.GGUFReader(str(path)) for path in (gemma, out)]  # a quarter of a million tokens take seconds
    before, after = map(keys_of, readers)
    assert {name for name in before if before[name] != after.get(name)} == {"general.file_type"}
    source, got = ({tensor.name: tensor for tensor in reader.tensors} for reader in readers)
    assert list(got) == list(source)
    kinds = {tensor.tensor_type.name for tensor in got.values()}
    assert kinds == {"F32", "Q8_0", "Q5_0", "Q4_K"}  # 640 columns are no multiple of 256
    for name, tensor in source.items():
        assert list(got[name].shape) == list(tensor.shape)
        if name.startswith(("blk.0.", "blk.17.")):
            least = LEAST_DB.get(got[name].tensor_type.name.lower(), 200)
            assert snr_db(floats(tensor), floats(got[name])) >= least, name


def test_batch(bitmill, source, tmp_path):
    """By bit depth, as every other model; and a .gguf stays a file."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "one.gguf").write_bytes(source.read_bytes())
    (models / "two.gguf").write_bytes(source.read_bytes()[:-1])
    for depth, kind in ((8, Q.Q8_0), (16, Q.F16)):
        out = tmp_path / str(depth)
        told = bitmill("batch", models, "-o", out, "--bit-depth", depth, "--weight-threshold", "0", "--json", code=3).json()
        assert {n: m["status"] for n, m in told["models"].items()} == {"one": "success", "two": "error"}
        assert os.listdir(out) == ["one.gguf"] and "two.gguf" in told["models"]["two"]["error"]
        assert read(out / "one.gguf")["blk.0.attn_q.weight"].tensor_type == kind


def test_same_bytes_for_threads_and_instruction_sets(bitmill, source, tmp_path):
    sets = bitmill("info", "--json").json()["isa_available"]
    hashes = set()
    for threads, isa in [(1, sets[0]), (3, sets[-1]), *((2, one) for one in sets)]:
        out = tmp_path / f"{threads}{isa}.gguf"
        bitmill("quantize", source, "-o", out, "--to", "q4_k", "--threads", threads, env={"BITMILL_FORCE_ISA": isa})
        hashes.add(sha(out))
    assert len(hashes) == 1


def test_alignment_is_kept(bitmill, tmp_path):
    source = write(tmp_path / "a.gguf", matrices(), alignment=64)
    bitmill("quantize", source, "-o", tmp_path / "b.gguf", "--to", "q5_0")
    reader = gguf.GGUFReader(str(tmp_path / "b.gguf"))
    assert reader.alignment == 64 and all(t.data_offset % 64 == 0 for t in reader.tensors)


def test_what_does_not_go(bitmill, source, minilm, tmp_path):
    for options, words in (
        (["--to", "nf4"], "gguf"),
        (["--to", "int8", "--format", "compressed-tensors"], "gguf"),
        (["--to", "q4_k", "--per-channel"], "group_size"),
        (["--to", "q8_0", "--asymmetric"], "asymmetric"),
        (["--to", "q4_k", "--levels", "int4"], "levels"),
    ):
        result = bitmill("quantize", source, "-o", tmp_path / "x.gguf", *options, code=2)
        assert words in result.err, result
    assert "gguf" in bitmill("quantize", minilm, "-o", tmp_path / "x", "--to", "q4_k", code=2).err
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(source.read_bytes())
    assert "is the model that is read" in bitmill("quantize", copy, "-o", copy, "--to", "q8_0", "--force", code=2).err
    assert sha(copy) == sha(source)
    bitmill("quantize", source, "-o", copy, "--to", "q8_0", code=2)
    bitmill("quantize", source, "-o", copy, "--to", "q8_0", "--force")
    assert sha(copy) != sha(source) and os.listdir(tmp_path) == ["copy.gguf"]
    weights = matrices()
    weights["blk.0.attn_q.weight"][3, 5] = np.nan
    bad = write(tmp_path / "nan.gguf", weights)
    message = bitmill("quantize", bad, "-o", tmp_path / "y.gguf", "--to", "q4_k", code=3).err
    assert "blk.0.attn_q.weight" in message and "NaN" in message and f"element {3 * 256 + 5}" in message


def test_include_exclude_override_embeddings(bitmill, source, tmp_path):
    bitmill("quantize", source, "-o", tmp_path / "a.gguf", "--to", "q4_0", "--exclude", "attn_q",
            "--override", "ffn_down=q8_0", "--embeddings", "keep", "--include", "blk|^output.weight")
    kinds = {name: t.tensor_type.name for name, t in read(tmp_path / "a.gguf").items()}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == "F32"
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0" and kinds["output.weight"] == "Q4_0"
    bitmill("quantize", source, "-o", tmp_path / "b.gguf", "--to", "q4_0", "--embeddings", "fp16")
    assert read(tmp_path / "b.gguf")["token_embd.weight"].tensor_type == Q.F16
