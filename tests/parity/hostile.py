"""Model folders that break one rule each. name -> what to do to a folder that holds a valid one-layer Llama.

Each entry names the file that the error message must name.
"""

import json
import os
import struct

from synthetic import header_bytes, safetensors_bytes, tiny_arrays

FILE, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
U64_MAX = 2**64 - 1


def raw(content):
    """The whole of model.safetensors."""
    return lambda folder: (folder / FILE).write_bytes(content)


def header(edit):
    """model.safetensors with an edited header; edit(header) returns a header, or the JSON as bytes."""

    def write(folder):
        table, data = safetensors_bytes(tiny_arrays())
        edited = edit(table)
        (folder / FILE).write_bytes(header_bytes(table if edited is None else edited) + data)

    return write


def entry(**fields):
    """One field of the first Linear changed; None deletes it."""

    def edit(table):
        target = table["model.layers.0.self_attn.q_proj.weight"]
        for key, value in fields.items():
            if value is None:
                del target[key]
            else:
                target[key] = value

    return header(edit)


def text(edit):
    """The header's JSON text edited."""
    return header(lambda table: edit(json.dumps(table, separators=(",", ":")).encode()))


def config(content):
    return lambda folder: (folder / CONFIG).write_bytes(content)


def sharded(edit=None, index_text=None, files=None):
    """Two valid shards and an index; edit(index, folder) breaks it."""

    def write(folder):
        arrays = tiny_arrays()
        (folder / FILE).unlink()
        names, index = sorted(arrays), {"metadata": {"total_size": 0}, "weight_map": {}}
        for part, chosen in enumerate((names[::2], names[1::2]), 1):
            shard = f"model-{part:05}-of-00002.safetensors"
            table, data = safetensors_bytes({name: arrays[name] for name in chosen})
            (folder / shard).write_bytes(header_bytes(table) + data)
            index["weight_map"].update({name: shard for name in chosen})
        if edit:
            edit(index, folder)
        (folder / INDEX).write_text(index_text(json.dumps(index)) if index_text else json.dumps(index))

    return write


def first(index):
    return sorted(index["weight_map"])[0]


def point_at(name):
    def edit(index, folder):
        index["weight_map"][first(index)] = name

    return sharded(edit)


def link_out(index, folder):
    outside = folder.parent / "outside.safetensors"
    shard = folder / "model-00001-of-00002.safetensors"
    shard.rename(outside)
    os.symlink(outside, shard)


def link_folder_out(index, folder):
    away = folder.parent / "away"
    away.mkdir(exist_ok=True)
    (folder / "model-00001-of-00002.safetensors").rename(away / "s.safetensors")
    os.symlink(away, folder / "sub")
    for name, shard in index["weight_map"].items():
        if "00001" in shard:
            index["weight_map"][name] = "sub/s.safetensors"


def truncate_shard(index, folder):
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def copy_offsets(table):
    table["model.layers.0.self_attn.q_proj.weight"]["data_offsets"] = table[
        "model.layers.0.self_attn.k_proj.weight"
    ]["data_offsets"]


def shifted(first_delta, last_delta):
    def edit(table):
        offsets = table["model.layers.0.self_attn.q_proj.weight"]["data_offsets"]
        offsets[0] += first_delta
        offsets[1] += last_delta

    return header(edit)


def with_tail(extra):
    def write(folder):
        path = folder / FILE
        path.write_bytes(path.read_bytes() + extra)

    return write


def cut(length):
    def write(folder):
        path = folder / FILE
        content = path.read_bytes()
        path.write_bytes(content[:length] if length >= 0 else content[: len(content) + length])

    return write


def metadata(value):
    return header(lambda table: table.__setitem__("__metadata__", value))


HOSTILE = {
    # the first eight bytes
    "empty-file": (FILE, raw(b"")),
    "seven-bytes": (FILE, cut(7)),
    "eight-bytes": (FILE, cut(8)),
    "header-cut": (FILE, cut(200)),
    "length-zero": (FILE, raw(struct.pack("<Q", 0))),
    "length-past-end": (FILE, raw(struct.pack("<Q", 500) + b"{}")),
    "length-2-63": (FILE, raw(struct.pack("<Q", 2**63) + b"{}" * 50)),
    "length-all-ones": (FILE, raw(struct.pack("<Q", U64_MAX) + b"{}" * 50)),
    "length-minus-eight": (FILE, raw(struct.pack("<Q", U64_MAX - 7) + b"{}" * 50)),
    "length-over-limit": (FILE, raw(struct.pack("<Q", 100_000_001) + b" " * 64)),
    # JSON
    "not-utf8": (FILE, text(lambda t: t.replace(b"q_proj", b"q_\xff\xfej"))),
    "not-json": (FILE, raw(header_bytes(b"hello there, not JSON at all"))),
    "array": (FILE, raw(header_bytes(b"[]"))),
    "string": (FILE, raw(header_bytes(b'"tensors"'))),
    "trailing-nul": (FILE, raw(header_bytes(b"{}\0\0\0\0\0\0"))),
    "two-objects": (FILE, raw(header_bytes(b"{}{}"))),
    "only-spaces": (FILE, raw(header_bytes(b" " * 16))),
    "unclosed": (FILE, text(lambda t: t[:-1])),
    "trailing-comma": (FILE, text(lambda t: t[:-1] + b",}")),
    "deep": (FILE, raw(header_bytes(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"))),
    "nan-literal": (FILE, text(lambda t: t.replace(b"[64,64]", b"[NaN,64]", 1))),
    "byte-order-mark": (FILE, text(lambda t: b"\xef\xbb\xbf" + t)),
    # one entry
    "unknown-dtype": (FILE, entry(dtype="F31")),
    "lower-case-dtype": (FILE, entry(dtype="f32")),
    "dtype-number": (FILE, entry(dtype=7)),
    "no-dtype": (FILE, entry(dtype=None)),
    "no-shape": (FILE, entry(shape=None)),
    "no-offsets": (FILE, entry(data_offsets=None)),
    "shape-string": (FILE, entry(shape="64x64")),
    "shape-negative": (FILE, entry(shape=[-64, -64])),
    "shape-float": (FILE, entry(shape=[64.0, 64.0])),
    "shape-nested": (FILE, entry(shape=[[64, 64]])),
    "shape-overflow": (FILE, entry(shape=[2**33, 2**33])),
    "shape-wraps-to-size": (FILE, entry(shape=[2**62 + 4096])),
    "shape-over-u64": (FILE, entry(shape=[2**64, 1])),
    "shape-other-size": (FILE, entry(shape=[64, 65])),
    "too-many-dimensions": (FILE, entry(shape=[64, 64] + [1] * 60)),
    "dtype-other-size": (FILE, entry(dtype="F64")),
    "offsets-one": (FILE, entry(data_offsets=[0])),
    "offsets-three": (FILE, entry(data_offsets=[0, 1, 2])),
    "offsets-float": (FILE, entry(data_offsets=[0.0, 16384.0])),
    "offsets-negative": (FILE, entry(data_offsets=[-16384, 0])),
    "offsets-swapped": (FILE, header(lambda t: t["lm_head.weight"]["data_offsets"].reverse())),
    "offsets-huge": (FILE, entry(data_offsets=[U64_MAX - 16384, U64_MAX])),
    "offsets-exponent": (FILE, text(lambda t: t.replace(b'"data_offsets":[0,', b'"data_offsets":[0e0,', 1))),
    # between entries
    "same-range": (FILE, header(copy_offsets)),
    "hole": (FILE, shifted(4, 4)),
    "overlap": (FILE, shifted(-4, -4)),
    "entry-not-object": (FILE, header(lambda t: t.__setitem__("x", 5))),
    "duplicate-tensor": (
        FILE,
        text(
            lambda t: t[:-1] + b',"lm_head.weight":' + t.split(b'"lm_head.weight":')[1].split(b"}")[0] + b"}}"
        ),
    ),
    "trailing-byte": (FILE, with_tail(b"\0")),
    "trailing-file": (FILE, with_tail(b"PK\3\4" * 64)),
    "data-cut-by-one": (FILE, cut(-1)),
    "data-cut-in-half": (FILE, cut(-90000)),
    # metadata
    "metadata-number": (FILE, metadata({"format": 1})),
    "metadata-list": (FILE, metadata(["pt"])),
    "metadata-nested": (FILE, metadata({"format": {"a": "b"}})),
    "metadata-string": (FILE, metadata("pt")),
    "metadata-twice": (FILE, text(lambda t: b'{"__metadata__":{"format":"pt"},' + t[1:])),
    # index
    "index-not-json": (INDEX, sharded(index_text=lambda t: t[:-2])),
    "index-array": (INDEX, sharded(index_text=lambda t: "[]")),
    "index-no-map": (INDEX, sharded(index_text=lambda t: '{"metadata": {}}')),
    "index-map-list": (INDEX, sharded(index_text=lambda t: '{"metadata": {}, "weight_map": []}')),
    "index-number": (INDEX, point_at(5)),
    "index-null": (INDEX, point_at(None)),
    "index-duplicate": (
        INDEX,
        sharded(
            index_text=lambda t: t.replace(
                '"weight_map": {', '"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors", '
            )
        ),
    ),
    "index-parent": (INDEX, point_at("../outside.safetensors")),
    "index-inner-parent": (INDEX, point_at("a/../../outside.safetensors")),
    "index-absolute": (INDEX, point_at("/etc/passwd")),
    "index-empty-name": (INDEX, point_at("")),
    "index-nul": (INDEX, point_at("model-00001-of-00002.safetensors\0.txt")),
    "index-dot": (INDEX, point_at(".")),
    "index-missing-shard": ("gone.safetensors", point_at("gone.safetensors")),
    "index-wrong-shard": ("model", point_at("model-00002-of-00002.safetensors")),
    "index-unknown-tensor": (
        "model",
        sharded(
            lambda index, folder: index["weight_map"].update(
                {"no.such.weight": "model-00001-of-00002.safetensors"}
            )
        ),
    ),
    "index-link-outside": ("model-00001-of-00002.safetensors", sharded(link_out)),
    "index-folder-link-outside": ("model", sharded(link_folder_out)),
    "shard-truncated": ("model-00002-of-00002.safetensors", sharded(truncate_shard)),
    # config
    "config-not-json": (CONFIG, config(b'{"model_type": "llama"')),
    "config-array": (CONFIG, config(b"[1, 2]")),
    "config-not-utf8": (CONFIG, config(b'{"a": "\xff"}')),
    "config-deep": (CONFIG, config(b'{"a":' * 9000)),
}
