"""The command line: exit codes, messages, --json, --dry-run, signals."""

import json
import pathlib
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

import checkpoints
from conftest import ROOT, leftovers, read_tensors, tree_hashes
from synthetic import tiny_arrays, write_large, write_tiny

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def tiny(tmp_path):
    return write_tiny(tmp_path / "source")


def one_line(done):
    assert len(done.err.splitlines()) == 1, repr(done)
    return done.err


# --- usage: exit 2 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["mill"],
        ["quantize"],
        ["quantize", "{model}"],
        ["quantize", "{model}", "-o", "{out}"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int9"],
        ["quantize", "{model}", "-o", "{out}", "--to", ""],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--method", "magic"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--group-size", "-1"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--group-size", "many"],
        ["quantize", "{model}", "-o", "{out}", "--to", "nf4", "--block-size", "48"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--per-tensor", "--group-size", "32"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--memory-limit", "lots"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--memory-limit", "-1"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--weight-threshold", "inf"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--target-sparsity", "1"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--target-sparsity", "nan"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--prune-relative", "-0.1"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--prune-relative", "0.1", "--weight-threshold", "0.1"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--prune-relative", "0.1", "--target-sparsity", "0.1"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--block-size", "64"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--include", "(" * 2000],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--threads", "x"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--threads", "100000"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--include", "("],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--nan", "maybe"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--unknown-option"],
        ["quantize", "{model}", "-o", "{out}", "--to", "int8", "--activation", "static"],
        ["dequantize", "{model}", "-o", "{out}", "--dtype", "f8"],
        ["inspect"],
    ],
    ids=lambda args: " ".join(args).replace("{model} -o {out} ", "") or "nothing",
)
def test_usage_errors(args, bitmill, tiny, tmp_path):
    done = bitmill(*[a.format(model=tiny, out=tmp_path / "out") for a in args], code=2)
    assert done.err and leftovers(tmp_path) == ["source"]


def test_help_and_version(bitmill):
    for verb in ([], ["quantize"], ["dequantize"], ["inspect"], ["info"]):
        done = bitmill(*verb, "--help")
        assert done.out and not done.err
    assert "bitmill" in bitmill("--help").out
    assert bitmill("info", "--json").json()["version"] in bitmill("--version").out


def test_cuda_is_a_clear_error(bitmill, tiny, tmp_path):
    done = bitmill("quantize", tiny, "-o", tmp_path / "out", "--to", "int8", "--device", "cuda", code=None)
    assert done.code in (2, 3) and "cuda" in done.err.lower() and "cpu" in done.err.lower()
    assert leftovers(tmp_path) == ["source"]


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_asymmetric_is_refused_for_compressed_tensors(scheme, bitmill, tiny, tmp_path):
    done = bitmill("quantize", tiny, "-o", tmp_path / "out", "--to", scheme, "--asymmetric", code=None)
    assert done.code in (2, 3) and "compressed-tensors" in one_line(done)
    assert "bitmill" in done.err.lower() or "gguf" in done.err.lower(), "names a container that can"
    assert leftovers(tmp_path) == ["source"]


# --- input: exit 3; I/O: exit 4 -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4", "fp16"])
def test_a_quantized_model_is_a_source(scheme, bitmill, tiny, tmp_path):
    bitmill("quantize", tiny, "-o", tmp_path / "q", "--to", "nf4" if scheme == "int8" else "int8")
    done = bitmill("quantize", tmp_path / "q", "-o", tmp_path / "out", "--to", scheme)
    assert "the source is quantized" in done.err
    bitmill("verify", tmp_path / "q", tmp_path / "out")


def test_a_plain_model_can_be_dequantized_or_says_why_not(bitmill, tiny, tmp_path):
    done = bitmill("dequantize", tiny, "-o", tmp_path / "out", "--dtype", "bf16", code=None)
    if done.code == 0:
        assert (tmp_path / "out" / "model.safetensors").is_file()
    else:
        assert done.code == 3 and "quantized" in one_line(done)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 1000, 4095])
@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4"])
def test_nan_and_inf_are_named(value, index, scheme, bitmill, tmp_path):
    arrays = tiny_arrays()
    arrays[Q_PROJ].reshape(-1)[index] = value
    source = write_tiny(tmp_path / "source", arrays)
    done = bitmill("quantize", source, "-o", tmp_path / "out", "--to", scheme, code=3)
    message = one_line(done)
    assert Q_PROJ in message and str(index) in message and "model.safetensors" in message
    assert ("nan" if np.isnan(value) else "inf") in message.lower()
    assert leftovers(tmp_path) == ["source"]


@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4", "fp16"])
def test_nan_keep(scheme, bitmill, tmp_path):
    """--nan keep leaves that tensor as it was (fp16 casts it); every other one is quantized."""
    arrays = tiny_arrays()
    arrays[Q_PROJ][3, 5] = np.nan
    source = write_tiny(tmp_path / "source", arrays)
    bitmill("quantize", source, "-o", tmp_path / "out", "--to", scheme, "--nan", "keep")
    tensors = read_tensors(tmp_path / "out")
    if scheme != "fp16":
        assert np.array_equal(tensors[Q_PROJ].numpy(), arrays[Q_PROJ], equal_nan=True)
    assert np.isnan(tensors[Q_PROJ].float().numpy()[3, 5])
    assert np.isnan(tensors[Q_PROJ].float().numpy()).sum() == 1


@pytest.mark.parametrize("model", ["gone", "gone/model.safetensors"])
def test_a_missing_model(model, bitmill, tmp_path):
    done = bitmill("quantize", tmp_path / model, "-o", tmp_path / "out", "--to", "int8", code=None)
    assert done.code in (3, 4) and "gone" in one_line(done) and leftovers(tmp_path) == []


def test_an_empty_folder(bitmill, tmp_path):
    (tmp_path / "empty").mkdir()
    done = bitmill("quantize", tmp_path / "empty", "-o", tmp_path / "out", "--to", "int8", code=None)
    assert done.code in (3, 4) and "safetensors" in one_line(done) and leftovers(tmp_path) == ["empty"]


@pytest.mark.parametrize("out", ["source/config.json/out", "gone/deeper/out"])
def test_an_impossible_destination(out, bitmill, tiny, tmp_path):
    done = bitmill("quantize", tiny, "-o", tmp_path / out, "--to", "int8", code=4)
    assert one_line(done) and leftovers(tmp_path) == ["source"]


def test_a_full_disk(bitmill_path, tmp_path):
    """RLIMIT_FSIZE makes every write past 1 MiB fail as a full disk does."""
    source = write_large(tmp_path / "source", 8, rows=512, columns=1024)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    done = subprocess.run(
        [bitmill_path, "quantize", str(source), "-o", str(tmp_path / "out"), "--to", "int8"],
        capture_output=True,
        preexec_fn=limit,
        restore_signals=False,
    )
    assert done.returncode == 4, done
    assert len(done.stderr.splitlines()) == 1 and leftovers(tmp_path) == ["source"]


def test_an_existing_output_needs_force(bitmill, tiny, tmp_path):
    out = tmp_path / "out"
    bitmill("quantize", tiny, "-o", out, "--to", "int8")
    before = tree_hashes(out)
    done = bitmill("quantize", tiny, "-o", out, "--to", "nf4", code=None)
    assert done.code in (2, 4) and "--force" in one_line(done) and tree_hashes(out) == before
    bitmill("quantize", tiny, "-o", out, "--to", "nf4", "--force")
    assert tree_hashes(out) != before and leftovers(tmp_path) == ["out", "source"]


def test_force_does_not_delete_what_is_no_model(bitmill, tiny, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    done = bitmill("quantize", tiny, "-o", out, "--to", "int8", "--force", code=None)
    assert done.code in (2, 4) and (out / "thesis.tex").read_text() == "years of work"
    done = bitmill("quantize", tiny, "-o", tiny, "--to", "int8", "--force", code=None)
    assert done.code in (2, 3, 4) and (tiny / "config.json").is_file()


def test_output_inside_the_model_folder(bitmill, tiny, tmp_path):
    """MODEL/<level>/ is where variants live."""
    bitmill("quantize", tiny, "-o", tiny / "int8", "--to", "int8")
    first = tree_hashes(tiny / "int8")
    bitmill("quantize", tiny, "-o", tmp_path / "again", "--to", "int8")
    assert tree_hashes(tmp_path / "again") == first


# --- report -------------------------------------------------------------------------------------------------


def folder_bytes(folder):
    return sum(p.stat().st_size for p in pathlib.Path(folder).rglob("*") if p.is_file())


def test_info(bitmill):
    info = bitmill("info", "--json").json()
    assert {"version", "isa", "isa_available", "threads", "onednn"} <= info.keys()
    assert "isa" in bitmill("info").out.lower()


def test_version_is_the_header_s(bitmill):
    text = (ROOT / "include" / "bitmill" / "version.hpp").read_text()
    numbers = [
        next(line.split()[-1] for line in text.splitlines() if f"BITMILL_VERSION_{part} " in line)
        for part in ("MAJOR", "MINOR", "PATCH")
    ]
    assert bitmill("info", "--json").json()["version"] == ".".join(numbers)


def test_inspect(bitmill, tiny, tmp_path):
    listed = json.dumps(bitmill("inspect", tiny, "--json").json())
    for name in tiny_arrays():
        assert name in listed and name in bitmill("inspect", tiny).out
    bitmill("quantize", tiny, "-o", tmp_path / "q", "--to", "int4")
    assert "int4" in bitmill("inspect", tmp_path / "q").out


REPORT_KEYS = {
    "source",
    "output",
    "requested",
    "format",
    "method",
    "dry_run",
    "parameters",
    "source_bytes",
    "bytes",
    "side_bytes",
    "ratio_to_source",
    "ratio_to_f32",
    "bits_per_weight",
    "coded_bits_per_weight",
    "seconds",
    "gb_per_second",
    "error",
    "warnings",
    "tensors",
}
TENSOR_KEYS = {
    "name",
    "shape",
    "source_dtype",
    "requested",
    "effective",
    "reason",
    "elements",
    "source_bytes",
    "bytes",
    "bits_per_weight",
}
ERROR_KEYS = {"mse", "max_abs", "snr_db", "cosine"}


@pytest.mark.parametrize(
    "options",
    [
        ["--to", "int8"],
        ["--to", "int4", "--group-size", "32"],
        ["--to", "nf4"],
        ["--to", "nf4", "--double-quant"],
        ["--to", "fp16"],
    ],
    ids=" ".join,
)
def test_report(options, bitmill, tiny, tmp_path):
    """Every figure of --json against the files themselves."""
    out = tmp_path / "out"
    report = bitmill("quantize", tiny, "-o", out, *options, "--json").json()
    assert REPORT_KEYS <= report.keys()
    arrays, written = tiny_arrays(), read_tensors(out)
    assert report["bytes"] == sum(p.stat().st_size for p in out.glob("*.safetensors"))
    assert report["source_bytes"] == (tiny / "model.safetensors").stat().st_size
    assert report["parameters"] == sum(a.size for a in arrays.values())
    assert report["ratio_to_f32"] == pytest.approx(4 * report["parameters"] / report["bytes"])
    rows = {row["name"]: row for row in report["tensors"]}
    assert rows.keys() == arrays.keys()
    plain = options[-1] == "fp16"
    layers = (
        {} if plain else (checkpoints.book_layers if "nf4" in options else checkpoints.integer_layers)(out)
    )
    for name, row in rows.items():
        assert TENSOR_KEYS <= row.keys()
        assert row["shape"] == list(arrays[name].shape) and row["elements"] == arrays[name].size
        module = name.removesuffix(".weight")
        mine = [
            t
            for key, t in written.items()
            if key == name or key.startswith((name + ".", module + ".weight_"))
        ]
        assert row["bytes"] == sum(t.numel() * t.element_size() for t in mine), name
        assert row["bits_per_weight"] == pytest.approx(8 * row["bytes"] / row["elements"])
        if module in layers:
            assert row["requested"] == row["effective"] and ERROR_KEYS <= row.keys()
            error = (layers[module]["weight"] - arrays[name]).astype(np.float64)
            signal_power = np.square(arrays[name], dtype=np.float64).sum()
            assert row["mse"] == pytest.approx(np.square(error).mean(), rel=1e-5)
            assert row["max_abs"] == pytest.approx(np.abs(error).max(), rel=1e-5)
            assert row["snr_db"] == pytest.approx(
                10 * np.log10(signal_power / np.square(error).sum()), abs=1e-3
            )
        elif not plain:
            assert row["effective"] == "keep" and row["reason"]
    assert len(layers) == (0 if plain else 7)


@pytest.mark.parametrize(
    "options",
    [["--to", "int8"], ["--to", "int4"], ["--to", "nf4", "--double-quant"], ["--to", "fp16"]],
    ids=" ".join,
)
def test_dry_run_is_exact_and_writes_nothing(options, bitmill, minilm, milled, tmp_path):
    done = bitmill("quantize", minilm, "-o", tmp_path / "out", *options, "--dry-run", "--json")
    report = done.json()
    assert report["dry_run"] is True and leftovers(tmp_path) == []
    out = milled(*options)
    assert report["bytes"] == sum(p.stat().st_size for p in out.glob("*.safetensors"))
    real = bitmill("quantize", minilm, "-o", tmp_path / "out", *options, "--json").json()
    assert real["dry_run"] is False
    for key in ("bytes", "side_bytes", "source_bytes", "parameters", "bits_per_weight"):
        assert report[key] == real[key], key
    for planned, made in zip(report["tensors"], real["tensors"], strict=True):
        assert {k: planned[k] for k in TENSOR_KEYS} == {k: made[k] for k in TENSOR_KEYS}


def test_requested_effective_reason(bitmill, tmp_path):
    """96 columns are no multiple of 128: the largest of 128, 64, 32 that divides, and the report says so."""
    arrays = tiny_arrays()
    arrays[Q_PROJ] = np.random.default_rng(2).standard_normal((64, 96)).astype(np.float32)
    source = write_tiny(tmp_path / "source", arrays)
    report = bitmill("quantize", source, "-o", tmp_path / "out", "--to", "int4", "--json").json()
    row = next(r for r in report["tensors"] if r["name"] == Q_PROJ)
    assert "128" in row["requested"] and "group 32" in row["effective"] and row["reason"]
    done = bitmill("quantize", source, "-o", tmp_path / "strict", "--to", "int4", "--strict", code=None)
    assert done.code in (2, 3, 6) and leftovers(tmp_path) == ["out", "source"]


def test_include_exclude_override(bitmill, tiny, tmp_path):
    report = bitmill(
        "quantize",
        tiny,
        "-o",
        tmp_path / "a",
        "--to",
        "int8",
        "--include",
        "mlp",
        "--exclude",
        "down",
        "--json",
    ).json()
    coded = {r["name"] for r in report["tensors"] if r["effective"] != "keep"}
    assert coded == {f"model.layers.0.mlp.{p}_proj.weight" for p in ("gate", "up")}
    report = bitmill(
        "quantize", tiny, "-o", tmp_path / "b", "--to", "int8", "--override", "q_proj=int4", "--json"
    ).json()
    kinds = {r["name"]: r["effective"].split()[0] for r in report["tensors"]}
    assert kinds[Q_PROJ] == "int4" and kinds["model.layers.0.mlp.up_proj.weight"] == "int8"


def test_json_goes_to_stdout_and_nothing_else(bitmill, tiny, tmp_path):
    done = bitmill("quantize", tiny, "-o", tmp_path / "out", "--to", "int8", "--json")
    assert not done.err
    json.loads(done.out)


def test_errors_as_json(bitmill, tmp_path):
    arrays = tiny_arrays()
    arrays[Q_PROJ][0, 7] = np.nan
    source = write_tiny(tmp_path / "source", arrays)
    done = bitmill("quantize", source, "-o", tmp_path / "out", "--to", "int8", "--json", code=3)
    error = done.json()["error"]
    assert error["code"] == "bad_input" and error["tensor"] == Q_PROJ
    assert error["file"].endswith("model.safetensors") and "7" in error["message"] and one_line(done)


def test_quiet_in_a_pipe(bitmill, tiny, tmp_path):
    done = bitmill("quantize", tiny, "-o", tmp_path / "out", "--to", "int8")
    assert not done.err and "\r" not in done.out and "\x1b" not in done.out


# --- signals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_interrupt_leaves_nothing(sent, bitmill_path, tmp_path):
    source = write_large(tmp_path / "source", 128)
    command = [
        bitmill_path,
        "quantize",
        str(source),
        "-o",
        str(tmp_path / "out"),
        "--to",
        "int4",
        "--threads",
        "1",
    ]
    codes = []
    for delay in (0.02, 0.1, 0.2, 0.3):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(delay)
        child.send_signal(sent)
        _, err = child.communicate(timeout=20)
        codes.append(child.returncode)
        if child.returncode == 0:
            shutil.rmtree(tmp_path / "out")
            continue
        # A signal in the first milliseconds may find the handler not yet set.
        assert child.returncode == 130 or (delay == 0.02 and child.returncode == -sent), (codes, err)
        assert leftovers(tmp_path) == ["source"]
    assert 130 in codes


# --- what a report or a pattern may not do -------------------------------------------------------------------


def test_a_lost_report_is_an_error(bitmill_path, tiny):
    with open("/dev/full", "w") as full:
        done = subprocess.run([bitmill_path, "inspect", tiny, "--json"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 4 and "standard output" in done.stderr


def test_no_pattern_takes_exponential_time(bitmill_path, tiny):
    command = [bitmill_path, "quantize", tiny, "--to", "int8", "--dry-run", "--exclude", "(([a-z.]+)+)+!"]
    assert subprocess.run(command, capture_output=True, timeout=20).returncode == 0
