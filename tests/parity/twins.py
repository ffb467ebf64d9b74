"""NumPy twins of the quantization methods, written from their descriptions and not from bitmill's source.

Weights are float32 arrays that hold values of `dtype` ("float32", "float16" or "bfloat16"); every twin says
which official package it equals, and test_twins.py proves that on this machine before anything is compared
with them.
"""

import numpy as np

F32 = np.float32
EPSILON = {"float32": F32(2.0**-23), "float16": F32(2.0**-10), "bfloat16": F32(2.0**-7)}


def round_to(values, dtype):
    """float32 values rounded (half to even) to `dtype`, as float32."""
    values = np.asarray(values, F32)
    if dtype == "float32":
        return values
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(F32)
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(values), values, rounded.view(F32))


def grouped(weight, granularity, group_size):
    """[rows, groups, elements] view; per tensor is [1, 1, all]."""
    rows, columns = weight.shape
    if granularity == "per_tensor":
        return weight.reshape(1, 1, -1)
    return weight.reshape(rows, -1, columns if granularity == "per_channel" else group_size)


def absmax_codes(weight, dtype, bits, granularity, group_size=None):
    """compressed-tensors' min-max rule, symmetric: codes int8 [rows, columns], scale float32 [rows, groups].

    scale = max|w| / ((2^bits - 1) / 2); every result is rounded to the weight's dtype, the quotient w / scale
    too, before it is rounded to an integer.
    """
    groups = grouped(weight, granularity, group_size)
    scale = round_to(np.abs(groups).max(axis=-1) / F32((2**bits - 1) / 2), dtype)
    scale = np.where(scale == 0, EPSILON[dtype], scale)
    return codes_for_scale(weight, groups, scale, dtype, bits), scale


def codes_for_scale(weight, groups, scale, dtype, bits):
    with np.errstate(over="ignore", invalid="ignore"):
        quotient = round_to(groups / scale[..., None], dtype)
    half = 2 ** (bits - 1)
    return np.rint(np.clip(quotient, -half, half - 1)).astype(np.int8).reshape(weight.shape)


def least_squares_codes(weight, dtype, bits, granularity, group_size=None):
    """The 19-trial least-squares search with the full range [-2^(bits-1), 2^(bits-1) - 1].

    m is the signed element of the largest magnitude, s0 = -m / (2^(bits-1) + 0.1 k) for k = -9..9; the trial
    with the largest (sum xq)^2 / sum qq gives s = sum xq / sum qq. Codes are rounded again with the stored
    scale.
    """
    groups = grouped(weight, granularity, group_size).astype(F32)
    half = 2 ** (bits - 1)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    best_score = np.zeros(extreme.shape, np.float64)
    best_scale = np.full(extreme.shape, EPSILON[dtype], F32)
    for k in range(-9, 10):
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = np.where(extreme == 0, F32(0), F32(half + 0.1 * k) / -extreme).astype(F32)
        codes = np.clip(np.rint(groups * inverse[..., None]), -half, half - 1)
        xq = np.einsum("rgk,rgk->rg", groups, codes, dtype=np.float64)
        qq = np.einsum("rgk,rgk->rg", codes, codes, dtype=np.float64)
        score = np.where(qq > 0, xq * xq / np.maximum(qq, 1), 0)
        better = score > best_score
        best_score = np.where(better, score, best_score)
        best_scale = np.where(better, xq / np.maximum(qq, 1), best_scale).astype(F32)
    scale = round_to(best_scale, dtype)
    scale = np.where(scale == 0, EPSILON[dtype], scale)
    return codes_for_scale(weight, groups, scale, "float32", bits), scale


def decode_integers(codes, scale, dtype="float32"):
    """codes * scale in float32, rounded to `dtype`."""
    rows, columns = codes.shape
    groups = codes.reshape(1, 1, -1) if scale.size == 1 else codes.reshape(rows, scale.shape[-1], -1)
    return round_to(
        (groups.astype(F32) * scale.reshape(groups.shape[:2])[..., None]).reshape(rows, columns), dtype
    )


def unpack_int32(words, bits, columns):
    """compressed-tensors' weight_packed [rows, words] -> int8 codes [rows, columns] for 4 and 8 bits."""
    raw = np.ascontiguousarray(words).view(np.uint8)
    if bits == 4:
        raw = np.stack((raw & 15, raw >> 4), axis=-1).reshape(raw.shape[0], -1)
    return (raw[:, :columns].astype(np.int16) - 2 ** (bits - 1)).astype(np.int8), raw[:, columns:]


# --- bitsandbytes -------------------------------------------------------------------------------------------

NF4_TABLE = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    F32,
)
FP4_TABLE = np.concatenate(
    [s * np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], F32) / F32(12) for s in (F32(1), F32(-1))]
)
FP4_TABLE[8] = 0.0  # the official table holds +0 here, not -0
FP4_ORDER = np.array([11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3], np.uint8)
TABLE = {"nf4": NF4_TABLE, "fp4": FP4_TABLE}


def book_codes(weight, quant_type, block_size):
    """quantize_4bit of bitsandbytes 0.50 on CPU: (bytes uint8 [ceil(n/2)], absmax float32 [blocks]).

    Full blocks multiply by 1 / max(absmax, 1e-38); a short last block divides and stores the clamped absmax.
    A tie goes to the lower table entry.
    """
    order = FP4_ORDER if quant_type == "fp4" else np.arange(16, dtype=np.uint8)
    entries = TABLE[quant_type][order]
    thresholds = ((entries[:-1] + entries[1:]) / F32(2)).astype(F32)
    flat = np.asarray(weight, F32).reshape(-1)
    full = flat.size - flat.size % block_size
    blocks = flat[:full].reshape(-1, block_size)
    absmax = np.abs(blocks).max(axis=1) if full else np.zeros(0, F32)
    inverse = F32(1) / np.maximum(absmax, F32(1e-38))
    scaled = np.clip(blocks * inverse[:, None], -1, 1).reshape(-1)
    if full < flat.size:
        tail = np.maximum(np.abs(flat[full:]).max(), F32(1e-38))
        absmax = np.append(absmax, tail).astype(F32)
        scaled = np.append(scaled, np.clip(flat[full:] / tail, -1, 1)).astype(F32)
    if scaled.size % 2:
        scaled = np.append(scaled, F32(0))
    codes = order[np.searchsorted(thresholds, scaled, side="left")]
    return (codes[::2] << 4) | codes[1::2], absmax


def decode_book(packed, absmax, quant_type, block_size, shape, dtype="float32"):
    packed = np.asarray(packed, np.uint8).reshape(-1)
    codes = np.stack((packed >> 4, packed & 15), axis=-1).reshape(-1)[: int(np.prod(shape))]
    values = TABLE[quant_type][codes] * np.repeat(absmax, block_size)[: codes.size]
    return round_to(values.astype(F32).reshape(shape), dtype)


def dynamic_map():
    """The signed 8-bit dynamic map of bitsandbytes, bit for bit."""
    values = [F32(0), F32(1)]
    for exponent in range(7):
        count = 2**exponent + 1
        step = F32((F32(1) - F32(0.1)) / F32(count - 1))
        index = np.arange(count, dtype=np.float64)
        low = (np.float64(step) * index + np.float64(F32(0.1))).astype(F32)  # one rounding, as an fma has
        high = (1.0 - np.float64(step) * (count - 1 - index)).astype(F32)
        points = np.where(index < count // 2, low, high)
        middles = (points[:-1] + points[1:]) / F32(2)
        scaled = F32(10.0 ** (exponent - 6)) * middles
        values += list(scaled) + list(-scaled)
    return np.sort(np.array(values, F32))


def nested_codes(absmax, offset):
    """The second quantization of --double-quant: (codes u8 [blocks], nested_absmax f32 [ceil(blocks/256)]).

    bitsandbytes 0.50 does not look for the nearest entry of the map but goes through a table of 65536 bins.
    """
    table = dynamic_map()
    middles = (F32(0.5) * (table[:-1] + table[1:])).astype(F32)
    bins = (F32(-1) + (F32(2) * np.arange(65536, dtype=F32)) / F32(65535)).astype(F32)
    lookup = np.searchsorted(middles, bins, side="left").astype(np.uint8)
    values = (absmax - F32(offset)).astype(F32)
    codes = np.zeros(values.size, np.uint8)
    nested = np.zeros(-(-values.size // 256), F32)
    for block in range(nested.size):
        part = values[block * 256 : (block + 1) * 256]
        nested[block] = np.abs(part).max()
        if nested[block] == 0:
            continue
        scaled = np.clip(part * (F32(1) / nested[block]), F32(-1), F32(1))
        index = ((scaled + F32(1)) * F32(0.5) * F32(65535) + F32(0.5)).astype(np.int32)
        codes[block * 256 : (block + 1) * 256] = lookup[index]
    return codes, nested


def decode_nested(codes, nested, offset):
    return (dynamic_map()[codes] * np.repeat(nested, 256)[: codes.size] + F32(offset)).astype(F32)
