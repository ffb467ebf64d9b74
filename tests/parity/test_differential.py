"""The same files to bitmill and to the safetensors package. What bitmill accepts, that package accepts with the same
tensors; where bitmill alone refuses, the reason stands in STRICTER."""

import json
import pathlib
import random
import re
import subprocess

import pytest
import safetensors

from synthetic import header_bytes

CASES = 10_000

# What bitmill refuses and safetensors 0.8 takes: a part of our message -> why, and a header that shows it.
ONE = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
STRICTER = {
    "more than 8 dimensions": ("no model has them; rows stay small", {"a": {**ONE, "shape": [1] * 9}}),
    "name of more than 1024 bytes": ("bounds memory by the file's size", {"n" * 1025: ONE}),
    "nested deeper than 16 levels": ("bounds the stack", {"a": {"x": eval("[" * 20 + "]" * 20), **ONE}}),
    "the name stands twice": ("the package keeps either one", b'{"a":%b,"a":%b}'),
    "__metadata__ holds .* twice": (
        "the package keeps either one",
        b'{"__metadata__":{"a":"b","a":"c"},"a":%b}',
    ),
    "its entry must be an object": ("serde also takes a struct as an array", {"a": ["U8", [1], [0, 1]]}),
    "dtype must be a string": (
        "serde also takes a variant as an object",
        {"a": {**ONE, "dtype": {"U8": None}}},
    ),
    "too much punctuation": ("bounds memory by the file's size", {"a": {"x": [[]] * 40_000, **ONE}}),
    "one JSON string fills most": (
        "bounds memory by the file's size",
        {"__metadata__": {"x": "x" * 200_000}, "a": ONE},
    ),
    "more __metadata__ entries": (
        "bounds memory by the file's size",
        {"__metadata__": {str(i): "" for i in range(2000)}, "a": ONE},
    ),
}

BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64, "BOOL": 8}
BITS |= {name: 8 for name in ("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")}
BITS |= {name: int(name.lstrip("BFIU")) for name in "U8 I8 I16 U16 F16 BF16 I32 U32 F32 F64 I64 U64".split()}
NUMBERS = [0, 1, 2, 3, 7, 8, 9, 255, 256, -1, 0.5, 1.0, -0.0, 1e308]
NUMBERS += [2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64]
NAMES = ["a", "b", "", "__metadata__", "é😀", "nul\0", 'quo"te\\', "\n", "layer.0.weight", "dtype"]
NAMES += ["n" * 1024, "n" * 1025]
SCRAPS = [b" ", b"\n", b"\0", b",", b"0", b"-", b"e1", b".0", b"\\u0000", b"\xff"]


def valid(rng):
    """header, data of a file that both readers take."""
    header, data = {}, b""
    if rng.random() < 0.4:
        header["__metadata__"] = {rng.choice(NAMES): rng.choice(NAMES) for _ in range(rng.randrange(3))}
    for name in rng.sample([n for n in NAMES if n not in ("__metadata__", "n" * 1025)], rng.randrange(5)):
        dtype = rng.choice(sorted(BITS))
        shape = [rng.randrange(1 if rng.random() < 0.9 else 0, 5) for _ in range(rng.randrange(4))] + [4]
        size = BITS[dtype]
        for dimension in shape:
            size *= dimension
        begin = len(data)
        data += rng.randbytes(size // 8)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, len(data)]}
    return header, data


def odd_value(rng):
    return rng.choice([None, True, [], {}, "", "F32", "f32", [1], {"U8": None}, [[0]], *NUMBERS])


def mutate_tree(header, rng):
    tensors = [name for name in header if isinstance(header[name], dict) and name != "__metadata__"]
    kind = rng.randrange(9)
    if kind == 0 or not tensors:
        header[rng.choice(NAMES)] = odd_value(rng)
        return
    name = rng.choice(tensors)
    entry, field = header[name], rng.choice(["dtype", "shape", "data_offsets"])
    if kind == 1:
        entry[field] = odd_value(rng)
    elif kind == 2:
        entry.pop(field, None)
    elif kind == 3:
        entry[rng.choice(NAMES + ["x"])] = odd_value(rng)
    elif kind == 4:
        entry["dtype"] = rng.choice(sorted(BITS))
    elif kind == 5:
        header[rng.choice(NAMES)] = header.pop(name)
    elif kind == 6 and isinstance(entry.get("shape"), list):
        entry["shape"].insert(rng.randrange(len(entry["shape"]) + 1), rng.choice(NUMBERS))
    elif kind == 7:
        entry["data_offsets"] = [rng.choice(NUMBERS), rng.choice(NUMBERS)]
    elif kind == 8:
        header[name] = list(entry.values())


def mutate_text(text, rng):
    at = rng.randrange(len(text) + 1)
    kind = rng.randrange(5)
    if kind == 0:
        return text[:at] + rng.choice(SCRAPS) + text[at:]
    if kind == 1:
        return text[:at] + text[at + 1 :]
    if kind == 2:
        return text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
    if kind == 3:  # every member twice
        return text[:-1] + b"," + text[1:] if len(text) > 2 else text
    return b" " * rng.randrange(9) + text + b" " * rng.randrange(9)


def mutant(rng):
    header, data = valid(rng)
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        mutate_tree(header, rng)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=rng.random() < 0.5).encode()
    if rng.random() < 0.25:
        text = mutate_text(text, rng)
    content = header_bytes(text) + data
    kind = rng.randrange(16)
    if kind == 0:
        content = content[: rng.randrange(len(content) + 1)]
    elif kind == 1:
        content += rng.randbytes(rng.randrange(9))
    elif kind == 2:
        told = (len(text) + rng.choice([-8, -1, 1, 8, 2**32, 2**63])) % 2**64
        content = told.to_bytes(8, "little") + content[8:]
    return content


@pytest.fixture(scope="module")
def describe(bitmill_path, tmp_path_factory):
    """describe(content) -> what bitmill makes of a file."""
    program = pathlib.Path(bitmill_path).parent / "bitmill_describe"
    assert program.is_file(), f"{program}: build the tests"
    path = tmp_path_factory.mktemp("differential") / "f.safetensors"
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(content):
            path.write_bytes(content)
            print(path, file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        ask.path = path
        yield ask
        process.stdin.close()


def reference(content, path):
    """The same from the safetensors package, which tells metadata of files on disk only; None where it refuses."""
    try:
        tensors = safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return None
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata() or {}
    return {
        "metadata": metadata,
        "tensors": {name: [one["dtype"], one["shape"], one["data"].hex()] for name, one in tensors},
    }


def compare(content, describe):
    """ "both", "neither", or the reason in STRICTER."""
    ours, theirs = describe(content), reference(content, describe.path)
    if "error" not in ours:
        assert theirs is not None, f"only bitmill accepts {content!r}"
        assert ours == theirs, repr(content)
        return "both"
    if theirs is None:
        return "neither"
    reasons = [reason for reason in STRICTER if re.search(reason, ours["error"])]
    assert reasons, f"only bitmill refuses {content!r}: {ours['error']}"
    return reasons[0]


def test_generated_and_mutated_files(describe):
    rng, counts = random.Random(20260801), {}
    for _ in range(CASES):
        outcome = compare(mutant(rng), describe)
        counts[outcome] = counts.get(outcome, 0) + 1
    print(counts)
    # Both readers had much to say yes and no to.
    assert counts["both"] > CASES // 5 and counts["neither"] > CASES // 5, counts


@pytest.mark.parametrize("reason", STRICTER)
def test_the_stricter_rules_are_those(reason, describe):
    header = STRICTER[reason][1]
    if isinstance(header, bytes):
        header = header.replace(b"%b", json.dumps(ONE).encode())
    assert compare(header_bytes(header) + b"x", describe) == reason
