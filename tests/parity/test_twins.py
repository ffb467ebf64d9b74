"""The twins equal the official packages, so that whatever equals a twin equals them."""

import numpy as np
import pytest
import torch

import twins

TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def random_weight(rows, columns, dtype, scale=0.02, seed=0):
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32) * np.float32(
        scale
    )
    weight[0] = 0
    return torch.from_numpy(weight).to(TORCH[dtype])


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("granularity,group", [("per_tensor", None), ("per_channel", None), ("group", 32)])
def test_absmax_equals_compressed_tensors(dtype, bits, granularity, group):
    for rows, columns, scale in ((96, 160, 0.02), (384, 1536, 1e-6), (33, 64, 3.0)):
        weight = random_weight(rows, columns, dtype, scale)
        codes, scales = official_absmax(weight, bits, granularity, group)
        twin_codes, twin_scales = twins.absmax_codes(weight.float().numpy(), dtype, bits, granularity, group)
        assert np.array_equal(codes, twin_codes)
        assert np.array_equal(scales.ravel(), twin_scales.ravel())


def official_absmax(weight, bits, granularity, group):
    from compressed_tensors.compressors.naive_quantized.base import IntQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    strategy = {"per_tensor": "tensor", "per_channel": "channel", "group": "group"}[granularity]
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=True, strategy=strategy, group_size=group)
    if strategy == "tensor":
        low, high = torch.aminmax(weight)
    else:
        view = weight.unflatten(-1, (-1, group or weight.shape[-1]))
        low, high = view.amin(-1), view.amax(-1)
    scale, zero_point = calculate_qparams(low, high, args)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero_point}
    codes = IntQuantizationCompressor.compress(state, scheme)["weight"]
    return codes.numpy(), scale.float().numpy()


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_book_codes_equal_bitsandbytes(dtype, quant_type):
    import bitsandbytes.functional as bnb

    for block_size in (32, 64, 4096):
        for rows, columns in ((1, 1), (3, 5), (7, 33), (96, 80), (256, 384)):
            weight = random_weight(rows, columns, dtype)
            packed, state = bnb.quantize_4bit(weight, blocksize=block_size, quant_type=quant_type)
            codes, absmax = twins.book_codes(weight.float().numpy(), quant_type, block_size)
            assert np.array_equal(packed.numpy().ravel(), codes)
            assert np.array_equal(state.absmax.numpy().view(np.uint32), absmax.view(np.uint32))
            # With AVX-512 its CPU decoder starts a new scale at every row: wrong where blocks cross row ends.
            if columns % block_size == 0:
                decoded = twins.decode_book(codes, absmax, quant_type, block_size, (rows, columns), dtype)
                official = bnb.dequantize_4bit(packed, state).float().numpy().reshape(rows, columns)
                assert np.array_equal(decoded, official)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_book_ties_and_their_neighbours(quant_type):
    import bitsandbytes.functional as bnb

    entries = np.sort(twins.TABLE[quant_type])
    ties = ((entries[:-1] + entries[1:]) / np.float32(2)).astype(np.float32)
    for absmax in np.float32([1, 1e-39, 3e38, 0.037, 7.1]):
        middle = (ties * absmax).astype(np.float32)
        values = np.concatenate(
            [
                middle,
                np.nextafter(middle, np.float32(-np.inf)),
                np.nextafter(middle, np.float32(np.inf)),
                [0.0, -0.0, 1e-45, -1e-45],
            ]
        )
        block = np.zeros(64, np.float32)
        block[: values.size] = np.clip(values, -absmax, absmax)
        block[63] = absmax
        for weight in (block, block[:63].copy()):  # a full block, and a short last one, which divides
            packed, _ = bnb.quantize_4bit(
                torch.from_numpy(weight).reshape(1, -1), blocksize=64, quant_type=quant_type
            )
            assert np.array_equal(packed.numpy().ravel(), twins.book_codes(weight, quant_type, 64)[0])


def test_nested_codes_equal_bitsandbytes():
    import bitsandbytes.functional as bnb

    assert np.array_equal(bnb.create_dynamic_map().numpy(), twins.dynamic_map())
    for count in (1, 7, 255, 256, 257, 100003):
        absmax = np.abs(np.random.default_rng(count).standard_normal(count)).astype(np.float32)
        offset = torch.from_numpy(absmax).mean().item()
        codes, state = bnb.quantize_blockwise(torch.from_numpy(absmax - np.float32(offset)), blocksize=256)
        twin_codes, twin_nested = twins.nested_codes(absmax, offset)
        assert np.array_equal(codes.numpy(), twin_codes)
        assert np.array_equal(state.absmax.numpy(), twin_nested)


def test_least_squares_beats_absmax():
    weight = np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32)
    errors = []
    for method in (twins.absmax_codes, twins.least_squares_codes):
        codes, scale = method(weight, "float32", 4, "group", 32)
        errors.append(np.square(twins.decode_integers(codes, scale) - weight).sum())
    assert errors[1] < 0.75 * errors[0]
