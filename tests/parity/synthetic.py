"""Safetensors folders written byte by byte: large ones fast, broken ones on purpose."""

import json
import struct

import numpy as np

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 32,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "dtype": "float32",
}


def header_bytes(header):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text


def safetensors_bytes(arrays, metadata={"format": "pt"}):
    """A valid file of float32 arrays; returns (header dict, data bytes)."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        dtype = {"float32": "F32", "float16": "F16", "int64": "I64"}[str(array.dtype)]
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return header, data


def tiny_arrays(seed=0):
    rng = np.random.default_rng(seed)

    def weight(*shape):
        return (rng.standard_normal(shape) * 0.05).astype(np.float32)

    layer = "model.layers.0."
    return {
        "lm_head.weight": weight(32, 64),
        "model.embed_tokens.weight": weight(32, 64),
        layer + "input_layernorm.weight": weight(64),
        layer + "post_attention_layernorm.weight": weight(64),
        layer + "mlp.down_proj.weight": weight(64, 128),
        layer + "mlp.gate_proj.weight": weight(128, 64),
        layer + "mlp.up_proj.weight": weight(128, 64),
        **{f"{layer}self_attn.{p}_proj.weight": weight(64, 64) for p in "qkvo"},
        "model.norm.weight": weight(64),
    }


def write_tiny(folder, arrays=None):
    """A valid one-layer Llama of 160 KB."""
    folder.mkdir(parents=True, exist_ok=True)
    header, data = safetensors_bytes(arrays or tiny_arrays())
    (folder / "model.safetensors").write_bytes(header_bytes(header) + data)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def write_large(folder, mebibytes, rows=4096, columns=4096, dtype="F32", shards=1, sparse=False):
    """Llama-shaped names over `mebibytes` of normal values; one 64 MiB tile of noise is repeated.

    sparse: zeros that take no room on disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    each = rows * columns * {"F32": 4, "F16": 2, "BF16": 2}[dtype]
    count = mebibytes * 2**20 // each
    noise = np.random.default_rng(3).standard_normal(rows * columns, dtype=np.float32) * np.float32(0.02)
    noise = noise.astype(np.float16 if dtype == "F16" else np.float32)
    parts = [f"{p}_proj" for p in "qkvo"]
    names = [f"model.layers.{i // 4}.self_attn.{parts[i % 4]}.weight" for i in range(count)]
    weight_map = {}
    for shard in range(shards):
        path = folder / "model.safetensors"
        if shards > 1:
            path = folder / f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        numbers = range(count * shard // shards, count * (shard + 1) // shards)
        header = {"__metadata__": {"format": "pt"}}
        for at, i in enumerate(numbers):
            offsets = [at * each, (at + 1) * each]
            header[names[i]] = {"dtype": dtype, "shape": [rows, columns], "data_offsets": offsets}
            weight_map[names[i]] = path.name
        with open(path, "wb") as file:
            file.write(header_bytes(header))
            for i in numbers:
                if not sparse:
                    file.write(np.roll(noise, 1009 * i).tobytes())
            file.truncate(len(header_bytes(header)) + len(numbers) * each)
    if shards > 1:
        index = {"metadata": {"total_size": count * each}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(
        json.dumps({**CONFIG, "hidden_size": columns, "num_hidden_layers": count // 4})
    )
    return folder
