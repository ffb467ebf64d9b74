"""Random encoders of the four families, made and run by transformers: the truth that ours are compared with."""

import numpy as np
import torch

# family -> (prefix of the class names, what the config calls its sizes)
FAMILIES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "distilbert": "DistilBert"}
# Ids 0 to 3 are the families' special tokens; padding among the ids would move RoBERTa's positions.
FIRST_ID = 4


def make_config(family, hidden, heads, inner, layers=2, vocabulary=101, positions=64, labels=None, **more):
    import transformers

    config_class = getattr(transformers, FAMILIES[family] + "Config")
    sizes = {"vocab_size": vocabulary, "max_position_embeddings": positions, **more}
    if labels is not None:
        sizes["num_labels"] = labels
    if family == "distilbert":
        return config_class(dim=hidden, n_heads=heads, hidden_dim=inner, n_layers=layers, **sizes)
    if family != "bert":
        sizes["type_vocab_size"] = 1
    return config_class(
        hidden_size=hidden, num_attention_heads=heads, intermediate_size=inner, num_hidden_layers=layers, **sizes
    )


def randomize(model, seed):
    """Every parameter random, and large enough for attention to choose and activations to bend."""
    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=dice)
            if "LayerNorm.weight" in name or "layer_norm.weight" in name:
                p.copy_(1 + 0.2 * noise)
            elif p.dim() == 2 and "embeddings" not in name:
                p.copy_(noise * (1.5 / p.shape[1] ** 0.5))
            else:
                p.copy_(0.3 * noise)
    return model.eval()


def make_model(family, *sizes, seed=0, **options):
    """AutoModel, or with labels= ForSequenceClassification."""
    import transformers

    config = make_config(family, *sizes, **options)
    kind = "Model" if options.get("labels") is None else "ForSequenceClassification"
    return randomize(getattr(transformers, FAMILIES[family] + kind)(config), seed)


def make_sequences(model, lengths, seed=0):
    dice = np.random.default_rng(seed)
    return [dice.integers(FIRST_ID, model.config.vocab_size, n).tolist() for n in lengths]


def run_alone(model, ids, types=None):
    """The output of one sequence without padding: last_hidden_state or logits, [rows, columns]."""
    inputs = {"input_ids": torch.tensor([ids])}
    if types is not None:
        inputs["token_type_ids"] = torch.tensor([types])
    with torch.no_grad():
        out = model(**inputs)
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state[0]).float().numpy()


def run_all(model, sequences, types=None):
    """All rows below each other, as bitmill_model_hidden and _logits have them."""
    kinds = types or [None] * len(sequences)
    return np.concatenate([run_alone(model, ids, kind) for ids, kind in zip(sequences, kinds)])


def split(rows, sequences):
    """The rows of each sequence."""
    return np.split(rows, np.cumsum([len(one) for one in sequences])[:-1])


def error_of(ours, theirs):
    """The largest difference, in shares of the largest magnitude."""
    assert ours.shape == theirs.shape and np.isfinite(ours).all()
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def snr_of(ours, theirs):
    theirs = theirs.astype(np.float64)
    return 10 * np.log10((theirs**2).sum() / ((ours - theirs) ** 2).sum())


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
