"""One repository: int8/ and int4/ beside the model, loaded by transformers each by its own path."""

import json
import shutil
import subprocess

import pytest
import torch

from conftest import leftovers, load_model, tree_hashes
from synthetic import write_large


@pytest.fixture(scope="module")
def repository(bitmill, minilm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository") / "minilm"
    shutil.copytree(minilm, folder)
    bitmill("quantize", folder, "--to", "both")
    return folder


@pytest.mark.parametrize("level, least", [("int8", 0.999), ("int4", 0.95)])
def test_each_variant_loads_with_its_tokenizer(level, least, repository, minilm):
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(str(repository / level))("A small mill.", return_tensors="pt")
    with torch.no_grad():
        hidden, whole = (
            load_model(folder, dtype=torch.float32)(**tokens).last_hidden_state.mean(1)
            for folder in (repository / level, minilm)
        )
    assert torch.cosine_similarity(hidden, whole).item() > least


def test_the_variants_are_those_of_single_runs(repository, bitmill, minilm, tmp_path):
    for level in ("int8", "int4"):
        bitmill("quantize", minilm, "-o", tmp_path / level, "--to", level)
        assert tree_hashes(tmp_path / level) == tree_hashes(repository / level)
        bitmill("verify", minilm, repository / level)
    record = json.loads((repository / "metadata.json").read_text())
    assert (record["model_type"], record["dimensions"], record["is_quantized"]) == ("bert", 384, True)


def test_the_second_run_says_so_and_writes_nothing(repository, bitmill):
    stamps = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    done = bitmill("quantize", repository, "--to", "both", "--json").json()
    assert [one["already_milled"] for one in done["variants"]] == [True, True]
    assert bitmill("quantize", repository, "--to", "both").out.count("milled already") == 2
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == stamps


def test_many_at_once_leave_one_whole_repository(bitmill_path, bitmill, tmp_path):
    """As containers that start together do (A24): some are told that another is at work, nothing is torn."""
    source = write_large(tmp_path / "source", 8, rows=512, columns=1024)
    command = [bitmill_path, "quantize", str(source), "-o", str(tmp_path / "out"), "--to", "both"]
    children = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(6)]
    codes = []
    for child in children:
        error = child.communicate()[1].decode()
        codes.append(child.returncode)
        assert child.returncode == 0 or len(error.splitlines()) == 1, error
    assert 0 in codes and set(codes) <= {0, 2, 4}, codes
    subprocess.run(command, check=True, capture_output=True)
    assert leftovers(tmp_path / "out") == ["int4", "int8", "metadata.json"]
    for level in ("int8", "int4"):
        bitmill("verify", source, tmp_path / "out" / level)
