"""Pickles that no checkpoint of weights holds: code to run, structures that do not fit, sizes that lie (RA8).

Each is put into a zip file that is otherwise one of torch.save. CANARY is what the code among them would make.
"""

import collections
import io
import pickle
import struct
import zipfile

CANARY = "bitmill-canary"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def number(value):
    return b"J" + struct.pack("<i", value) if -(2**31) <= value < 2**31 else b"\x8a\x08" + struct.pack("<q", value)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key="0", numel=6, kind=name("torch", "FloatStorage"), tag="storage", location="cpu", more=b""):
    return b"(" + text(tag) + kind + text(key) + text(location) + number(numel) + more + b"tQ"


def rebuilt(of=None, first=0, shape=(2, 3), strides=(3, 1), function=name("torch._utils", "_rebuild_tensor_v2")):
    hooks = name("collections", "OrderedDict") + b")R"
    return function + b"(" + (of or storage()) + number(first) + numbers(shape) + numbers(strides) + b"\x89" + hooks + b"tR"


def state(tensor=None, key="w"):
    return b"\x80\x02}(" + text(key) + (rebuilt() if tensor is None else tensor) + b"u."


def archive(pickled, compress=zipfile.ZIP_STORED, files=(), folder="m/", size=24):
    """A zip file as torch.save lays it out; `files` are added, or take the place of what is there."""
    content = {
        folder + "data.pkl": pickled,
        folder + "byteorder": b"little",
        folder + "data/0": bytes(size),
        folder + "version": b"3\n",
    }
    content.update(dict(files))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as packed:
        for path, value in content.items():
            packed.writestr(path, value)
    return out.getvalue()


def calls(module, function, *arguments, build=None):
    """A pickle that Python would run code for."""
    body = b"".join(text(a) if isinstance(a, str) else a for a in arguments)
    return b"\x80\x02" + name(module, function) + b"(" + body + b"tR" + (build or b"") + b"."


TOUCH = f"touch {CANARY}"
CODE = {
    "os-system": calls("os", "system", TOUCH),
    "posix-system": calls("posix", "system", TOUCH),
    "nt-system": calls("nt", "system", TOUCH),
    "subprocess-popen": calls("subprocess", "Popen", TOUCH),
    "subprocess-run": calls("subprocess", "run", TOUCH),
    "subprocess-getoutput": calls("subprocess", "getoutput", TOUCH),
    "eval": calls("builtins", "eval", f"open('{CANARY}','w')"),
    "exec": calls("builtins", "exec", f"open('{CANARY}','w')"),
    "eval-python-2": calls("__builtin__", "eval", f"open('{CANARY}','w')"),
    "open": calls("builtins", "open", CANARY, "w"),
    "io-open": calls("io", "open", CANARY, "w"),
    "compile": calls("builtins", "compile", "1", "x", "eval"),
    "import": calls("builtins", "__import__", "os"),
    "getattr-chain": b"\x80\x02" + name("builtins", "getattr") + b"(" + name("os", "path") + text("os") + b"tR.",
    "runpy": calls("runpy", "_run_code", "x"),
    "webbrowser": calls("webbrowser", "open", "http://127.0.0.1:1"),
    "socket": calls("socket", "create_connection", "127.0.0.1"),
    "urllib": calls("urllib.request", "urlopen", "http://127.0.0.1:1"),
    "pty-spawn": calls("pty", "spawn", "/bin/true"),
    "shutil-rmtree": calls("shutil", "rmtree", "nothing"),
    "ctypes": calls("ctypes", "CDLL", "libc.so.6"),
    "torch-load": calls("torch.serialization", "load", "x"),
    "torch-hub": calls("torch.hub", "load", "x"),
    "torch-jit": calls("torch.jit", "load", "x"),
    "torch-compile": calls("torch", "compile", "x"),
    "torch-ops": calls("torch._ops", "_OpNamespace", "x"),
    "numpy-load": calls("numpy", "load", "x"),
    "numpy-runstring": calls("numpy.testing._private.utils", "runstring", "x"),
    "operator-attrgetter": calls("operator", "attrgetter", "system"),
    "functools-partial": calls("functools", "partial", "x"),
    "copyreg": calls("copyreg", "_reconstructor", "x"),
    "marshal": calls("marshal", "loads", "x"),
    "types-code": calls("types", "FunctionType", "x"),
    "dotted-name": calls("torch", "_utils.os.system", TOUCH),
    "stack-global": b"\x80\x04\x8c\x02os\x8c\x06system\x93(" + text(TOUCH) + b"tR.",
    "newobj": b"\x80\x02" + name("subprocess", "Popen") + b"(" + text(TOUCH) + b"t\x81.",
    "inst": b"(" + text(TOUCH) + b"ios\nsystem\n.",
    "obj": b"\x80\x02(" + name("os", "system") + text(TOUCH) + b"o.",
    "extension": b"\x80\x02\x82\x01.",
    "in-a-state": b"\x80\x02}(" + text("w") + rebuilt() + text("x") + name("os", "system") + b"(" + text(TOUCH) + b"tRu.",
    "in-the-hooks": state(rebuilt().replace(name("collections", "OrderedDict") + b")R", name("os", "system") + b"(" + text(TOUCH) + b"tR")),
    "as-a-storage": state(rebuilt(of=storage(kind=name("os", "system")))),
    "build-with-code": b"\x80\x02" + name("argparse", "Namespace") + b")R}b.",
    "protocol-0": pickle.dumps(collections.OrderedDict(w=1), 0),
    "protocol-1": pickle.dumps([b"bytes"], 1),
}
SHAPES = {
    "setitem-on-list": b"\x80\x02](" + text("w") + rebuilt() + b"u.",
    "setitem-on-tensor": b"\x80\x02" + rebuilt() + b"(" + text("w") + b"Nu.",
    "append-to-dict": b"\x80\x02}Na.",
    "build-on-tensor": b"\x80\x02" + rebuilt() + b"}b.",
    "reduce-of-a-dict": b"\x80\x02})R.",
    "reduce-of-a-storage": b"\x80\x02" + storage() + b")R.",
    "reduce-with-a-list": b"\x80\x02" + name("collections", "OrderedDict") + b"]R.",
    "stride-past-the-end": state(rebuilt(strides=(100, 1))),
    "offset-past-the-end": state(rebuilt(first=1)),
    "negative-offset": state(rebuilt(first=-1)),
    "negative-stride": state(rebuilt(strides=(-3, 1))),
    "negative-size": state(rebuilt(shape=(-2, 3))),
    "huge-size": state(rebuilt(shape=(2**40, 2**40))),
    "wrapping-stride": state(rebuilt(strides=(2**62, 2**62))),
    "size-without-stride": state(rebuilt(strides=(1,))),
    "numel-too-large": state(rebuilt(of=storage(numel=7))),
    "numel-too-small": state(rebuilt(of=storage(numel=5), shape=(1, 1))),
    "numel-negative": state(rebuilt(of=storage(numel=-6))),
    "storage-missing": state(rebuilt(of=storage(key="1"))),
    "storage-above": state(rebuilt(of=storage(key="../data.pkl"))),
    "storage-of-6-items": state(rebuilt(of=storage(more=b"N"))),
    "storage-of-another-tag": state(rebuilt(of=storage(tag="module"))),
    "expanded-to-terabytes": state(rebuilt(shape=(2**20, 2**20), strides=(0, 0))),
    "tensor-as-a-name": b"\x80\x02}(" + rebuilt() + rebuilt() + b"u.",
    "name-twice": b"\x80\x02}(" + text("w") + rebuilt() + text("w") + rebuilt() + b"u.",
    "no-stop": state()[:-1],
    "two-values": state()[:-1] + b"N.",
    "empty-stack": b"\x80\x02.",
    "memo-bomb": b"\x80\x02]" + b"".join(b"q" + bytes([i]) + b"(" + (b"h" + bytes([i])) * 9 + b"t" for i in range(60)) + b".",
    "stack-bomb": b"\x80\x02" + b"N" * (1 << 20) + b".",
    "deep-lists": b"\x80\x02" + b"](" * (1 << 18) + b".",
    "long-text": b"\x80\x02X\xff\xff\xff\x7fshort.",
    "sparse": state(rebuilt(function=name("torch._utils", "_rebuild_sparse_tensor"))),
    "quantized": state(rebuilt(function=name("torch._utils", "_rebuild_qtensor"))),
    "number": b"\x80\x02K\x01.",
}  # fmt: skip
ARCHIVES = {
    "deflated": archive(state(), compress=zipfile.ZIP_DEFLATED),
    "deflate-bomb": archive(state(), compress=zipfile.ZIP_DEFLATED, files={"m/data/0": bytes(1 << 22)}),
    "two-pickles": archive(state(), files={"n/data.pkl": state()}),
    "no-pickle": archive(state(), files={}, folder="m/n/"),
    "storage-too-short": archive(state(), size=23),
    "big-endian": archive(state(), files={"m/byteorder": b"big"}),
    "byteorder-is-code": archive(state(), files={"m/byteorder": b"import os"}),
    "only-a-zip": archive(state(), folder="m/x/"),
    "behind-the-end": archive(state()) + b"more",
    "cut": archive(state())[:-30],
    "empty": b"",
    "plain-pickle": pickle.dumps({"w": 1}),
    "plain-code": CODE["os-system"],
    "html": b"<!DOCTYPE html><html>Not found</html>" * 40,
}


def evil_files():
    """name -> the bytes of a .bin file"""
    out = {name: archive(pickled) for name, pickled in {**CODE, **SHAPES}.items()}
    return {**out, **ARCHIVES}
