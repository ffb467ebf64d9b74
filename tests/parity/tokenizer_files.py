"""tokenizer.json files of the families that bitmill reads: trained here on the text of the test, and, where llama.cpp's
vocabularies lie (vendor/llama.cpp/models of the source archive of llama-cpp-python on PyPI), of real models."""

import base64
import json

import numpy as np
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + (r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = CONTRACTIONS + (r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split_bytes(regex):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def bert(model, lowercase=True):
    out = Tokenizer(model)
    out.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    out.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return out


def end_bert(out):
    out.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", AddedToken("[MASK]", lstrip=True)])
    ids = [(t, out.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    out.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ids)


def end_roberta(out, trim=True, prefix=False):
    out.add_special_tokens(["<s>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    out.post_processor = processors.RobertaProcessing(
        ("</s>", out.token_to_id("</s>")), ("<s>", out.token_to_id("<s>")), trim_offsets=trim, add_prefix_space=prefix)


def end_xlmr(out):
    out.add_special_tokens(["<s>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    ids = [(t, out.token_to_id(t)) for t in ("<s>", "</s>")]
    out.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", ids)


# ---- trained --------------------------------------------------------------------------------------------------
def trained_wordpiece(lines, lowercase):
    out = bert(models.WordPiece(unk_token="[UNK]"), lowercase)
    out.train_from_iterator(lines, trainers.WordPieceTrainer(
        vocab_size=6000, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    end_bert(out)
    return out


def byte_level(lines, pre_tokenizer, normalizer=None, **rules):
    out = Tokenizer(models.BPE(**rules))
    if normalizer:
        out.normalizer = normalizer
    out.pre_tokenizer = pre_tokenizer
    out.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=6000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>"]))
    return out


def trained_roberta(lines, prefix=False):
    out = byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=prefix))
    end_roberta(out, prefix=prefix)
    return out


def trained_llama3(lines):
    out = byte_level(lines, split_bytes(LLAMA3), ignore_merges=True)
    out.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True, add_prefix_space=True),
        processors.TemplateProcessing("<s> $A", "<s> $A <s> $B:1", [("<s>", out.token_to_id("<s>"))])])
    return out


def trained_smollm(lines):
    return byte_level(lines, pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]))


def trained_unigram(lines, normalizer, pre_tokenizer):
    out = Tokenizer(models.Unigram())
    out.normalizer = normalizer
    out.pre_tokenizer = pre_tokenizer
    out.train_from_iterator(lines, trainers.UnigramTrainer(
        vocab_size=4000, unk_token="<unk>", show_progress=False, special_tokens=["<s>", "<pad>", "</s>", "<unk>"]))
    end_xlmr(out)
    return out


def trained_sentencepiece_bpe(lines, prepends):
    """Llama-2's and Gemma's kind: spaces become U+2581, unknown characters their bytes."""
    out = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁")] if prepends else []
    out.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    if not prepends:
        out.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    # Words for the trainer, whole lines for the tokenizer: so are the models themselves.
    teacher = Tokenizer(models.BPE(unk_token="<unk>"))
    teacher.pre_tokenizer = pre_tokenizers.Metaspace()
    teacher.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=5000, show_progress=False, limit_alphabet=400,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]))
    learned = json.loads(teacher.to_str())["model"]
    out.model = models.BPE(learned["vocab"], [tuple(m) for m in learned["merges"]], unk_token="<unk>", fuse_unk=True,
                           byte_fallback=True)
    out.add_special_tokens(["<unk>", "<s>", "</s>"])
    out.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B:1", [("<s>", out.token_to_id("<s>"))])
    return out


def trained(lines):
    """name, tokenizer: small vocabularies, real pipelines."""
    some = lines[:: max(1, len(lines) // 6000)]
    yield "BERT uncased, trained", trained_wordpiece(some, True)
    yield "BERT cased, trained", trained_wordpiece(some, False)
    yield "RoBERTa, trained", trained_roberta(some)
    yield "RoBERTa with a prefix space, trained", trained_roberta(some, prefix=True)
    yield "Llama 3, trained", trained_llama3(some)
    yield "Qwen 2, trained", byte_level(some, split_bytes(QWEN2), normalizers.NFC())
    yield "Qwen 3.5, trained", byte_level(some, split_bytes(QWEN35), normalizers.NFC())
    yield "SmolLM, trained", trained_smollm(some)
    spaces = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    yield "XLM-R, trained", trained_unigram(
        some, normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]), spaces)
    yield "DeBERTa-v3, trained", trained_unigram(
        some, normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.NFC(), normalizers.Strip()]),
        pre_tokenizers.Metaspace())
    yield "ALBERT, trained", trained_unigram(
        some, normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]),
        pre_tokenizers.Metaspace(prepend_scheme="first"))
    yield "Llama 2, trained", trained_sentencepiece_bpe(some, True)
    yield "Gemma, trained", trained_sentencepiece_bpe(some, False)


# ---- of real models -------------------------------------------------------------------------------------------
def fields(path):
    import gguf  # its reader wants numpy

    reader = gguf.GGUFReader(path)
    return {name.removeprefix("tokenizer.ggml."): field.contents() for name, field in reader.fields.items()
            if name.startswith("tokenizer.ggml.")}


def real_bytes(path, regex, normalizer=None, **rules):
    meta = fields(path)
    out = Tokenizer(models.BPE({t: i for i, t in enumerate(meta["tokens"])},
                               [tuple(m.split(" ")) for m in meta["merges"]], **rules))
    if normalizer:
        out.normalizer = normalizer
    out.pre_tokenizer = split_bytes(regex) if regex else pre_tokenizers.ByteLevel(add_prefix_space=False)
    out.post_processor = processors.ByteLevel(trim_offsets=True)
    out.add_special_tokens([t for t, kind in zip(meta["tokens"], meta["token_type"]) if kind == 3][:50])
    return out


def real_bert(path):
    meta = fields(path)
    # llama.cpp marks beginnings of words; the file of the model marks what goes on.
    words = {}
    for i, token in enumerate(meta["tokens"]):
        special = token.startswith("[") and token.endswith("]") and len(token) > 2
        words.setdefault(token[1:] if token.startswith("▁") else token if special else "##" + token, i)
    out = bert(models.WordPiece(words, unk_token="[UNK]"))
    end_bert(out)
    return out


def real_unigram(path):
    """XLM-R's, with SentencePiece's own character map."""
    meta = fields(path)
    pairs = list(zip(meta["tokens"], (float(s) for s in meta["scores"])))
    out = Tokenizer(models.Unigram(pairs, unk_id=int(meta["unknown_token_id"]), byte_fallback=False))
    document = json.loads(out.to_str())
    charsmap = bytes(np.asarray(meta["precompiled_charsmap"], dtype=np.int64).astype(np.uint8))
    document["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]}
    out = Tokenizer.from_str(json.dumps(document))
    out.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    end_xlmr(out)
    return out


def real(folder):
    """name, function that makes the tokenizer; those whose file lies in the folder."""
    rows = [
        ("BERT (bge)", "bert-bge", real_bert),
        ("GPT-2", "gpt-2", lambda p: real_bytes(p, None)),
        ("Llama 3", "llama-bpe", lambda p: real_bytes(p, LLAMA3, ignore_merges=True)),
        ("Qwen 2", "qwen2", lambda p: real_bytes(p, QWEN2, normalizers.NFC())),
        ("XLM-R (nomic)", "nomic-bert-moe", real_unigram),
    ]
    for name, file, make in rows:
        path = folder / f"ggml-vocab-{file}.gguf"
        if path.is_file():
            yield name, path, make
