"""Integers of folders as Q4_0 and Q8_0 of GGUF and back: gguf-py says what the blocks mean, its table what the names are."""

import json
import shutil

import gguf
import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from safetensors.torch import load_file, save_file

from conftest import leftovers, load_model, read_tensors, tree_hashes
from test_foreign import AWQ, awq_parts, gptq_config, gptq_parts, same, save_parts
from test_gguf_mill import floats, keys, read

HEADS = {"q_proj": 4, "k_proj": 2}
LINEARS = "model.layers.1.mlp.down_proj"


def model_of(architecture, **changes):
    """Biases and norms are no zeros and ones, as they are when a model is new."""
    import transformers

    torch.manual_seed(11)
    size = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                intermediate_size=128, vocab_size=300, tie_word_embeddings=architecture.startswith("gemma"))  # fmt: skip
    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma2", "gemma3": "Gemma3"}[architecture]
    config = getattr(transformers, f"{name}{'Text' if name == 'Gemma3' else ''}Config")(**{**size, **changes})
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for one in model.parameters():
        if one.dim() == 1:
            torch.nn.init.normal_(one, std=0.3)
    return model.half().eval()


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


def keys_of(architecture):
    """What convert_hf_to_gguf.py writes of model_of()."""
    context = {"llama": 2048, "gemma2": 8192, "gemma3": 131072}.get(architecture, 32768)
    said = {"block_count": 2, "context_length": context, "embedding_length": 64, "feed_forward_length": 128,
            "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 16, "attention.value_length": 16,
            "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1e6 if architecture == "gemma3" else 1e4}  # fmt: skip
    if architecture == "llama":
        said |= {"vocab_size": 300, "rope.dimension_count": 16}
    if architecture.startswith("gemma"):
        said["attention.sliding_window"] = 4096
    if architecture == "gemma2":
        said |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    return said


def write(path, architecture, tensors, kind=gguf.GGMLQuantizationType.F16, kinds=None, order=in_order, label=None, said=None, words=300):
    """`said`: other keys than keys_of(), None for none; `words`: how many tokens."""
    writer = gguf.GGUFWriter(str(path), label or architecture)
    writer.add_custom_alignment(64)
    for key, value in {**keys_of(architecture), **(said or {})}.items():
        if isinstance(value, str):
            writer.add_string(f"{architecture}.{key}", value)
        elif isinstance(value, list):
            writer.add_array(f"{architecture}.{key}", value)
        elif value is not None:
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"{architecture}.{key}", value)
    writer.add_file_type(1)
    if words:
        writer.add_token_list([f"täken{i}" for i in range(words)])
    for name, tensor in tensors.items():
        values = order(architecture, name, tensor.float().numpy())
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        one = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else (kinds or {}).get(name, kind)
        writer.add_tensor(names_of(architecture)(name) or name, gguf.quants.quantize(np.ascontiguousarray(values), one), raw_dtype=one)
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


def config_of(folder, **changes):
    """Changes config.json; None takes a key away."""
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


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
    no(write(tmp_path / "3.gguf", "llama", bent), "model.layers.1.input_layernorm", "another norm", "element 0")
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


def with_row(tensors, name, row, change):
    """The tensors with another row `row` of `name`."""
    other = tensors[name].clone()
    other[row] = change(other[row])
    return {**tensors, name: other}


KEYS = [  # of which model, with which keys and how many tokens instead, and what the error says
    ("llama", {"block_count": 3}, 300, ["llama.block_count is 3", "num_hidden_layers there is 2"]),
    ("llama", {"embedding_length": 128}, 300, ["llama.embedding_length", "hidden_size"]),
    ("llama", {"embedding_length": None}, 300, ["llama.embedding_length is missing", "hidden_size"]),
    ("llama", {"feed_forward_length": 64}, 300, ["llama.feed_forward_length", "intermediate_size"]),
    ("llama", {"feed_forward_length": [128, 64]}, 300, ["llama.feed_forward_length is no number"]),
    ("llama", {"context_length": 4096}, 300, ["llama.context_length", "max_position_embeddings there is 2048"]),
    ("llama", {"attention.head_count": 2}, 300, ["llama.attention.head_count is 2", "num_attention_heads there is 4"]),
    ("llama", {"attention.head_count_kv": 1}, 300, ["llama.attention.head_count_kv", "num_key_value_heads"]),
    ("llama", {"attention.head_count_kv": None}, 300, ["llama.attention.head_count_kv is missing, so 4"]),
    ("qwen2", {"attention.head_count_kv": 4}, 300, ["qwen2.attention.head_count_kv", "num_key_value_heads"]),
    ("llama", {"attention.key_length": 32}, 300, ["llama.attention.key_length", "head_dim"]),
    ("llama", {"attention.value_length": 8}, 300, ["llama.attention.value_length", "head_dim"]),
    ("llama", {"attention.layer_norm_rms_epsilon": 1e-5}, 300, ["layer_norm_rms_epsilon", "rms_norm_eps"]),
    ("llama", {"attention.layer_norm_rms_epsilon": None}, 300, ["layer_norm_rms_epsilon is missing", "rms_norm_eps"]),
    ("llama", {"attention.sliding_window": 128}, 300, ["llama.attention.sliding_window is 128"]),
    ("llama", {"expert_count": 4}, 300, ["llama.expert_count is 4"]),
    ("llama", {"rope.dimension_count": 8}, 300, ["llama.rope.dimension_count"]),
    ("llama", {"rope.freq_base": 5e5}, 300, ["llama.rope.freq_base is 500000", "rope_theta there is 10000"]),
    ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, 300, ["llama.rope.scaling.type is 'linear'"]),
    ("llama", {"rope.scaling.factor": 2.0}, 300, ["llama.rope.scaling.type is missing, so 'linear' by 2"]),
    ("llama", {"rope.scale_linear": 2.0}, 300, ["llama.rope.scaling.type is missing, so 'linear' by 2"]),
    ("llama", {"rope.scaling.attn_factor": 2.0}, 300, ["llama.rope.scaling.attn_factor is 2"]),
    ("llama", {"vocab_size": 301}, 300, ["llama.vocab_size is 301"]),
    ("llama", {}, 299, ["tokenizer.ggml.tokens is 299 tokens", "vocab_size there is 300"]),
    ("llama", {}, 0, ["tokenizer.ggml.tokens is missing", "vocab_size"]),
    ("gemma2", {"attn_logit_softcapping": 40.0}, 300, ["gemma2.attn_logit_softcapping is 40"]),
    ("gemma2", {"final_logit_softcapping": 20.0}, 300, ["gemma2.final_logit_softcapping is 20"]),
    ("gemma2", {"attention.sliding_window": 1024}, 300, ["gemma2.attention.sliding_window is 1024"]),
    ("gemma3", {"attention.sliding_window": None}, 300, ["gemma3.attention.sliding_window is missing"]),
    ("gemma3", {"final_logit_softcapping": 30.0}, 300, ["gemma3.final_logit_softcapping is 30"]),
    ("gemma3", {"rope.freq_base": None}, 300, ["gemma3.rope.freq_base is missing, so 10000", "there is 1000000"]),
    ("gemma3", {"rope.freq_base_swa": 2e4}, 300, ["gemma3.rope.freq_base_swa is 20000", "rope_local_base_freq"]),
]


@pytest.fixture(scope="module")
def coded(bitmill, models, tmp_path_factory):
    """coded(architecture) -> its folder with int4 in groups of 32."""
    base, made = tmp_path_factory.mktemp("coded"), {}

    def get(architecture):
        if architecture not in made:
            made[architecture] = base / architecture
            bitmill("quantize", models(architecture)[0], "-o", made[architecture], "--to", "int4", "--group-size", "32")
        return made[architecture]

    return get


@pytest.mark.parametrize("architecture, said, words, why", KEYS)
def test_keys_of_another_model_are_refused(architecture, said, words, why, bitmill, models, coded, tmp_path):
    folder, tensors = models(architecture)
    file = write(tmp_path / "like.gguf", architecture, tensors, gguf.GGMLQuantizationType.Q8_0, said=said, words=words)
    refused(bitmill, coded(architecture), "gguf", file, tmp_path / "out.gguf", "not the same model", "like.gguf", *why)
    refused(bitmill, file, "compressed-tensors", folder, tmp_path / "out", "not the same model", "like.gguf", *why)


def test_a_key_that_cannot_be_compared_is_refused(bitmill, models, coded, tmp_path):
    folder, tensors = models("llama")
    for said in ({"attention.scale": 0.5}, {"logit_scale": 2.0}, {"attention.causal": 0}):
        file = write(tmp_path / "like.gguf", "llama", tensors, gguf.GGMLQuantizationType.Q8_0, said=said)
        refused(bitmill, coded("llama"), "gguf", file, tmp_path / "out.gguf", *said, "cannot compare")


def test_a_head_beside_embeddings_that_are_tied_is_theirs(bitmill, models, coded, tmp_path):
    folder, tensors = models("llama")
    file = write(tmp_path / "like.gguf", "llama", tensors)
    assert not torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    shutil.copytree(coded("llama"), tmp_path / "tied")
    config_of(tmp_path / "tied", tie_word_embeddings=True)
    refused(bitmill, tmp_path / "tied", "gguf", file, tmp_path / "out.gguf", "lm_head", "token_embd")


ROPE = {"rope_parameters": None}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "beta_fast": 16}
YARN_KEYS = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 512,
             "rope.scaling.yarn_beta_fast": 16.0}  # fmt: skip
SAID = [  # config.json, keys of the file, and what the error says: None where both say the same
    ("llama", {"rms_norm_eps": None, "max_position_embeddings": None, **ROPE}, {"rope.freq_base": None}, None),
    ("llama", {"head_dim": None, "num_key_value_heads": 2}, {"attention.key_length": None, "attention.value_length": None}, None),
    ("llama", {"num_key_value_heads": None}, {}, "head_count_kv"),
    ("llama", {"hidden_size": None}, {}, "hidden_size there is missing"),
    ("llama", {"num_attention_heads": "4"}, {}, "num_attention_heads there is no number"),
    ("llama", {"model_type": None}, {}, "is of model_type ''"),
    ("llama", {"model_type": "phi3"}, {}, "is of model_type 'phi3'"),
    ("llama", {"model_type": "qwen2"}, {}, "general.architecture is 'llama'"),
    ("llama", {"model_type": "mistral", "sliding_window": 4096}, {}, None),
    ("llama", {"model_type": "mistral", "sliding_window": 4096}, {"attention.sliding_window": 128}, "sliding_window"),
    ("llama", {"rope_theta": 5e5, **ROPE}, {"rope.freq_base": 5e5}, None),
    ("llama", {"rope_theta": 5e5, **ROPE}, {"rope.freq_base": None}, "missing, so 10000"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}, **ROPE}, {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, None),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}, **ROPE}, {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, "scaling.factor"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}, **ROPE}, {}, "rope.scaling.type is missing, so 'none'"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}, **ROPE}, {"rope.scaling.factor": 2.0}, None),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}, **ROPE}, {"rope.scale_linear": 2.0}, None),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}, **ROPE}, {"rope.scaling.type": "linear", "rope.scale_linear": 2.0}, None),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}, **ROPE}, {}, "rope_scaling there is 'dynamic'"),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, {}, "rope.dimension_count"),
    ("llama", {"hidden_act": "gelu"}, {}, "hidden_act"),
    ("gemma2", {"hidden_activation": "silu"}, {}, "hidden_activation"),
    ("qwen2", {"rope_scaling": YARN, **ROPE}, {**YARN_KEYS, "rope.scaling.attn_factor": 3.0}, "scaling.attn_factor"),
    ("qwen2", {"rope_scaling": YARN, **ROPE}, YARN_KEYS, None),
    ("qwen2", {"rope_scaling": YARN, **ROPE}, {**YARN_KEYS, "rope.scaling.original_context_length": None}, "original_context_length"),
    ("qwen2", {"rope_scaling": YARN, **ROPE}, {**YARN_KEYS, "rope.scaling.yarn_beta_fast": None}, "yarn_beta_fast"),
    ("qwen2", {"rope_scaling": YARN, **ROPE}, {**YARN_KEYS, "rope.scaling.yarn_beta_slow": 2.0}, "yarn_beta_slow"),
    ("qwen2", {"rope_scaling": YARN, **ROPE}, {**YARN_KEYS, "rope.scaling.yarn_attn_factor": 2.0}, "yarn_attn_factor"),
    ("qwen3", {"head_dim": None}, {}, "head_dim there is 128"),
    ("gemma2", {}, {"attention.sliding_window": None, "attn_logit_softcapping": None, "final_logit_softcapping": None}, None),
    ("gemma2", {"final_logit_softcapping": 20.0}, {"final_logit_softcapping": None}, "final_logit_softcapping"),
    ("gemma3", {"rope_theta": 1e6, "rope_local_base_freq": 2e4, **ROPE}, {"rope.freq_base_swa": 2e4}, None),
    ("gemma3", {"rope_theta": 1e6, "rope_local_base_freq": 2e4, **ROPE}, {}, "rope.freq_base_swa"),
]  # fmt: skip


@pytest.mark.parametrize("architecture, config, said, why", SAID)
def test_what_config_does_not_say_has_a_default(architecture, config, said, why, bitmill, models, coded, tmp_path):
    folder, tensors = models(architecture)
    file = write(tmp_path / "like.gguf", architecture, tensors, gguf.GGMLQuantizationType.Q8_0, said=said)
    for source in (coded(architecture), folder):
        shutil.copytree(source, tmp_path / source.parent.name)
        config_of(tmp_path / source.parent.name, **config)
    ways = [(tmp_path / "coded0", "gguf", file), (file, "compressed-tensors", tmp_path / "models0")]
    for model, to, like in ways:
        if why:
            refused(bitmill, model, to, like, tmp_path / "out.gguf", why, "config.json")
        else:
            bitmill("convert", model, "-o", tmp_path / "out.gguf", "--format", to, "--like", like, "--dry-run")


def test_factors_of_llama3(bitmill, tmp_path):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}  # fmt: skip
    model = model_of("llama", rope_parameters=rope)
    model.save_pretrained(tmp_path / "folder")
    tensors = read_tensors(tmp_path / "folder")
    factors = 1e4 ** -(torch.arange(0, 16, 2) / 16) / ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")[0]
    assert len(set(factors.tolist())) > 3
    bitmill("quantize", tmp_path / "folder", "-o", tmp_path / "first", "--to", "int4", "--group-size", "32")
    name, Q8 = "rope_freqs.weight", gguf.GGMLQuantizationType.Q8_0
    good = write(tmp_path / "good.gguf", "llama", {**tensors, name: factors}, Q8)
    check = ["--format", "gguf", "--like", good]
    bitmill("convert", tmp_path / "first", "-o", tmp_path / "out.gguf", *check)
    bitmill("convert", good, "-o", tmp_path / "out", "--format", "compressed-tensors", "--like", tmp_path / "folder")
    for case, more in {"none": {}, "ones": {name: torch.ones(8)}, "short": {name: factors[:7]}}.items():
        file = write(tmp_path / f"{case}.gguf", "llama", {**tensors, **more}, Q8)
        refused(bitmill, tmp_path / "first", "gguf", file, tmp_path / "no.gguf", name, "rope_scaling")
        refused(bitmill, file, "compressed-tensors", tmp_path / "folder", tmp_path / "no", name, "rope_scaling")
    config_of(tmp_path / "first", rope_parameters=None)
    refused(bitmill, tmp_path / "first", "gguf", good, tmp_path / "no.gguf", name, "no counterpart")


L = "model.layers.1"
TENSORS = [  # what of the file is another model's, and what the error says
    ("llama", lambda t: with_row(t, f"{L}.mlp.up_proj.weight", 70, lambda row: row.flip(0)), f"{L}.mlp.up_proj.weight", "row 70"),
    ("qwen3", lambda t: with_row(t, f"{L}.self_attn.q_proj.weight", 33, torch.neg), f"{L}.self_attn.q_proj.weight", "row 33"),
    ("llama", lambda t: with_row(t, f"{L}.mlp.up_proj.weight", 70, lambda row: row * 1.6), f"{L}.mlp.up_proj.weight", "row 70"),
    ("llama", lambda t: with_row(t, f"{L}.mlp.up_proj.weight", 70, lambda row: row * 0), f"{L}.mlp.up_proj.weight", "row 70"),
    ("llama", lambda t: with_row(t, "model.embed_tokens.weight", 151, torch.neg), "model.embed_tokens.weight", "row 151"),
    ("llama", lambda t: with_row(t, "lm_head.weight", 299, lambda row: row * 1.1), "lm_head.weight", "row 299"),
    ("llama", lambda t: with_row(t, f"{L}.input_layernorm.weight", 7, lambda one: one * 1.01), f"{L}.input_layernorm", "element 7"),
    ("gemma3", lambda t: with_row(t, f"{L}.self_attn.k_norm.weight", 15, lambda one: one + 0.01), f"{L}.self_attn.k_norm", "element 15"),
    ("gemma2", lambda t: with_row(t, "model.norm.weight", 63, lambda one: one + 1), "model.norm.weight", "element 63"),
    ("qwen2", lambda t: with_row(t, f"{L}.self_attn.v_proj.bias", 31, torch.neg), f"{L}.self_attn.v_proj.bias", "row 31"),
    ("qwen2", lambda t: {n: v for n, v in t.items() if n != f"{L}.self_attn.q_proj.bias"}, f"{L}.self_attn.q_proj.bias", "no tensor for it"),
    ("llama", lambda t: {**t, f"{L}.self_attn.o_proj.bias": torch.zeros(64)}, "blk.1.attn_output.bias", "no counterpart"),
    ("llama", lambda t: {n: v for n, v in t.items() if n != f"{L}.input_layernorm.weight"}, f"{L}.input_layernorm", "no tensor for it"),
    ("llama", lambda t: {n: v for n, v in t.items() if n != "lm_head.weight"}, "lm_head.weight", "token_embd.weight"),
    ("gemma2", lambda t: {**t, "output.weight": torch.neg(t["model.embed_tokens.weight"])}, "model.embed_tokens.weight", "output.weight"),
    ("llama", lambda t: {**t, "model.embed_tokens.weight": t["model.embed_tokens.weight"][:299]}, "model.embed_tokens.weight", "its shape"),
    ("llama", lambda t: {**t, "rope_freqs.weight": torch.ones(8)}, "rope_freqs.weight", "no counterpart"),
    ("llama", lambda t: {**t, "odd.weight": torch.ones(8)}, "odd.weight", "no counterpart"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
@pytest.mark.parametrize("architecture, change, name, why", TENSORS)
def test_tensors_of_another_model_are_refused(architecture, change, name, why, kind, bitmill, models, coded, tmp_path):
    """F16 has no integers to go back: one of another matrix that is left in Q8_0 does for both ways."""
    folder, tensors = models(architecture)
    Q = gguf.GGMLQuantizationType
    changed = change({key: one.clone() for key, one in tensors.items()})
    file = write(tmp_path / "like.gguf", architecture, changed, Q[kind], {"model.layers.0.mlp.down_proj.weight": Q.Q8_0})
    refused(bitmill, coded(architecture), "gguf", file, tmp_path / "out.gguf", name, why)
    refused(bitmill, file, "compressed-tensors", folder, tmp_path / "out", name, why)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_types_round_away_is_one_model(dtype, kind, bitmill, tmp_path):
    """The file is made of the F32 model, of whose own rounding the folder knows nothing; biases of q and k are permuted, too."""
    model = model_of("llama", attention_bias=True, mlp_bias=True).float()
    with torch.no_grad():
        for one in model.parameters():
            one *= 1 + torch.rand_like(one) * 2**-9
    tensors = {name: one.clone() for name, one in model.state_dict().items()}
    assert f"{L}.self_attn.q_proj.bias" in tensors
    model.to(dtype).save_pretrained(tmp_path / "folder")
    model.half().save_pretrained(tmp_path / "half")  # whose scales are F16
    bitmill("quantize", tmp_path / "half", "-o", tmp_path / "first", "--to", "int8" if kind == "Q8_0" else "int4", "--group-size", "32")
    path, plain = tmp_path / "first/model.safetensors", read_tensors(tmp_path / "folder")
    save_file({name: plain.get(name, one) for name, one in load_file(path).items()}, path, metadata={"format": "pt"})
    file = write(tmp_path / "like.gguf", "llama", tensors, gguf.GGMLQuantizationType[kind])
    bitmill("convert", tmp_path / "first", "-o", tmp_path / "out.gguf", "--format", "gguf", "--like", file)
    if kind in ("Q8_0", "Q4_0"):
        bitmill("convert", file, "-o", tmp_path / "out", "--format", "compressed-tensors", "--like", tmp_path / "folder")
    swapped = {**tensors, f"{L}.self_attn.k_proj.bias": tensors[f"{L}.self_attn.k_proj.bias"].view(2, 2, 8).swapaxes(1, 2).reshape(32)}
    no = write(tmp_path / "no.gguf", "llama", swapped, gguf.GGMLQuantizationType[kind])
    refused(bitmill, tmp_path / "first", "gguf", no, tmp_path / "no-out.gguf", f"{L}.self_attn.k_proj.bias")


def test_an_element_of_an_embedding_a_step_away_is_another(bitmill, models, coded, tmp_path):
    folder, tensors = models("llama")
    Q8 = gguf.GGMLQuantizationType.Q8_0
    name = "model.embed_tokens.weight"
    step = tensors[name][5, :32].abs().max().item() / 127
    for far, why in ((0.0, None), (1.1, "row 5")):
        file = write(tmp_path / "like.gguf", "llama", with_row(tensors, name, 5, lambda row: row + far * step * (torch.arange(64) == 9)), Q8)
        if why:
            refused(bitmill, coded("llama"), "gguf", file, tmp_path / "no.gguf", name, why)
            refused(bitmill, file, "compressed-tensors", folder, tmp_path / "no", name, why)
        else:
            bitmill("convert", coded("llama"), "-o", tmp_path / "out.gguf", "--format", "gguf", "--like", file)


def test_a_tied_head_may_stand_in_the_file(bitmill, models, coded, tmp_path):
    folder, tensors = models("gemma2")
    both = {**tensors, "output.weight": tensors["model.embed_tokens.weight"]}
    file = write(tmp_path / "like.gguf", "gemma2", both, gguf.GGMLQuantizationType.Q8_0)
    bitmill("convert", coded("gemma2"), "-o", tmp_path / "out.gguf", "--format", "gguf", "--like", file)
    bitmill("convert", file, "-o", tmp_path / "out", "--format", "compressed-tensors", "--like", folder)
    assert "lm_head.weight" not in read_tensors(tmp_path / "out")


@pytest.mark.parametrize("level", ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"])
def test_a_template_of_other_blocks(level, bitmill, tmp_path):
    """Blocks of 256 of each width are near enough to 4 and to 8 bits of the same model, in rows with an outlier, too."""
    model = model_of("llama", hidden_size=256, intermediate_size=512, head_dim=64)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[3, 77] = 5
    model.save_pretrained(tmp_path / "folder")
    said = {"embedding_length": 256, "feed_forward_length": 512, "attention.key_length": 64, "attention.value_length": 64,
            "rope.dimension_count": 64}  # fmt: skip
    tensors = read_tensors(tmp_path / "folder")
    plain = write(tmp_path / "plain.gguf", "llama", tensors, said=said)
    bitmill("quantize", plain, "-o", tmp_path / "like.gguf", "--to", level)
    assert level.upper() in {one.tensor_type.name for one in read(tmp_path / "like.gguf").values()}
    for bits in (["int4", "--per-channel"], ["int4", "--group-size", "128"], ["int8", "--group-size", "32"]):
        bitmill("quantize", tmp_path / "folder", "-o", tmp_path / "first", "--to", *bits, "--force")
        convert = ["convert", tmp_path / "first", "-o", tmp_path / "out.gguf", "--format", "gguf", "--force", "--like"]
        bitmill(*convert, tmp_path / "like.gguf")
        bitmill(*convert, plain)
    bent = write(tmp_path / "bent.gguf", "llama", with_row(tensors, f"{L}.mlp.gate_proj.weight", 300, lambda row: row.flip(0)), said=said)
    bitmill("quantize", bent, "-o", tmp_path / "no.gguf", "--to", level)
    refused(bitmill, tmp_path / "first", "gguf", tmp_path / "no.gguf", tmp_path / "no-out.gguf", f"{L}.mlp.gate_proj.weight", "row 300")


MORE = {
    "kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": False},
    "transform_config": {"config_groups": {"u": {"type": "hadamard"}}},
    "sparsity_config": {"format": "sparse-24-bitmask"},
    "output_activations": {"num_bits": 8, "type": "int"},
}


@pytest.mark.parametrize("key", MORE)
def test_a_config_of_more_than_weights_is_refused(key, bitmill, models, coded, tmp_path):
    shutil.copytree(coded("llama"), tmp_path / "first")
    template = write(tmp_path / "like.gguf", "llama", models("llama")[1])
    path = tmp_path / "first/config.json"

    def say(value):
        config = json.loads(path.read_text())
        block = config["quantization_config"]
        (block["config_groups"]["group_0"] if key == "output_activations" else block)[key] = value
        path.write_text(json.dumps(config))

    verbs = (["convert", "--format", "gptq"], ["convert", "--format", "gguf", "--like", template],
             ["dequantize"], ["quantize", "--to", "int8"], ["quantize", "--to", "q8_0"])  # fmt: skip
    say(MORE[key])
    for i, verb in enumerate(verbs[:4]):
        out = tmp_path / f"out-{i}.gguf"
        done = bitmill(verb[0], tmp_path / "first", "-o", out, *verb[1:], code=None)
        assert done.code != 0 and key in done.err and "config.json" in done.err, done
        assert not out.exists()
    for harmless in (None, {}, *({"transform_config": [{"config_groups": {}}], "sparsity_config": [{"format": "dense"}]}.get(key, []))):
        say(harmless)
        bitmill("dequantize", tmp_path / "first", "-o", tmp_path / "plain", "--force")


@pytest.mark.parametrize("scale, word", [(float("nan"), "NaN"), (float("inf"), "infinite"), (float("-inf"), "infinite")])
def test_scales_that_are_no_numbers_are_refused(scale, word, bitmill, models, coded, tmp_path):
    folder, tensors = models("llama")
    template = write(tmp_path / "like.gguf", "llama", tensors)
    where = [word, "row 5, group 1", LINEARS]
    bitmill("convert", coded("llama"), "-o", tmp_path / "gptq", "--format", "gptq")
    shutil.copytree(coded("llama"), tmp_path / "first")
    for name, part, at in (("first", "weight_scale", (5, 1)), ("gptq", "scales", (1, 5))):
        parts = load_file(tmp_path / name / "model.safetensors")
        parts[f"{LINEARS}.{part}"][at] = scale
        save_file(parts, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        for to in {"gptq", "awq", "compressed-tensors"}:
            refused(bitmill, tmp_path / name, to, None, tmp_path / "out", *where)
        refused(bitmill, tmp_path / name, "gguf", template, tmp_path / "out.gguf", *where)
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0):
        file = write(tmp_path / "file.gguf", "llama", tensors, kind)
        one = next(t for t in gguf.GGUFReader(str(file)).tensors if t.name == "blk.1.ffn_down.weight")
        width = {"Q8_0": 34, "Q4_0": 18}[kind.name]
        data, offset = bytearray(file.read_bytes()), one.data_offset + (5 * 4 + 1) * width
        data[offset : offset + 2] = np.float16(scale).tobytes()
        file.write_bytes(data)
        refused(bitmill, file, "compressed-tensors", folder, tmp_path / "out", word, "row 5, group 1", "blk.1.ffn_down.weight", str(offset))


@pytest.mark.parametrize("container", ["compressed-tensors", "gptq", "awq"])
def test_a_weight_that_is_stored_twice_is_refused(container, bitmill, models, coded, tmp_path):
    folder, tensors = models("llama")
    bitmill("convert", coded("llama"), "-o", tmp_path / "twice", "--format", container)
    path = tmp_path / "twice/model.safetensors"
    save_file({**load_file(path), f"{LINEARS}.weight": tensors[f"{LINEARS}.weight"]}, path, metadata={"format": "pt"})
    template = write(tmp_path / "like.gguf", "llama", tensors)
    refused(bitmill, tmp_path / "twice", "gguf", template, tmp_path / "out.gguf", "stored coded, too", LINEARS, "model.safetensors")
    refused(bitmill, tmp_path / "twice", "gptq", None, tmp_path / "out", "stored coded, too", LINEARS)
    for verb in (["dequantize"], ["quantize", "--to", "int8"]):
        done = bitmill(verb[0], tmp_path / "twice", "-o", tmp_path / "out", *verb[1:], code=None)
        assert done.code != 0 and "stored coded, too" in done.err and not (tmp_path / "out").exists()


def test_rows_of_one_group_go_with_groups_as_long(bitmill, models, tmp_path):
    """Of 64 and 128 columns in groups of 64; what config and tensors say apart is refused."""
    bitmill("quantize", models("llama")[0], "-o", tmp_path / "q", "--to", "int4", "--group-size", "64")
    bitmill("dequantize", tmp_path / "q", "-o", tmp_path / "plain", "--dtype", "f32")
    expected = read_tensors(tmp_path / "plain")
    for container in ("gptq", "awq"):
        out, back = tmp_path / container, tmp_path / f"{container}-plain"
        bitmill("convert", tmp_path / "q", "-o", out, "--format", container)
        assert quantization(out)["group_size"] == 64
        bitmill("dequantize", out, "-o", back, "--dtype", "f32")
        found = read_tensors(back)
        assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)
        config = json.loads((out / "config.json").read_text())
        for bits in (8, "4", 0):
            config["quantization_config"]["bits"] = bits
            (out / "config.json").write_text(json.dumps(config))
            done = bitmill("dequantize", out, "-o", tmp_path / "none", code=3)
            assert "bits" in done.err and not (tmp_path / "none").exists(), done
    config["quantization_config"]["bits"] = 4
    (out / "config.json").write_text(json.dumps(config))
    tensors = read_tensors(out)
    name = next(n for n in tensors if n.endswith("down_proj.qweight"))
    save_file({**tensors, name: tensors[name][:-1].contiguous()}, out / "model.safetensors")
    done = bitmill("dequantize", out, "-o", tmp_path / "none", code=3)
    assert "127 rows are no multiple of the group of 64" in done.err, done
