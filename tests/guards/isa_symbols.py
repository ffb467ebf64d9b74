"""The object of an instruction set shows the linker one symbol, its table, and needs nothing but C functions.

A weak function compiled with AVX2 would otherwise be the copy that the whole program calls.
"""

import argparse
import pathlib
import re
import subprocess

import guard

# Compilers may call these whatever the source says; sanitizers add their own.
ALLOWED_UNDEFINED = re.compile(
    r"^(mem(cpy|move|set|cmp)|_GLOBAL_OFFSET_TABLE_|__stack_chk_fail|__(asan|ubsan|tsan)_.*|__(start|stop)_asan_globals)$")


def output(*command):
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


def symbols(args, path, *flags):
    return [line.split()[-2:] for line in output(args.nm, *flags, str(path)).splitlines() if line.strip()]


def check_object(args, path):
    expected = f"bitmill_kernels_{path.stem}"
    defined = symbols(args, path, "--defined-only", "--extern-only")
    if not any(name == expected for _, name in defined):
        yield f"{path.name}: {expected} is missing"
    for kind, name in defined:
        if name == "___asan_globals_registered":
            continue  # one per program by design, only in sanitizer builds
        if name != expected:
            yield f"{path.name}: {name} is global (nm says {kind})"
        elif kind not in "DR":
            yield f"{path.name}: {name} is not constant data (nm says {kind})"
    for _, name in symbols(args, path, "--undefined-only"):
        if not ALLOWED_UNDEFINED.match(name):
            yield f"{path.name}: needs {name} from outside"
    if "COMDAT" in output(args.readelf, "--section-groups", str(path)):
        yield f"{path.name}: has a COMDAT group, which the linker may drop for another object's copy"


def check(source, args):
    complaints = []
    for path in args.objects or []:
        complaints.extend(check_object(args, path))
    return complaints if args.objects else ["no objects given"]


def check_sample(root, args):
    complaints = []
    for path in root.glob("*.cpp"):
        subprocess.run([args.compiler, "-std=c++20", "-c", str(path), "-o", str(path.with_suffix(".o"))],
                       check=True)
        complaints.extend(check_object(args, path.with_suffix(".o")))
    return complaints


TABLE = 'extern "C" const int bitmill_kernels_avx2; '
SAMPLES = [
    ("one table", {"avx2.cpp": TABLE + "const int bitmill_kernels_avx2 = 1;"}, None),
    ("a weak function", {"avx2.cpp": "inline int twice(int x) { return 2 * x; }"
                         'extern "C" { extern int (*const bitmill_kernels_avx2)(int) = twice; }'},
     "_Z5twicei is global (nm says W)"),
    ("a group", {"avx2.cpp": "inline int twice(int x) { return 2 * x; }"
                 'extern "C" { extern int (*const bitmill_kernels_avx2)(int) = twice; }'}, "COMDAT"),
    ("a second global", {"avx2.cpp": TABLE + "const int bitmill_kernels_avx2 = 1; int other = 2;"}, "other is global"),
    ("no table", {"avx2.cpp": "static int x; int* f() { return &x; }"}, "bitmill_kernels_avx2 is missing"),
    ("a call out", {"avx2.cpp": "int outside(); struct s { static int f() { return outside(); } };"
                    'extern "C" { extern int (*const bitmill_kernels_avx2)() = s::f; }'}, "needs _Z7outsidev"),
]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nm", required=True)
    parser.add_argument("--readelf", required=True)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--objects", nargs="*", type=pathlib.Path)
    guard.run(parser, check, SAMPLES, check_sample)
