"""Dependencies point one way: reads the #include lines and fails on an edge that points up or out."""

import argparse
import pathlib
import re

import guard

# layer -> what it may include beside itself
BELOW = {
    "core": set(),
    "kernels": {"core"},
    "codec": {"kernels"},
    "io": {"core"},
    "mill": {"codec", "io"},
    "nn": {"codec"},
    "text": {"io"},
    "model": {"nn", "mill", "io", "text"},
    "eval": {"model"},
    "publish": {"eval", "mill"},
}
TOP = {"version.hpp": "core"}  # headers outside a layer's folder; the umbrella may include everything
UMBRELLAS = {"bitmill.hpp", "xtensor.hpp"}
# The one vector source and its primitives, and the adaptors; no other public header names a library.
THIRD_PARTY_HEADERS = {"kernels/simd.hpp", "kernels/lanes.hpp", "xtensor.hpp"}
C_HEADERS = {"stddef.h", "stdint.h"}
# All that a kernel compiled for one instruction set needs; their functions would be compiled for it, too.
ISA_STANDARD_HEADERS = {"cstddef", "cstdint", "type_traits"}
COMPILER_HEADERS = {"xmmintrin.h", "immintrin.h", "arm_neon.h"}
NOT_PUBLIC = re.compile(r"bitmill/(detail/|kernels/(?!dispatch\.hpp))")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def closure(layer):
    seen = {layer}
    todo = [layer]
    while todo:
        for lower in BELOW[todo.pop()]:
            if lower not in seen:
                seen.add(lower)
                todo.append(lower)
    return seen


ALLOWED = {layer: closure(layer) for layer in BELOW}


def layer_of_detail(include, name, asked=()):
    """detail/X-inl.hpp and detail/X_part-inl.hpp belong to the layer whose header is X.hpp; a file that several
    bodies share belongs to the highest layer that all of them may include."""
    stem = name.removesuffix(".hpp").removesuffix("-inl")
    while stem:
        owners = {path.parent.name for path in include.glob(f"*/{stem}.hpp") if path.parent.name in BELOW}
        if len(owners) == 1:
            return owners.pop()
        stem = stem.rpartition("_")[0]
    users = {layer_of(include, path.relative_to(include).as_posix(), (*asked, name))
             for path in include.rglob("*.hpp")
             if path.name not in asked and f"<bitmill/detail/{name}>" in path.read_text()}
    users.discard(None)
    common = set.intersection(*(ALLOWED[user] for user in users)) if users else set()
    return next((layer for layer in common if common <= ALLOWED[layer]), None)


def layer_of(include, path, asked=()):
    """The layer of a header by its path below include/bitmill; None where it has none."""
    parts = path.split("/")
    if len(parts) == 1:
        return TOP.get(path)
    return layer_of_detail(include, parts[1], asked) if parts[0] == "detail" else parts[0]


def third_party(kind, name):
    return (kind == "<" and not name.startswith("bitmill/") and ("." in name or "/" in name)
            and name not in COMPILER_HEADERS)


def check_header(include, path):
    name = path.relative_to(include).as_posix()
    private = name.startswith("detail/") or name in THIRD_PARTY_HEADERS
    umbrella = name in UMBRELLAS
    layer = layer_of(include, name)
    if layer not in BELOW and not umbrella:
        yield f"{name}: belongs to no layer"
        return
    for kind, target in INCLUDE.findall(path.read_text()):
        if kind == '"':
            yield f"{name}: includes \"{target}\": write <bitmill/...>"
        elif third_party(kind, target) and not private:
            yield f"{name}: a public header includes <{target}>"
        elif target == "bitmill/xtensor.hpp":
            yield f"{name}: includes <{target}>, and everybody would need xtensor"
        elif third_party(kind, target) and name == "xtensor.hpp" and not target.startswith("xtensor/"):
            yield f"{name}: includes <{target}>, which is not xtensor's"
        elif target.startswith("bitmill/") and not umbrella:
            lower = layer_of(include, target.removeprefix("bitmill/"))
            if lower not in ALLOWED[layer]:
                yield f"{name}: layer {layer} includes <{target}> of layer {lower}"


def check_source(source, include, path):
    name = path.relative_to(source).as_posix()
    for kind, target in INCLUDE.findall(path.read_text()):
        if name.startswith(("src/cli/", "src/server/", "capi/")) and NOT_PUBLIC.match(target):
            yield f"{name}: includes <{target}>, which is not public"
        if name.startswith("capi/") and third_party(kind, target) and target not in C_HEADERS:
            yield f"{name}: the C interface includes <{target}>"
        if name.startswith("src/kernels/") and target.startswith("bitmill/"):
            lower = layer_of(include, target.removeprefix("bitmill/"))
            if lower not in ALLOWED["kernels"]:
                yield f"{name}: a kernel source includes <{target}> of layer {lower}"


def check_isa_headers(include, path, seen):
    """Whatever a source of one instruction set reaches among the kernels' headers."""
    for _, target in INCLUDE.findall(path.read_text()):
        header = include.parent / target
        if target.startswith("bitmill/kernels/") and header not in seen and header.exists():
            seen.add(header)
            yield from check_isa_headers(include, header, seen)
        elif not target.startswith(("bitmill/", "xsimd/")) and target not in COMPILER_HEADERS | ISA_STANDARD_HEADERS:
            yield f"{path.name}: is compiled for each instruction set, and includes <{target}>"


def check(source, args):
    include = source / "include/bitmill"
    headers = sorted(include.rglob("*.hpp"))
    complaints = [] if headers else [f"{include}: no headers found"]
    for path in headers:
        complaints.extend(check_header(include, path))
    for path in sorted([*source.glob("src/**/*.[ch]pp"), *source.glob("capi/*.[ch]*")]):
        complaints.extend(check_source(source, include, path))
    for path in source.glob("src/kernels/isa.cpp"):
        complaints.extend(check_isa_headers(include, path, set()))
    return complaints


H = "include/bitmill/"
SAMPLES = [
    ("a right tree", {
        H + "core/a.hpp": "#include <vector>\n",
        H + "codec/b.hpp": "#include <bitmill/core/a.hpp>\n#include <bitmill/detail/b-inl.hpp>\n",
        H + "detail/b-inl.hpp": "#include <nlohmann/json.hpp>\n#include <bitmill/codec/b.hpp>\n",
        H + "bitmill.hpp": "#include <bitmill/codec/b.hpp>\n",
        "src/cli/main.cpp": "#include <CLI/CLI.hpp>\n#include <bitmill/codec/b.hpp>\n",
    }, None),
    ("an upward edge", {H + "core/a.hpp": "#include <bitmill/codec/b.hpp>\n", H + "codec/b.hpp": ""},
     "layer core includes <bitmill/codec/b.hpp>"),
    ("io knows no codec", {H + "io/a.hpp": "# include <bitmill/codec/b.hpp>\n", H + "codec/b.hpp": ""},
     "layer io includes"),
    ("an upward edge in a body", {
        H + "core/a.hpp": "", H + "mill/m.hpp": "",
        H + "detail/a_part-inl.hpp": "#include <bitmill/mill/m.hpp>\n"}, "layer core includes <bitmill/mill/m.hpp>"),
    ("a body of nobody", {H + "detail/lost-inl.hpp": ""}, "belongs to no layer"),
    ("a body shared inside a layer", {
        H + "codec/b.hpp": "", H + "mill/m.hpp": "",
        H + "detail/b-inl.hpp": "#include <bitmill/detail/shared-inl.hpp>\n",
        H + "detail/m-inl.hpp": "#include <bitmill/detail/shared-inl.hpp>\n",
        H + "detail/shared-inl.hpp": "#include <bitmill/codec/b.hpp>\n"}, None),
    ("an upward edge in a shared body", {
        H + "codec/b.hpp": "", H + "mill/m.hpp": "",
        H + "detail/b-inl.hpp": "#include <bitmill/detail/shared-inl.hpp>\n",
        H + "detail/shared-inl.hpp": "#include <bitmill/mill/m.hpp>\n"},
     "detail/shared-inl.hpp: layer codec includes <bitmill/mill/m.hpp>"),
    ("an unknown layer", {H + "misc/a.hpp": ""}, "belongs to no layer"),
    ("a library in a public header", {H + "io/a.hpp": "#include <nlohmann/json.hpp>\n"},
     "a public header includes <nlohmann/json.hpp>"),
    ("adaptors for one library", {
        H + "codec/b.hpp": "", H + "xtensor.hpp": "#include <xtensor/xarray.hpp>\n#include <bitmill/codec/b.hpp>\n"}, None),
    ("adaptors that need another library", {H + "xtensor.hpp": "#include <nlohmann/json.hpp>\n"},
     "which is not xtensor's"),
    ("an umbrella that needs xtensor", {H + "bitmill.hpp": "#include <bitmill/xtensor.hpp>\n"},
     "everybody would need xtensor"),
    ("a system header in a public header", {H + "io/a.hpp": "#include <unistd.h>\n"},
     "a public header includes <unistd.h>"),
    ("a quoted include", {H + "io/a.hpp": '#include "b.hpp"\n'}, "write <bitmill/...>"),
    ("a command that looks inside", {H + "core/a.hpp": "", "src/cli/x.cpp": "#include <bitmill/detail/a-inl.hpp>\n"},
     "is not public"),
    ("a server that looks inside", {H + "core/a.hpp": "", "src/server/x.hpp": "#include <bitmill/detail/a-inl.hpp>\n"},
     "src/server/x.hpp: includes <bitmill/detail/a-inl.hpp>, which is not public"),
    ("a right C interface", {
        H + "core/a.hpp": "", "capi/bitmill.h": "#include <stdint.h>\n#include <bitmill/core/a.hpp>\n",
        "capi/bitmill.cpp": '#include "bitmill.h"\n#include <string>\n#include <bitmill/core/a.hpp>\n'}, None),
    ("a C interface that looks inside", {H + "core/a.hpp": "", "capi/x.hpp": "#include <bitmill/detail/a-inl.hpp>\n"},
     "capi/x.hpp: includes <bitmill/detail/a-inl.hpp>, which is not public"),
    ("a library in the C interface", {H + "core/a.hpp": "", "capi/x.cpp": "#include <nlohmann/json.hpp>\n"},
     "the C interface includes <nlohmann/json.hpp>"),
    ("a kernel that reads files", {H + "io/a.hpp": "", "src/kernels/isa.cpp": "#include <bitmill/io/a.hpp>\n"},
     "a kernel source includes"),
    ("kernels of one instruction set", {
        H + "kernels/lanes.hpp": "#include <cstdint>\n#include <type_traits>\n#include <xsimd/xsimd.hpp>\n",
        H + "kernels/simd.hpp": "#include <immintrin.h>\n#include <bitmill/kernels/lanes.hpp>\n",
        "src/kernels/isa.cpp": "#include <bitmill/kernels/simd.hpp>\n"}, None),
    ("functions of the library among them", {
        H + "kernels/lanes.hpp": "#include <utility>\n",
        H + "kernels/simd.hpp": "#include <bitmill/kernels/lanes.hpp>\n",
        "src/kernels/isa.cpp": "#include <bitmill/kernels/simd.hpp>\n"},
     "lanes.hpp: is compiled for each instruction set, and includes <utility>"),
    ("an empty tree", {"README.md": ""}, "no headers found"),
]

if __name__ == "__main__":
    guard.run(argparse.ArgumentParser(description=__doc__), check, SAMPLES)
