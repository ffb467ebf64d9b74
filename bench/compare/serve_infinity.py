#!/usr/bin/env python3
"""infinity-emb, which batches requests, on onnxruntime's dynamic int8; a peer of serve.py.

    serve_infinity.py MODEL         makes MODEL/model_quantized.onnx
    serve_infinity.py MODEL PORT    serves it

That is its fastest way on a CPU. On one core, CPU time a request at 16 connections (2026-11, a busy machine): 5.4 to 6.4 ms
so, 6.9 ms with the operators that onnxruntime's optimizer fuses, 7.2 to 8.9 ms with --engine torch --dtype int8, and 16 ms
with that and BetterTransformer. Its peak of memory is its warm-up at start, 32 texts of 512 tokens.
"""

import os
import pathlib
import sys


def make(folder):
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    ORTModelForFeatureExtraction.from_pretrained(folder, export=True).save_pretrained(folder / "float")
    out, options = folder / "model_quantized.onnx", {"DefaultTensorType": onnx.TensorProto.FLOAT}
    # A scale a channel: with one a tensor the cosine with float32 is 0.96 and not 0.99, and nothing is faster.
    quantize_dynamic(folder / "float" / "model.onnx", out, weight_type=QuantType.QInt8, per_channel=True, extra_options=options)
    (folder / "float" / "model.onnx").unlink()


def hold_to_one_thread():
    """infinity-emb has no option for it. onnxruntime would start a thread a core, each bound to its own past our pinning."""
    import onnxruntime

    before = onnxruntime.InferenceSession.__init__

    def init(self, path, sess_options=None, **rest):
        sess_options = sess_options or onnxruntime.SessionOptions()
        sess_options.intra_op_num_threads = sess_options.inter_op_num_threads = 1
        before(self, path, sess_options=sess_options, **rest)

    onnxruntime.InferenceSession.__init__ = init


def serve(folder, port):
    hold_to_one_thread()
    from infinity_emb.cli import cli

    # optimum finds the file by its name alone, which is what infinity-emb asks for in the current folder.
    os.chdir(folder)
    what = ["v2", "--model-id", ".", "--served-model-name", "minilm", "--url-prefix", "/v1"]
    how = ["--engine", "optimum", "--device", "cpu", "--pooling-method", "mean", "--no-compile", "--no-bettertransformer"]
    sys.argv[1:] = [*what, *how, "--host", "127.0.0.1", "--port", port, "--log-level", "error"]
    cli()


if __name__ == "__main__":
    model = pathlib.Path(sys.argv[1]).resolve()
    make(model) if len(sys.argv) == 2 else serve(model, sys.argv[2])
