"""The C library's ABI is the one that was released: abidiff against abi/libbitmill_c.abi finds nothing.

Every difference is a complaint, also one that breaks nobody: a release is compared with what was promised, and
`--update` (`./dev abi --update`) makes it part of the promise.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import tempfile

import c_header
import guard

PROJECT = pathlib.Path(__file__).resolve().parents[2]
BASELINE = "abi/libbitmill_c.abi"
HEADERS = [c_header.HEADER, *c_header.PARTS]


def describe(library, source, out):
    # With --no-show-locs a change in a public struct would pass for a private one; without
    # --exported-interfaces-only the description holds half of libstdc++, 12 MB. The header is named as the debug
    # information names it: a struct from any other file is private, and left out.
    public = [part for header in HEADERS for part in ("--header-file", header)]
    subprocess.run(["abidw", "--no-corpus-path", "--no-comp-dir-path", "--exported-interfaces-only",
                    "--drop-private-types", *public, "--out-file", str(out), str(library.resolve())],
                   check=True, cwd=source)
    if "name='struct_size'" not in out.read_text():
        raise SystemExit(f"{library}: abidw finds no public struct; was it built with -g?")


def check(source, args):
    baseline = source.resolve() / BASELINE
    if args.update:
        baseline.parent.mkdir(exist_ok=True)
        describe(args.library, source, baseline)
    with tempfile.TemporaryDirectory() as folder:
        now = pathlib.Path(folder) / "now.abi"
        describe(args.library, source, now)
        # Private types are gone already; told of the headers again, abidiff also hides a parameter that became int32_t
        # from size_t, as neither is defined there.
        done = subprocess.run(["abidiff", str(baseline), str(now)], text=True, stdout=subprocess.PIPE)
        places = set(re.findall(r"path='([^']*)'", now.read_text()))
    complaints = [f"a folder of this machine: {place}" for place in places if not place.startswith(("capi/", "/usr/"))]
    return complaints + ([f"abidiff says {done.returncode}:\n{done.stdout}"] if done.returncode else [])


# ---- samples: the real header, as it is and changed, each with a library of its functions ----------------


def build(root, header):
    (root / c_header.HEADER).write_text(header)
    for part in c_header.PARTS:
        shutil.copy(PROJECT / part, root / part)
    prototypes = re.findall(r"^BITMILL_API ([^;]*);", c_header.read(root), re.M)
    (root / "capi/functions.c").write_text('#include "bitmill.h"\n' + "".join(
        f"{prototype} {{ __builtin_trap(); }}\n" for prototype in prototypes))
    library = root / "libsample.so"
    subprocess.run(["cc", "-g", "-shared", "-fPIC", f"-ffile-prefix-map={root}/=", f"-I{root / 'capi'}",
                    f"-I{PROJECT / 'include'}", "-o", str(library), str(root / "capi/functions.c")], check=True)
    return library


def check_sample(root, args):
    header = (PROJECT / c_header.HEADER).read_text()
    before, after = (root / "before").read_text(), (root / "after").read_text()
    if before not in header:
        return [f"the header has no '{before}'"]
    (root / "capi").mkdir()
    changed = argparse.Namespace(library=build(root, header), update=True)
    complaints = check(root, changed)
    changed = argparse.Namespace(library=build(root, header.replace(before, after, 1)), update=False)
    return complaints + check(root, changed)


def sample(name, before, after, expected="abidiff says"):
    return name, {"before": before, "after": after}, expected


FIELD = "    bitmill_scheme_type type;\n"
END = "    int32_t dry_run;\n} bitmill_dequantize_options;"
SAMPLES = [
    sample("no change", "", "", None),
    sample("another comment, other lines", "/* ", "/*\n\n * More. ", None),
    sample("a field inserted", FIELD, "    int32_t inserted;\n" + FIELD),
    sample("a field appended", END, END.replace("}", "    int32_t appended;\n}")),
    sample("a narrower field", "    uint64_t rows;\n", "    uint32_t rows;\n"),
    sample("a lost function", "BITMILL_API uint32_t bitmill_abi_version(void);", ""),
    sample("another parameter", "bitmill_isa_available(size_t index)", "bitmill_isa_available(int32_t index)"),
    sample("another result", "uint32_t bitmill_version_number", "uint64_t bitmill_version_number"),
]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", type=pathlib.Path)
    parser.add_argument("--update", action="store_true", help="rewrite the baseline")
    guard.run(parser, check, SAMPLES, check_sample)
