"""Quantized folders read back with NumPy alone: codes, scales and weights of every quantized Linear."""

import json
import pathlib

import numpy as np

import twins
from conftest import float_array, read_tensors

DTYPE = {"torch.float32": "float32", "torch.float16": "float16", "torch.bfloat16": "bfloat16"}


def quantization_config(folder):
    return json.loads((pathlib.Path(folder) / "config.json").read_text())["quantization_config"]


def scheme_of(config, module):
    """compressed-tensors' choice of a group: exact name, then regular expression, then class."""
    import re

    groups = list(config["config_groups"].values())
    for fits in (
        lambda t: t == module,
        lambda t: t.startswith("re:") and re.match(t[3:], module),
        lambda t: t == "Linear",
    ):
        for group in groups:
            if any(fits(target) for target in group["targets"]):
                return group
    raise AssertionError(f"no config group targets {module}")


def integer_layers(folder):
    """module -> dict(codes, scale, bits, strategy, group_size, weight ...) of a compressed-tensors folder."""
    config, tensors, layers = quantization_config(folder), read_tensors(folder), {}
    for name, tensor in tensors.items():
        if not name.endswith(".weight_scale"):
            continue
        module = name[: -len(".weight_scale")]
        group = scheme_of(config, module)
        bits = group["weights"]["num_bits"]
        if module + ".weight_packed" in tensors:
            rows, columns = tensors[module + ".weight_shape"].tolist()
            codes, padding = twins.unpack_int32(tensors[module + ".weight_packed"].numpy(), bits, columns)
            assert codes.shape == (rows, columns) and not padding.any(), module
        else:
            codes = tensors[module + ".weight"].numpy()
            assert codes.dtype == np.int8
        scale = float_array(tensor)
        layers[module] = {
            "codes": codes,
            "scale": scale,
            "scale_dtype": DTYPE[str(tensor.dtype)],
            "bits": bits,
            "strategy": group["weights"]["strategy"],
            "group_size": group["weights"].get("group_size"),
            "scheme": group,
            "weight": twins.decode_integers(codes, scale),
        }
    assert layers, f"{folder}: nothing quantized"
    return layers


def book_layers(folder):
    """module -> dict(packed, absmax, state, weight, nested...) of a bitsandbytes 4-bit folder."""
    tensors, layers = read_tensors(folder), {}
    for name, tensor in tensors.items():
        if ".quant_state.bitsandbytes__" not in name:
            continue
        parameter, quant_type = name.split(".quant_state.bitsandbytes__")
        state_text = bytes(tensor.numpy()).decode()
        state = json.loads(state_text)
        assert state["quant_type"] == quant_type
        absmax = tensors[parameter + ".absmax"].numpy()
        layer = {
            "packed": tensors[parameter].numpy(),
            "state": state,
            "state_text": state_text,
            "absmax": absmax,
            "quant_map": tensors[parameter + ".quant_map"].numpy(),
        }
        if "nested_offset" in state:
            layer["nested_absmax"] = tensors[parameter + ".nested_absmax"].numpy()
            layer["nested_quant_map"] = tensors[parameter + ".nested_quant_map"].numpy()
            absmax = twins.decode_nested(absmax, layer["nested_absmax"], state["nested_offset"])
        layer["weight"] = twins.decode_book(
            layer["packed"], absmax, quant_type, state["blocksize"], state["shape"], state["dtype"]
        )
        layers[parameter.removesuffix(".weight")] = layer
    assert layers, f"{folder}: nothing quantized"
    return layers
