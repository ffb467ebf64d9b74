"""`bitmill batch`: the table, the JSON, exit codes; what it writes loads in transformers."""

import shutil

import torch

from conftest import load_model
from synthetic import write_tiny


def test_a_batch_of_three_with_a_broken_one(bitmill, minilm, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(minilm, models / "sentence")
    write_tiny(models / "tiny")
    (models / "broken").mkdir()
    (models / "broken" / "model.safetensors").write_bytes(b"no header at all")
    done = bitmill("batch", models, "-o", tmp_path / "out", "--bit-depth", "8", "--json", code=3)
    told = done.json()
    assert told["summary"]["succeeded"] == 2 and told["summary"]["failed"] == 1
    assert told["models"]["broken"]["status"] == "error" and "broken" in done.err
    sizes = [told["models"][name] for name in ("sentence", "tiny")]
    expected = 100 * (1 - sum(s["quantized_size_bytes"] for s in sizes) / sum(s["original_size_bytes"] for s in sizes))
    assert abs(told["summary"]["overall_size_reduction_percent"] - expected) < 1e-9
    for name, row in told["models"].items():
        if name != "broken":
            written = sum(p.stat().st_size for p in (tmp_path / "out" / name).glob("*.safetensors"))
            assert written == row["quantized_size_bytes"]
    bitmill("dequantize", tmp_path / "out" / "sentence", "-o", tmp_path / "back")
    inputs = {"input_ids": torch.arange(10, 30).reshape(2, 10)}
    with torch.no_grad():
        coded, decoded = (
            load_model(f, dtype=torch.float32)(**inputs).last_hidden_state
            for f in (tmp_path / "out" / "sentence", tmp_path / "back")
        )
    assert torch.allclose(coded, decoded, atol=1e-4)
    table = bitmill("batch", models, "-o", tmp_path / "out", code=3).out
    assert table.count("milled already") == 2 and "2 of 3 models" in table and "failed: " in table


def test_named_models_and_fp16(bitmill, tmp_path):
    for name in ("intent", "sentiment"):
        write_tiny(tmp_path / "models" / name)
    done = bitmill("batch", tmp_path / "models", "--bit-depth", "16", "--model", "intent")
    assert "1 of 1 models" in done.out
    assert sorted(p.name for p in (tmp_path / "models" / "quantized").iterdir()) == ["intent"]
    assert "sentiment" in bitmill("batch", tmp_path / "models", "--model", "emails", code=2).err
    bitmill("batch", tmp_path / "models", "--bit-depth", "12", code=2)


def test_options_that_no_model_can_meet_are_refused_before_any_is_milled(bitmill, minilm, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a").symlink_to(minilm)
    for option in (("--target-sparsity", "1.5"), ("--weight-threshold", "nan"), ("--prune-relative", "2")):
        done = bitmill("batch", tmp_path / "models", "-o", tmp_path / "out", *option, code=2)
        assert option[0][2:].replace("-", "_") in done.err or option[0] in done.err, done
        assert {p.name for p in tmp_path.iterdir()} == {"models"}
