"""Others' quantized folders: dequantized to the values of their own libraries, milled again, converted."""

import json
import pathlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import load_model, read_tensors, tree_hashes
from test_torch import tiny_model


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def save_parts(folder, parts, quantization, dtype="float16"):
    """A tiny Llama whose Linears become what `parts(module, weight)` gives: a dict of tensors and the weight they mean."""
    model = tiny_model("llama").to(getattr(torch, dtype))
    model.save_pretrained(folder)
    tensors, meant = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if ".layers." in name and tensor.dim() == 2:
            module = name.removesuffix(".weight")
            coded, meant[name] = parts(module, tensor.float().numpy())
            tensors.update(coded)
        else:
            tensors[name] = meant[name] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    return meant


def codes_of(weight, group, bits, order=None):
    """Unsigned codes [out, in], zero points and scales [out, groups] of an asymmetric min-max quantizer."""
    levels = 2**bits - 1
    index = np.arange(weight.shape[1]) // group if order is None else order
    low, high = (np.stack([f(weight[:, index == g], axis=1) for g in range(index.max() + 1)], axis=1) for f in (np.min, np.max))
    scale = ((high - low) / levels).astype(np.float16).astype(np.float32)
    zero = np.clip(np.rint(-low / scale), 1, levels)
    codes = np.clip(np.rint(weight / scale[:, index]) + zero[:, index], 0, levels)
    meant = (codes - zero[:, index]).astype(np.float32) * scale[:, index]
    return codes.astype(np.int64), zero.astype(np.int64), scale, torch.from_numpy(meant.astype(np.float16))


def pack(values, bits):
    """Along the last axis, low bits first."""
    count = 32 // bits
    words = (values.reshape(*values.shape[:-1], -1, count) << (np.arange(count) * bits)).sum(-1)
    return torch.from_numpy(words.astype(np.uint32).view(np.int32))


def gptq_parts(bits, group, shuffled, v2):
    def parts(module, weight):
        order = np.arange(weight.shape[1]) // group
        if shuffled:
            order = np.random.default_rng(3).permutation(order)
        codes, zero, scale, meant = codes_of(weight, group, bits, order)
        return {
            f"{module}.qweight": pack(codes, bits).T,
            f"{module}.qzeros": pack((zero - (0 if v2 else 1)).T, bits),
            f"{module}.scales": torch.from_numpy(scale.T.astype(np.float16)),
            f"{module}.g_idx": torch.from_numpy(order.astype(np.int32)),
        }, meant

    return parts


def awq_parts(group):
    def interleaved(values):  # [rows, out]: nibble j of a word holds column order[j] of eight
        return values.reshape(len(values), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(values.shape)

    def parts(module, weight):
        codes, zero, scale, meant = codes_of(weight, group, 4)
        return {
            f"{module}.qweight": pack(interleaved(codes.T), 4),
            f"{module}.qzeros": pack(interleaved(zero.T), 4),
            f"{module}.scales": torch.from_numpy(scale.T.astype(np.float16)),
        }, meant

    return parts


def packed_parts(bits, group):
    """compressed-tensors with zero points, packed by its own packer."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    def parts(module, weight):
        codes, zero, scale, meant = codes_of(weight, group, bits)
        half = 2 ** (bits - 1)
        return {
            f"{module}.weight_packed": pack_to_int32(torch.from_numpy((codes - half).astype(np.int8)), bits),
            f"{module}.weight_zero_point": pack_to_int32(
                torch.from_numpy((zero - half).astype(np.int8)), bits, packed_dim=0
            ),
            f"{module}.weight_scale": torch.from_numpy(scale.astype(np.float16)),
            f"{module}.weight_shape": torch.tensor(weight.shape),
        }, meant

    return parts


def gptq_config(bits, group, v2):
    layout = "gptq_v2" if v2 else "gptq"
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": False, "checkpoint_format": layout}


def packed_config(bits, group):
    weights = {"num_bits": bits, "type": "int", "symmetric": False, "strategy": "group", "group_size": group}
    group_0 = {"targets": ["Linear"], "weights": weights, "format": "pack-quantized"}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
            "config_groups": {"group_0": group_0}, "ignore": ["lm_head"]}  # fmt: skip


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
FOLDERS = {
    "gptq-4": lambda: (gptq_parts(4, 32, False, False), gptq_config(4, 32, False)),
    "gptq-4-act-order": lambda: (gptq_parts(4, 32, True, False), gptq_config(4, 32, False)),
    "gptq-8-v2": lambda: (gptq_parts(8, 64, False, True), gptq_config(8, 64, True)),
    "gptq-2": lambda: (gptq_parts(2, 32, False, False), gptq_config(2, 32, False)),
    "awq": lambda: (awq_parts(32), AWQ),
    "compressed-tensors-4": lambda: (packed_parts(4, 32), packed_config(4, 32)),
    "compressed-tensors-8": lambda: (packed_parts(8, 64), packed_config(8, 64)),
}


def check_source(bitmill, folder, meant, tmp_path, dtype):
    """Dequantized as meant, bit by bit; quantized anew, a model that transformers loads."""
    bitmill("dequantize", folder, "-o", tmp_path / "plain")
    plain = read_tensors(tmp_path / "plain")
    assert plain.keys() == meant.keys()
    wrong = [name for name in meant if not same(plain[name], meant[name])]
    assert not wrong
    load_model(tmp_path / "plain", "LlamaForCausalLM")
    for to in ("int8", "nf4"):
        report = bitmill("quantize", folder, "-o", tmp_path / to, "--to", to, "--json").json()
        rows = [row for row in report["tensors"] if ".layers." in row["name"] and len(row["shape"]) == 2]
        assert rows and all("decoded from " in row["reason"] for row in rows)
        assert any("dequantized" in line for line in report["warnings"])
        bitmill("verify", folder, tmp_path / to)
        bitmill("quantize", tmp_path / "plain", "-o", tmp_path / f"{to}-again", "--to", to)
        one, two = (read_tensors(tmp_path / f"{to}{tail}") for tail in ("", "-again"))
        assert one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
        load_model(tmp_path / to, "LlamaForCausalLM")
    assert getattr(torch, dtype) == plain["model.layers.0.mlp.up_proj.weight"].dtype


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_means_what_its_formula_says(name, bitmill, tmp_path):
    parts, config = FOLDERS[name]()
    meant = save_parts(tmp_path / "model", parts, config)
    check_source(bitmill, tmp_path / "model", meant, tmp_path, "float16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bitsandbytes_int8_means_what_bitsandbytes_says(dtype, bitmill, tmp_path):
    from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant

    def parts(module, weight):
        codes, stats, _ = int8_vectorwise_quant(torch.from_numpy(weight).half())
        meant = int8_vectorwise_dequant(codes, stats).to(getattr(torch, dtype))
        coded = {f"{module}.weight": codes, f"{module}.SCB": stats, f"{module}.weight_format": torch.tensor(0, dtype=torch.uint8)}
        return coded, meant

    config = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
    meant = save_parts(tmp_path / "model", parts, config, dtype)
    check_source(bitmill, tmp_path / "model", meant, tmp_path, dtype)


@pytest.mark.parametrize("kind", ["weight-only", "groups", "dynamic"])
def test_torchao_means_what_torchao_says(kind, bitmill, tmp_path):
    from torchao import quantization
    from transformers import TorchAoConfig

    made = {
        "weight-only": lambda: quantization.Int8WeightOnlyConfig(version=2),
        "groups": lambda: quantization.Int8WeightOnlyConfig(version=2, granularity=quantization.PerGroup(32)),
        "dynamic": lambda: quantization.Int8DynamicActivationInt8WeightConfig(version=2),
    }[kind]()
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path / "float")
    model = load_model(tmp_path / "float", "LlamaForCausalLM", quantization_config=TorchAoConfig(made), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    meant = {
        name: tensor.dequantize().contiguous() if "Int8" in type(tensor.data).__name__ else tensor
        for name, tensor in model.state_dict().items()
    }
    check_source(bitmill, tmp_path / "model", meant, tmp_path, "bfloat16")


def test_a_record_of_the_source_s_quantization_stays_behind(bitmill, tmp_path):
    parts, config = FOLDERS["gptq-4"]()
    save_parts(tmp_path / "model", parts, config)
    (tmp_path / "model/quantize_config.json").write_text(json.dumps(config))
    bitmill("dequantize", tmp_path / "model", "-o", tmp_path / "plain")
    assert not pathlib.Path(tmp_path / "plain/quantize_config.json").exists()


def test_integers_go_through_every_container_and_come_back(bitmill, tmp_path):
    tiny_model("llama").half().save_pretrained(tmp_path / "float")
    bitmill("quantize", tmp_path / "float", "-o", tmp_path / "first", "--to", "int4", "--group-size", "32")
    bitmill("dequantize", tmp_path / "first", "-o", tmp_path / "plain")
    first, plain = (read_tensors(tmp_path / name) for name in ("first", "plain"))
    previous = "first"
    for to in ("gptq", "awq", "compressed-tensors"):
        report = bitmill("convert", tmp_path / previous, "-o", tmp_path / to, "--format", to, "--json").json()
        assert report["format"] == to and not report["warnings"]
        bitmill("dequantize", tmp_path / to, "-o", tmp_path / f"{to}-plain")
        after = read_tensors(tmp_path / f"{to}-plain")
        assert after.keys() == plain.keys() and all(same(after[name], plain[name]) for name in plain)
        previous = to
    back = read_tensors(tmp_path / "compressed-tensors")
    assert back.keys() == first.keys() and all(same(back[name], first[name]) for name in first)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "compressed-tensors")]
    assert configs[0] == configs[1]
    load_model(tmp_path / "compressed-tensors", "LlamaForCausalLM")


def test_what_does_not_go_over_is_refused(bitmill, tmp_path):
    parts, config = FOLDERS["gptq-4"]()
    save_parts(tmp_path / "model", parts, config)
    refused = bitmill("convert", tmp_path / "model", "-o", tmp_path / "out", "--format", "compressed-tensors", code=None)
    assert refused.code in (2, 3) and "zero points" in refused.err and "model.layers.0" in refused.err
    assert not (tmp_path / "out").exists()
    usage = bitmill("convert", tmp_path / "model", "-o", tmp_path / "out", "--format", "onnx", code=2)
    assert "there is no container 'onnx'" in usage.err


def test_an_older_gptq_folder_is_read_by_its_own_file(bitmill, tmp_path):
    parts, config = FOLDERS["gptq-4"]()
    meant = save_parts(tmp_path / "model", parts, config)
    save_parts(tmp_path / "newer", parts, config)
    plain = json.loads((tmp_path / "model/config.json").read_text())
    del plain["quantization_config"]
    (tmp_path / "model/config.json").write_text(json.dumps(plain))
    older = {"bits": 4, "group_size": 32, "desc_act": False, "sym": False, "model_file_base_name": "model"}
    (tmp_path / "model/quantize_config.json").write_text(json.dumps(older))
    check_source(bitmill, tmp_path / "model", meant, tmp_path, "float16")
    bitmill("quantize", tmp_path / "newer", "-o", tmp_path / "newer-int8", "--to", "int8")
    newer, older_int8 = (tree_hashes(tmp_path / name)["model.safetensors"] for name in ("newer-int8", "int8"))
    assert newer == older_int8
    (tmp_path / "model/quantize_config.json").write_text(json.dumps({**older, "checkpoint_format": "marlin"}))
    refused = bitmill("inspect", tmp_path / "model", code=2)
    assert "marlin" in refused.err and "quantize_config.json" in refused.err


@pytest.mark.parametrize("name", FOLDERS)
def test_codes_of_which_nothing_speaks_are_refused(name, bitmill, tmp_path):
    parts, config = FOLDERS[name]()
    save_parts(tmp_path / "model", parts, config)
    plain = json.loads((tmp_path / "model/config.json").read_text())
    del plain["quantization_config"]
    for config in (plain, {**plain, "quantization_config": None}):
        (tmp_path / "model/config.json").write_text(json.dumps(config))
        for command in (["dequantize"], ["quantize", "--to", "bf16"], ["quantize", "--to", "int8"]):
            refused = bitmill(*command, tmp_path / "model", "-o", tmp_path / "out", code=3)
            assert "model.safetensors" in refused.err and "model.layers.0" in refused.err
            assert "quantization_config" in refused.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8", "bool", "float8_e4m3fn"])
@pytest.mark.parametrize("options", ["int8", "int8 --activation dynamic-int8", "int8 --format bitmill", "nf4"])
def test_integers_called_weight_stay_what_they_are(dtype, options, bitmill, tmp_path):
    rows = torch.arange(64 * 32).reshape(64, 32) % 100
    tensors = {"a.weight": torch.randn(64, 256), "b.weight": rows.to(getattr(torch, dtype))}
    save_file(tensors, tmp_path / "model.safetensors")
    bitmill("quantize", tmp_path / "model.safetensors", "-o", tmp_path / "out", "--to", *options.split())
    for command in (["inspect"], ["validate"]):
        bitmill(*command, tmp_path / "out")
    bitmill("verify", tmp_path / "model.safetensors", tmp_path / "out")
    bitmill("dequantize", tmp_path / "out", "-o", tmp_path / "plain")
    kept = read_tensors(tmp_path / "plain")
    assert kept.keys() == tensors.keys() and kept["b.weight"].dtype == tensors["b.weight"].dtype
    assert torch.equal(kept["b.weight"].float(), tensors["b.weight"].float())


def test_codes_without_their_scales_are_no_integers(bitmill, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    bitmill("quantize", tmp_path / "model", "-o", out, "--to", "int8", "--activation", "dynamic-int8")
    tensors = load_file(out / "model.safetensors")
    left = {name: t for name, t in tensors.items() if not name.endswith("q_proj.weight_scale")}
    save_file(left, out / "model.safetensors")
    refused = bitmill("dequantize", out, "-o", tmp_path / "plain", code=3)
    assert "other tensors are missing" in refused.err and "q_proj.weight" in refused.err
