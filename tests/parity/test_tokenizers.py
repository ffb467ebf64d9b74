"""`bitmill tokenize` beside the tokenizers package: the same ids, offsets, types and masks, on messages that Django's
translators wrote in some ninety languages (django/conf/locale and contrib/*/locale, BSD-3) and on hostile strings.

With BITMILL_LLAMA_VOCABS set to the folder that `./dev test --all` makes of llama-cpp-python's archive, real vocabularies of
BERT, GPT-2, Llama 3, Qwen 2 and XLM-R as well. -rP prints the counts."""

import collections
import importlib.util
import json
import os
import pathlib
import random
import subprocess
import unicodedata

import pytest
import tokenizer_files
import unicode_tables
from tokenizers import Tokenizer

SCRIPTS = 15
LINES = 20_000
# Every so many lines: with BITMILL_TEST_ALL enough for LINES.
STEP = 4 if os.environ.get("BITMILL_TEST_ALL") else 20


def messages():
    spec = importlib.util.find_spec("django")
    if spec is None:
        pytest.skip("no Django, whose translations are the text: pip install -r tests/parity/requirements.txt")
    out = []
    for path in sorted(pathlib.Path(spec.origin).parent.rglob("*.po")):
        for line in path.read_text("utf-8").splitlines():
            if line.startswith(("msgstr", '"')):
                text = line[line.find('"') + 1 : -1].replace("\\n", " ").replace('\\"', '"')
                if len(text) > 3:
                    out.append(text)
    return out


def script_of(line):
    """Of its letters, the most frequent first word of their names: LATIN, CYRILLIC, ..."""
    found = collections.Counter(unicodedata.name(c, "OTHER").split()[0] for c in line if c.isalpha())
    return found.most_common(1)[0][0] if found else "NONE"


def hostile_lines(count=6000):
    chosen = random.Random(7)
    ranges = [(0, 0x250), (0x300, 0x600), (0x900, 0xE80), (0x1100, 0x1200), (0x1E00, 0x2100), (0x3000, 0x3100),
              (0xAC00, 0xAC40), (0xF900, 0xFA00), (0xFB00, 0xFB50), (0xFE00, 0xFE70), (0xFF00, 0xFFF0),
              (0x1D400, 0x1D500), (0x1F300, 0x1F700)]
    pool = [chr(c) for low, high in ranges for c in range(low, high) if c != 10]
    pool += [chr(c) for c in (0x10FFFF, 0xE0001, 0x200D, 0xFE0F, 0x1F1E6, 0x1F1E7, 0x17F, 0x212A, 0x130)] * 3
    marks = [c for c in pool if unicodedata.combining(c)]
    out = []
    for _ in range(count):
        size = chosen.choice([1, 2, 3, 5, 8, 20, 60])
        kind = chosen.random()
        if kind < 0.4:
            out.append("".join(chosen.choice(pool) for _ in range(size)))
        elif kind < 0.7:
            out.append("".join(chosen.choice(pool) if chosen.random() < 0.3 else chosen.choice("abc ' 12.,-  \t\r[MASK]<s>")
                               for _ in range(size)))
        else:
            base = chosen.choice(pool)
            out.append("".join(chosen.choice([base, chosen.choice(marks), chosen.choice(pool), "e", " "])
                               for _ in range(size)))
    return out + [
        "", " ", "\t", "[CLS] [MASK] x[SEP]", " [MASK]  ", "<mask>", " <mask> a <mask>", "a<s>b</s>  <unk>", "▁▁a ▁b",
        "'s 'S 'ſ I'LL  we've 'RE", "x\r\ry", "  \r\r  x", "123456 1 ٣٤٥", "﷽ﷺ", "👨‍👩‍👧‍👦🇩🇪🇫🇷",
        "e\u0301\u0323 a\u0323\u0301", "\0a\0", "a" * 300, " " * 300, "\u0301" * 300]


@pytest.fixture(scope="session")
def real_lines():
    return messages()


def ours(command, file, lines, *options):
    """A line of JSON for each."""
    done = subprocess.run([command, "tokenize", str(file), *options], input="".join(line + "\n" for line in lines).encode(),
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.splitlines()


def theirs(encoding):
    return {"ids": encoding.ids, "offsets": [list(o) for o in encoding.offsets], "types": encoding.type_ids,
            "attention": encoding.attention_mask, "special_tokens": encoding.special_tokens_mask}


def compare(command, file, lines, *options, truncation=None, pairs=None, special=True):
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if truncation:
        tokenizer.enable_truncation(truncation)
    texts = [f"{a}\t{b}" for a, b in zip(lines, pairs)] if pairs else lines
    got = ours(command, file, texts, *options)
    assert len(got) == len(lines)
    # Parsed one by one: of all lines at once Python's garbage collector would look at millions of lists.
    for i, line in enumerate(lines):
        wanted = theirs(tokenizer.encode(line, pairs[i] if pairs else None, add_special_tokens=special))
        assert json.loads(got[i]) == wanted, f"line {i}: {ascii(line)}"
    return len(lines)


def compare_all(command, file, lines, hostile):
    """Lines that were equal, by way."""
    few = lines[:: max(1, len(lines) // 1500)]
    plain = [t.replace("\t", " ") for t in few + hostile[:500]]
    return {
        "real": compare(command, file, lines, "--no-truncation"),
        "hostile": compare(command, file, hostile, "--no-truncation"),
        "without special tokens": compare(command, file, few + hostile, "--no-truncation", "--no-special-tokens",
                                          special=False),
        "truncated": compare(command, file, few, "--max-length", "9", truncation=9),
        "pairs": compare(command, file, plain, "--pairs", "--no-truncation", pairs=plain[::-1]),
        "truncated pairs": compare(command, file, plain, "--pairs", "--max-length", "12", pairs=plain[::-1], truncation=12),
    }


def test_the_text_is_of_many_scripts(real_lines):
    scripts = collections.Counter(map(script_of, real_lines))
    many = {name for name, count in scripts.items() if count >= 100 and name not in ("OTHER", "NONE")}
    print(len(real_lines), "lines,", scripts.most_common(30))
    assert len(real_lines) >= LINES and len(many) >= SCRIPTS


def test_minilm(bitmill_path, minilm, real_lines):
    assert len(real_lines) // 4 >= LINES
    print(compare_all(bitmill_path, pathlib.Path(minilm) / "tokenizer.json", real_lines[::STEP], hostile_lines()))


def test_a_difference_shows(bitmill_path, minilm):
    with pytest.raises(AssertionError, match="line 1"):
        compare(bitmill_path, pathlib.Path(minilm) / "tokenizer.json", ["a", "b c d e"], truncation=3)


def test_trained_families(bitmill_path, tmp_path, real_lines):
    for name, tokenizer in tokenizer_files.trained(real_lines):
        file = tmp_path / "tokenizer.json"
        tokenizer.save(str(file))
        print(name, compare_all(bitmill_path, file, real_lines[::STEP], hostile_lines(1500)))


def test_real_vocabularies(bitmill_path, tmp_path, real_lines):
    folder = os.environ.get("BITMILL_LLAMA_VOCABS")
    if not folder:
        pytest.skip("BITMILL_LLAMA_VOCABS names no folder of llama.cpp's vocabularies")
    seen = 0
    for name, path, make in tokenizer_files.real(pathlib.Path(folder)):
        file = tmp_path / "tokenizer.json"
        make(path).save(str(file))
        print(name, compare_all(bitmill_path, file, real_lines[::STEP], hostile_lines()))
        seen += 1
    assert seen


def test_invalid_utf8_is_what_python_makes_of_it(bitmill_path, minilm):
    file = pathlib.Path(minilm) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    chosen = random.Random(11)
    lines = []
    for _ in range(200):
        pieces = [chosen.randbytes(3), "é中😀a ".encode(), b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xe2\x82", b"\xc3"]
        lines.append(b"".join(chosen.choice(pieces)[: chosen.randrange(1, 5)] for _ in range(12)).replace(b"\n", b""))
    done = subprocess.run([bitmill_path, "tokenize", str(file)], input=b"".join(line + b"\n" for line in lines),
                          capture_output=True, check=True)
    got = done.stdout.splitlines()
    assert len(got) == len(lines)
    for raw, one in zip(lines, got):
        assert json.loads(one) == theirs(tokenizer.encode(raw.decode("utf-8", "replace"))), raw


def test_the_tables_are_the_packages():
    for name, text in unicode_tables.files():
        assert (unicode_tables.FOLDER / f"{name}-inl.hpp").read_text() == text, f"{unicode_tables.__doc__}: {name}"
