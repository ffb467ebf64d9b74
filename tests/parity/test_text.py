"""embed, rerank and classify beside sentence-transformers and transformers: from the same text to the same numbers."""

import json
import shutil

import numpy as np
import pytest
import tokenizer_files
import torch
from encoders import make_model
from sentences import SENTENCES
from transformers import PreTrainedTokenizerFast

TEXTS = [*SENTENCES[:40], "", " ", "  Spaces   around\t", "ÉCOLE Ünïcode", "Привет, мир!", "東京都は日本の首都", "مرحبا بالعالم",
         "👩‍🚀 went up", "x" * 3000, "every word counts " * 200, "a [SEP] b [MASK]"]


def feed(texts):
    return ("\n".join(texts) + "\n").encode()


def embed(bitmill, model, texts, folder, *options):
    file = folder / "vectors.npy"
    bitmill("embed", model, "--npy", file, *options, input=feed(texts))
    return np.load(file)


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def sentence_transformers():
    return pytest.importorskip("sentence_transformers")


def test_embeddings_are_those_of_sentence_transformers(bitmill, minilm, sentence_transformers, tmp_path):
    theirs = sentence_transformers.SentenceTransformer(str(minilm), device="cpu")
    expected = theirs.encode(TEXTS, show_progress_bar=False)
    got = embed(bitmill, minilm, TEXTS, tmp_path)
    assert got.shape == expected.shape and got.dtype == np.float32
    assert cosines(got, expected).min() >= 0.99999
    assert np.abs(got - expected).max() <= 1e-5
    assert cosines(got, np.roll(expected, 1, 0)).min() < 0.9  # the measure tells texts apart
    prompted = embed(bitmill, minilm, TEXTS, tmp_path, "--prompt", "query: ")
    assert cosines(prompted, theirs.encode(TEXTS, prompt="query: ", show_progress_bar=False)).min() >= 0.99999
    theirs.max_seq_length = 16
    short = embed(bitmill, minilm, TEXTS, tmp_path, "--max-length", "16")
    assert cosines(short, theirs.encode(TEXTS, show_progress_bar=False)).min() >= 0.99999


def test_levels_and_batches(bitmill, minilm, tmp_path):
    """A text has the same bits alone, in any company and order; a level stays near the original."""
    original = embed(bitmill, minilm, TEXTS, tmp_path)
    assert np.array_equal(embed(bitmill, minilm, TEXTS[::-1], tmp_path)[::-1], original)
    assert np.array_equal(embed(bitmill, minilm, TEXTS[7:8], tmp_path, "--threads", "1"), original[7:8])
    many = embed(bitmill, minilm, TEXTS[:20] * 60, tmp_path)
    assert np.array_equal(many, np.tile(original[:20], (60, 1)))
    bitmill("quantize", minilm, "-o", tmp_path / "int8", "--to", "int8")
    # Of sentences; of no words, or one of 3000 letters, it is less (0.996).
    assert cosines(embed(bitmill, tmp_path / "int8", TEXTS[:40], tmp_path), original[:40]).min() >= 0.999


def test_outputs(bitmill, minilm, tmp_path):
    told = bitmill("embed", minilm, "Hello", "A \"quote\"", "--json").json()
    assert [one["text"] for one in told["results"]] == ["Hello", 'A "quote"']
    assert told["embedding_size"] == 384 and told["level"] == "original"
    vectors = np.array([one["embedding"] for one in told["results"]], np.float32)
    assert np.array_equal(vectors, embed(bitmill, minilm, ["Hello", 'A "quote"'], tmp_path))  # every bit
    table = bitmill("embed", minilm, "Hello").out
    assert table.startswith("[") and table.rstrip().endswith("Hello")
    (tmp_path / "lines.txt").write_bytes(b"one\r\ntwo\n")
    assert bitmill("embed", minilm, "--input", tmp_path / "lines.txt").out.count("\n") == 2
    assert "no text" in bitmill("embed", minilm, input=b"", code=2).err
    assert "leave one of them out" in bitmill("embed", minilm, "a", "--input", tmp_path / "lines.txt", code=2).err
    assert "cannot be opened" in bitmill("embed", minilm, "--input", tmp_path / "none", code=4).err
    assert "cannot be written" in bitmill("embed", minilm, "a", "--npy", tmp_path / "no" / "x.npy", code=4).err
    # Into what a link leads to; a failure leaves the old file, and nothing beside it.
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "link.npy").symlink_to(folder / "real.npy")
    (folder / "real.npy").write_text("old")
    bitmill("embed", minilm, "a", "--prompt-name", "title", "--npy", folder / "link.npy", code=2)
    assert (folder / "real.npy").read_text() == "old" and len(list(folder.iterdir())) == 2
    bitmill("embed", minilm, "Hello", "--npy", folder / "link.npy")
    assert (folder / "link.npy").is_symlink() and len(list(folder.iterdir())) == 2
    assert np.array_equal(np.load(folder / "real.npy"), vectors[:1])
    assert "cannot be written" in bitmill("embed", minilm, "a", "--npy", "/dev/full", code=4).err


@pytest.fixture
def copy(minilm, tmp_path):
    return shutil.copytree(minilm, tmp_path / "model")


def test_prompts_of_the_folder(bitmill, copy, sentence_transformers, tmp_path):
    file = copy / "config_sentence_transformers.json"
    config = {**json.loads(file.read_text()), "prompts": {"query": "query: ", "passage": "passage: "}}
    file.write_text(json.dumps(config))
    theirs = sentence_transformers.SentenceTransformer(str(copy), device="cpu")
    expected = theirs.encode(TEXTS, prompt_name="passage", show_progress_bar=False)
    assert cosines(embed(bitmill, copy, TEXTS, tmp_path, "--prompt-name", "passage"), expected).min() >= 0.99999
    file.write_text(json.dumps({**config, "default_prompt_name": "passage"}))
    assert cosines(embed(bitmill, copy, TEXTS, tmp_path), expected).min() >= 0.99999
    told = bitmill("embed", copy, "a", "--prompt-name", "title", code=2).err
    assert "no prompt 'title'; it has" in told and "passage" in told
    file.write_text(json.dumps({**config, "default_prompt_name": "none"}))
    assert "add it there" in bitmill("embed", copy, "a", code=3).err


def test_what_does_not_fit_is_named(bitmill, copy):
    tokenizer = copy / "tokenizer.json"
    document = json.loads(tokenizer.read_text())
    document["model"]["vocab"]["a word too many"] = 40_000
    tokenizer.write_text(json.dumps(document))
    assert "one model" in bitmill("embed", copy, "a", code=3).err
    tokenizer.unlink()
    assert "has no tokenizer.json" in bitmill("embed", copy, "a", code=3).err


def save_with_tokenizer(family, folder, tokenizer, **options):
    """A random model as large as its tokenizer; both as transformers has them."""
    model = make_model(family, 48, 3, 90, vocabulary=tokenizer.get_vocab_size(), **options)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), model_max_length=48,
                                   pad_token=tokenizer.id_to_token(1 if family == "xlm-roberta" else 0))
    fast.save_pretrained(folder)
    return model, fast


def logits_of(model, tokenizer, first, second=None):
    out = []
    for i, text in enumerate(first):
        inputs = tokenizer(text, second[i] if second else None, truncation="longest_first", return_tensors="pt")
        if model.config.model_type != "bert":
            inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            out.append(model(**inputs).logits[0].numpy())
    return np.stack(out)


@pytest.fixture(scope="module")
def xlmr():
    spaces = tokenizer_files.pre_tokenizers.Metaspace()
    return tokenizer_files.trained_unigram(TEXTS * 3, tokenizer_files.normalizers.NFKC(), spaces)


def test_rerank(bitmill, xlmr, sentence_transformers, tmp_path):
    model, tokenizer = save_with_tokenizer("xlm-roberta", tmp_path, xlmr, labels=1, seed=3)
    query, documents = SENTENCES[0], [text for text in TEXTS if text.strip()]
    logits = logits_of(model, tokenizer, [query] * len(documents), documents)[:, 0]
    assert logits.std() > 0.01
    told = bitmill("rerank", tmp_path, "--query", query, "--json", input=feed(documents)).json()
    ranked = told["results"]
    assert sorted(one["index"] for one in ranked) == list(range(len(documents)))
    got = np.array([one["logit"] for one in ranked])
    assert np.all(np.diff(got) <= 0)
    assert np.abs(got - logits[[one["index"] for one in ranked]]).max() <= 1e-4 * np.abs(logits).max()
    assert all(documents[one["index"]] == one["text"] for one in ranked)
    cross = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu")
    scores = cross.predict([(query, one["text"]) for one in ranked], show_progress_bar=False)
    assert np.abs(scores - [one["score"] for one in ranked]).max() <= 1e-4
    best = bitmill("rerank", tmp_path, "--query", query, "--top-n", "2", *documents[:5]).out.splitlines()
    assert len(best) == 3 and best[0].split() == ["score", "logit", "line", "document"]


@pytest.mark.parametrize("family,labels,problem", [("bert", 3, None), ("distilbert", 4, "multi_label_classification"),
                                                   ("distilbert", 2, "single_label_classification")])
def test_classify(bitmill, family, labels, problem, tmp_path):
    wordpiece = tokenizer_files.trained_wordpiece(TEXTS * 3, True)
    model, tokenizer = save_with_tokenizer(family, tmp_path, wordpiece, labels=labels, seed=5,
                                           id2label={i: f"label {i}" for i in range(labels)}, problem_type=problem)
    texts = [text for text in TEXTS if text.strip()]
    logits = torch.from_numpy(logits_of(model, tokenizer, texts))
    expected = (logits.sigmoid() if problem == "multi_label_classification" else logits.softmax(1)).numpy()
    told = bitmill("classify", tmp_path, "--json", input=feed(texts)).json()["results"]
    assert list(told[0]["labels"]) == [f"label {i}" for i in range(labels)]
    got = np.array([list(one["labels"].values()) for one in told])
    assert np.abs(got - expected).max() <= 1e-4
    line = bitmill("classify", tmp_path, texts[0]).out
    assert f"label {expected[0].argmax()}" in line and texts[0][:40] in line
    assert "has one label" in bitmill("rerank", tmp_path, "a", "--query", "b", code=2).err


def test_no_classes_for_regression_and_no_head(bitmill, minilm, tmp_path):
    wordpiece = tokenizer_files.trained_wordpiece(TEXTS * 3, True)
    save_with_tokenizer("bert", tmp_path, wordpiece, labels=1, problem_type="regression")
    assert "regression" in bitmill("classify", tmp_path, "a", code=2).err
    assert "no head" in bitmill("classify", minilm, "a", code=2).err
