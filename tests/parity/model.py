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


class _SystemMemory(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32),
        ("reserved", c.c_uint32),
        ("total_bytes", c.c_uint64),
        ("available_bytes", c.c_uint64),
        ("process_bytes", c.c_uint64),
        ("limit", c.c_char * 256),
    ]


_ReadMemory = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.POINTER(_SystemMemory))


class _ManagerOptions(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32),
        ("reserved", c.c_uint32),
        ("model", c.c_void_p),
        ("thresholds", c.c_void_p),
        ("capability", c.c_void_p),
        ("capability_count", c.c_uint64),
        ("max_cache_bytes", c.c_uint64),
        ("working_bytes", c.c_uint64),
        ("memory_interval_ms", c.c_int64),
        ("machine_context", c.c_void_p),
        ("read_memory", _ReadMemory),
        ("clock_ms", c.c_void_p),
    ]


class _Decision(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32),
        ("reserved", c.c_uint32),
        ("used", c.c_double),
        ("projected", c.c_double),
        ("level", c.c_char * 16),
        ("rule", c.c_char * 32),
        ("explanation", c.c_char * 448),
    ]


class _Outcome(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32),
        ("is_quantized", c.c_int32),
        ("already_quantized", c.c_int32),
        ("did_work", c.c_int32),
        ("level", c.c_char * 16),
        ("job_id", c.c_char * 32),
        ("model_name", c.c_char * 256),
        ("message", c.c_char * 512),
    ]


def _text(value):
    return None if value is None else str(value).encode()


class Library:
    def __init__(self, path):
        self._dll = c.CDLL(str(path))
        self._dll.bitmill_isa.restype = c.c_char_p
        self._dll.bitmill_isa_available.restype = c.c_char_p
        self._dll.bitmill_isa_available.argtypes = [c.c_size_t]
        for name in "model", "model_loader", "manager", "managed_model", "registry":
            getattr(self._dll, f"bitmill_{name}_destroy").argtypes = [c.c_void_p]
        self._dll.bitmill_managed_model_loader.argtypes = [c.c_void_p]
        self._dll.bitmill_managed_model_loader.restype = c.c_void_p

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

    def embed(self, loader, texts, width):
        """[texts, width], by a loader's handle."""
        data = (c.c_char_p * len(texts))(*map(_text, texts))
        given = _Texts(c.sizeof(_Texts), 0, data, None, len(texts))
        out = np.full((len(texts), width), np.nan, np.float32)
        self.call("bitmill_model_loader_embed", loader, c.byref(given), None, c.c_void_p(out.ctypes.data),
                  c.c_uint64(out.size))
        return out

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
        return self._library.embed(self._handle, texts, width)


class _Handle:
    """Ends with the block that it is opened for."""

    def __init__(self, library, kind):
        self._library, self._kind, self._handle = library, kind, c.c_void_p()

    def close(self):
        getattr(self._library._dll, f"bitmill_{self._kind}_destroy")(self._handle)
        self._handle = c.c_void_p()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Manager(_Handle):
    """Models by name, on a machine of 16 GiB of which the share `used` is in use."""

    def __init__(self, library, threads=2):
        super().__init__(library, "manager")
        self.used = 0.1
        self._read_memory = _ReadMemory(self._tell)  # lives as long as the manager may call it
        model = _Options(c.sizeof(_Options), threads, None, None, None)
        options = _ManagerOptions(struct_size=c.sizeof(_ManagerOptions), model=c.addressof(model),
                                  memory_interval_ms=-1, read_memory=self._read_memory)
        library.call("bitmill_manager_create", c.byref(options), c.byref(self._handle))

    def _tell(self, _, memory):
        memory.contents.total_bytes = 16 * 2**30
        memory.contents.available_bytes = int(16 * 2**30 * (1 - self.used))
        return 0

    def add(self, name, path):
        self._library.call("bitmill_manager_add_model", self._handle, _text(name), _text(path), None)

    def load(self, name):
        return Managed(self._library, self._handle, name)

    def status(self):
        return self._library.json("bitmill_manager_status_json", self._handle)


class Managed(_Handle):
    """A model at work."""

    def __init__(self, library, manager, name):
        super().__init__(library, "managed_model")
        library.call("bitmill_manager_load_model", manager, _text(name), None, c.byref(self._handle))
        decision = _Decision(struct_size=c.sizeof(_Decision))
        library.call("bitmill_managed_model_get_decision", self._handle, c.byref(decision))
        self.level, self.explanation = decision.level.decode(), decision.explanation.decode()

    def embed(self, texts, width):
        """[texts, width]"""
        loader = c.c_void_p(self._library._dll.bitmill_managed_model_loader(self._handle))
        return self._library.embed(loader, texts, width)


class Registry(_Handle):
    """The models of a folder."""

    def __init__(self, library, root):
        super().__init__(library, "registry")
        library.call("bitmill_registry_open", _text(root), None, c.byref(self._handle))

    def quantize(self, name):
        """What bitmill_quantize_outcome holds."""
        outcome = _Outcome(struct_size=c.sizeof(_Outcome))
        self._library.call("bitmill_registry_quantize", self._handle, _text(name), None, c.byref(outcome), None)
        return outcome

    def list(self):
        return self._library.json("bitmill_registry_list_json", self._handle)["models"]


def library_of(bitmill_path):
    """The C library of the build that the command is from."""
    return Library(pathlib.Path(bitmill_path).parent.parent / "capi" / "libbitmill_c.so")
