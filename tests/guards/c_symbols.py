"""libbitmill_c.so shows the world the functions of bitmill.h, no more and no less; the static library hides its
kernel tables, so that a program's own shared object does not show them either."""

import argparse
import pathlib
import re
import subprocess

import c_header
import guard


def output(*command):
    return subprocess.run([str(part) for part in command], check=True, text=True, capture_output=True).stdout


def check_exports(args, root, library):
    declared = c_header.functions(c_header.read(root))
    lines = output(args.nm, "-D", "--defined-only", library).splitlines()
    exported = {line.split()[-1].partition("@")[0] for line in lines if line.strip()}
    if not declared:
        yield f"{c_header.HEADER}: no functions found"
    for name in sorted(declared - exported):
        yield f"{library.name}: {name} of bitmill.h is missing"
    for name in sorted(exported - declared):
        yield f"{library.name}: exports {name}, which bitmill.h does not declare"


def check_tables(args, library):
    # Value, size, type, binding, visibility, section, name; a section that is a number: defined here.
    rows = re.findall(r"^ *\d+: \S+ +\d+ \w+ +(\w+) +(\w+) +\d+ (bitmill_kernels_\w+)$",
                      output(args.readelf, "-sW", library), re.M)
    if not rows:
        yield f"{library.name}: no kernel tables found"
    # The linker takes the strictest visibility of all who name a symbol: one hidden declaration is enough.
    references = re.findall(r" (\w+) +UND (bitmill_kernels_\w+)$", output(args.readelf, "-sW", library), re.M)
    hidden = {name for visibility, name in references if visibility == "HIDDEN"}
    for _, visibility, name in rows:
        if visibility != "HIDDEN" and name not in hidden:
            yield f"{library.name}: {name} is visible"


def check(source, args):
    return [*check_exports(args, source, args.shared), *check_tables(args, args.static)]


def check_sample(root, args):
    shared, static, objects = root / "lib.so", root / "lib.a", [root / "a.o", root / "b.o"]
    output(args.compiler, "-shared", "-fPIC", root / "lib.c", "-o", shared)
    for made in objects:
        output(args.compiler, "-c", made.with_suffix(".c"), "-o", made)
    output(args.ar, "rcs", static, *objects)
    return [*check_exports(args, root, shared), *check_tables(args, static)]


HIDDEN = '__attribute__((visibility("hidden"))) '


def sample(**change):
    files = {
        "header": "#define BITMILL_API\nBITMILL_API int bitmill_a(void); /* bitmill_b(1) */\n"
                  "BITMILL_API const char*\nbitmill_c(int (*hook)(int));\n",
        "lib": "int bitmill_a(void) { return 1; } const char* bitmill_c(int (*hook)(int)) { return (char*)hook; }\n"
               "static int inside;\nint* f(void);\n" + HIDDEN + "int* f(void) { return &inside; }\n",
        "a": "const int bitmill_kernels_avx2 = 1;\n",
        "b": "extern " + HIDDEN + "const int bitmill_kernels_avx2; int f(void) { return bitmill_kernels_avx2; }\n",
    } | change
    return {c_header.HEADER: files["header"]} | {f"{name}.c": files[name] for name in ("lib", "a", "b")}


SAMPLES = [
    ("as declared", sample(), None),
    ("a function too few", sample(lib="int bitmill_a(void) { return 1; }\n"), "bitmill_c of bitmill.h is missing"),
    ("a function too many", sample(lib=sample()["lib.c"] + "int bitmill_d(void) { return 1; }\n"), "exports bitmill_d"),
    ("a function of nobody", sample(lib=sample()["lib.c"] + "int other(void) { return 1; }\n"), "exports other"),
    ("a variable", sample(lib=sample()["lib.c"] + "int bitmill_e = 1;\n"), "exports bitmill_e"),
    ("a header without functions", sample(header="\n"), "no functions found"),
    ("a visible table", sample(b="extern const int bitmill_kernels_avx2; int f(void) { return bitmill_kernels_avx2; }\n"),
     "bitmill_kernels_avx2 is visible"),
    ("no tables", sample(a="int x;\n", b="int y;\n"), "no kernel tables"),
]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("nm", "readelf", "ar", "compiler"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("shared", "static"):
        parser.add_argument(f"--{name}", type=pathlib.Path)
    guard.run(parser, check, SAMPLES, check_sample)
