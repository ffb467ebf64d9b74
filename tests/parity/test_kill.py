"""Killed at any instant, the destination is the old model or the new one, never a mixture."""

import random
import shutil
import signal
import subprocess
import time

import pytest

from conftest import leftovers, tree_hashes
from io_faults import without_marker
from synthetic import write_large

KILLS = 200


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_large(tmp_path_factory.mktemp("kill") / "source", 8, rows=512, columns=1024)


@pytest.fixture(scope="module")
def variants(source, bitmill, tmp_path_factory):
    """scheme -> what a complete output of it holds."""
    base = tmp_path_factory.mktemp("variants")
    for scheme in ("int8", "int4"):
        bitmill("quantize", source, "-o", base / scheme, "--to", scheme, "--method", "absmax")
    return {scheme: tree_hashes(base / scheme) for scheme in ("int8", "int4")}


class Killer:
    """Kills runs at instants that spread evenly over what a run takes: as long as the last one that ended by itself,
    since a machine that builds something beside the test is slow at one time and fast at another."""

    def __init__(self, seed, usual):
        self.dice, self.usual = random.Random(seed), usual

    def __call__(self, command):
        """True where the run had not finished by itself."""
        start = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            child.wait(self.dice.uniform(0, 1.1 * self.usual))
            self.usual = time.monotonic() - start
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        return child.wait() != 0


def duration(command):
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - start


def test_two_hundred_kills(source, variants, bitmill_path, tmp_path):
    out = tmp_path / "out"

    def command(scheme):
        options = ["--to", scheme, "--method", "absmax", "--force"]
        return [bitmill_path, "quantize", str(source), "-o", str(out), *options]

    subprocess.run(command("int8"), check=True, capture_output=True)
    kill = Killer(5, max(duration(command("int4")), duration(command("int8"))))
    killed, replaced, current = 0, 0, "int8"
    for _ in range(KILLS):
        wanted = "int4" if current == "int8" else "int8"
        killed += kill(command(wanted))
        found = without_marker(tree_hashes(out))
        current = next((scheme for scheme, hashes in variants.items() if hashes == found), None)
        assert current, f"torn: {sorted(found)}"
        replaced += current == wanted
    print(f"{KILLS} runs: {killed} killed, {replaced} found new, {KILLS - replaced} old, 0 torn")
    assert killed >= KILLS // 4 and replaced > 0
    wanted = "int4" if current == "int8" else "int8"
    subprocess.run(command(wanted), check=True, capture_output=True)
    assert tree_hashes(out) == variants[wanted]
    assert leftovers(tmp_path, "out") == []


def test_kills_where_nothing_was_there(source, variants, bitmill_path, tmp_path):
    out = tmp_path / "out"
    command = [bitmill_path, "quantize", str(source), "-o", str(out), "--to", "int8", "--method", "absmax"]
    kill = Killer(6, duration(command))
    shutil.rmtree(out)
    absent = 0
    for _ in range(40):
        kill(command)
        if out.exists():
            assert without_marker(tree_hashes(out)) == variants["int8"]
            shutil.rmtree(out)
        else:
            absent += 1
    assert absent > 0
    subprocess.run(command, check=True, capture_output=True)
    assert tree_hashes(out) == variants["int8"] and leftovers(tmp_path, "out") == []


@pytest.mark.parametrize("options", [["--to", "int4"], ["--to", "int8", "--format", "bitmill"]], ids=["int4", "planes"])
def test_two_hundred_kills_and_the_same_command_again(options, bitmill, bitmill_path, memory_folder):
    """The bytes of an undisturbed run. (tests/mill and test_io_faults.py kill at each tile and call.)"""
    folder = memory_folder / f"again-{options[1]}"
    source = write_large(folder / "source", 16, rows=512, columns=1024, shards=4)
    out = folder / "out"
    command = ["quantize", source, "-o", out, *options, "--journal-bytes", "1M"]
    bitmill(*command)
    whole = tree_hashes(out)
    shutil.rmtree(out)
    kill = Killer(7, duration([bitmill_path, *map(str, command)]))
    shutil.rmtree(out)
    killed, resumed = 0, 0
    for _ in range(KILLS):
        killed += kill([bitmill_path, *map(str, command)])
        again = bitmill(*command, "--force")
        resumed += "  resumed: " in again.out
        assert tree_hashes(out) == whole and leftovers(folder, "source", "out") == []
        shutil.rmtree(out)
    print(f"{KILLS} runs: {killed} killed, {resumed} resumed, 0 differ")
    assert killed >= KILLS // 4 and resumed >= KILLS // 16
