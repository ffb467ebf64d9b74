"""BERT as an ONNX file that onnxruntime runs best: in the graph that its optimizer knows, fused, and quantized.

transformers 5 builds its attention mask in a way that torch's exporter bakes in for the example's shape; the forward
here is the one of transformers 2 to 4, with the same modules.
"""

import pathlib

import torch


class ClassicBert(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.heads = model, model.config.num_attention_heads

    def split(self, x):
        return x.view(x.size(0), x.size(1), self.heads, x.size(2) // self.heads).permute(0, 2, 1, 3)

    def attend(self, layer, x, mask):
        q, k, v = (self.split(part(x)) for part in (layer.query, layer.key, layer.value))
        scores = torch.matmul(q, k.transpose(-1, -2)) / (q.size(-1) ** 0.5)
        out = torch.matmul(torch.nn.functional.softmax(scores + mask, dim=-1), v).permute(0, 2, 1, 3).contiguous()
        return out.view(out.size(0), out.size(1), self.heads * q.size(-1))

    def forward(self, input_ids, attention_mask):
        mask = (1.0 - attention_mask.unsqueeze(1).unsqueeze(2).to(torch.float32)) * -10000.0
        parts = self.model.embeddings
        positions = parts.position_ids[:, : input_ids.size(1)]
        types = torch.zeros_like(input_ids)
        x = parts.word_embeddings(input_ids) + parts.token_type_embeddings(types) + parts.position_embeddings(positions)
        x = parts.LayerNorm(x)
        for layer in self.model.encoder.layer:
            out = layer.attention.output
            x = out.LayerNorm(out.dense(self.attend(layer.attention.self, x, mask)) + x)
            inner = torch.nn.functional.gelu(layer.intermediate.dense(x))
            x = layer.output.LayerNorm(layer.output.dense(inner) + x)
        return x


def export(model, folder):
    """{name: path}: plain, and int8 with and without the optimizer's fused operators."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    folder = pathlib.Path(folder)
    paths = {name: folder / f"{name}.onnx" for name in ("fp32", "fp32-fused", "int8", "int8-fused")}
    axes = {0: "batch", 1: "tokens"}
    example = torch.ones((2, 16), dtype=torch.int64)
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        ClassicBert(model).eval(), (example, example), paths["fp32"], dynamo=False, input_names=names, output_names=["hidden"],
        dynamic_axes={name: axes for name in [*names, "hidden"]}, opset_version=17,
    )
    config = model.config
    fused = optimizer.optimize_model(
        str(paths["fp32"]), "bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size, opt_level=0
    )
    assert fused.get_fused_operator_statistics()["Attention"] == config.num_hidden_layers
    fused.save_model_to_file(str(paths["fp32-fused"]))
    for kind in ("", "-fused"):
        quantize_dynamic(
            paths["fp32" + kind], paths["int8" + kind], weight_type=QuantType.QInt8, per_channel=True,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    return paths


def session(path, threads):
    """A function of padded ids and their mask."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run
    return lambda ids, mask: run(None, {"input_ids": ids, "attention_mask": mask})[0]
