"""Integers of folders as Q4_0 and Q8_0 of GGUF and back: gguf-py says what the blocks mean, its table what the names are."""

import json

import gguf
import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

from conftest import leftovers, load_model, read_tensors, tree_hashes
from test_foreign import AWQ, awq_parts, gptq_config, gptq_parts, same, save_parts
from test_gguf_mill import floats, keys, read

HEADS = {"q_proj": 4, "k_proj": 2}
LINEARS = "model.layers.1.mlp.down_proj"


def model_of(architecture):
    import transformers

    torch.manual_seed(11)
    size = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                intermediate_size=128, vocab_size=300, tie_word_embeddings=architecture.startswith("gemma"))  # fmt: skip
    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma2", "gemma3": "Gemma3"}[architecture]
    config = getattr(transformers, f"{name}{'Text' if name == 'Gemma3' else ''}Config")(**size)
    return getattr(transformers, f"{name}ForCausalLM")(config).half().eval()


def in_order(architecture, name, values):
    """The rows as convert_hf_to_gguf.py lays them out."""
    heads = HEADS.get(name.split(".")[-2])
    if architecture != "llama" or heads is None:
        return values
    return values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def names_of(architecture):
    kind = next(one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, 3)
    return lambda name: names.get_name(name, try_suffixes=(".weight", ".bias"))


def write(path, architecture, tensors, kind=gguf.GGMLQuantizationType.F16, kinds=None, order=in_order, label=None):
    writer = gguf.GGUFWriter(str(path), label or architecture)
    writer.add_custom_alignment(64)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_file_type(1)
    writer.add_token_list([f"täken{i}" for i in range(300)])
    for name, tensor in tensors.items():
        values = order(architecture, name, tensor.float().numpy())
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        one = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else (kinds or {}).get(name, kind)
        writer.add_tensor(names_of(architecture)(name), gguf.quants.quantize(np.ascontiguousarray(values), one), raw_dtype=one)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def integers(folder):
    """name -> codes times scales in float32, of every coded Linear of a compressed-tensors folder."""
    tensors, bits = read_tensors(folder), quantization(folder)["config_groups"]["group_0"]["weights"]["num_bits"]
    meant = {}
    for name, words in tensors.items():
        if name.endswith(".weight_packed"):
            weight = name.removesuffix("_packed")
            codes = unpack_from_int32(words, bits, torch.Size(tensors[f"{weight}_shape"].tolist())).float()
            scale = tensors[f"{weight}_scale"].float()
            meant[weight] = (codes * scale.repeat_interleave(codes.shape[1] // scale.shape[1], 1)).numpy()
    return meant


def quantization(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """models(architecture) -> folder, and its tensors."""
    base, made = tmp_path_factory.mktemp("models"), {}

    def get(architecture):
        if architecture not in made:
            model_of(architecture).save_pretrained(base / architecture)
            made[architecture] = base / architecture, read_tensors(base / architecture)
        return made[architecture]

    return get


def check_file(architecture, out, template, meant, kind):
    """Blocks of coded matrices mean what the folder means; the rest is the template's, byte for byte."""
    before, after, name_of = read(template), read(out), names_of(architecture)
    coded = {name_of(name): in_order(architecture, name, values) for name, values in meant.items()}
    assert list(after) == list(before) and coded
    for name, tensor in after.items():
        assert tensor.data_offset % 64 == 0
        assert list(tensor.shape) == list(before[name].shape)
        if name in coded:
            assert tensor.tensor_type.name == kind
            assert np.array_equal(floats(tensor), coded[name]), name
        else:
            assert tensor.tensor_type == before[name].tensor_type
            assert tensor.data.tobytes() == before[name].data.tobytes(), name
    changed = {name for name, value in keys(template).items() if value != keys(out)[name]}
    assert changed == {"general.file_type"}
    fields = gguf.GGUFReader(str(out)).fields
    assert fields["general.file_type"].contents() == {"Q4_0": 2, "Q8_0": 7}[kind]
    assert fields["general.quantization_version"].contents() == 2


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma2", "gemma3"])
@pytest.mark.parametrize("level", ["int4", "int8"])
def test_there_and_back(level, architecture, bitmill, models, tmp_path):
    folder, tensors = models(architecture)
    template = write(tmp_path / "like.gguf", architecture, tensors)
    bitmill("quantize", folder, "-o", tmp_path / "first", "--to", level, "--group-size", "32")
    out, kind = tmp_path / "out.gguf", {"int4": "Q4_0", "int8": "Q8_0"}[level]
    to = ["-o", out, "--format", "gguf", "--like", template, "--json"]
    planned = bitmill("convert", tmp_path / "first", *to, "--dry-run").json()
    assert not out.exists()
    report = bitmill("convert", tmp_path / "first", *to).json()
    assert report["format"] == "gguf" and out.stat().st_size == report["bytes"] == planned["bytes"]
    assert leftovers(tmp_path, "first") == ["like.gguf", "out.gguf"]
    meant = integers(tmp_path / "first")
    assert len(meant) == 14
    check_file(architecture, out, template, meant, kind)

    back = ["-o", tmp_path / "back", "--format", "compressed-tensors", "--like", folder, "--json"]
    report = bitmill("convert", out, *back).json()
    assert not report["warnings"] and report["format"] == "compressed-tensors"
    first, again = read_tensors(tmp_path / "first"), read_tensors(tmp_path / "back")
    assert first.keys() == again.keys()
    assert not [name for name in first if not same(first[name], again[name])]
    assert (tmp_path / "back/config.json").read_text() == (tmp_path / "first/config.json").read_text()
    load_model(tmp_path / "back", type(model_of(architecture)).__name__)


@pytest.mark.parametrize("options", [["int4", "--group-size", "64"], ["int4", "--per-channel"], ["int8"]])
def test_a_scale_of_more_than_32_is_that_of_each_of_its_blocks(options, bitmill, models, tmp_path):
    folder, tensors = models("llama")
    template = write(tmp_path / "like.gguf", "llama", tensors, gguf.GGMLQuantizationType.Q4_0)
    bitmill("quantize", folder, "-o", tmp_path / "first", "--to", *options)
    out = tmp_path / "out.gguf"
    bitmill("convert", tmp_path / "first", "-o", out, "--format", "gguf", "--like", template)
    check_file("llama", out, template, integers(tmp_path / "first"), {"int4": "Q4_0", "int8": "Q8_0"}[options[0]])


def test_integers_in_bytes_and_in_words_of_gptq_and_awq(bitmill, models, tmp_path):
    folder, tensors = models("llama")
    template = write(tmp_path / "like.gguf", "llama", tensors)
    bitmill("quantize", folder, "-o", tmp_path / "first", "--to", "int4", "--group-size", "32")
    files = []
    for to in ("gptq", "awq", "compressed-tensors"):
        bitmill("convert", tmp_path / "first", "-o", tmp_path / to, "--format", to)
        bitmill("convert", tmp_path / to, "-o", tmp_path / f"{to}.gguf", "--format", "gguf", "--like", template)
        files.append((tmp_path / f"{to}.gguf").read_bytes())
    assert files[0] == files[1] == files[2]

    bitmill("quantize", folder, "-o", tmp_path / "bytes", "--to", "int8", "--activation", "dynamic-int8")
    path = tmp_path / "bytes/config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["config_groups"]["group_0"]["input_activations"] = None
    path.write_text(json.dumps(config))
    coded = read_tensors(tmp_path / "bytes")
    meant = {
        name.removesuffix("_scale"): (coded[name.removesuffix("_scale")].float() * coded[name].float()).numpy()
        for name in coded if name.endswith("_scale")
    }  # fmt: skip
    assert coded[f"{LINEARS}.weight"].dtype == torch.int8
    bitmill("convert", tmp_path / "bytes", "-o", tmp_path / "bytes.gguf", "--format", "gguf", "--like", template)
    check_file("llama", tmp_path / "bytes.gguf", template, meant, "Q8_0")


def test_shards_and_threads_change_no_byte(bitmill, models, tmp_path):
    folder, tensors = models("llama")
    template = write(tmp_path / "like.gguf", "llama", tensors)
    model_of("llama").save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    sources = {"one": folder, "many": tmp_path / "shards"}
    for name, source in sources.items():
        bitmill("quantize", source, "-o", tmp_path / name, "--to", "int4", "--group-size", "32")
        options = ["-o", tmp_path / f"{name}.gguf", "--format", "gguf", "--like", template]
        bitmill("convert", tmp_path / name, *options, "--threads", {"one": 1, "many": 3}[name])
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "many.gguf").read_bytes()
    options = ["-o", tmp_path / "back", "--format", "compressed-tensors", "--like", sources["many"]]
    bitmill("convert", tmp_path / "many.gguf", *options)
    assert tree_hashes(tmp_path / "back") == {
        name: value for name, value in tree_hashes(tmp_path / "many").items() if name != "manifest.json"
    }
    little = ["-o", tmp_path / "none", "--format", "compressed-tensors", "--like", folder, "--memory-limit", "1K"]
    assert "memory limit" in bitmill("convert", tmp_path / "many.gguf", *little, code=5).err
    assert not (tmp_path / "none").exists()


def refused(bitmill, model, to, like, out, *words, options=()):
    what = ["--like", like] if like else []
    for more in (["--dry-run"], []):
        done = bitmill("convert", model, "-o", out, "--format", to, *what, *more, *options, code=None)
        assert done.code in (2, 3, 6), done
        for word in words:
            assert word in done.err, done.err
        assert not out.exists() or options


def test_what_has_no_blocks_is_refused(bitmill, models, tmp_path):
    folder, tensors = models("llama")
    template, out = write(tmp_path / "like.gguf", "llama", tensors), tmp_path / "out.gguf"

    def no(model, *words, like=template):
        refused(bitmill, model, "gguf", like, out, *words)

    for name, parts, config, why in (
        ("awq", awq_parts(32), AWQ, "zero points"),
        ("act-order", gptq_parts(4, 32, True, False), gptq_config(4, 32, False), "act-order"),
        ("two", gptq_parts(2, 32, False, False), gptq_config(2, 32, False), "2 bits"),
    ):
        save_parts(tmp_path / name, parts, config)
        no(tmp_path / name, why, "model.layers.0")
    bitmill("quantize", folder, "-o", tmp_path / "16", "--to", "int4", "--group-size", "16")
    no(tmp_path / "16", "groups of 16", "model.layers.0")
    model_of("llama").float().save_pretrained(tmp_path / "wide")
    bitmill("quantize", tmp_path / "wide", "-o", tmp_path / "f32", "--to", "int4", "--group-size", "32")
    no(tmp_path / "f32", "scales are F32", "row 0, group ", "model.layers.0")
    no(folder, "no quantized weights")
    bitmill("quantize", folder, "-o", tmp_path / "good", "--to", "int4", "--group-size", "32")
    no(tmp_path / "good", "--like", like=None)
    no(tmp_path / "good", "is no .gguf", like=folder)
    usage = bitmill("convert", tmp_path / "good", "-o", tmp_path / "x", "--format", "gguf", "--like", template, code=2)
    assert "ends in .gguf" in usage.err
    same_file = bitmill("convert", tmp_path / "good", "-o", template, "--format", "gguf", "--like", template, "--force", code=2)
    assert "is the model that is read" in same_file.err
    needless = bitmill("convert", tmp_path / "good", "-o", tmp_path / "x", "--format", "gptq", "--like", template, code=2)
    assert "template for GGUF" in needless.err


def test_another_model_is_refused(bitmill, models, tmp_path):
    folder, tensors = models("llama")
    bitmill("quantize", folder, "-o", tmp_path / "first", "--to", "int4", "--group-size", "32")

    def no(like, *words):
        refused(bitmill, tmp_path / "first", "gguf", like, tmp_path / "out.gguf", *words)

    no(write(tmp_path / "1.gguf", "llama", tensors, order=lambda _, name, values: values), "self_attn", "another order")
    no(write(tmp_path / "2.gguf", "llama", tensors, label="phi3"), "architecture 'phi3'", "qwen2")
    bent = {name: t * torch.linspace(0.5, 2, len(t)) if name.endswith("1.input_layernorm.weight") else t for name, t in tensors.items()}
    no(write(tmp_path / "3.gguf", "llama", bent), "model.layers.1.input_layernorm", "another norm")
    less = {name: t for name, t in tensors.items() if "1.mlp.down" not in name}
    no(write(tmp_path / "4.gguf", "llama", less), LINEARS, "no tensor for it")
    wide = {name: torch.cat([t, t]) if "1.mlp.down" in name else t for name, t in tensors.items()}
    no(write(tmp_path / "5.gguf", "llama", wide), LINEARS, "its shape differs")
    more = {**tensors, "model.layers.2.mlp.up_proj.weight": tensors["model.layers.1.mlp.up_proj.weight"]}
    no(write(tmp_path / "6.gguf", "llama", more), "blk.2.ffn_up.weight", "no counterpart")


def test_what_a_file_cannot_become_is_refused(bitmill, models, tmp_path):
    Q = gguf.GGMLQuantizationType
    folder, tensors = models("llama")
    out = tmp_path / "out"
    good = write(tmp_path / "good.gguf", "llama", tensors, Q.Q8_0)

    def no(model, *words, to="compressed-tensors", like=folder):
        refused(bitmill, model, to, like, out, *words)

    no(good, "compressed-tensors first", to="gptq")
    no(good, "compressed-tensors first", to="awq")
    no(good, "is a .gguf already", to="gguf")
    no(good, "--like", like=None)
    no(good, "no Hugging Face folder", like=good)
    bitmill("quantize", folder, "-o", tmp_path / "first", "--to", "int4", "--group-size", "32")
    no(good, "is quantized", like=tmp_path / "first")
    odd = write(tmp_path / "odd.gguf", "llama", tensors, Q.Q8_0, {f"{LINEARS}.weight": Q.Q4_1})
    no(odd, "Q4_1", "minima", "dequantize", "blk.1.ffn_down.weight")
    no(write(tmp_path / "plain.gguf", "llama", tensors), "no Q4_0 or Q8_0")
    no(write(tmp_path / "order.gguf", "llama", tensors, Q.Q8_0, order=lambda _, name, values: values), "another order")


def test_a_file_of_several_types(bitmill, models, tmp_path):
    """Q8_0, Q4_0 and F16 side by side; embeddings and head stay those of the folder, with a word."""
    Q = gguf.GGMLQuantizationType
    folder, tensors = models("llama")
    kinds = {f"{LINEARS}.weight": Q.Q8_0, "model.layers.0.mlp.up_proj.weight": Q.F16}
    source = write(tmp_path / "mixed.gguf", "llama", tensors, Q.Q4_0, kinds)
    options = ["-o", tmp_path / "out", "--format", "compressed-tensors", "--like", folder]
    report = bitmill("convert", source, *options, "--json").json()
    assert sorted(one.split()[0] for one in report["warnings"]) == ["output.weight", "token_embd.weight"]
    bitmill("dequantize", tmp_path / "out", "-o", tmp_path / "plain", "--dtype", "f32")
    plain, blocks, name_of = read_tensors(tmp_path / "plain"), read(source), names_of("llama")
    for name, tensor in tensors.items():
        there = blocks[name_of(name)]
        if there.tensor_type in (Q.Q4_0, Q.Q8_0) and ".layers." in name:
            assert np.array_equal(in_order("llama", name, plain[name].numpy()), floats(there)), name
        else:
            assert torch.equal(plain[name], tensor.float()), name
    groups = quantization(tmp_path / "out")["config_groups"]
    assert {one["weights"]["num_bits"] for one in groups.values()} == {4, 8}
    load_model(tmp_path / "out", "LlamaForCausalLM")
    usage = bitmill("convert", source, *options, code=None)
    assert usage.code != 0 and "--force" in usage.err
    inside = bitmill("convert", source, "-o", tmp_path, "--format", "compressed-tensors", "--like", folder, "--force", code=2)
    assert "holds the model that is read" in inside.err
