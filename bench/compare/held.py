"""onnxruntime as on a CPU without AVX-512 and VNNI: a copy of the package whose cpuid instructions held_cpu.c answers.

onnxruntime asks the CPU what it has and reads no variable, so there is no other way to compare with its AVX2 kernels on
a machine that has more.
"""

import ctypes
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys

import machine

CPUID, STAND_IN = b"\x0f\xa2", b"\x06\xa2"
SECTION = re.compile(r"^\s*\[\s*\d+\]\s+(\S+)\s+\S+\s+([0-9a-f]{16})\s+([0-9a-f]+)\s+([0-9a-f]+)")


def replace_cpuid(path):
    """Replaces every cpuid instruction of a shared library; how many there were."""
    text = subprocess.run(["readelf", "-SW", path], check=True, capture_output=True, text=True).stdout
    sections = [[int(n, 16) for n in m.groups()[1:]] for m in map(SECTION.match, text.splitlines()) if m]
    code = bytearray(path.read_bytes())
    count = 0
    listing = subprocess.Popen(["objdump", "-d", "--no-show-raw-insn", path], stdout=subprocess.PIPE, text=True)
    for line in listing.stdout:
        if not line.rstrip().endswith("\tcpuid"):
            continue
        address = int(line.split(":")[0], 16)
        start, offset, _ = next(s for s in sections if s[0] and s[0] <= address < s[0] + s[2])
        at = address - start + offset
        if code[at : at + 2] != CPUID:
            raise RuntimeError(f"{path}: no cpuid at {address:x}")
        code[at : at + 2] = STAND_IN
        count += 1
    if listing.wait() != 0 or count == 0:
        raise RuntimeError(f"{path}: no cpuid instruction found")
    path.write_bytes(code)
    return count


def hold_onnxruntime():
    """Before onnxruntime is imported: from here on `import onnxruntime` finds the copy."""
    source = pathlib.Path(importlib.util.find_spec("onnxruntime").submodule_search_locations[0])
    folder = machine.ROOT / "build" / "held"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder / "onnxruntime")
    for library in (folder / "onnxruntime" / "capi").glob("onnxruntime_pybind11_state*.so"):
        replace_cpuid(library)
    answers = folder / "held_cpu.so"
    here = pathlib.Path(__file__).resolve().parent
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", answers, here / "held_cpu.c"], check=True)
    ctypes.CDLL(str(answers))
    sys.path.insert(0, str(folder))
