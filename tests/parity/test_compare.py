"""`bitmill compare`: its numbers beside numpy's, the bar that int8 keeps on MiniLM, its gates and its page."""

import html.parser
import json
import xml.etree.ElementTree

import evaluation
import numpy as np
import pytest

RANKING = ["recall@10", "mrr@10", "ndcg@5", "map", "precision@5"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder with all pairs and tasks, and with some of them."""
    folder = tmp_path_factory.mktemp("evaluation")
    pairs, tasks = evaluation.evaluation_set()
    evaluation.write_lines(folder / "pairs.jsonl", pairs)
    evaluation.write_lines(folder / "tasks.jsonl", tasks)
    for name, most in ("some", 100), ("few", 12):
        evaluation.write_lines(folder / f"{name}-pairs.jsonl", pairs[:most])
        evaluation.write_lines(folder / f"{name}-tasks.jsonl", tasks[: most // 5])
    return folder


def files(data, which):
    return ["--pairs", data / f"{which}-pairs.jsonl", "--tasks", data / f"{which}-tasks.jsonl", "--rounds", "1"]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_evaluation_set(data):
    pairs, tasks = lines_of(data / "pairs.jsonl"), lines_of(data / "tasks.jsonl")
    assert len(pairs) >= 1000 and len(tasks) >= 500
    assert len({one["query"] for one in pairs}) == len({one["document"] for one in pairs}) == len(pairs)
    for one in tasks:
        assert len(set(one["documents"])) == 10 and len(one["relevant"]) == 1
    # The right document is not always in one place.
    assert len({one["relevant"][0] for one in tasks}) == 10
    again = evaluation.evaluation_set()
    assert again == (pairs, tasks)


def test_int8_keeps_the_bar_on_minilm(bitmill, minilm, milled, data):
    """95 % of the bootstrap's differences lie above -1.5 %, for every metric."""
    gates = [part for name in RANKING for part in ("--gate", f"{name}.low>=-1.5%")]
    report = bitmill("compare", minilm, milled("--to", "int8"), "--pairs", data / "pairs.jsonl", "--tasks",
                     data / "tasks.jsonl", "--rounds", "1", "--json", *gates, timeout=900).json()
    assert report["passed"] and [one["gate"] for one in report["gates"]] == gates[1::2]
    assert list(report["metrics"]) == RANKING
    for name, one in report["metrics"].items():
        assert one["n"] == (1200 if name in RANKING[:2] else 600)
        assert one["low"] <= one["relative"] <= one["high"] and one["low"] >= -0.015
        assert 0.1 < one["original"] < 1  # neither hopeless nor too easy to show a loss
    assert report["cosine"]["min"] > 0.99
    assert report["quantized"]["file_bytes"] < report["original"]["file_bytes"] * 0.7


def vectors_of(bitmill, model, texts, folder):
    file = folder / "vectors.npy"
    bitmill("embed", model, "--npy", file, input=("\n".join(texts) + "\n").encode())
    return np.load(file).astype(np.float64)


def ranks(scores):
    return np.argsort(-scores, kind="stable")


def metrics_of(queries, documents, tasks, vector):
    """Each metric's value for each query, and each query's ten best documents."""
    unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)
    best = [ranks(unit(documents) @ one)[:10] for one in unit(queries)]
    places = [np.flatnonzero(one == i) for i, one in enumerate(best)]
    out = {"recall@10": [float(p.size) for p in places], "mrr@10": [1 / (p[0] + 1) if p.size else 0.0 for p in places]}
    for name in RANKING[2:]:
        out[name] = []
    for task in tasks:
        scores = unit(np.stack([vector[d] for d in task["documents"]])) @ unit(vector[task["query"]])
        gain = np.isin(ranks(scores), task["relevant"]).astype(np.float64)
        discount = 1 / np.log2(np.arange(2, 7))
        ideal = np.sort(gain)[::-1]
        out["ndcg@5"].append((gain[:5] * discount).sum() / (ideal[:5] * discount).sum())
        at = np.flatnonzero(gain) + 1
        out["map"].append(np.mean(np.arange(1, at.size + 1) / at))
        out["precision@5"].append(gain[:5].mean())
    return {name: np.array(values) for name, values in out.items()}, best


def bootstrap(was, now, rounds=10000):
    drawn = np.random.default_rng(5).integers(0, was.size, (rounds, was.size))
    return np.quantile(now[drawn].sum(1) / was[drawn].sum(1) - 1, [0.025, 0.975])


def test_metrics_are_numpys(bitmill, minilm, milled, data, tmp_path):
    pairs, tasks = lines_of(data / "some-pairs.jsonl"), lines_of(data / "some-tasks.jsonl")
    int4 = milled("--to", "int4")
    report = bitmill("compare", minilm, int4, *files(data, "some"), "--json").json()
    texts = sorted({text for one in pairs for text in one.values()} |
                   {text for one in tasks for text in [one["query"], *one["documents"]]})
    truth, best, both, cosine = [], [], [], []
    for model in minilm, int4:
        found = vectors_of(bitmill, model, texts, tmp_path)
        vector = dict(zip(texts, found))
        queries, documents = (np.stack([vector[one[key]] for one in pairs]) for key in ("query", "document"))
        values, top = metrics_of(queries, documents, tasks, vector)
        truth.append(values)
        best.append(top)
        both.append(found / np.linalg.norm(found, axis=1, keepdims=True))
        cosine.append(np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(queries, documents)]))
    for name in RANKING:
        told, (was, now) = report["metrics"][name], (values[name] for values in truth)
        assert told["n"] == was.size
        assert told["original"] == pytest.approx(was.mean(), rel=1e-12)
        assert told["quantized"] == pytest.approx(now.mean(), rel=1e-12)
        assert told["relative"] == pytest.approx(now.mean() / was.mean() - 1, rel=1e-9, abs=1e-12)
        low, high = bootstrap(was, now)
        assert told["low"] == pytest.approx(low, abs=0.1 * (high - low) + 1e-12)
        assert told["high"] == pytest.approx(high, abs=0.1 * (high - low) + 1e-12)
    near = (both[0] * both[1]).sum(1)
    assert report["texts"] == len(texts)
    assert report["cosine"]["mean"] == pytest.approx(near.mean(), rel=1e-9)
    assert report["cosine"]["min"] == pytest.approx(near.min(), rel=1e-9)
    # Without calibration a MiniLM of 4 bits keeps its vectors no nearer than this.
    assert 0.94 < report["cosine"]["mean"] < 0.98
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(*best)]
    assert report["overlap@10"] == pytest.approx(np.mean(shared), rel=1e-12)
    assert report["original"]["pair_cosine"] == pytest.approx(cosine[0], rel=1e-9)
    assert report["quantized"]["pair_cosine"] == pytest.approx(cosine[1], rel=1e-9)


class Page(html.parser.HTMLParser):
    """Tags, and whatever could make a browser fetch or run something."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.asks = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "style", "data") or name.startswith("on"):
                self.asks.append((tag, name, value))


def test_gates_and_the_page(bitmill, minilm, milled, data, tmp_path):
    page = tmp_path / "page.html"
    done = bitmill("compare", minilm, milled("--to", "int4"), *files(data, "few"), "--html", page, "--json", "--gate",
                   "recall@10.low>=50%", "--gate", "size.ratio<1", code=6)
    assert [one["passed"] for one in done.json()["gates"]] == [False, True] and not done.json()["passed"]
    assert "recall@10.low>=50% is refused" in done.err and "size.ratio" not in done.err
    text = page.read_text()
    xml.etree.ElementTree.fromstring(text)  # every tag is closed
    parsed = Page(text)
    assert not parsed.asks and not {"script", "link", "img", "iframe", "object"} & set(parsed.tags)
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert parsed.tags.count("svg") >= 6 and "prefers-color-scheme: dark" in text
    for word in ("Error by layer", "encoder.layer.5.output.dense", "latency p50", "weights in files", "recall@10", "refused"):
        assert word in text, word
    assert len(list(tmp_path.iterdir())) == 1
    table = bitmill("compare", minilm, milled("--to", "int4"), *files(data, "few"), "--gate", "cosine.mean>0.5").out
    for word in ("recall@10", "95 % interval", "passed   cosine.mean>0.5", "no measure of quality", "SNR"):
        assert word in table, word


def test_levels_of_one_folder_and_no_data(bitmill, minilm, milled):
    both = milled("--to", "int8", "--format", "bitmill")
    done = bitmill("compare", minilm, both, "--level", "int4", "--activation", "dynamic-int8", "--rounds", "1", "--json")
    report = done.json()
    assert report["quantized"]["effective"] == "int4" and report["quantized"]["dynamic_int8"]
    assert not report["original"]["dynamic_int8"] and report["original"]["effective"] == "original"
    assert report["metrics"] == {} and report["pairs"] == report["tasks"] == 0 and "overlap@10" not in report
    assert len(report["layers"]) == 24 and all(0 < one["snr_db"] < 60 for one in report["layers"][1:])
    assert "quality was not measured" in bitmill("compare", minilm, minilm, "--rounds", "1").out


@pytest.mark.parametrize(
    "args, code, words",
    [
        (["--gate", "recall@10"], 2, ["needs >=, <=, > or <"]),
        (["--gate", "recall.low>0"], 2, ["there is no 'recall.low'; there are recall@10.low, "]),
        (["--gate", "recall@10.low>=x"], 2, ["'x' is no number"]),
        (["--gate", "recall@10.low>=0"], 2, ["needs pairs"]),
        (["--gate", "pair_cosine.quantized>=0"], 6, ["no measure of quality"]),
        (["--rounds", "0"], 2, ["rounds is 1 to 1000"]),
        (["--activation", "static"], 2, ["static"]),
        (["--level", "int2"], 2, ["int2"]),
        (["--pairs", "none.jsonl"], 4, ["none.jsonl"]),
        (["--pairs", "BAD"], 3, ["bad.jsonl: at byte 32: line 2: a pair is"]),
        (["--tasks", "BAD"], 3, ["bad.jsonl: at byte 0: line 1: a task is"]),
        (["--pairs", ""], 2, ["--pairs", "is empty"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refusals(args, code, words, bitmill, minilm, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"query": "a", "document": "b"}\n{"query": "a"}\n')
    args = [bad if one == "BAD" else one for one in args]
    done = bitmill("compare", minilm, minilm, *args, code=code, cwd=tmp_path)
    assert all(word in done.err for word in words), done
    assert not done.out


def test_a_page_that_cannot_be_written_costs_no_results(bitmill, minilm, tmp_path):
    done = bitmill("compare", minilm, minilm, "--rounds", "1", "--html", "no-folder/x.html", code=4, cwd=tmp_path)
    assert "no-folder" in done.err and "tokens a second" in done.out
