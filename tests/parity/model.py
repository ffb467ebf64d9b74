"""Models that run, through libbitmill_c and ctypes."""

import ctypes as c
import json
import pathlib

import numpy as np


class Error(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class _Error(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("status", c.c_int32), ("offset", c.c_uint64), ("message", c.c_char * 1000)]


class _Options(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32),
        ("threads", c.c_uint32),
        ("hooks", c.c_void_p),
        ("level", c.c_char_p),
        ("activation", c.c_char_p),
    ]


class _Tokens(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32),
        ("reserved", c.c_uint32),
        ("ids", c.c_void_p),
        ("types", c.c_void_p),
        ("ids_count", c.c_uint64),
        ("lengths", c.c_void_p),
        ("lengths_count", c.c_uint64),
    ]


class _LoaderOptions(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32),
        ("no_fallback", c.c_int32),
        ("model", c.c_void_p),
        ("quantized", c.c_char_p),
        ("capability", c.c_void_p),
        ("capability_count", c.c_uint64),
        ("canary", c.POINTER(c.c_char_p)),
        ("canary_count", c.c_uint64),
        ("canary_cosine", c.c_double),
        ("switch_timeout_ms", c.c_uint64),
        ("retry_after_ms", c.c_int64),
        ("check_hashes", c.c_int32),
        ("reserved", c.c_uint32),
    ]


class _SwitchRecord(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32),
        ("fault", c.c_int32),
        ("number", c.c_uint64),
        ("unix_ms", c.c_int64),
        ("load_ms", c.c_double),
        ("canary_ms", c.c_double),
        ("canary_cosine", c.c_double),
        ("weight_bytes", c.c_uint64),
        ("planes", c.c_int32),
        ("has_canary", c.c_int32),
        ("origin", c.c_char * 16),
        ("requested", c.c_char * 16),
        ("effective", c.c_char * 16),
        ("canary_against", c.c_char * 16),
        ("reason", c.c_char * 448),
    ]


class _Texts(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32),
        ("reserved", c.c_uint32),
        ("data", c.POINTER(c.c_char_p)),
        ("bytes", c.c_void_p),
        ("count", c.c_uint64),
    ]


def _text(value):
    return None if value is None else str(value).encode()


class Library:
    def __init__(self, path):
        self._dll = c.CDLL(str(path))
        self._dll.bitmill_isa.restype = c.c_char_p
        self._dll.bitmill_isa_available.restype = c.c_char_p
        self._dll.bitmill_isa_available.argtypes = [c.c_size_t]
        for name in "bitmill_model_destroy", "bitmill_model_loader_destroy":
            getattr(self._dll, name).argtypes = [c.c_void_p]

    def call(self, name, *args):
        error = _Error(struct_size=c.sizeof(_Error))
        if getattr(self._dll, name)(*args, c.byref(error)) != 0:
            names = ["ok", "invalid_argument", "bad_input", "io", "out_of_memory", "refused", "cancelled", "unsupported"]
            raise Error(([*names, "internal"])[error.status], error.message.decode())

    def isa(self):
        return self._dll.bitmill_isa().decode()

    def isas(self):
        found = []
        while name := self._dll.bitmill_isa_available(len(found)):
            found.append(name.decode())
        return found

    def set_isa(self, name):
        self.call("bitmill_set_isa", _text(name))

    def json(self, name, handle):
        needed = c.c_size_t()
        self.call(name, handle, None, c.c_size_t(0), c.byref(needed))
        text = c.create_string_buffer(needed.value)
        self.call(name, handle, text, needed, None)
        return json.loads(text.value)

    def open(self, path, level=None, activation=None, threads=2):
        return Model(self, path, level, activation, threads)


class Model:
    """Sequences are lists of token ids; results are float32 arrays."""

    def __init__(self, library, path, level, activation, threads):
        self._library, self._handle = library, c.c_void_p()
        texts = _text(level), _text(activation)
        options = _Options(c.sizeof(_Options), threads, None, *texts)
        library.call("bitmill_model_open", _text(path), c.byref(options), c.byref(self._handle))
        self.facts = library.json("bitmill_model_json", self._handle)

    def close(self):
        self._library._dll.bitmill_model_destroy(self._handle)
        self._handle = c.c_void_p()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _run(self, name, width, rows, sequences, types):
        lengths = np.array([len(one) for one in sequences], np.uint32)
        ids = np.array([i for one in sequences for i in one], np.int32)
        kinds = None if types is None else np.array([i for one in types for i in one], np.int32)
        out = np.full((rows(ids, lengths), width), np.nan, np.float32)
        tokens = _Tokens(
            c.sizeof(_Tokens),
            0,
            ids.ctypes.data,
            None if kinds is None else kinds.ctypes.data,
            ids.size,
            lengths.ctypes.data,
            lengths.size,
        )
        count = c.c_uint64(out.size)
        self._library.call(name, self._handle, c.byref(tokens), c.c_void_p(out.ctypes.data), count)
        return out

    def embed(self, sequences, types=None):
        """[sequences, embedding_size]"""
        width = self.facts["embedding_size"]
        return self._run("bitmill_model_embed", width, lambda ids, lengths: lengths.size, sequences, types)

    def hidden(self, sequences, types=None):
        """[tokens of all sequences, hidden_size]"""
        width = self.facts["hidden_size"]
        return self._run("bitmill_model_hidden", width, lambda ids, lengths: ids.size, sequences, types)

    def logits(self, sequences, types=None):
        """[sequences, labels]"""
        width = max(1, self.facts["labels"])
        return self._run("bitmill_model_logits", width, lambda ids, lengths: lengths.size, sequences, types)


class Loader:
    """A model that changes its level while it serves; every method is safe from any thread."""

    def __init__(self, library, path, level=None, threads=2, canary=(), canary_cosine=0.0):
        self._library, self._handle = library, c.c_void_p()
        model = _Options(c.sizeof(_Options), threads, None, _text(level), None)
        texts = (c.c_char_p * len(canary))(*map(_text, canary))
        options = _LoaderOptions(struct_size=c.sizeof(_LoaderOptions), model=c.addressof(model), canary=texts,
                                 canary_count=len(canary), canary_cosine=canary_cosine)
        library.call("bitmill_model_loader_open", _text(path), c.byref(options), c.byref(self._handle))

    def close(self):
        self._library._dll.bitmill_model_loader_destroy(self._handle)
        self._handle = c.c_void_p()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def use_level(self, level):
        record = _SwitchRecord(struct_size=c.sizeof(_SwitchRecord))
        self._library.call("bitmill_model_loader_use_level", self._handle, _text(level), c.byref(record))
        return record

    def json(self):
        return self._library.json("bitmill_model_loader_json", self._handle)

    def embed(self, texts, width):
        """[texts, width]"""
        data = (c.c_char_p * len(texts))(*map(_text, texts))
        given = _Texts(c.sizeof(_Texts), 0, data, None, len(texts))
        out = np.full((len(texts), width), np.nan, np.float32)
        self._library.call("bitmill_model_loader_embed", self._handle, c.byref(given), None,
                           c.c_void_p(out.ctypes.data), c.c_uint64(out.size))
        return out


def library_of(bitmill_path):
    """The C library of the build that the command is from."""
    return Library(pathlib.Path(bitmill_path).parent.parent / "capi" / "libbitmill_c.so")
