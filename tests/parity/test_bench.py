"""`bitmill bench`: what it reports, and what it refuses."""

import pytest

SMALL = ["--batch", "2", "--length", "4:16", "--rounds", "3", "--threads", "2", "--json"]


@pytest.mark.parametrize("activation", ["float", "dynamic-int8"])
def test_report(activation, bitmill, minilm, milled):
    for folder, level in [(minilm, "original"), (milled("--to", "int8"), "int8"), (milled("--to", "int4"), "int4")]:
        report = bitmill("bench", folder, "--activation", activation, *SMALL).json()
        integers = activation == "dynamic-int8" and level != "original"
        assert report["effective"] == level and report["requested"] == "" and report["reason"] == ""
        assert report["activation"] == ("dynamic-int8" if integers else "float")
        assert bool(report["warnings"]) == (activation == "dynamic-int8" and not integers)
        assert (report["batch"], report["min_length"], report["max_length"]) == (2, 4, 16)
        assert (report["tokens"], report["rounds"], report["threads"]) == (20, 3, 2)
        assert 0 < report["median_ms"] <= report["p95_ms"] and report["load_ms"] > 0
        assert report["tokens_per_s"] == pytest.approx(20000 / report["median_ms"], rel=1e-6)
        assert report["file_bytes"] == (folder / "model.safetensors").stat().st_size
        assert report["weight_bytes"] < report["peak_memory_bytes"] < 2**30
        assert report["isa"] == bitmill("info", "--json").json()["isa"]


def test_text_and_levels(bitmill, minilm, milled):
    text = bitmill("bench", minilm, "--level", "fp16", *SMALL[:-1]).out
    assert "level fp16, activation float" in text and "2 sequences of 4 to 16 tokens, 3 rounds" in text
    both = milled("--to", "int8", "--format", "bitmill")
    weights = {
        level: bitmill("bench", both, "--level", level, *SMALL).json()["weight_bytes"] for level in ("int8", "int4")
    }
    assert weights["int4"] < weights["int8"] * 0.7


@pytest.mark.parametrize(
    "args, word",
    [
        (["--length", "0"], "--length"),
        (["--length", "8:4"], "--length"),
        (["--length", "8:"], "--length"),
        (["--length", "many"], "--length"),
        (["--length", "-3"], "--length"),
        (["--length", "513"], "512"),
        (["--batch", "0"], "--batch"),
        (["--batch", "-1"], "--batch"),
        (["--rounds", "-1"], "--rounds"),
        (["--threads", "x"], "--threads"),
        (["--threads", "-1"], "--threads"),
        (["--threads", "1025"], "'1025' must be a number of 0 to 1024"),
        (["--level", "int3"], "int3"),
        (["--level", "int4"], "there is original"),
        (["--activation", "static"], "static"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refusals(args, word, bitmill, minilm):
    done = bitmill("bench", minilm, *args, code=2)
    assert word in done.err and not done.out


def test_what_is_no_encoder(bitmill, tmp_path):
    assert bitmill("bench", tmp_path / "none", code=4).err
    assert bitmill("bench", code=2).err
