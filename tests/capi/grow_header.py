"""Makes a bitmill.h of tomorrow, each struct one field longer, and the C interface that belongs to it."""

import argparse
import pathlib
import re
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guards"))
import c_header

FIELD = "added"


def grow(text):
    for name in c_header.structs(text):
        text, fields = re.subn(rf"\n\}} {name};", f"\n    uint64_t {FIELD};\n}} {name};", text)
        text, macros = re.subn(rf"(#define {c_header.init_macro(name)}\b(?:[^\n]*\\\n)*[^\n]*)\}}\n", r"\1, 0}\n", text)
        assert (fields, macros) == (1, 1), (name, fields, macros)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capi", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.capi.glob("*.h"):
        (args.out / path.name).write_text(grow(path.read_text()))
    for path in args.capi.glob("*.?pp"):
        shutil.copy(path, args.out)
    # Fails to compile where it finds today's header.
    structs = c_header.structs(c_header.read(args.capi.parent))
    proof = "".join(f"static_assert(sizeof({name}::{FIELD}) == 8);\n" for name in structs)
    (args.out / "bitmill.cpp").write_text((args.capi / "bitmill.cpp").read_text() + proof)


if __name__ == "__main__":
    main()
