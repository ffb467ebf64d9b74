"""Random small models of six architectures: a quantized folder gives the logits of its decoded weights.

Sizes are no multiple of the group, weights f32 and bf16. Tolerance 1e-5 relative, all computed in f32.
"""

import itertools

import pytest
import torch

from conftest import load_model, read_tensors

LLAMA = dict(
    hidden_size=96,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=130,
    max_position_embeddings=64,
)
BERT = dict(
    hidden_size=72,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    vocab_size=130,
    max_position_embeddings=40,
    type_vocab_size=2,
    num_labels=3,
)
DISTIL = dict(
    dim=80, hidden_dim=160, n_layers=2, n_heads=4, vocab_size=130, max_position_embeddings=40, num_labels=3
)

# name -> (class, config class, config)
MODELS = {
    "llama-tied": ("LlamaForCausalLM", "LlamaConfig", dict(LLAMA, tie_word_embeddings=True)),
    "llama-untied": ("LlamaForCausalLM", "LlamaConfig", dict(LLAMA, tie_word_embeddings=False)),
    "smollm3": (
        "SmolLM3ForCausalLM",
        "SmolLM3Config",
        dict(LLAMA, hidden_size=80, intermediate_size=160, pad_token_id=0),
    ),
    "bert-mlm": ("BertForMaskedLM", "BertConfig", {k: v for k, v in BERT.items() if k != "num_labels"}),
    "roberta": ("RobertaModel", "RobertaConfig", dict(BERT, type_vocab_size=1)),
    "xlm-roberta-classifier": (
        "XLMRobertaForSequenceClassification",
        "XLMRobertaConfig",
        dict(BERT, type_vocab_size=1),
    ),
    "distilbert": ("DistilBertModel", "DistilBertConfig", DISTIL),
    "distilbert-classifier": ("DistilBertForSequenceClassification", "DistilBertConfig", DISTIL),
}
SCHEMES = ("int8", "int4", "nf4")
HEADS = {"lm_head.weight", "classifier.weight", "classifier.out_proj.weight"}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """small_model(name, dtype) -> (class, folder)."""
    done = {}

    def build(name, dtype):
        import transformers

        if (name, dtype) not in done:
            cls, config_class, options = MODELS[name]
            torch.manual_seed(7)
            config = getattr(transformers, config_class)(**options, initializer_range=0.1)
            model = getattr(transformers, cls)(config).to(DTYPES[dtype])
            with torch.no_grad():  # biases are 0 at birth: a lost one would go unseen
                for key, parameter in model.named_parameters():
                    if key.endswith("bias"):
                        parameter.normal_(std=0.05)
            folder = tmp_path_factory.mktemp("small") / name
            model.save_pretrained(str(folder))
            done[name, dtype] = cls, folder
        return done[name, dtype]

    return build


def logits(model):
    ids = torch.arange(3, 35).reshape(2, 16)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]


@pytest.mark.parametrize("name,dtype,scheme", list(itertools.product(MODELS, DTYPES, SCHEMES)))
def test_logits_equal_the_dequantized_model(
    name, dtype, scheme, small_model, bitmill, tmp_path, portable_bitsandbytes
):
    cls, source = small_model(name, dtype)
    bitmill("quantize", source, "-o", tmp_path / "q", "--to", scheme)
    bitmill("dequantize", tmp_path / "q", "-o", tmp_path / "d", "--dtype", "f32")
    ours = load_model(tmp_path / "q", cls, dtype=torch.float32)
    reference = logits(load_model(tmp_path / "d", cls, dtype=torch.float32))
    assert (logits(ours) - reference).norm() <= 1e-5 * reference.norm()
    # The de-quantized weights are near the source, so both are not merely wrong in the same way.
    before, after = read_tensors(source), read_tensors(tmp_path / "d")
    assert before.keys() == after.keys()
    limit = {"int8": 0.01, "int4": 0.15, "nf4": 0.12}[scheme]
    changed = set()
    for key, tensor in before.items():
        error = (after[key].float() - tensor.float()).norm() / tensor.float().norm()
        assert error <= limit, key
        if error > 1e-4:
            changed.add(key)
    assert changed == {key for key, tensor in before.items() if is_coded(key, tensor, scheme)}


def is_coded(key, tensor, scheme):
    """Every Linear but the output head; for nf4 those whose rows are whole blocks of 32 or 64."""
    if tensor.ndim != 2 or "embed" in key or key in HEADS:
        return False
    return scheme != "nf4" or tensor.shape[1] % 32 == 0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", MODELS)
def test_head_and_embeddings_are_kept(name, scheme, small_model, bitmill, tmp_path):
    _, source = small_model(name, "f32")
    bitmill("quantize", source, "-o", tmp_path / "q", "--to", scheme)
    before, after = read_tensors(source), read_tensors(tmp_path / "q")
    for key, tensor in before.items():
        if tensor.ndim != 2 or "embed" in key or key in HEADS:
            assert torch.equal(tensor, after[key]), key


@pytest.mark.parametrize("name,cls", [("llama-untied", "AutoModel"), ("distilbert-classifier", "AutoModel")])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_base_model_of_a_head_checkpoint_loads(
    name, cls, scheme, small_model, bitmill, tmp_path, portable_bitsandbytes
):
    """AutoModel strips the prefix ("model.", "distilbert.") from names; the scheme must still be found."""
    import transformers

    _, source = small_model(name, "f32")
    bitmill("quantize", source, "-o", tmp_path / "q", "--to", scheme)
    bitmill("dequantize", tmp_path / "q", "-o", tmp_path / "d")
    transformers.logging.set_verbosity_error()
    ours = getattr(transformers, cls).from_pretrained(str(tmp_path / "q")).eval()
    reference = getattr(transformers, cls).from_pretrained(str(tmp_path / "d")).eval()
    ids = torch.arange(3, 35).reshape(2, 16)
    with torch.no_grad():
        ours, reference = ours(input_ids=ids)[0], reference(input_ids=ids)[0]
    assert (ours - reference).norm() <= 1e-5 * reference.norm()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sharded_model(scheme, small_model, bitmill, tmp_path, portable_bitsandbytes):
    import transformers

    cls, source = small_model("llama-untied", "f32")
    model = getattr(transformers, cls).from_pretrained(str(source))
    model.save_pretrained(str(tmp_path / "shards"), max_shard_size="200KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    bitmill("quantize", tmp_path / "shards", "-o", tmp_path / "q", "--to", scheme)
    bitmill("quantize", source, "-o", tmp_path / "one", "--to", scheme)
    sharded, whole = read_tensors(tmp_path / "q"), read_tensors(tmp_path / "one")
    assert sharded.keys() == whole.keys()
    assert all(torch.equal(sharded[key], whole[key]) for key in whole)
    ours = load_model(tmp_path / "q", cls, dtype=torch.float32)
    other = load_model(tmp_path / "one", cls, dtype=torch.float32)
    assert torch.equal(logits(ours), logits(other))


TIED_HEADS = {
    "AlbertForMaskedLM": ("AlbertConfig", dict(BERT, embedding_size=32)),
    "BertLMHeadModel": ("BertConfig", dict(BERT, is_decoder=True)),
    "CamembertForMaskedLM": ("CamembertConfig", BERT),
    "ElectraForMaskedLM": ("ElectraConfig", dict(BERT, embedding_size=32)),
    "MPNetForMaskedLM": ("MPNetConfig", {k: v for k, v in BERT.items() if k != "type_vocab_size"}),
    "RobertaForMaskedLM": ("RobertaConfig", BERT),
}


@pytest.mark.parametrize("cls", TIED_HEADS)
def test_tied_heads_that_no_file_holds_are_ignored(cls, bitmill, tmp_path):
    import transformers

    config_class, options = TIED_HEADS[cls]
    options = {k: v for k, v in options.items() if k != "num_labels"}
    torch.manual_seed(3)
    config = getattr(transformers, config_class)(**options)
    getattr(transformers, cls)(config).save_pretrained(str(tmp_path / "source"))
    bitmill("quantize", tmp_path / "source", "-o", tmp_path / "q", "--to", "int8")
    bitmill("dequantize", tmp_path / "q", "-o", tmp_path / "d")
    reference = logits(load_model(tmp_path / "d", cls, dtype=torch.float32))
    ours = logits(load_model(tmp_path / "q", cls, dtype=torch.float32))
    assert (ours - reference).norm() <= 1e-5 * reference.norm()
