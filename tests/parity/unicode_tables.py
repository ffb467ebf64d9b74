"""Writes include/bitmill/detail/unicode_{classes,mappings}-inl.hpp: what the tokenizers package takes every character
for. Asked of the package itself, because it mixes several versions of Unicode: `python unicode_tables.py --update`.
test_tokenizers.py holds the files to it."""

import base64
import json
import pathlib
import struct
import sys
import unicodedata

import regex
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "include/bitmill/detail"
POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CHARS = [chr(c) for c in POINTS]
HANGUL = range(0xAC00, 0xD7A4)
# In the order of their bits; unicode-inl.hpp has the same names.
CLASSES = ["space", "letter", "number", "other", "mark_nonspacing", "punctuation", "word", "combining_mark", "numeric",
           "mark", "maybe_nfd", "maybe_nfc", "maybe_nfkd", "maybe_nfkc", "lowers", "joins"]
BREAKS = ["Other", "CR", "LF", "Control", "Extend", "ZWJ", "Regional_Indicator", "Prepend", "SpacingMark", "L", "V", "T",
          "LV", "LVT"]


def removed_by(normalizer):
    return set(CHARS) - set(normalizer.normalize_str("".join(CHARS)))


def matched(pattern):
    return removed_by(normalizers.Replace(Regex(pattern), ""))


def split_apart(pre_tokenizer):
    """Characters that are pieces of their own, or are none, between two letters."""
    text = "a".join(CHARS) + "a"
    found = set(CHARS)
    for piece, _ in pre_tokenizer.pre_tokenize_str(text):
        if len(piece) > 1:
            found -= set(piece)
    return found - {"a"}


def of_words():
    """\\w of Rust's regex, by the pre-tokenizer Whitespace: what is a piece together with a letter before it."""
    pieces = pre_tokenizers.Whitespace().pre_tokenize_str(" ".join("a" + c for c in CHARS))
    return {piece[1] for piece, _ in pieces if len(piece) == 2 and piece[0] == "a"}


def combining_classes(nfd):
    """unicodedata's, where the package orders the character like that; 0 where it does not know it."""
    out = {}
    for c in CHARS:
        ours = unicodedata.combining(c)
        if ours and all(nfd.normalize_str(t) == unicodedata.normalize("NFD", t)
                        for t in ("a\u0301" + c, "a" + c + "\u0334", "a\u0323" + c, "a" + c + "\u0323")):
            out[c] = ours
    return out


def joining():
    """What goes into one grapheme with a letter before it: a character map that knows only "a" replaces both."""
    units = [0] * 256
    units[ord("a")] = ord("a") | 1 << 8 | (ord("a") ^ ord("b")) << 10
    blob = struct.pack("<257I", 1024, *units) + b"X\0"
    map_of_a = json.dumps({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(blob).decode()})
    tokenizer = Tokenizer.from_str(json.dumps({
        "version": "1.0", "added_tokens": [], "normalizer": json.loads(map_of_a),
        "model": {"type": "WordPiece", "unk_token": "u", "continuing_subword_prefix": "", "max_input_chars_per_word": 9,
                  "vocab": {"u": 0}}}))
    return {c for c in CHARS if tokenizer.normalizer.normalize_str("a" + c) == "X"}


def grapheme_breaks():
    """regex's; where it knows a newer Unicode than the package, as the package has it."""
    joins, out = joining(), {}
    for index, name in enumerate(BREAKS[1:], 1):
        for c in regex.findall(r"\p{GCB=%s}" % name, "".join(CHARS)):
            if name not in ("Extend", "ZWJ", "SpacingMark") or c in joins:
                out[c] = index
    return out | {c: BREAKS.index("Extend") for c in joins if c not in out}


def properties():
    nfd, nfc, nfkd, nfkc = (getattr(normalizers, name)() for name in ("NFD", "NFC", "NFKD", "NFKC"))
    canonical = {c: nfd.normalize_str(c) for c in CHARS if ord(c) not in HANGUL}
    canonical = {c: d for c, d in canonical.items() if d != c}
    compat = {c: nfkd.normalize_str(c) for c in CHARS if ord(c) not in HANGUL}
    compat = {c: d for c, d in compat.items() if d != canonical.get(c, c)}
    composed = {c for c, d in canonical.items() if len(d) > 1 and nfc.normalize_str(d) == c}
    ccc = combining_classes(nfd)
    lower = normalizers.Lowercase()
    lowered = {c: lower.normalize_str(c) for c in CHARS}
    lowered = {c: d for c, d in lowered.items() if d != c}
    hangul = {chr(c) for c in HANGUL}
    jamo = {chr(c) for c in [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]}
    seconds = {canonical[c][-1] for c in composed} | jamo
    bert = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    accents = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    # A mark that has no decomposition of its own stands alone in the text when it is asked for.
    marks = {c for c in CHARS if accents.normalize_str(c) == ""}
    found = dict.fromkeys(CLASSES, set())
    found["space"] = matched(r"\s")
    found["letter"] = matched(r"\p{L}")
    found["number"] = matched(r"\p{N}")
    found["mark"] = matched(r"\p{M}")
    found["other"] = {c for c in CHARS if bert.normalize_str(c) == ""} - {"\ufffd", "\0"}
    found["mark_nonspacing"] = marks
    found["punctuation"] = split_apart(pre_tokenizers.Punctuation())
    found["word"] = of_words()
    found["combining_mark"] = {c for c in CHARS if normalizers.StripAccents().normalize_str(c) == ""}
    found["numeric"] = split_apart(pre_tokenizers.Digits(individual_digits=True))
    found["maybe_nfd"] = set(canonical) | set(ccc) | hangul
    found["maybe_nfc"] = {c for c in CHARS if nfc.normalize_str(c) != c} | set(ccc) | seconds
    found["maybe_nfkd"] = found["maybe_nfd"] | set(compat)
    found["maybe_nfkc"] = {c for c in CHARS if nfkc.normalize_str(c) != c} | found["maybe_nfc"] | set(compat)
    found["lowers"] = set(lowered)
    found["joins"] = {c for c in CHARS if regex.match(r"\p{Extended_Pictographic}", c)}
    return found, grapheme_breaks(), ccc, canonical, compat, composed, lowered


def lines(numbers):
    out, line = [], ""
    for n in numbers:
        piece = f"{n},"
        if len(line) + len(piece) > 118:
            out.append(line)
            line = ""
        line += piece
    return "\n".join([*out, line])


def array(name, kind, what, numbers):
    return f"// {what}\ninline constexpr {kind} {name}[] = {{\n{lines(numbers)}\n}};\n"


HEAD = """// {what} Generated: tests/parity/unicode_tables.py --update. Data of the Unicode
// Character Database (https://www.unicode.org/license.txt), as the tokenizers package has it.
#pragma once

#include <cstdint>

namespace bitmill::detail {{

// clang-format off
{body}// clang-format on

}}  // namespace bitmill::detail
"""


def class_file(found, breaks, ccc):
    combos, runs = {}, []
    value_of = {}
    for bit, name in enumerate(CLASSES):
        for c in found[name]:
            value_of[c] = value_of.get(c, 0) | 1 << bit
    last = None
    for point in range(0x110000):
        c = chr(point)
        value = value_of.get(c, 0) | breaks.get(c, 0) << 16 | ccc.get(c, 0) << 20
        index = combos.setdefault(value, len(combos))
        if index == last:
            runs[-2] += 1
        else:
            runs += [1, index]
            last = index
    return HEAD.format(what="Classes of characters.", body=array(
        "unicode_class_values", "std::uint32_t",
        "Bits: " + ", ".join(CLASSES[:9]) + ",\n// " + ", ".join(CLASSES[9:]) + ";\n// from bit 16 on the grapheme break, from bit 20 on the combining class.",
        combos) + array("unicode_class_runs", "std::uint32_t", "How many characters, index of their value; and so on.", runs))


def mapping(table, composed=()):
    out, last = [], 0
    for c in sorted(table):
        out += [ord(c) - last, len(table[c]) * 2 + (c in composed), *map(ord, table[c])]
        last = ord(c)
    return out


def mapping_files(canonical, compat, composed, lowered):
    what = "Step from the character before, 2 * count + whether it is composed again, the characters; and so on."
    yield "unicode_mappings", HEAD.format(
        what="What characters become.",
        body=array("unicode_canonical", "std::uint32_t", "Canonical decompositions.\n// " + what, mapping(canonical, composed))
        + array("unicode_lower", "std::uint32_t", "Lower case. " + what, mapping(lowered)))
    yield "unicode_compatibility", HEAD.format(
        what="What characters are compatible with.",
        body=array("unicode_compatible", "std::uint32_t", "Decompositions. " + what, mapping(compat)))


def files():
    found, breaks, ccc, canonical, compat, composed, lowered = properties()
    yield "unicode_classes", class_file(found, breaks, ccc)
    yield from mapping_files(canonical, compat, composed, lowered)


if __name__ == "__main__":
    assert sys.argv[1:] == ["--update"], __doc__
    for name, text in files():
        (FOLDER / f"{name}-inl.hpp").write_text(text)
        print(name, text.count("\n"), "lines")
