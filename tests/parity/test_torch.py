"""PyTorch files: as torch.load reads them, and never run."""

import json
import random
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from conftest import assert_only_reads, leftovers, load_model, read_tensors, tree_hashes
from evil_pickles import CANARY, evil_files

EVIL = evil_files()


def same(a, b):
    """Bit by bit, NaN and all."""
    flat = [bytes(t.detach().clone(memory_format=torch.contiguous_format).untyped_storage()) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and flat[0] == flat[1]


def tiny_model(kind):
    from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    size = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=300)
    if kind == "bert":
        return BertForMaskedLM(BertConfig(**size, max_position_embeddings=32)).eval()
    return LlamaForCausalLM(LlamaConfig(**size, num_key_value_heads=2, tie_word_embeddings=kind == "llama-tied")).eval()


def save_bin(model, folder, shards=1):
    """As transformers 4 saved models: pytorch_model.bin, or shards and an index."""
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names, weight_map = list(state), {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        part = {n: state[n] for n in names[i::shards]}
        torch.save(part, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", ["bert", "llama-tied", "llama"])
@pytest.mark.parametrize("to", ["int8", "int4", "nf4", "fp16"])
def test_a_bin_folder_gives_the_model_that_a_safetensors_folder_gives(kind, shards, to, bitmill, tmp_path):
    model = tiny_model(kind)
    save_bin(model, tmp_path / "bin", shards)
    model.save_pretrained(tmp_path / "st")
    for source in ("bin", "st"):
        bitmill("quantize", tmp_path / source, "-o", tmp_path / f"{source}-out", "--to", to)
    report = bitmill("inspect", tmp_path / "bin-out", "--json").json()
    assert all(one["name"].endswith(".safetensors") for one in report["shards"])
    bitmill("verify", tmp_path / "bin", tmp_path / "bin-out")
    cls = type(model).__name__
    inputs = {"input_ids": torch.arange(20).reshape(2, 10)}
    with torch.no_grad():
        got, expected = (load_model(tmp_path / f"{s}-out", cls)(**inputs).logits for s in ("bin", "st"))
    assert torch.equal(got, expected)
    if kind == "llama-tied" and shards == 1:  # the shared table is there once
        assert tree_hashes(tmp_path / "bin-out")["model.safetensors"] == tree_hashes(tmp_path / "st-out")["model.safetensors"]


def test_tied_weights_that_nothing_ties_again_are_named(bitmill, tmp_path):
    table = torch.randn(300, 64)
    state = {"embed_tokens.weight": table, "lm_head.weight": table, "b.weight": torch.randn(64, 64)}
    torch.save(state, tmp_path / "m.bin")
    lone = bitmill("quantize", tmp_path / "m.bin", "-o", tmp_path / "lone", "--to", "int8", "--json").json()
    (told,) = lone["warnings"]
    for part in ("lm_head.weight", "embed_tokens.weight", "config.json", "tie_word_embeddings"):
        assert part in told
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    tied = bitmill("quantize", tmp_path / "m.bin", "-o", tmp_path / "tied", "--to", "int8", "--json").json()
    assert not tied["warnings"] and tied["bytes"] < lone["bytes"]


def random_state(dice):
    dtypes = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16,
              torch.int32, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16]  # fmt: skip
    state = {}
    for i in range(dice.randint(1, 8)):
        shape = [dice.randint(0, 6) if dice.random() < 0.1 else dice.randint(1, 6) for _ in range(dice.randint(0, 4))]
        tensor = torch.randn(shape).mul(50).to(dice.choice(dtypes))
        if tensor.dim() >= 2 and dice.random() < 0.5:
            tensor = tensor.permute(dice.sample(range(tensor.dim()), tensor.dim()))
        if tensor.dim() >= 1 and tensor.shape[0] > 1 and dice.random() < 0.4:
            tensor = tensor[dice.randint(0, tensor.shape[0] - 1) :]
        if tensor.dim() >= 1 and dice.random() < 0.2:
            tensor = tensor[..., :: dice.randint(1, 3)]
        if dice.random() < 0.1:
            tensor = tensor.unsqueeze(0).expand(3, *tensor.shape)
        if dice.random() < 0.2 and tensor.is_floating_point():
            tensor = torch.nn.Parameter(tensor)
        state[f"t{i}"] = tensor
        if dice.random() < 0.2:
            state[f"again{i}"] = tensor
    return state


def test_a_hundred_state_dicts_read_as_torch_reads_them(bitmill, memory_folder):
    dice = random.Random(11)
    torch.manual_seed(11)
    for i in range(100):
        state = random_state(dice)
        whole = dice.choice([state, {"state_dict": state, "step": 3}, {"model": state, "lr": 0.5, "note": "x"}])
        path, out = memory_folder / "s.pt", memory_folder / "out"
        torch.save(whole, path, pickle_protocol=dice.choice([2, 4, 5]))
        bitmill("quantize", path, "-o", out, "--to", "fp32")
        got = load_file(out / "model.safetensors")
        assert set(got) == set(state)
        for name, tensor in state.items():
            assert same(got[name], tensor), (i, name, tensor.shape, tensor.stride(), tensor.dtype)
        shutil.rmtree(out)


def test_a_model_of_fifty_kilobytes_with_its_history_and_words(bitmill, tmp_path):
    weights = {"w": torch.randn(100, 100), "b": torch.ones(100)}
    history = {"state_dict": weights, "loss": [0.5] * 5000, "words": {f"word{i}": i for i in range(3000)}}
    torch.save(history, tmp_path / "h.pt")
    bitmill("quantize", tmp_path / "h.pt", "-o", tmp_path / "out", "--to", "fp32")
    assert set(load_file(tmp_path / "out/model.safetensors")) == {"w", "b"}
    flipped = torch.complex(weights["w"], weights["w"]).conj().imag
    torch.save({"w": flipped}, tmp_path / "neg.pt")
    assert "resolve_neg" in bitmill("inspect", tmp_path / "neg.pt", code=2).err


def test_sets_and_parameters_with_attributes(bitmill, tmp_path):
    weight = torch.nn.Parameter(torch.randn(32, 32))
    weight.is_shared = True
    for protocol in (2, 4, 5):
        torch.save({"a.weight": weight, "words": {"x", "y"}}, tmp_path / "m.pt", pickle_protocol=protocol)
        bitmill("quantize", tmp_path / "m.pt", "-o", tmp_path / f"out{protocol}", "--to", "fp32")
        assert torch.equal(read_tensors(tmp_path / f"out{protocol}")["a.weight"], weight.data)


def test_a_torchscript_archive_is_named(bitmill, tmp_path):
    torch.jit.script(torch.nn.Linear(4, 4)).save(str(tmp_path / "script.pt"))
    done = bitmill("quantize", tmp_path / "script.pt", "-o", tmp_path / "out", "--to", "int8", code=3)
    assert "TorchScript" in done.err and "state_dict" in done.err


def test_what_opens_after_damage_opens_in_torch_too(bitmill, memory_folder):
    """RA7 at smoke size: no pickle that bitmill takes and torch.load(weights_only) refuses, but for the device."""
    dice = random.Random(12)
    path = memory_folder / "d.pt"
    torch.save({"a": torch.randn(3, 4), "b": torch.ones(5).half(), "c": torch.randn(4, 3).t()}, path)
    good = path.read_bytes()
    with zipfile.ZipFile(path) as opened:
        entry = next(one for one in opened.infolist() if one.filename.endswith("/data.pkl"))
    begin = good.index(b"\x80\x02", entry.header_offset)
    taken = 0
    for _ in range(500):
        damaged = bytearray(good)
        for _ in range(dice.randint(1, 2)):
            damaged[begin + dice.randrange(entry.file_size)] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        done = bitmill("inspect", path, "--json", code=None)
        assert done.code in (0, 2, 3), repr(done)
        if done.code != 0:
            continue
        taken += 1
        try:
            read = torch.load(path, weights_only=True)
        except RuntimeError as error:
            assert "data location" in str(error), error
            continue
        assert {t["name"]: t["shape"] for t in done.json()["tensors"]} == {n: list(t.shape) for n, t in read.items()}
    assert taken > 10


def test_there_are_enough_evil_pickles():
    assert len(EVIL) >= 60


@pytest.mark.parametrize("name", EVIL)
def test_an_evil_file_is_refused_and_nothing_runs(name, bitmill, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(EVIL[name])
    (folder / "config.json").write_text('{"model_type": "bert"}')
    for command in (
        ["quantize", folder, "-o", "out", "--to", "int8"],
        ["quantize", folder / "pytorch_model.bin", "-o", "out", "--to", "fp16", "--json"],
        ["dequantize", folder, "-o", "out"],
        ["inspect", folder],
    ):
        done = bitmill(*command, code=None, timeout=20, cwd=tmp_path)
        assert done.code in (2, 3) and "pytorch_model.bin" in done.err, repr(done)
        assert len(done.err.splitlines()) == 1 and done.err.rstrip("\n").isprintable(), repr(done)
    assert leftovers(tmp_path) == ["source"] and CANARY not in leftovers(folder)


def test_reading_evil_files_calls_nothing_but_the_reading_of_them(bitmill_path, tmp_path):
    """No process is started, no connection made, nothing opened but the file and what the program itself needs."""
    for name, content in EVIL.items():
        (tmp_path / "evil.bin").write_bytes(content)
        assert_only_reads(bitmill_path, "inspect", tmp_path / "evil.bin")
