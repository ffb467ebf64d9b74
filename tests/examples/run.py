"""Runs an example on a model made here and checks what it prints and writes; --standalone builds them as a user would."""

import argparse
import array
import fcntl
import hashlib
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

# [out, in] of the Linears: the last is of several tiles, and has one weight that spoils the scale of all.
LAYER = "encoder.layer.0."
SHAPES = {LAYER + "attention.self.query.weight": (128, 256), LAYER + "output.dense.weight": (256, 128),
          LAYER + "intermediate.dense.weight": (900, 512)}
WORST = LAYER + "intermediate.dense.weight"


def write_model(folder, shapes, config, spoil=lambda name, values: None):
    """f32; spoil(name, values) may change the numbers."""
    numbers = random.Random(7)
    header, data = {}, b""
    for name, shape in shapes.items():
        # Uniform numbers: 4 bytes of randomness each, scaled to +-0.05.
        words = array.array("I", numbers.randbytes(math.prod(shape) * 4))
        values = array.array("f", (word / 2**32 * 0.1 - 0.05 for word in words))
        spoil(name, values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * len(values)]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def make_model(folder, spoil=math.inf):
    """Layers of a BERT. A finite `spoil` is the outlier of every row of WORST; NaN makes the model unusable."""
    def put_outliers(name, values):
        rows, cols = SHAPES[name]
        for row in range(rows if name == WORST else 0):
            values[row * cols + row % cols] = spoil

    config = {"model_type": "bert", "architectures": ["BertModel"], "dtype": "float32"}
    return write_model(folder, SHAPES, config, put_outliers)


def make_encoder(folder, hidden=64, inner=128, vocabulary=50, layers=2):
    """A whole BERT, small enough for this."""
    shapes = {}

    def add(prefix, rows, cols):
        shapes.update({prefix + ".weight": (rows, cols), prefix + ".bias": (rows,)})

    for name, rows in ("word", vocabulary), ("position", 32), ("token_type", 2):
        shapes[f"embeddings.{name}_embeddings.weight"] = (rows, hidden)
    norms = ["embeddings.LayerNorm"]
    for at in (f"encoder.layer.{i}." for i in range(layers)):
        for name in "self.query", "self.key", "self.value", "output.dense":
            add(f"{at}attention.{name}", hidden, hidden)
        add(f"{at}intermediate.dense", inner, hidden)
        add(f"{at}output.dense", hidden, inner)
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
    shapes.update({f"{norm}.{part}": (hidden,) for norm in norms for part in ("weight", "bias")})
    config = {"model_type": "bert", "architectures": ["BertModel"], "dtype": "float32", "hidden_size": hidden,
              "num_attention_heads": 4, "intermediate_size": inner, "num_hidden_layers": layers,
              "vocab_size": vocabulary, "type_vocab_size": 2, "max_position_embeddings": 32}

    def spread(name, values):
        """Numbers that a trained model may have: a norm's weights about 1, the others wider, so that inputs matter."""
        for i, value in enumerate(values):
            values[i] = 1 + value if name.endswith("LayerNorm.weight") else 6 * value

    return write_model(folder, shapes, config, spread)


class runner:
    def __init__(self, programs, work):
        self.programs, self.work = programs, work
        self.model = make_model(work / "model", spoil=1.0)

    def run(self, name, *arguments, status=0, stdin=None):
        done = subprocess.run([self.programs / name, *arguments], capture_output=True, text=True, input=stdin)
        print(f"+ {name} {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}", flush=True)
        assert done.returncode == status, f"exit status {done.returncode}, not {status}"
        return done

    def match(self, pattern, text):
        found = re.search(pattern, text)
        assert found, f"nothing like {pattern!r} in:\n{text}"
        return found.groups()

    def hash_of(self, folder):
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()

    def only_model_left(self):
        """An error or a cancel leaves nothing behind."""
        left = sorted(path.name for path in self.work.iterdir())
        assert left == ["model"], left


def check_host_application(at):
    out = at.work / "out"
    assert "nowhere" in at.run("host_application", at.work / "nowhere", out, status=3).stderr
    assert "int9" in at.run("host_application", at.model, out, "int9", status=1).stderr
    at.only_model_left()
    broken = make_model(at.work / "broken", spoil=math.nan)
    stderr = at.run("host_application", broken, out, status=2).stderr
    assert WORST in stderr and "at element 0" in stderr and str(broken) in stderr
    shutil.rmtree(broken)
    at.only_model_left()
    cancel(at, out)
    at.only_model_left()

    done = at.run("host_application", at.model, out, "int8")
    planned = int(at.match(r"bytes -> (\d+)", done.stdout)[0])
    assert planned == (out / "model.safetensors").stat().st_size
    rows = re.findall(r"^ *([\d.]+) +([\d.]+)  (encoder.*)$", done.stdout, re.M)
    assert [row[2] for row in rows][0] == WORST and {row[2] for row in rows} == set(SHAPES)
    assert [float(row[0]) for row in rows] == sorted(float(row[0]) for row in rows)
    # 8 bits of a uniform distribution: 6.02 dB a bit, but one to store the sign's other half.
    assert abs(float(rows[-1][0]) - 20 * math.log10(254)) < 1
    assert "100 %" in done.stderr and "info: " in done.stderr
    # OUT exists now.
    assert "milled already" in at.run("host_application", at.model, out, "int8").stdout
    assert str(out) in at.run("host_application", at.model, out, "int4", status=1).stderr


def cancel(at, out):
    """Ctrl-C in the middle: its log has no room in the pipe, so the program cannot be done before the signal comes."""
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"." * size)
    program = subprocess.Popen([at.programs / "host_application", at.model, out], stderr=writer,
                               stdout=subprocess.DEVNULL)
    os.close(writer)
    status = pathlib.Path(f"/proc/{program.pid}/status")
    until = time.monotonic() + 60
    # Until the program has set its handler.
    while not int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) >> (signal.SIGINT - 1) & 1:
        assert time.monotonic() < until, "the program does not catch SIGINT"
        time.sleep(0.01)
    program.send_signal(signal.SIGINT)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    assert program.wait() == 130 and text.endswith("cancelled\n"), (program.returncode, text[size:])


def check_host_threads_and_memory(at):
    done = at.run("host_threads_and_memory", at.model, at.work / "out")
    limit, peak, tasks = map(int, at.match(r"budget (\d+): done; peak (\d+) bytes, 0 left behind, (\d+) tasks", done.stdout))
    assert 0 < peak <= limit and tasks >= 4
    limit, peak = map(int, at.match(r"budget (\d+): [^;]*memory[^;]*; peak (\d+) bytes, 0 left", done.stdout.splitlines()[1]))
    assert peak <= limit == 65536
    # Other threads and memory, same bytes.
    at.run("host_application", at.model, at.work / "plain", "int4")
    assert at.hash_of(at.work / "out") == at.hash_of(at.work / "plain")


def check_compare_sequences(at):
    model = make_encoder(at.work / "encoder")
    lines = ["1 7 9 2", "1 30 31 32 33 34 2", "1 7 9 2", "1 8 9 2"]

    def alike(folder, *arguments, given=lines):
        done = at.run("compare_sequences", folder, *arguments, stdin="\n".join(given))
        rows = [list(map(float, row.split())) for row in done.stdout.splitlines()]
        assert len(rows) == len(given) and all(len(row) == len(given) for row in rows)
        return rows, done.stderr

    plain, facts = alike(model)
    assert "bert, 2 layers, level original" in facts
    assert all(plain[i][i] == 1 for i in range(4)) and plain[0][2] == 1
    # One token of four is another; then all are.
    assert 0.5 < plain[0][3] < 1 and plain[0][1] < plain[0][3]
    assert all(plain[a][b] == plain[b][a] for a in range(4) for b in range(4))
    # The same in any company, and nearly the same milled.
    assert alike(model, given=lines[2:])[0][0][1] == plain[2][3]
    at.run("host_application", model, at.work / "small", "int8")
    milled, facts = alike(at.work / "small")
    assert "level int8" in facts
    assert milled != plain and all(abs(x - y) < 0.02 for a, b in zip(plain, milled) for x, y in zip(a, b))
    assert "int2" in at.run("compare_sequences", model, "int2", stdin="1", status=1).stderr
    assert "50" in at.run("compare_sequences", model, stdin="1 50 2", status=1).stderr
    assert "token ids" in at.run("compare_sequences", model, stdin="1 x 2", status=2).stderr


def check_xtensor_in_out(at):
    text = at.run("xtensor_in_out").stdout
    rows = {row[0].strip(): [float(cell) for cell in row[1:]]
            for row in re.findall(r"^(\S.*?)  +([\d.]+) +([\d.]+) +([\d.]+)$", text, re.M)}
    assert {name: row[0] for name, row in rows.items()} == {
        "fp16": 16, "int8 per_channel": 8.03, "int4 group 128": 4.25, "nf4 block 64": 4.5}
    assert all(abs(codec - xtensor) <= 0.011 for _, codec, xtensor in rows.values())
    assert "in place: equal codes" in text and "stacked: 512 x 1024" in text


def check_c_program(at):
    text = at.run("c_program", at.model, at.work / "out").stdout
    before, after, largest, own = at.match(r"matrix: (\d+) bytes -> (\d+), .* largest error ([\d.]+) \(here ([\d.]+)\)", text)
    assert int(before) == 64 * 256 * 4 and int(after) == 64 * 256 // 2 + 64 * 2 * 4 and largest == own
    report = json.loads(text[text.index("{"):])
    assert report["bytes"] == (at.work / "out/model.safetensors").stat().st_size
    assert {one["name"] for one in report["tensors"]} == set(SHAPES)
    # C and C++ are one library.
    at.run("host_application", at.model, at.work / "plain", "int8")
    assert at.hash_of(at.work / "out") == at.hash_of(at.work / "plain")
    assert "nowhere" in at.run("c_program", at.work / "nowhere", at.work / "o", status=1).stderr


def put_tokenizer(model):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "house", "##s"]
    (model / "tokenizer.json").write_text(json.dumps({
        "added_tokens": [], "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {token: i for i, token in enumerate(tokens)}},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}}))


def check_switch_levels(at):
    model = make_encoder(at.work / "encoder")
    put_tokenizer(model)
    for level in "int8", "int4":
        at.run("host_application", model, model / level, level)
    done = at.run("switch_levels", model, "int8", "int4", "int2", "original")
    rows = re.findall(r"^(\w+) +(\w+) +[\d.]+ +[\d.]+ +([\d.]+) +(\d+)$", done.stdout, re.M)
    assert [row[:2] for row in rows] == [("int8", "int8"), ("int4", "int4"), ("int2", "int4"), ("original", "original")]
    assert int(rows[3][3]) > int(rows[0][3]) > int(rows[1][3]) and 0.9 < float(rows[0][2]) < 1
    assert "int2 is not there" in done.stderr and "0 calls failed" in done.stdout
    (model / "int8/model.safetensors").write_bytes(b"")
    assert "original does" in at.run("switch_levels", model, "int8").stderr
    assert "int9" in at.run("switch_levels", model, "int9", status=1).stderr


def check_c_search(at):
    model = make_encoder(at.work / "encoder")
    put_tokenizer(model)
    texts = ["green", "red houses", "red houses blue", "blue"]
    rows = [line.split(maxsplit=1) for line in at.run("c_search", model, "red houses", *texts).stdout.splitlines()]
    assert sorted(text for _, text in rows) == sorted(texts) and rows[0][1] == "red houses"
    assert [float(value) for value, _ in rows] == sorted((float(value) for value, _ in rows), reverse=True)
    (model / "tokenizer.json").unlink()
    assert "tokenizer.json" in at.run("c_search", model, "a", "b", status=1).stderr
    at.run("c_search", model, "a", status=2)


def check_c_host_hooks(at):
    done = at.run("c_host_hooks", at.model, at.work / "out")
    peak, limit, tasks = map(int, at.match(r"done: 100 %, peak (\d+) of (\d+) bytes, 0 left behind, (\d+) tasks", done.stdout))
    assert 0 < peak <= limit and tasks >= 4 and "info: " in done.stderr
    at.run("host_application", at.model, at.work / "plain", "int4")
    assert at.hash_of(at.work / "out") == at.hash_of(at.work / "plain")


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")}


def build_standalone(args, work):
    """A copy of examples/ beside an installed bitmill."""
    def call(*command):
        print("+", *command, flush=True)
        subprocess.run(list(map(str, command)), check=True)

    shutil.copytree(args.source / "examples", work / "examples")
    call(args.cmake, "--install", args.build, "--prefix", work / "prefix")
    call(args.cmake, "-S", work / "examples", "-B", work / "build", "-G", args.generator,
         f"-DCMAKE_PREFIX_PATH={work / 'prefix'};{args.prefix_path}", f"-DCMAKE_CXX_COMPILER={args.compiler}")
    call(args.cmake, "--build", work / "build")
    return work / "build"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--example", choices=CHECKS)
    parser.add_argument("--programs", type=pathlib.Path)
    parser.add_argument("--standalone", action="store_true")
    for name in ("source", "build"):
        parser.add_argument(f"--{name}", type=pathlib.Path)
    for name in ("cmake", "generator", "compiler", "prefix-path"):
        parser.add_argument(f"--{name}", default="")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitmill-examples-") as folder:
        folder = pathlib.Path(folder).resolve()
        programs = build_standalone(args, folder) if args.standalone else args.programs
        for name in CHECKS if args.standalone else [args.example]:
            work = folder / "work" / name
            work.mkdir(parents=True)
            CHECKS[name](runner(programs, work))


if __name__ == "__main__":
    sys.exit(main())
