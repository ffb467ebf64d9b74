"""GGUF: what gguf-py writes opens with the same keys and tensors, what bitmill writes opens there; so does a real model."""

import hashlib
import json
import os
import pathlib
import random
import struct
import subprocess
from collections import Counter

import gguf
import numpy as np
import pytest

from conftest import leftovers

CASES = 10_000 if os.environ.get("BITMILL_TEST_ALL") == "1" else 500
TYPES = [
    "F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K",
    "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4",
]  # fmt: skip


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def write(path, tensors, keys, alignment=None):
    """A file by gguf-py. tensors: name -> (type, shape in elements, bytes)."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    keys(writer)
    for name, (kind, shape, content) in tensors.items():
        kind = gguf.GGMLQuantizationType[kind]
        raw = np.frombuffer(content, np.uint8).reshape(gguf.quant_shape_to_byte_shape(shape, kind))
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def every_key(writer):
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{kind}")(f"test.{kind}", 100)
    writer.add_float32("test.float32", 0.5)
    writer.add_float64("test.float64", -0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("general.name", "naïve ▁ name")
    writer.add_array("test.strings", ["a", "", "▁b" * 50])
    writer.add_array("test.floats", [0.25, -1.5])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.bools", [True, False])


def random_tensors(dice, count=None):
    tensors = {}
    for i in range(count or len(TYPES)):
        kind = TYPES[i] if count is None else dice.choice(TYPES)
        elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        shape = [dice.randint(1, 3) for _ in range(i % 4)] + [elements * dice.randint(1, 3)]
        tensors[f"blk.{i}.{kind.lower()}"] = (kind, shape, dice.randbytes(int(np.prod(shape)) // elements * size))
    return tensors


def reference(path):
    """What gguf-py says of a file; None where it refuses."""
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError, TypeError, MemoryError):
        return None
    return {
        "keys": {
            name: [[int(t) for t in field.types], sha256(b"".join(part.tobytes() for part in field.parts))]
            for name, field in reader.fields.items()
            if not name.startswith("GGUF.")
        },
        "tensors": {
            t.name: [t.tensor_type.name, [int(d) for d in reversed(t.shape)], int(t.data_offset), sha256(t.data.tobytes())]
            for t in reader.tensors
        },
    }


@pytest.fixture(scope="module")
def describe(bitmill_path):
    """describe(path, copy="") -> what bitmill says of a file; its writer makes the copy."""
    program = pathlib.Path(bitmill_path).parent / "bitmill_describe"
    assert program.is_file(), f"{program}: build the tests"
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(path, copy=""):
            print(f"{path}\t{copy}" if copy else path, file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


@pytest.mark.parametrize("alignment", [None, 64, 4096])
def test_a_file_of_every_type_reads_and_writes_as_in_gguf_py(alignment, describe, tmp_path):
    path, copy = tmp_path / "m.gguf", tmp_path / "copy.gguf"
    write(path, random_tensors(random.Random(3)), every_key, alignment)
    expected = reference(path)
    assert len(expected["tensors"]) == len(TYPES) and len(expected["keys"]) >= 17
    assert describe(path, copy) == expected
    assert copy.read_bytes() == path.read_bytes()
    assert reference(copy) == expected


def inspected(bitmill, path):
    told = bitmill("inspect", path, "--json").json()
    return told, {t["name"]: (t["stored_as"], t["shape"], t["bytes"], t["elements"]) for t in told["tensors"]}


def expected_of(path):
    reader = gguf.GGUFReader(path)
    return {
        t.name: (t.tensor_type.name, [int(d) for d in reversed(t.shape)], int(t.n_bytes), int(t.n_elements))
        for t in reader.tensors
    }


def test_inspect_tells_types_shapes_and_what_the_model_is(bitmill, tmp_path):
    path = tmp_path / "m.gguf"
    tensors = random_tensors(random.Random(4), 40)
    write(path, tensors, every_key)
    told, found = inspected(bitmill, path)
    assert found == expected_of(path)
    assert told["quant_method"] == "gguf"
    about = told["gguf"]
    assert (about["version"], about["alignment"]) == (3, 32)
    assert (about["architecture"], about["name"]) == ("llama", "naïve ▁ name")
    assert about["types"] == Counter(kind for kind, *_ in tensors.values())
    table = bitmill("inspect", path).out
    assert "architecture llama" in table and "blk.3." in table and "40 tensors" in table
    assert inspected(bitmill, tmp_path)[1] == found  # the folder of one GGUF file


def test_validate_asks_for_a_manifest(bitmill, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    write(models / "m.gguf", random_tensors(random.Random(5), 3), every_key)
    done = bitmill("validate", models, code=None)
    assert done.code == 4 and "there is no manifest.json" in done.err, repr(done)
    assert leftovers(tmp_path, "models") == []


def mutant(dice, good):
    content = bytearray(good)
    header = good.index(b"DATA")
    for _ in range(dice.randint(1, 3)):
        kind = dice.randrange(5)
        at = dice.randrange(header)
        if kind < 2:
            content[at] ^= 1 << dice.randrange(8)
        elif kind == 2:
            content[at] = dice.randrange(256)
        elif kind == 3:
            number = dice.choice([0, 1, 2, 3, 31, 32, 33, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(good)])
            content[at : at + 8] = struct.pack("<Q", number)
        else:
            content = content[: dice.randrange(len(content) + 1)] or content
            header = min(header, len(content))
    return bytes(content)


def test_what_opens_after_damage_opens_in_gguf_py_too(describe, memory_folder):
    """RA7: no file that bitmill takes and gguf-py refuses; what both take is the same."""
    dice, outcomes = random.Random(6), Counter()
    path = memory_folder / "d.gguf"
    for i in range(CASES):
        if i % 50 == 0:
            tensors = random_tensors(dice, 4)
            first = next(iter(tensors))
            tensors[first] = ("I8", [4], b"DATA")
            write(path, tensors, every_key)
            good = path.read_bytes()
        path.write_bytes(mutant(dice, good))
        ours = describe(path)
        if "error" in ours:
            outcomes["refused"] += 1
            continue
        theirs = reference(path)
        assert theirs is not None, f"only bitmill takes {path.read_bytes().hex()}"
        assert ours == theirs, path.read_bytes().hex()
        outcomes["both"] += 1
    print(outcomes)
    assert outcomes["both"] > CASES // 10 and outcomes["refused"] > CASES // 4, outcomes


@pytest.mark.slow
def test_gemma_reads_and_writes_as_in_gguf_py(bitmill, describe, gemma, tmp_path):
    copy = tmp_path / "copy.gguf"
    told, found = inspected(bitmill, gemma)
    assert found == expected_of(gemma)
    assert told["gguf"]["architecture"] == "gemma3" and told["gguf"]["types"]["Q4_K"] > 0
    expected = reference(gemma)
    assert describe(gemma, copy) == expected
    assert sha256(copy.read_bytes()) == sha256(gemma.read_bytes())
