#!/usr/bin/env python3
"""Writes valid and nearly valid inputs for every target: FOLDER/TARGET/NAME. Deterministic."""

import base64
import json
import pathlib
import struct
import sys

DTYPES = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else compact(header)
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def headers():
    yield "empty", safetensors({})
    yield "scalar", safetensors({"s": tensor("F64", [], 0, 8)}, bytes(8))
    yield "two", safetensors({"a": tensor("F32", [2, 2], 0, 16), "b": tensor("U8", [3], 16, 19)}, bytes(range(19)))
    yield "reversed", safetensors({"b": tensor("U8", [4], 4, 8), "a": tensor("U8", [4], 0, 4)}, bytes(8))
    yield "zero-size", safetensors({"z": tensor("F32", [0, 7], 0, 0), "y": tensor("I8", [1], 0, 1)}, b"y")
    yield "metadata", safetensors({"__metadata__": {"format": "pt", "n": 'a"b\\c'}, "a": tensor("I16", [5], 0, 10)}, bytes(10))
    yield "null-metadata", safetensors({"__metadata__": None, "a": tensor("I64", [1], 0, 8)}, bytes(8))
    yield "padded", safetensors(b' {"a":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}}     ', bytes(6))
    yield "extra-fields", safetensors(b'{"a":{"dtype":"U8","x":{"y":[1,-2.5e3,{"z":null}]},"shape":[2],"data_offsets":[0,2]}}', b"ab")
    yield "rank-8", safetensors({"a": tensor("U8", [1, 2, 1, 2, 1, 1, 1, 3], 0, 12)}, bytes(12))
    yield "rank-9", safetensors({"a": tensor("U8", [1] * 9, 0, 1)}, bytes(1))
    yield "long-name", safetensors({"n" * 1024: tensor("U8", [1], 0, 1)}, bytes(1))
    yield "too-long-name", safetensors({"n" * 1025: tensor("U8", [1], 0, 1)}, bytes(1))
    yield "hole", safetensors({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [1], 2, 3)}, bytes(3))
    yield "wraps", safetensors({"a": tensor("F32", [2**32, 2**30], 0, 0)})
    yield "twice", safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"ab")
    yield "deep", safetensors(b'{"a":' + b"[" * 100 + b"]" * 100 + b"}")
    yield "cut", safetensors({"a": tensor("U8", [8], 0, 8)}, bytes(7))
    yield "no-header", struct.pack("<Q", 2**63) + b"{}"
    for name, bits in DTYPES.items():
        yield f"dtype-{name}", safetensors({"t": tensor(name, [2, 4], 0, bits)}, bytes(bits))


def indices():
    def index(weight_map, **more):
        return compact({"metadata": {"total_size": 6}, "weight_map": weight_map, **more})

    good = {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}
    deeper = {"d": "sub/3.safetensors", "": "sub/3.safetensors"}
    yield "good", index(good)
    yield "sub", index({**good, **deeper})
    yield "no-metadata", compact({"weight_map": good})
    yield "more-fields", index(good, x=[1, {"y": None}])
    yield "metadata-number", compact({"metadata": 1, "weight_map": good})
    yield "empty", index({})
    yield "empty-shard", index({**good, "e": "empty.safetensors"})
    for name in ("out", "link", "fifo", "folder", "gone", "broken", "up/outside", "../outside", "sub/../1", "/etc/x"):
        yield name.replace("/", "-").replace(".", "_"), index({**good, "a": f"{name}.safetensors"})
    yield "twice", b'{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}'
    yield "not-json", b'{"weight_map":{'


def configs():
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
    group = {"targets": ["Linear"], "weights": weights, "format": "pack-quantized"}
    packed = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}}
    blocks = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [16, 128], "nested_blocksize": 256,
             "nested_dtype": "float32", "nested_offset": 0.125}  # fmt: skip
    yield "bert", compact({"model_type": "bert", "architectures": ["BertForMaskedLM"], "dtype": "float32"})
    yield "llama", compact({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"})
    yield "t5", compact({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]})
    yield "empty", b"{}"
    yield "nested", compact({"text_config": {"a": [1.5e300, -0.0, None]}, "quantization_config": None})
    yield "packed", compact({"model_type": "bert", "quantization_config": packed})
    yield "packed-shape", compact({"quantization_config": packed}) + b"\0\0" + struct.pack("<QQ", 16, 128)
    yield "packed-narrow", compact({"quantization_config": packed}) + b"\0\0" + struct.pack("<QQ", 16, 127)
    yield "blocks", compact({"quantization_config": blocks}) + b"\0" + compact(state)
    yield "blocks-as-written", compact({"quantization_config": blocks})
    yield "other-method", compact({"quantization_config": {"quant_method": "gptq"}})


def round_trips():
    def number(bits):
        return struct.pack("<f", bits)

    waves = b"".join(number(((i * 37) % 101 - 50) / 16) for i in range(64))
    half = b"".join(struct.pack("<e", ((i * 37) % 101 - 50) / 16) for i in range(64))
    given = number(-4) + number(4) + number(0.5)
    for kind in range(7):
        for grain in range(4):
            if (kind >= 5) != (grain == 3) or (kind < 3 and grain):
                continue
            for flags in (0, 1, 8, 16 | 1, 2 | 32, 64):
                # type, granularity, group 64, scales f32, alignment 4, source f32, 64 columns, 3 rows, no threshold
                yield f"{kind}-{grain}-{flags}", bytes([kind, grain, 6, 0, 1, 0, 11, 3, 0, flags]) + given + waves
    yield "half", bytes([4, 2, 4, 1, 0, 1, 12, 3, 0, 8]) + given + half
    yield "long", bytes([3, 1, 0, 2, 0, 0, 18, 2, 3, 9]) + given + waves
    yield "infinite", bytes([3, 1, 0, 0, 0, 0, 7, 2, 0, 0]) + given + waves[:80] + number(float("inf"))


def sequences():
    def calls(*each):
        return b"".join(bytes(one) + bytes(8 - len(one)) for one in each)

    buffers, encode, decode, destroy = (4,), (5,), (6,), (11,)
    report = ((10, 0), (10, 1), (10, 2), (10, 3))
    yield "int8", calls(buffers, encode, decode)
    for kind in range(1, 8):
        grain = ((0, 1, 3), (0, 3, 11)) if kind > 5 else ((0, 1, 2), (0, 3, 6)) if kind == 5 else ()
        yield f"scheme-{kind}", calls((0, 0, kind), *grain, (0, 4, 1), (0, 5, 1), buffers, encode, decode)
    yield "strides", calls((1, 3, 9), (1, 4, 7), buffers, encode, decode)
    yield "hooks", calls((3, 15, 0, 0), buffers, encode, (7, 0), *report, destroy, (9, 1), *report)
    yield "no-memory", calls((3, 1, 2, 0), (7, 0), (9, 0), (8, 1))
    yield "cancelled", calls((3, 8, 0, 1), (2, 16, 0), (7, 0), *report)
    yield "write", calls((2, 16, 0), (7, 0), *report)
    yield "back", calls((2, 16, 0), (2, 6, 9), (8, 1), *report, (8, 2))
    yield "structs", calls(*((op, how, how, how, how) for op in (4, 5, 6, 7, 8, 9) for how in (1, 3, 4, 6, 8)))
    yield "errors", calls(*((4, 0, 0, 0, 0, 0, 0, how) for how in range(10)))
    yield "isa", calls(*((12, index) for index in (0, 1, 2, 3, 200)), buffers, encode, decode)


def torch_files():
    import io
    import zipfile

    import torch

    def saved(content, **options):
        file = io.BytesIO()
        torch.save(content, file, **options)
        return file.getvalue()

    weight = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    contents = {
        "plain": {"a.weight": weight, "a.bias": torch.ones(4).half()},
        "strided": {"t": weight.t(), "s": weight[1:, ::2], "e": torch.ones(2, 1).expand(2, 3)},
        "tied": {"a": weight, "b": weight, "p": torch.nn.Parameter(weight)},
        "types": {str(d): torch.zeros(2).to(d) for d in (torch.bfloat16, torch.float8_e4m3fn, torch.uint16, torch.bool)},
        "nested": {"epoch": 3, "lr": 0.1, "none": None, "state_dict": {"w": weight}},
        "module": torch.nn.Linear(2, 2).state_dict(),
        "class": torch.nn.Linear(1, 1),
        "sparse": {"s": torch.eye(2).to_sparse()},
        "empty": {"z": torch.zeros(0, 3), "s": torch.tensor(1.0)},
    }
    for name, content in contents.items():
        for protocol in (2, 4):
            file = saved(content, pickle_protocol=protocol)
            yield f"{name}-{protocol}", b"\0" + file
            with zipfile.ZipFile(io.BytesIO(file)) as opened:
                pickled = next(n for n in opened.namelist() if n.endswith("/data.pkl"))
                yield f"{name}-{protocol}-pickle", b"\1" + opened.read(pickled)
    yield "legacy", b"\0" + saved(contents["plain"], _use_new_zipfile_serialization=False)


def gguf_files():
    def text(value):
        return struct.pack("<Q", len(value)) + value

    def pair(key, kind, value):
        return text(key) + struct.pack("<I", kind) + value

    def array(kind, count, values):
        return struct.pack("<IQ", kind, count) + values

    def entry(name, dims, kind, offset):
        return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)

    def gguf(pairs, entries, data=b"", version=3, alignment=32):
        head = struct.pack("<4sIQQ", b"GGUF", version, len(entries), len(pairs)) + b"".join(pairs) + b"".join(entries)
        return head + bytes(-len(head) % alignment) + data

    widths = (1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8)
    blocks = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
              11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136), 24: (1, 1),
              25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2), 39: (32, 17)}  # fmt: skip
    named = pair(b"general.architecture", 8, text(b"llama"))
    yield "empty", gguf([], [])
    for kind, width in enumerate(widths):
        if width:
            yield f"value-{kind}", gguf([pair(b"k", kind, bytes(range(1, width + 1)))], [])
            yield f"array-{kind}", gguf([pair(b"k", 9, array(kind, 3, bytes(3 * width)))], [])
    for kind, (elements, size) in blocks.items():
        yield f"type-{kind}", gguf([named], [entry(b"t", [2 * elements, 1], kind, 0)], bytes(2 * size))
    tokens = b"".join(map(text, (b"a", b"", b"\xe2\x96\x81b")))
    several = [named, pair(b"tokens", 9, array(8, 3, tokens)), pair(b"general.file_type", 4, struct.pack("<I", 15))]
    three = [entry(b"a.weight", [4, 2], 0, 0), entry(b"b", [], 1, 32), entry(b"c", [256], 12, 64)]
    yield "several", gguf(several, three, bytes(208))
    yield "version-2", gguf(several, three, bytes(208), 2)
    yield "alignment", gguf([pair(b"general.alignment", 4, struct.pack("<I", 8))], [entry(b"a", [1], 24, 0), entry(b"b", [1], 24, 8)], b"a" * 9, 3, 8)
    yield "nested", gguf([pair(b"k", 9, array(9, 1, array(0, 1, b"x")))], [])
    yield "twice", gguf([named, named], [])
    yield "many-strings", gguf([pair(b"k", 9, array(8, 2**61, tokens))], [])
    yield "many-tensors", struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0) + bytes(64)
    yield "split", gguf([pair(b"split.count", 2, b"\2\0")], [])
    yield "big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)
    yield "hole", gguf([], [entry(b"a", [1], 24, 0), entry(b"b", [1], 24, 64)], bytes(96))
    yield "unknown-type", gguf([], [entry(b"a", [256], 16, 0)], bytes(66))
    yield "ranks", gguf([], [entry(b"r", [2, 1, 3, 1], 26, 0)], bytes(24))
    yield "too-many-ranks", gguf([], [entry(b"r", [1] * 5, 26, 0)], bytes(4))
    yield "wraps", gguf([], [entry(b"w", [2**62, 4], 0, 0)])


def quantized_folders():
    def folder(quantization, tensors):
        return compact({"config": {"dtype": "float16", "quantization_config": quantization}, "tensors": tensors})

    half, order = [0x2C00, 0x2E00, 0xAC00], [i // 32 for i in range(64)]
    words = [0x76543210, -0x1234568, 0x77777777]

    def grouped(row, zeros, **more):
        return {"a.qweight": ["I32", row, words], "a.qzeros": ["I32", zeros, words], "a.scales": ["F16", [2, 16], half],
                "a.bias": ["F16", [16], half], **more}  # fmt: skip

    g_idx = {"a.g_idx": ["I32", [64], order]}
    shuffled = {"a.g_idx": ["I32", [64], order[::-1]]}
    gptq = {"quant_method": "gptq", "group_size": 32, "sym": True}
    awq = {"quant_method": "awq", "version": "gemm", "group_size": 32}
    rounded = {"quant_method": "auto-round", "group_size": 32}
    for bits, row in ((2, 4), (4, 8), (8, 16)):
        yield f"gptq-{bits}", folder({**gptq, "bits": bits}, grouped([row, 16], [2, 16 * bits // 32], **g_idx))
    yield "gptq-v2", folder({**gptq, "checkpoint_format": "gptq_v2"}, grouped([8, 16], [2, 2]))
    yield "gptq-act-order", folder({**gptq, "desc_act": True}, grouped([8, 16], [2, 2], **shuffled))
    yield "awq", folder(awq, grouped([64, 2], [2, 2]))
    yield "auto-round-awq", folder({**rounded, "packing_format": "auto_round:auto_awq"}, grouped([64, 2], [2, 2]))
    yield "auto-round-gptq", folder({**rounded, "packing_format": "auto_round:auto_gptq"}, grouped([8, 16], [2, 2], **g_idx))

    def compressed(bits, layout, kind="int", **weights):
        group = {"format": layout, "weights": {"num_bits": bits, "type": kind, **weights}}
        return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}

    for bits in (2, 4, 8):
        packed = {"a.weight_packed": ["I32", [12, 2 * bits], words], "a.weight_scale": ["F16", [12, 2], half],
                  "a.weight_shape": ["I64", [2], [12, 64]]}  # fmt: skip
        zeros = {"a.weight_zero_point": ["I32", [-(-12 * bits // 32), 2], words]}
        yield f"packed-{bits}", folder(compressed(bits, "pack-quantized"), packed)
        yield f"packed-{bits}-zeros", folder(compressed(bits, "pack-quantized"), {**packed, **zeros})
    bytes_of = {"a.weight": ["I8", [12, 64], [-128, 127, 3]], "a.weight_scale": ["F32", [12, 1], [0x3C000000]]}
    yield "int-quantized", folder(compressed(8, "int-quantized"), bytes_of)
    yield "int-zeros", folder(compressed(8, "int-quantized"), {**bytes_of, "a.weight_zero_point": ["I8", [12, 1], [-3, 4]]})
    floats = {"a.weight": ["F8_E4M3", [12, 64], [0x38, 0xB8, 1]], "a.weight_scale": ["F32", [2, 2], [0x3C000000]]}
    yield "float-blocks", folder(compressed(8, "float-quantized", "float", block_structure=[8, 32]), floats)
    inverse = {"a.weight": floats["a.weight"], "a.weight_scale_inv": floats["a.weight_scale"]}
    yield "fp8", folder({"quant_method": "fp8", "weight_block_size": [8, 32]}, inverse)
    ao = {"a._weight_qdata": bytes_of["a.weight"], "a._weight_scale": ["F32", [12, 2], [0x3C000000]]}
    yield "torchao", folder({"quant_method": "torchao"}, {**ao, "a._weight_zero_point": ["I8", [12, 2], [1, -1]]})
    rows = {"a.weight": bytes_of["a.weight"], "a.SCB": ["F32", [12], [0x3F800000]], "a.weight_format": ["U8", [], [0]]}
    yield "bitsandbytes-int8", folder({"quant_method": "bitsandbytes", "load_in_8bit": True}, rows)


def pickled_models():
    """Of joblib and pickle; each protocol writes arrays in its own way."""
    import io
    import pickle

    import joblib
    import numpy as np

    shared = np.arange(40.0)
    models = {
        "arrays": {"coef_": shared.reshape(5, 8), "f": np.ones((9, 8), "f4", "F"), "i": np.arange(3), "n": shared[:1].sum()},
        "shared": [shared, shared, np.array(["a", None], object)],
        "types": {"m": np.ma.masked_less(shared, 9), "s": np.zeros(2, "i4,f8"), "t": np.array("now", "M8[s]"), "d": np.float32},
        "random": np.random.RandomState(0),
    }
    for name, model in models.items():
        for protocol in (2, 3, 4, 5):
            yield f"{name}-{protocol}", pickle.dumps(model, protocol)
            file = io.BytesIO()
            joblib.dump(model, file, protocol=protocol)
            yield f"{name}-{protocol}-joblib", file.getvalue()


def encoder_folders():
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "dtype": "float32", "hidden_act": "gelu",
              "layer_norm_eps": 1e-12, "hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 80, "num_hidden_layers": 2,
              "vocab_size": 37, "type_vocab_size": 2, "max_position_embeddings": 19, "id2label": {"0": "a", "1": "b", "2": "c"}}  # fmt: skip
    batch = {"ids": [1, 7, 2, 3, 1, 9], "types": [0, 0, 1, 1, 0, 1], "lengths": [2, 1, 3]}
    kinds = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens", "last": "lasttoken"}

    def modules(*names):
        paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2_Dense"}
        return [{"idx": i, "path": paths[name], "type": f"sentence_transformers.models.{name}"} for i, name in enumerate(names)]

    def folder(change={}, **more):
        return compact({"config": {**config, **change}, **batch, **more})

    yield "classes", folder()
    yield "reranker", folder({"id2label": {"0": "a"}}, shapes={"classifier.weight": [1, 48], "classifier.bias": [1]})
    yield "fp16", folder(level="fp16")
    yield "no-level", folder(level="int4")
    for name, mode in kinds.items():
        yield f"pooling-{name}", folder(modules=modules("Transformer", "Pooling"), pooling={f"pooling_mode_{mode}": True, "word_embedding_dimension": 48})
    yield "normalize", folder(modules=modules("Transformer", "Pooling", "Normalize"), pooling={"pooling_mode_mean_tokens": True})
    yield "dense", folder(modules=modules("Transformer", "Pooling", "Dense"), pooling={"pooling_mode_mean_tokens": True})
    yield "no-prefix", folder({"architectures": ["BertModel"]}, rename=[["bert.", ""]])
    yield "gamma", folder(rename=[["LayerNorm.weight", "LayerNorm.gamma"], ["LayerNorm.bias", "LayerNorm.beta"]])
    roberta = {"model_type": "roberta", "architectures": ["RobertaForSequenceClassification"], "type_vocab_size": 1, "pad_token_id": 1}
    shapes = {"roberta.embeddings.token_type_embeddings.weight": [1, 48], "classifier.out_proj.weight": [3, 48], "classifier.out_proj.bias": [3]}
    names = [["classifier.", "classifier.out_proj."], ["bert.pooler.dense.", "classifier.dense."], ["bert.", "roberta."]]
    yield "roberta", folder(roberta, rename=names, shapes=shapes, types=[0] * 6)
    short = {"q_lin": "attention.self.query", "k_lin": "attention.self.key", "v_lin": "attention.self.value", "out_lin": "attention.output.dense"}
    names = [[long, "attention." + name] for name, long in short.items()]
    names += [["attention.output.LayerNorm", "sa_layer_norm"], ["intermediate.dense", "ffn.lin1"], ["output.dense", "ffn.lin2"],
              ["output.LayerNorm", "output_layer_norm"], ["bert.encoder.layer", "distilbert.transformer.layer"],
              ["bert.pooler.dense", "pre_classifier"], ["bert.embeddings", "distilbert.embeddings"]]  # fmt: skip
    sizes = {"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"], "dim": 48, "hidden_dim": 80,
             "n_heads": 3, "n_layers": 2, "activation": "gelu"}  # fmt: skip
    yield "distilbert", folder(sizes, rename=names, shapes={"distilbert.embeddings.token_type_embeddings.weight": None}, types=[])
    yield "missing", folder(shapes={"bert.encoder.layer.1.output.dense.weight": None})
    yield "narrow", folder(shapes={"bert.encoder.layer.1.output.dense.weight": [48, 79]})
    yield "empty-sequence", folder(lengths=[6, 0])
    yield "long-sequence", folder(ids=[1] * 20, types=[], lengths=[20])
    yield "no-such-id", folder(ids=[1, 37, 2, 3, 1, -1])
    yield "relative", folder({"position_embedding_type": "relative_key"})


def tokenizer_files():
    cls = [["[CLS]", 1], ["A", 0], ["[SEP]", 2]]
    template = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": n, "type_id": 0}} if n == "A" else {"SpecialToken": {"id": n, "type_id": 0}} for n, _ in cls],
        "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                 {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in cls if n != "A"}}
    mask = {"id": 3, "content": "[M]", "single_word": True, "lstrip": True, "rstrip": True, "normalized": True, "special": True}
    words = {"type": "WordPiece", "unk_token": "u", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
             "vocab": {"u": 0, "[CLS]": 1, "[SEP]": 2, "[M]": 3, "a": 4, "##b": 5, "##bc": 6, ",": 7}}
    merges = {"type": "BPE", "unk_token": "u", "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
              "vocab": {"u": 0, "a": 1, "b": 2, "ab": 3, "abb": 4, "<0xC3>": 5, "<0xA9>": 6},
              "merges": [["a", "b"], ["ab", "b"]]}
    scores = {"type": "Unigram", "unk_id": 0, "vocab": [["u", 0], ["a", -1.5], ["b", -2], ["ab", -2.25], ["\u2581", -1]]}
    units = [0] * 256
    units[97] = 97 | 1 << 8 | 3 << 10
    charsmap = base64.b64encode(struct.pack("<257I", 1024, *units) + b"X\0").decode()
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
    pattern = {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "MergedWithNext", "invert": False}
    forms = {"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}, {"type": "Strip"},
        {"type": "Precompiled", "precompiled_charsmap": charsmap}, {"type": "Nmt"}, {"type": "Prepend", "prepend": "\u2581"}]}
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    texts = "\0a abB, [M] e\u0301\u4e2d  x\0b".encode() + b"\xff\xe2\x82"
    rows = {
        "bert": (words, bert, {"type": "BertPreTokenizer"}, template),
        "byte_level": (merges, {"type": "NFC"}, byte_level, byte_level),
        "llama": (merges, {"type": "Lowercase"}, pattern, {"type": "RobertaProcessing", "sep": ["b", 2], "cls": ["a", 1],
                                                          "trim_offsets": True, "add_prefix_space": True}),
        "unigram": (scores, forms, {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}, None),
        "digits": (scores, {"type": "NFD"}, {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": False}, {"type": "Punctuation", "behavior": "Contiguous"},
            {"type": "Whitespace"}]}, None),
    }
    for name, (model, normalizer, pre_tokenizer, post_processor) in rows.items():
        yield name, compact({
            "version": "1.0", "added_tokens": [mask], "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor, "model": model,
            "truncation": {"max_length": 9, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}}) + texts
    yield "empty", b""
    yield "no_model", b"{}"


def connections():
    def request(method="GET", target="/", fields="", body="", version="1.1"):
        return f"{method} {target} HTTP/{version}\r\nHost: localhost\r\n{fields}\r\n{body}".encode()

    def chunked(rest, fields=""):
        return request("POST", "/models/active", f"Transfer-Encoding: chunked\r\n{fields}", rest)

    texts = {
        "get": request(target="/models/a%20b?x=1&y=%C3%A9+"),
        "json": request("POST", "/models/active", "Content-Length: 13\r\n", '{"a":[1,2.5]}'),
        "chunks": chunked("4\r\n{\"a\"\r\n3;n=v\r\n:1}\r\n0\r\nX: y\r\n\r\n"),
        "pipeline": request() + request("POST", "/", "Content-Length: 2\r\n", "[]") + request("HEAD", "/models/x"),
        "old": request(version="1.0", fields="Connection: keep-alive\r\n") + request(version="1.0"),
        "options": request("OPTIONS", "*"),
        "whole_address": request(target="http://[::1]:8000/models/x"),
        "both_lengths": chunked("0\r\n\r\n", "Content-Length: 5\r\n"),
        "two_lengths": request("POST", fields="Content-Length: 1\r\nContent-Length: 1\r\n", body="x"),
        "negative_chunk": chunked("-2\r\nxx\r\n"),
        "huge_chunk": chunked("ffffffffffffffff\r\n"),
        "continue": request("POST", fields="Expect: 100-continue\r\nContent-Length: 4\r\n", body="null"),
        "coded": request("POST", fields="Content-Encoding: gzip\r\nContent-Length: 1\r\n", body="x"),
        "long_target": request(target="/" + "a" * 1024),
        "long_header": request(fields="X: " + "a" * 4096 + "\r\n"),
        "many_fields": request(fields="X: y\r\n" * 101),
        "folded": request(fields="X: a\r\n b\r\n"),
        "deep": request("POST", fields="Content-Length: 34\r\n", body="[" * 17 + "]" * 17),
        "other_host": b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "other_origin": request(fields="Origin: http://evil.example\r\n"),
        "cut": request()[:-1],
        "tls": bytes([22, 3, 1, 0, 5, 1]),
    }
    for number, (name, text) in enumerate(texts.items()):
        yield name, bytes([number % 7]) + text


def main(folder):
    targets = {
        "safetensors_header": headers,
        "shard_index": indices,
        "config_json": configs,
        "round_trip": round_trips,
        "capi_sequence": sequences,
        "torch_file": torch_files,
        "gguf_file": gguf_files,
        "quantized_folder": quantized_folders,
        "pickle_file": pickled_models,
        "encoder_folder": encoder_folders,
        "tokenizer_file": tokenizer_files,
        "http_bytes": connections,
    }
    for target, inputs in targets.items():
        into = pathlib.Path(folder) / target
        into.mkdir(parents=True, exist_ok=True)
        for name, content in inputs():
            (into / name).write_bytes(content)


if __name__ == "__main__":
    main(sys.argv[1])
