"""The same bytes for every ISA, thread count and memory limit, and the same as when they were committed."""

import json

import pytest

from conftest import NATIVE, OUTPUTS, ROOT, tree_hashes

ALL = {**OUTPUTS, **NATIVE}
GOLDEN = ROOT / "tests" / "golden" / "minilm.json"


@pytest.fixture(scope="module")
def isas(bitmill):
    info = bitmill("info", "--json").json()
    assert info["isa"] in info["isa_available"] and len(info["isa_available"]) >= 1
    return info["isa_available"]


def test_forcing_an_isa_works(bitmill, isas):
    for isa in isas:
        assert bitmill("info", "--json", env={"BITMILL_FORCE_ISA": isa}).json()["isa"] == isa
    refused = bitmill("info", "--json", env={"BITMILL_FORCE_ISA": "z80"}, code=2)
    assert "z80" in refused.err


@pytest.mark.parametrize("name", ALL)
def test_same_bytes_for_every_isa(name, bitmill, isas, milled, minilm, tmp_path):
    expected = tree_hashes(milled(*ALL[name]))
    assert expected
    for isa in isas:
        out = tmp_path / isa.replace("/", "_")
        bitmill("quantize", minilm, "-o", out, *ALL[name], env={"BITMILL_FORCE_ISA": isa})
        assert tree_hashes(out) == expected, isa


@pytest.mark.parametrize("name", ["int8", "int4", "nf4-double-quant", "planes"])
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_same_bytes_for_every_thread_count(name, threads, bitmill, milled, minilm, tmp_path):
    out = tmp_path / "out"
    bitmill("quantize", minilm, "-o", out, *ALL[name], "--threads", threads)
    assert tree_hashes(out) == tree_hashes(milled(*ALL[name]))


@pytest.mark.parametrize("name", ["int8", "int8-per-tensor", "int4", "nf4-double-quant", "fp16", "planes"])
@pytest.mark.parametrize("limit", ["8M", "1G"])
def test_same_bytes_for_every_memory_limit(name, limit, bitmill, milled, minilm, tmp_path):
    out = tmp_path / "out"
    bitmill("quantize", minilm, "-o", out, *ALL[name], "--memory-limit", limit)
    assert tree_hashes(out) == tree_hashes(milled(*ALL[name]))


@pytest.mark.parametrize("name", ["int8", "nf4", "planes", "native-int8"])
def test_dequantize_gives_the_same_bytes_everywhere(name, bitmill, isas, milled, tmp_path):
    folder, seen = milled(*ALL[name]), set()
    for i, (isa, threads) in enumerate((isa, threads) for isa in isas for threads in (1, 3)):
        out = tmp_path / str(i)
        bitmill("dequantize", folder, "-o", out, "--threads", threads, env={"BITMILL_FORCE_ISA": isa})
        seen.add(tree_hashes(out)["model.safetensors"])
    assert len(seen) == 1


def test_golden_hashes(milled, request):
    """tests/golden/minilm.json is rewritten by `pytest tests/parity -k golden --update-golden`."""
    actual = {}
    for name, options in ALL.items():
        hashes = tree_hashes(milled(*options))
        actual[name] = {k: v for k, v in hashes.items() if k.endswith(".safetensors") or k == "config.json"}
        assert actual[name]
    if request.config.getoption("--update-golden"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(json.dumps(actual, indent=1, sort_keys=True) + "\n")
    assert GOLDEN.is_file(), "run once with --update-golden and commit the file"
    assert actual == json.loads(GOLDEN.read_text())
