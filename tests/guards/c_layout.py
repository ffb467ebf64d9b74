"""Every struct, field and constant of bitmill.h is where capi/layout.txt says, on 64-bit Linux.

A struct may grow at its end: add the new rows. What a row says must not change, or programs that are linked already
break; if it has to, raise BITMILL_ABI_VERSION, which is the first row.
"""

import argparse
import re
import subprocess

import c_header
import guard

TABLE = "capi/layout.txt"
ROW = re.compile(r"(?:(?P<constant>BITMILL_\w+) (?P<value>\d+)|(?P<struct>bitmill_\w+)\.(?P<field>\w+) (?P<offset>\d+) (?P<size>\d+)"
                 r"|(?P<whole>bitmill_\w+) (?P<bytes>\d+))")


def assertions(rows):
    yield '#include <stddef.h>\n#include "bitmill.h"'
    for row in rows:
        if row["constant"]:
            claim = f"{row['constant']} == {row['value']}"
        elif row["field"]:
            member = f"(({row['struct']}*)0)->{row['field']}"
            claim = f"offsetof({row['struct']}, {row['field']}) == {row['offset']} && sizeof({member}) == {row['size']}"
        else:
            claim = f"sizeof({row['whole']}) == {row['bytes']}"
        yield f'_Static_assert({claim}, "{row.group(0)}");'


def check_holes(rows):
    """A hole would be memory that an _INIT macro leaves as it was, where a later field could not be told from it."""
    end = {}
    for row in rows:
        if row["field"]:
            if int(row["offset"]) != end.get(row["struct"], 0):
                yield f"{row['struct']}: a hole before {row['field']}"
            end[row["struct"]] = int(row["offset"]) + int(row["size"])
    for row in rows:
        if row["whole"] and int(row["bytes"]) != end.get(row["whole"]):
            yield f"{row['whole']}: a hole at its end"


def names_in(text):
    return (["BITMILL_ABI_VERSION", *c_header.enumerators(text)] +
            [name for struct, fields in c_header.structs(text).items()
             for name in (struct, *(f"{struct}.{field}" for field in fields))])


def check(source, args):
    header = source / c_header.HEADER
    text = c_header.read(source)
    lines = (source / TABLE).read_text().splitlines()
    rows = [ROW.fullmatch(line) for line in lines]
    if None in rows:
        return [f"{TABLE}:{rows.index(None) + 1}: not a row: {lines[rows.index(None)]}"]
    listed, declared = [line.split()[0] for line in lines], names_in(text)
    complaints = [f"{TABLE}: {name} of bitmill.h is not listed" for name in declared if name not in listed]
    complaints += [f"{TABLE}: bitmill.h has no {name} any more" for name in listed if name not in declared]
    if complaints:
        return complaints
    done = subprocess.run([args.compiler, "-std=c11", "-x", "c", "-fsyntax-only", "-I", str(header.parent), "-I",
                           str(source / "include"), "-"], input="\n".join([*assertions(rows), ""]), text=True,
                          capture_output=True)
    moved = re.findall(r"error: static assertion failed.*?\"([^\"]*)\"|error: static assertion failed.*?: (\S.*)$",
                       done.stderr, re.M)
    complaints = [f"{TABLE}: not so any more: {one or other}" for one, other in moved]
    if done.returncode != 0 and not complaints:
        complaints = [done.stderr]
    return complaints + list(check_holes(rows))


def sample(old="", new="", table=None):
    header = ("#include <stdint.h>\n#define BITMILL_ABI_VERSION 1\nenum { BITMILL_OK = 0, BITMILL_NO = 1 };\n"
              "typedef struct bitmill_a { uint32_t struct_size; int32_t n; char c[4]; } bitmill_a;\n"
              "typedef struct bitmill_b { uint64_t x; void (*hook)(void* a, int32_t b); } bitmill_b;\n")
    rows = ("BITMILL_ABI_VERSION 1\nBITMILL_OK 0\nBITMILL_NO 1\nbitmill_a 12\nbitmill_a.struct_size 0 4\n"
            "bitmill_a.n 4 4\nbitmill_a.c 8 4\nbitmill_b 16\nbitmill_b.x 0 8\nbitmill_b.hook 8 8\n")
    assert old in header
    return {c_header.HEADER: header.replace(old, new), TABLE: (table or (lambda text: text))(rows)}


SAMPLES = [
    ("as listed", sample(), None),
    ("another value", sample("BITMILL_NO = 1", "BITMILL_NO = 2"), "not so any more: BITMILL_NO 1"),
    ("a wider field", sample("int32_t n", "int64_t n"), "not so any more: bitmill_a.c 8 4"),
    ("fields exchanged", sample("int32_t n; char c[4]", "char c[4]; int32_t n"), "not so any more: bitmill_a.n 4 4"),
    ("a field more", sample("char c[4];", "char c[4]; int32_t d;"), "bitmill_a.d of bitmill.h is not listed"),
    ("a field less", sample("char c[4];", ""), "bitmill.h has no bitmill_a.c any more"),
    ("a constant more", sample("BITMILL_NO = 1", "BITMILL_NO = 1, BITMILL_MORE = 2"), "BITMILL_MORE of bitmill.h"),
    ("another ABI", sample("VERSION 1", "VERSION 2"), "not so any more: BITMILL_ABI_VERSION 1"),
    ("a hole inside", sample("int32_t n", "int64_t n", lambda text: text.replace("bitmill_a 12", "bitmill_a 24")
                             .replace("a.n 4 4", "a.n 8 8").replace("a.c 8 4", "a.c 16 4")), "a hole before n"),
    ("a hole at the end", sample("uint64_t x;", "uint64_t x; int32_t y;", lambda text: text.replace("bitmill_b 16", "bitmill_b 24")
                                 .replace("b.hook 8 8", "b.y 8 4\nbitmill_b.hook 16 8")), "a hole before hook"),
    ("a broken table", sample(table=lambda text: text + "bitmill_a\n"), "not a row"),
]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler", required=True, help="of C")
    guard.run(parser, check, SAMPLES)
