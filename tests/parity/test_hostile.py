"""Broken model folders at the command line: exit 3, one line that names the file, nothing left behind."""

import pytest

from conftest import leftovers, tree_hashes
from hostile import HOSTILE
from synthetic import write_tiny


def test_there_are_enough():
    assert len(HOSTILE) >= 60


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folder_is_refused(name, bitmill, tmp_path):
    file, break_it = HOSTILE[name]
    source = write_tiny(tmp_path / "source")
    break_it(source)
    before = leftovers(tmp_path)
    for command in (
        ["quantize", source, "-o", tmp_path / "out", "--to", "int8"],
        ["quantize", source, "-o", tmp_path / "out", "--to", "nf4", "--json"],
        ["dequantize", source, "-o", tmp_path / "out"],
        ["inspect", source],
    ):
        done = bitmill(*command, code=3, timeout=20)
        assert len(done.err.splitlines()) == 1 and done.err.endswith("\n"), repr(done)
        assert file in done.err and done.err.rstrip("\n").isprintable(), repr(done)
        assert leftovers(tmp_path) == before, repr(done)


def test_an_existing_output_survives_a_hostile_source(bitmill, tmp_path):
    good = write_tiny(tmp_path / "good")
    bitmill("quantize", good, "-o", tmp_path / "out", "--to", "int8")
    before = tree_hashes(tmp_path / "out")
    bad = write_tiny(tmp_path / "bad")
    HOSTILE["data-cut-in-half"][1](bad)
    bitmill("quantize", bad, "-o", tmp_path / "out", "--to", "int4", "--force", code=3)
    assert tree_hashes(tmp_path / "out") == before
    assert leftovers(tmp_path, "good", "bad", "out") == []


def test_every_prefix_of_a_small_file_is_refused(bitmill, tmp_path):
    """RA3 at smoke size: all lengths round the header's ends, then every 4999th byte."""
    source = write_tiny(tmp_path / "source")
    path = source / "model.safetensors"
    content = path.read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")
    lengths = {
        *range(0, 20),
        *range(header_end - 10, header_end + 10),
        *range(0, len(content), 4999),
        len(content) - 1,
    }
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        done = bitmill("inspect", source, code=3, timeout=20)
        assert "model.safetensors" in done.err and len(done.err.splitlines()) == 1
    path.write_bytes(content)
    bitmill("inspect", source)
