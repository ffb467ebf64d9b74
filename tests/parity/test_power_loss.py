"""Power loss at any instant: the destination is the old model or the new one, whole.

The command's file operations are written down; from them come the states in which a file system may be after
the power went (crash_model.py says which). Truth: the trees of undisturbed runs.
"""

import copy
import itertools
import os
import pathlib
import random
import shutil
import tempfile

import pytest

import io_faults
from conftest import leftovers
from crash_model import Disk, Folder, flatten, read_log, unsynced_below, write_state
from io_faults import Runner, read_tree, without_marker

ALL = os.environ.get("BITMILL_TEST_ALL") == "1"
STATES = 10_000 if ALL else 200
REOPENED = 100 if ALL else 10
RESUMED = 1000 if ALL else 100
NAMES = ["quantize", "replace", "replace-old-kernel", "noted", "resume"]
REPLACING = NAMES[1:3]
OUT, PARTIAL, OLD = "out", "out.bitmill-partial", "out.bitmill-old"
JOURNAL, KEY_BYTES = ".bitmill-journal", 64


@pytest.fixture(scope="module")
def scenarios(bitmill, memory_folder):
    (memory_folder / "power").mkdir()
    return io_faults.make_scenarios(memory_folder / "power", bitmill)


class Recording:
    """A scenario's runs, as the disk was before them and what they did to it."""

    def __init__(self, scenario, bitmill_path, folder, kill_at_sync=0):
        self.scenario, self.runner = scenario, Runner(folder, bitmill_path)
        log = folder.with_suffix(".log")
        scenario.place(self.runner)
        self._before = Disk(self.runner.folder)
        if kill_at_sync:
            killed = scenario.run(self.runner, action="kill", kinds=["fsync"], at=kill_at_sync, log=log)
            assert killed.code == -9, killed
        outcome = scenario.run(self.runner, log=log)
        assert outcome.code == 0, outcome
        self.operations = read_log(log)

    def disk(self):
        return copy.deepcopy(self._before)

    def swap(self):
        """Number of the first operation after which the new model stands at its place."""
        for number, (what, *paths) in enumerate(self.operations):
            if what in ("rename", "exchange") and paths[0].endswith(PARTIAL) and paths[1].endswith("/" + OUT):
                return number
        raise AssertionError("the log holds no swap")

    def without_syncs_of(self, chosen):
        """The same runs, had they not fsynced what chosen(disk, node) says."""
        less, disk = copy.copy(self), self.disk()
        less.operations = []
        for operation in self.operations:
            disk.apply(operation)
            if operation[0] != "fsync" or not chosen(disk, disk.by_inode[int(operation[1])]):
                less.operations.append(operation)
        return less


@pytest.fixture
def record(scenarios, bitmill_path, memory_folder):
    with tempfile.TemporaryDirectory(dir=memory_folder) as base:
        folders = (pathlib.Path(base) / str(number) for number in itertools.count())
        yield lambda name, **how: Recording(scenarios[name], bitmill_path, next(folders), **how)


def order_faults(recording):
    """What was not yet on disk before the swap, before the old model's deletion, at the end."""
    disk, swap, faults = recording.disk(), recording.swap(), []
    for number, operation in enumerate(recording.operations):
        if number == swap:
            faults += unsynced_below(disk.find(operation[1]), PARTIAL)
        if number > swap and operation[0] == "unlink" and f"/{OUT}/" not in operation[1]:
            faults += [] if disk.top.synced else [f"the swap, before {operation[1]} was deleted"]
        disk.apply(operation)
    return faults + ([] if disk.top.synced else ["the parent, at the end"])


def cut_power(recording, states, dice, keep=lambda state: None):
    """Counts what lies at the destination after `states` power cuts, half of them after the commit began."""
    scenario, disk, done = recording.scenario, recording.disk(), 0
    old = read_tree(scenario.old) if scenario.old else None
    counts = {"old": 0, "new": 0, "aside": 0, "torn": 0}
    starts, end = (0, recording.swap() - 5), len(recording.operations) + 1
    for cut in sorted(dice.randrange(dice.choice(starts), end) for _ in range(states)):
        for operation in recording.operations[done:cut]:
            disk.apply(operation)
        done = cut
        state = disk.crash(dice)
        found, aside = (without_marker(flatten(state.get(name))) for name in (OUT, OLD))
        if found == scenario.new:
            counts["new"] += 1
        elif found == old:
            counts["old"] += 1
        elif found is None and not scenario.modern and aside in (old, scenario.new):
            counts["aside"] += 1  # between two renames; the next run brings it back
        else:
            counts["torn"] += 1
        keep(state)
    return counts


def reopen(recording, state):
    """The next run, from what the power cut left: done, nothing beside. Returns (is it whole, did it resume)."""
    scenario, runner = recording.scenario, recording.runner
    for path in runner.folder.iterdir():
        if path.name != "source":  # the very files that the journal names
            shutil.rmtree(path)
    assert flatten(state["source"]) == read_tree(scenario.source), "the source was touched"
    write_state({name: node for name, node in state.items() if name != "source"}, runner.folder)
    outcome = scenario.run(runner, options=["--force"])
    assert outcome.code == 0, outcome
    assert leftovers(runner.folder, "source", OUT) == []
    return read_tree(runner.folder / OUT) == scenario.new, outcome.resumed


def resumable_states(recording, count):
    """States after power cuts in the middle of the work, with a journal that says something."""
    dice, states = random.Random(23), []
    before_swap = recording.swap()
    while len(states) < count:
        disk = recording.disk()
        for operation in recording.operations[: dice.randrange(before_swap)]:
            disk.apply(operation)
        found = [disk.crash(dice) for _ in range(10)]
        states += [s for s in found if len(s.get(PARTIAL, {}).get(JOURNAL, b"")) > KEY_BYTES]
    return states[:count]


@pytest.mark.parametrize("name", NAMES)
def test_all_is_on_disk_before_the_swap(name, record):
    assert order_faults(record(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_power_loss(name, record):
    recording, dice, kept = record(name), random.Random(17), []

    def keep(state):
        if dice.random() < REOPENED / STATES:
            kept.append(state)

    counts = cut_power(recording, STATES, dice, keep)
    for state in kept:
        whole, _ = reopen(recording, state)
        assert whole
    count = len(recording.operations)
    print(f"{name}: {STATES} states of {count} operations: {counts}; {len(kept)} reopened")
    assert counts["torn"] == 0 and counts["old"] > 0 and counts["new"] > 0


@pytest.mark.parametrize("name", REPLACING)
def test_power_loss_after_a_kill(name, record):
    """Killed right after the swap: the next run must not delete what a power cut may bring back."""
    whole = record(name)
    syncs = sum(operation[0] == "fsync" for operation in whole.operations[: whole.swap()])
    for at in (syncs + 1, syncs + 2):  # of the parent, of the new folder
        recording = record(name, kill_at_sync=at)
        counts = cut_power(recording, STATES, random.Random(at))
        print(f"{name}, killed at fsync {at}: {STATES} states: {counts}")
        assert counts["torn"] == 0


@pytest.mark.parametrize("name", ["noted", "resume"])
def test_a_journal_never_runs_ahead_of_its_files(name, record):
    """What a power cut left is gone on with, and whatever of it was lost is milled again."""
    recording = record(name)
    found = [reopen(recording, state) for state in resumable_states(recording, RESUMED)]
    resumed = sum(resumed for _, resumed in found)
    print(f"{name}: {RESUMED} states with a journal, {resumed} resumed, 0 torn")
    assert all(whole for whole, _ in found) and resumed > RESUMED // 4


def test_a_disk_that_lies_about_fsync_costs_work_and_nothing_else(record):
    """What the journal names is read back, so that not even this leaves wrong bytes."""
    careless = record("noted").without_syncs_of(lambda disk, node: not isinstance(node, Folder))
    found = [reopen(careless, state) for state in resumable_states(careless, 200)]
    torn = sum(not whole for whole, _ in found)
    resumed = sum(resumed for _, resumed in found)
    print(f"without fsync of files: 200 states with a journal, {resumed} resumed, {torn} torn")
    assert torn == 0 and resumed < 200


@pytest.mark.parametrize("part", ["files", "folders", "parent"])
def test_the_checks_see_a_missing_fsync(part, record):
    """Had bitmill not fsynced its files, its folders or the parent, both checks would say so."""
    wanted = {
        "files": lambda disk, node: not isinstance(node, Folder),
        "folders": lambda disk, node: isinstance(node, Folder) and node is not disk.top,
        "parent": lambda disk, node: node is disk.top,
    }
    careless = record("replace").without_syncs_of(wanted[part])
    assert order_faults(careless) != []
    counts = cut_power(careless, 2000, random.Random(3))
    print(f"without fsync of {part}: {counts}")
    assert counts["torn"] > 0
