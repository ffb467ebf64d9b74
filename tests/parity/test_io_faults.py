"""Every file operation of the command fails: the destination is the old model or the new one, never torn.

Truth: the trees of undisturbed runs. After an error nothing lies beside the destination and every descriptor
is closed; calls that were interrupted or moved less than asked for are no errors at all.
"""

import concurrent.futures
import os
import pathlib
import subprocess
import tempfile

import pytest

import io_faults
from conftest import leftovers
from io_faults import ERRNO, INTERRUPTIBLE, KINDS, NEEDS_SPACE, TRANSFERS, Runner, read_tree, without_marker

NAMES = ["quantize", "dequantize", "replace", "replace-old-kernel", "resume"]
IN_PLACE = "the new folder is in place"
GROWS = ["create", "write", "truncate", "fallocate", "mkdir"]
WORKERS = min(4, os.cpu_count() or 1)
DISK_SIZES = 64 if os.environ.get("BITMILL_TEST_ALL") == "1" else 8


@pytest.fixture(scope="module")
def scenarios(bitmill, memory_folder):
    (memory_folder / "faults").mkdir()
    return io_faults.make_scenarios(memory_folder / "faults", bitmill)


def check_once(scenario, runner, outcome):
    """Old or new, as the exit code says; nothing left unless the removal itself was struck."""
    found, beside = read_tree(runner.folder / "out"), leftovers(runner.folder, "source", "out")
    assert outcome.left_open == 0, f"descriptors left open: {outcome}"
    if outcome.code == 0:
        assert found == scenario.new and beside == [], f"{beside}: {outcome}"
        return "done"
    assert outcome.code == 4 and str(runner.folder) in outcome.stderr, outcome
    if IN_PLACE not in outcome.stderr:
        old = read_tree(scenario.old) if scenario.old else None
        if scenario.killed_at and beside:  # refused before what the killed run left was touched
            assert scenario.run(runner).resumed and read_tree(runner.folder / "out") == scenario.new, outcome
            found, beside = None, leftovers(runner.folder, "source", "out")
        assert found == old and beside == [], f"{beside}: {outcome}"
        return "refused"
    assert without_marker(found) == scenario.new, f"torn: {outcome}"
    if beside:
        again = scenario.run(runner)
        assert again.code == 0 and leftovers(runner.folder, "source", "out") == [], f"{again} after {outcome}"
    return "in place, with an error"


def check_forever(scenario, runner, outcome):
    """A disk that fails for good: not torn, and the next run on a sound disk finds its way and cleans up."""
    out, old = runner.folder / "out", read_tree(scenario.old) if scenario.old else None
    found = without_marker(read_tree(out))
    if found is None and not scenario.modern:
        # Two renames: the old folder has its other name until the next run.
        found = without_marker(read_tree(runner.folder / "out.bitmill-old"))
    assert outcome.left_open == 0, f"descriptors left open: {outcome}"
    assert found in (old, scenario.new), f"torn: {outcome}"
    assert outcome.code == 4 or (outcome.code == 0 and found == scenario.new), outcome
    assert outcome.code == 0 or str(runner.folder) in outcome.stderr, outcome
    again = scenario.run(runner, options=["--force"])
    assert again.code == 0 and read_tree(out) == scenario.new, f"{again} after {outcome}"
    assert leftovers(runner.folder, "source", "out") == [], f"not cleaned: {outcome}"
    return "done" if outcome.code == 0 else "refused" if found == old else "in place, with an error"


def sweep(scenario, bitmill_path, folder, action, kinds, check=check_once, repeat="once"):
    """Strikes at call 1, 2, ... until a run ends unstruck.

    Returns how the struck runs ended, and the kinds of calls that failed without an error.
    """

    def work(worker):
        runner, ended, at = Runner(folder / f"worker-{worker}", bitmill_path), [], worker + 1
        while True:
            scenario.place(runner)
            outcome = scenario.run(runner, action=action, kinds=kinds, at=at, repeat=repeat)
            how = check(scenario, runner, outcome)
            if not outcome.strikes and outcome.code != -9:
                assert outcome.code == 0, outcome
                return ended
            ended.append(how)
            silent.update({outcome.where.split()[0]} if how == "done" else ())
            at += WORKERS

    silent = set()
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        ended = sum(pool.map(work, range(WORKERS)), [])
    counts = {how: ended.count(how) for how in sorted(set(ended))}
    print(f"{scenario.name}: {len(ended)} calls struck with {action} ({repeat}): {counts}, 0 torn")
    return counts, silent


@pytest.fixture
def folder(memory_folder):
    with tempfile.TemporaryDirectory(dir=memory_folder) as name:
        yield pathlib.Path(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_injector_sees_every_kind(name, scenarios, bitmill_path, folder):
    """Or else a call that goes past it, after a change of libstdc++ say, would pass untested."""
    runner, unseen = Runner(folder / "none", bitmill_path), []
    for kind in KINDS:
        scenarios[name].place(runner)
        outcome = scenarios[name].run(runner, kinds=[kind])
        assert outcome.code == 0, outcome
        unseen += [] if outcome.calls else [kind]
    # A file that is gone on with has its room.
    assert unseen == (["truncate", "fallocate"] if scenarios[name].killed_at else [])


def may_fail_silently(scenario):
    """Closing what was only read; and marking the old folder, which helps only where its deletion is cut off.

    With EIO also the look whether the partial folder is still the one that was locked: it is taken again. And what a
    killed run left, where it cannot be read: the work begins anew.
    """
    if scenario.killed_at:
        return {"close", "open", "read", "readdir", "unlink"}
    return {"close", "create", "fsync"} if scenario.old else {"close"}


@pytest.mark.parametrize("name", NAMES)
def test_each_call_fails_with_eio(name, scenarios, bitmill_path, folder):
    counts, silent = sweep(scenarios[name], bitmill_path, folder, ERRNO["EIO"], KINDS)
    assert silent <= may_fail_silently(scenarios[name]) | {"stat"}
    assert counts["refused"] > 150 and counts["in place, with an error"] > (20 if scenarios[name].old else 1)


@pytest.mark.parametrize("name", NAMES)
def test_each_call_fails_with_enospc(name, scenarios, bitmill_path, folder):
    counts, silent = sweep(scenarios[name], bitmill_path, folder, ERRNO["ENOSPC"], NEEDS_SPACE)
    assert silent <= may_fail_silently(scenarios[name]) and counts["refused"] > 50


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("action", ["EINTR", "short"])
def test_interrupted_and_short_calls_are_no_errors(action, name, scenarios, bitmill_path, folder):
    number, kinds = ERRNO.get(action, action), INTERRUPTIBLE if action == "EINTR" else TRANSFERS
    counts, _ = sweep(scenarios[name], bitmill_path, folder, number, kinds)
    assert set(counts) == {"done"} and counts["done"] >= (100 if action == "EINTR" else 45)
    # And all of them at once: every second call, every transfer.
    runner = Runner(folder / "all", bitmill_path)
    scenarios[name].place(runner)
    repeat = "alternate" if action == "EINTR" else "forever"
    outcome = scenarios[name].run(runner, action=number, kinds=kinds, at=1, repeat=repeat)
    assert check_once(scenarios[name], runner, outcome) == "done" and outcome.strikes > 45


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_fails_for_good(name, scenarios, bitmill_path, folder):
    counts, _ = sweep(scenarios[name], bitmill_path, folder, ERRNO["EIO"], KINDS, check_forever, "forever")
    assert counts["refused"] > 150


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_fills_up(name, scenarios, bitmill_path, folder):
    """From any call on that needs room there is none; runs where no tmpfs may be mounted, too."""

    def check(scenario, runner, outcome):
        if outcome.code:
            assert "No space left on device" in outcome.stderr, outcome
        return check_once(scenario, runner, outcome)

    counts, _ = sweep(scenarios[name], bitmill_path, folder, "full", GROWS, check, "forever")
    assert counts["refused"] > (20 if scenarios[name].killed_at else 30)


@pytest.mark.parametrize("name", ["noted", "resume", "replace", "replace-old-kernel"])
def test_killed_at_each_call_the_same_command_ends_the_work(name, scenarios, bitmill_path, folder):
    """So also between any two tiles and at the shards' boundary; what was noted is not milled again."""
    resumed = []

    def check(scenario, runner, outcome):
        if outcome.code == 0:
            return "done"
        assert outcome.code == -9, outcome
        again = scenario.run(runner, options=["--force"])
        assert again.code == 0 and read_tree(runner.folder / "out") == scenario.new, again
        assert leftovers(runner.folder, "source", "out") == [], again
        resumed.append(again.resumed)
        return "killed"

    counts, _ = sweep(scenarios[name], bitmill_path, folder, "kill", KINDS, check)
    print(f"{name}: {counts['killed']} kills, {sum(resumed)} resumed")
    assert counts["killed"] > 200 and sum(resumed) > 30


def test_a_file_system_that_cannot_reserve(scenarios, bitmill_path, folder):
    runner = Runner(folder / "none", bitmill_path)
    scenarios["quantize"].place(runner)
    outcome = scenarios["quantize"].run(
        runner, action=ERRNO["EOPNOTSUPP"], kinds=["fallocate"], at=1, repeat="forever"
    )
    assert outcome.strikes == 2 and check_once(scenarios["quantize"], runner, outcome) == "done"


# ---- a real full disk ------------------------------------------------------------------------------------

PAGE = os.sysconf("SC_PAGE_SIZE")
ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size="$1" tmpfs "$2/disk"
if [ -n "$3" ]; then cp -a "$3" "$2/disk/out"; fi
cd "$2/disk"
set +e
shift 3
"$@" >/dev/null 2>../stderr
echo $? >../code
set -e
cp -a "$PWD/." ../copy
"""


def mounting():
    """The command that gives a namespace in which tmpfs may be mounted; skips where there is none."""
    refusals = []
    for unshare in (["unshare", "-m"], ["unshare", "-Urm"]):
        try:
            command = [*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
            subprocess.run(command, check=True, capture_output=True, text=True)
            return unshare
        except FileNotFoundError as missing:
            refusals.append(str(missing))
        except subprocess.CalledProcessError as refused:
            refusals.append(refused.stderr.strip())
    pytest.skip("no tmpfs may be mounted here: " + "; ".join(refusals))


def pages(tree):
    return sum(-(-len(data) // PAGE) for data in tree.values()) if tree else 0


@pytest.mark.parametrize("name", NAMES[:3])
def test_small_disks(name, scenarios, bitmill_path, tmp_path):
    """Real ENOSPC: disks from too small by all to large enough by a page."""
    unshare, scenario = mounting(), scenarios[name]
    old = read_tree(scenario.old) if scenario.old else None
    needed, codes = pages(scenario.new) + 1, []
    for step in range(1, DISK_SIZES + 1):
        room = pages(old) + max(1, needed * step // DISK_SIZES)
        base = tmp_path / str(step)
        (base / "disk").mkdir(parents=True)
        command = scenario.command(pathlib.Path("."))
        command[1] = scenario.source / scenario.model
        script = ["sh", "-c", ON_A_SMALL_DISK, "sh", str(room * PAGE), str(base), str(scenario.old or "")]
        subprocess.run([*unshare, *script, str(bitmill_path), *map(str, command)], check=True, timeout=60)
        code, stderr = int((base / "code").read_text()), (base / "stderr").read_text()
        found = read_tree(base / "copy" / "out")
        assert found == (old if code else scenario.new), f"torn on {room} pages: {stderr}"
        assert leftovers(base / "copy", "out") == []
        if code:
            assert code == 4 and "No space left on device" in stderr and str(base / "disk" / "out") in stderr
        codes.append(code)
    print(f"{name}: {DISK_SIZES} disk sizes, {codes.count(4)} refused, {codes.count(0)} done, 0 torn")
    assert codes[0] == 4 and codes[-1] == 0 and codes == sorted(codes, reverse=True)
