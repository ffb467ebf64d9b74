"""What bitmill.h and the headers that it includes declare, as the guards of the C interface see it."""

import re

HEADER = "capi/bitmill.h"
PARTS = ["capi/bitmill_manager.h"]  # bitmill.h includes them


def read(source):
    """All of them, as one text."""
    return "\n".join((source / path).read_text() for path in [HEADER, *PARTS] if (source / path).exists())


def without_comments(text):
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.S)


def functions(text):
    return set(re.findall(r"\bBITMILL_API\b[^;{]*?\b(bitmill_\w+)\s*\(", without_comments(text)))


def enumerators(text):
    """Names in order; bitmill.h gives every value."""
    bodies = re.findall(r"\benum\s*\{(.*?)\}", without_comments(text), re.S)
    return [name for body in bodies for name in re.findall(r"\b(BITMILL_\w+)\s*=", body)]


def field_of(declaration):
    pointer = re.search(r"\(\s*\*\s*(\w+)\s*\)\s*\(", declaration)
    return pointer.group(1) if pointer else re.search(r"(\w+)\s*(\[\w+\])?\s*$", declaration).group(1)


def structs(text):
    """{struct: [fields in order]}"""
    found = re.findall(r"\btypedef\s+struct\s+(bitmill_\w+)\s*\{(.*?)\}\s*\1\s*;", without_comments(text), re.S)
    return {name: [field_of(part.strip()) for part in body.split(";") if part.strip()] for name, body in found}


def init_macro(struct):
    return f"{struct.upper()}_INIT"
