"""The same work done by other libraries: 16384 x 4096 f32 (256 MiB), two threads.

A peer is a name, a side (encode or decode), a package and a function that makes the body to time. Memory that
a peer allocates is kept by malloc between calls (see keep_pages), so that nobody pays for page faults.
"""

import ctypes
import importlib.metadata
import logging
import warnings

# Deprecations and missing GPU libraries of the peers are not this table's subject.
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

ROWS, COLUMNS, THREADS = 16384, 4096, 2


def keep_pages():
    """Allocations of any size come from the heap and are never given back: pages are faulted in once."""
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_max = -1, -4
    assert libc.mallopt(m_mmap_max, 0) == 1 and libc.mallopt(m_trim_threshold, 2**31 - 1) == 1


def weights():
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    return torch.randn(ROWS, COLUMNS).mul_(0.05)


def torch_memcpy(x):
    import torch

    destination = torch.ones_like(x)
    return lambda: destination.copy_(x)


def numpy_memcpy(x):
    import numpy as np

    source = x.numpy()
    destination = np.ones_like(source)
    return lambda: np.copyto(destination, source)


def torch_plain(x):
    import torch

    scaled = torch.ones_like(x)
    codes = torch.ones(x.shape, dtype=torch.int8)

    def body():
        low, high = torch.aminmax(x, dim=1, keepdim=True)  # one pass, where abs().amax() would make a copy
        scale = torch.maximum(high, -low).div_(127.5)
        torch.div(x, scale, out=scaled)
        codes.copy_(scaled.round_().clamp_(-128, 127))

    return body


def torch_quantize_per_channel(x):
    import torch

    zero_points = torch.zeros(x.shape[0], dtype=torch.int64)

    def body():
        low, high = torch.aminmax(x, dim=1)
        scale = torch.maximum(high, -low).div_(127.5)
        torch.quantize_per_channel(x, scale, zero_points, 0, torch.qint8)

    return body


def torch_dequantize(x):
    import torch

    codes = (x * 500).round().clamp(-128, 127).to(torch.int8)
    scale, out = torch.full((x.shape[0], 1), 0.002), torch.ones_like(x)
    return lambda: torch.mul(codes, scale, out=out)


def quanto(x):
    from optimum.quanto import AbsmaxOptimizer, qint8, quantize_weight

    optimizer = AbsmaxOptimizer()
    return lambda: quantize_weight(x, qtype=qint8, axis=0, scale=optimizer(x, qtype=qint8, axis=0))


def torchao_int8(x):
    from torchao.quantization import Int8Tensor, PerRow

    return lambda: Int8Tensor.from_hp(x, granularity=PerRow())


def bitsandbytes_nf4(x):
    import bitsandbytes.functional as bnb

    return lambda: bnb.quantize_4bit(x, blocksize=64, quant_type="nf4")


def bitsandbytes_nf4_decode(x):
    import bitsandbytes.functional as bnb

    packed, state = bnb.quantize_4bit(x, blocksize=64, quant_type="nf4")
    return lambda: bnb.dequantize_4bit(packed, state)


def gguf_q8_0(x):
    import gguf

    source = x.numpy()
    return lambda: gguf.quants.quantize(source, gguf.GGMLQuantizationType.Q8_0)


# (row, side, package whose version is shown, maker); side: "encode" is shown as a share of memcpy, "decode"
# of memset
PEERS = [
    ("torch copy_", "encode", "torch", torch_memcpy),
    ("numpy copyto (1 thread)", "encode", "numpy", numpy_memcpy),
    ("torch int8 per channel, plain ops", "encode", "torch", torch_plain),
    ("torch quantize_per_channel", "encode", "torch", torch_quantize_per_channel),
    ("optimum-quanto int8 per channel", "encode", "optimum-quanto", quanto),
    ("torchao int8 per row", "encode", "torchao", torchao_int8),
    ("gguf Q8_0 (1 thread)", "encode", "gguf", gguf_q8_0),
    ("bitsandbytes nf4 block 64", "encode", "bitsandbytes", bitsandbytes_nf4),
    ("torch int8 x scale", "decode", "torch", torch_dequantize),
    ("bitsandbytes nf4 block 64", "decode", "bitsandbytes", bitsandbytes_nf4_decode),
]


def label(name, package):
    """The row's name with the package's version in it."""
    version = importlib.metadata.version(package).split("+")[0]
    return name.replace(package, f"{package} {version}", 1)
