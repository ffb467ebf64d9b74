"""Runs of the bitmill command whose file operations fail on purpose, or are written down.

tests/faults/io_faults.cpp, preloaded into the command, does it; only operations below one folder count.
"""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import subprocess

from synthetic import CONFIG, header_bytes, safetensors_bytes, tiny_arrays

KINDS = (
    "open create read write fsync truncate fallocate rename unlink mkdir stat readlink readdir flock close"
).split()
# What the manual pages of Linux allow: which calls a full disk and which a signal can break off.
NEEDS_SPACE = "create write fsync truncate fallocate rename mkdir close".split()
INTERRUPTIBLE = "open create read write fsync truncate fallocate flock close".split()
TRANSFERS = ["read", "write"]

MARKER = ".bitmill-partial"  # lies in a folder that bitmill may delete


def write_model(folder):
    """A one-layer Llama of 160 KB in two shards, with files beside it and in a folder below."""
    (folder / "1_Pooling").mkdir(parents=True)
    weight_map, arrays = {}, tiny_arrays()
    names = sorted(arrays)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"model-{number:05}-of-00002.safetensors"
        header, data = safetensors_bytes({name: arrays[name] for name in part})
        (folder / shard).write_bytes(header_bytes(header) + data)
        weight_map.update(dict.fromkeys(part, shard))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps({"words": list(range(500))}))
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


def read_tree(folder):
    """relative path -> bytes of every file below, or None where there is no folder."""
    if not folder.exists():
        return None
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write_hub_cache(folder, model):
    """The model as the Hugging Face hub's cache keeps it: snapshots/REV/NAME is a link to blobs/HASH."""
    (folder / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in model.rglob("*") if p.is_file())):
        shutil.copyfile(path, folder / "blobs" / str(number))
        link = folder / "snapshots" / "main" / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(folder / "blobs" / str(number), link.parent))
    return folder


def without_marker(tree):
    """A kill or a power cut around the swap may leave the empty marker in either model."""
    return None if tree is None else {name: data for name, data in tree.items() if name != MARKER}


def find_library(bitmill_path):
    library = pathlib.Path(bitmill_path).parent.parent / "tests" / "bitmill_io_faults.so"
    assert library.is_file(), f"{library} is missing: build the tests beside the command"
    return library


@dataclasses.dataclass
class Outcome:
    code: int
    stderr: str
    resumed: bool = False
    calls: int = 0
    strikes: int = 0
    left_open: int = 0
    where: str = ""

    def __str__(self):
        return f"exit {self.code}, struck at {self.where or '-'}: {self.stderr.strip()}"


class Runner:
    """Runs commands with faults below one folder."""

    def __init__(self, folder, bitmill_path):
        self.folder = pathlib.Path(folder).resolve()
        self.command = str(bitmill_path)
        self.library = str(find_library(bitmill_path))
        self.result = self.folder.parent / (self.folder.name + ".result")

    def run(self, args, action=0, kinds=KINDS, at=0, repeat="once", modern=True, log=None):
        self.result.unlink(missing_ok=True)
        faults = {
            "LD_PRELOAD": self.library,
            "IO_FAULTS_FOLDER": self.folder,
            "IO_FAULTS_KINDS": ",".join(kinds),
            "IO_FAULTS_AT": at,
            "IO_FAULTS_REPEAT": repeat,
            "IO_FAULTS_ACTION": action,
            "IO_FAULTS_RESULT": self.result,
            **({} if modern else {"IO_FAULTS_OLD_KERNEL": 1}),
            **({"IO_FAULTS_LOG": log} if log else {}),
        }
        environment = {**os.environ, **{key: str(value) for key, value in faults.items()}}
        done = subprocess.run(
            [self.command, *map(str, args)], env=environment, capture_output=True, timeout=60, text=True
        )
        outcome = Outcome(done.returncode, done.stderr, "  resumed: " in done.stdout)
        if self.result.exists():
            calls, strikes, left, outcome.where = self.result.read_text().split("\t")
            outcome.calls, outcome.strikes, outcome.left_open = int(calls), int(strikes), int(left)
        return outcome


@dataclasses.dataclass
class Scenario:
    """A command line that turns `old` (a folder, or None) at out into `new`."""

    name: str
    source: pathlib.Path
    args: list
    model: str = "."  # below source
    old: pathlib.Path = None
    modern: bool = True
    killed_at: int = 0  # the fsync at which an earlier run of the same command was killed
    new: dict = None

    def place(self, runner):
        """Puts source and old folder, or what a killed run left, and nothing else below the runner's folder."""
        runner.folder.mkdir(parents=True, exist_ok=True)
        for path in runner.folder.iterdir():
            if path.name != "source":
                shutil.rmtree(path)
        if not (runner.folder / "source").exists():
            shutil.copytree(self.source, runner.folder / "source", symlinks=True)
        if self.old:
            shutil.copytree(self.old, runner.folder / "out")
        if self.killed_at:
            killed = self.run(runner, action="kill", kinds=["fsync"], at=self.killed_at)
            assert killed.code == -9, killed

    def command(self, folder):
        verb, *options = self.args
        return [verb, folder / "source" / self.model, "-o", folder / "out", "--threads", "1", *options]

    def run(self, runner, options=(), **faults):
        return runner.run([*self.command(runner.folder), *options], modern=self.modern, **faults)


def make_scenarios(folder, bitmill):
    """name -> scenario. Links, and kernels without openat2 and renameat2, take ways of their own."""
    source, coded, hub = folder / "source", folder / "coded", folder / "hub"
    write_model(source)
    bitmill("quantize", source, "-o", coded, "--to", "int8")
    write_hub_cache(hub, coded)
    int4 = ["quantize", "--to", "int4", "--method", "absmax"]
    noted = [*int4, "--journal-bytes", "20000"]  # eight batches
    scenarios = [
        Scenario("quantize", source, int4),
        Scenario("dequantize", hub, ["dequantize"], model="snapshots/main"),
        Scenario("replace", source, [*int4, "--force"], old=coded),
        Scenario("replace-old-kernel", source, [*int4, "--force"], old=coded, modern=False),
        Scenario("noted", source, noted),
        Scenario("resume", source, noted, killed_at=6),
    ]
    for one in scenarios:
        place = folder / one.name
        place.mkdir()
        (place / "source").symlink_to(one.source)
        bitmill(*one.command(place))
        one.new = read_tree(place / "out")
    return {one.name: one for one in scenarios}


ERRNO = {name: getattr(errno, name) for name in ("EIO", "ENOSPC", "EINTR", "EOPNOTSUPP")}
