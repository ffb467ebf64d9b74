"""Working memory: whole-process RSS stays within --memory-limit + 64 MiB, whatever the model's size."""

import shutil
import signal
import subprocess
import time

import pytest

from children import run_child
from synthetic import write_large

MIB = 2**20


@pytest.fixture(scope="module")
def gibibyte(tmp_path_factory):
    folder = write_large(tmp_path_factory.mktemp("large") / "source", 1024)
    yield folder
    (folder / "model.safetensors").unlink()


@pytest.fixture(scope="module")
def one_tensor(tmp_path_factory):
    """One matrix of 512 MiB: no tile may hold a whole tensor."""
    folder = write_large(tmp_path_factory.mktemp("tensor") / "source", 512, rows=32768, columns=4096)
    yield folder
    (folder / "model.safetensors").unlink()


def peak_rss(*args):
    """(exit code, peak RSS in MiB) of one run."""
    code, rss, _ = run_child(*args)
    return code, rss / MIB


def test_the_measure_itself(bitmill_path):
    """A child that does nothing is small, however large this process has grown."""
    code, rss = peak_rss(bitmill_path, "info")
    assert code == 0 and rss < 48


@pytest.mark.parametrize(
    "options,limit",
    [
        (["--to", "int8", "--threads", 1], 32),
        (["--to", "int8", "--threads", 7], 32),
        (["--to", "int8", "--per-tensor"], 32),
        (["--to", "nf4", "--threads", 3], 32),
        (["--to", "int4", "--method", "absmax", "--threads", 2], 8),
        (["--to", "fp16"], 32),
        (["--to", "int8", "--target-sparsity", "0.5", "--threads", 7], 32),
    ],
    ids=lambda value: "-".join(map(str, value)).replace("--", "") if isinstance(value, list) else f"{value}M",
)
def test_quantize_of_one_gibibyte(options, limit, gibibyte, bitmill_path, tmp_path):
    code, rss = peak_rss(
        bitmill_path, "quantize", gibibyte, "-o", tmp_path / "out", *options, "--memory-limit", f"{limit}M"
    )
    assert code == 0
    (tmp_path / "out" / "model.safetensors").unlink()
    print(f"peak RSS {rss:.0f} MiB")
    assert rss <= limit + 64


@pytest.mark.parametrize(
    "options",
    [["--to", "int8", "--per-tensor"], ["--to", "nf4", "--double-quant"]],
    ids=["int8-per-tensor", "nf4-double-quant"],
)
def test_one_tensor_larger_than_the_limit(options, one_tensor, bitmill_path, bitmill, tmp_path):
    out, back = tmp_path / "out", tmp_path / "back"
    code, rss = peak_rss(bitmill_path, "quantize", one_tensor, "-o", out, *options, "--memory-limit", "32M")
    assert code == 0 and rss <= 32 + 64
    code, rss = peak_rss(bitmill_path, "dequantize", out, "-o", back, "--memory-limit", "32M")
    assert code == 0 and rss <= 32 + 64
    for folder in (out, back):
        (folder / "model.safetensors").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int4", "int8", "nf4", "fp4", "bf16"])
@pytest.mark.parametrize("threads", [1, 2, 16])
@pytest.mark.parametrize("limit", [8, 256])
def test_every_scheme_of_one_gibibyte(scheme, threads, limit, gibibyte, bitmill_path, tmp_path):
    code, rss = peak_rss(
        bitmill_path,
        "quantize",
        gibibyte,
        "-o",
        tmp_path / "out",
        "--to",
        scheme,
        "--threads",
        threads,
        "--memory-limit",
        f"{limit}M",
    )
    assert code == 0
    (tmp_path / "out" / "model.safetensors").unlink()
    assert rss <= limit + 64


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4"])
def test_four_gibibytes_at_32_mebibytes(scheme, bitmill_path, tmp_path):
    """A sparse source of 2 billion weights; then once more after a kill, on top of what was done."""
    source, out = tmp_path / "source", tmp_path / "out"
    write_large(source, 4096, dtype="F16", shards=3, sparse=True)
    command = [bitmill_path, "quantize", source, "-o", out, "--to", scheme, "--memory-limit", "32M"]
    code, rss = peak_rss(*command)
    assert code == 0 and rss <= 32 + 64
    sizes = {path.name: path.stat().st_size for path in out.iterdir()}
    shutil.rmtree(out)
    child = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / "out.bitmill-partial" / ".bitmill-journal"
    while child.poll() is None and not (journal.exists() and journal.stat().st_size > 2**18):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    code, again = peak_rss(*command)
    assert code == 0 and again <= 32 + 64
    assert {path.name: path.stat().st_size for path in out.iterdir()} == sizes
    shutil.rmtree(out)
    print(f"peak RSS {rss:.0f} MiB, resumed {again:.0f} MiB")
