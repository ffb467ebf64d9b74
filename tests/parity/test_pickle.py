"""Pickled scikit-learn models: what `bitmill quantize` leaves loads as before and predicts the same."""

import io
import json
import pathlib
import pickle
import pickletools
import subprocess
import sys
import warnings
import zipfile

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from conftest import assert_only_reads
from evil_pickles import CANARY, evil_files

DIGITS, DIGIT_LABELS = load_digits(return_X_y=True)
PROTOCOLS = (2, 3, 4, 5)


def documents():
    """Texts of three topics that share half their words."""
    rng = np.random.default_rng(7)
    words = np.array([f"word{i}" for i in range(800)])
    topics = [words[first : first + 400] for first in (0, 200, 400)]
    texts = [" ".join(rng.choice(topic, 30)) for topic in topics for _ in range(80)]
    return texts, np.repeat(["sport", "trade", "arts"], 80)


TEXTS, TOPICS = documents()
MODELS = {
    "tfidf": lambda: Pipeline([("tfidf", TfidfVectorizer()), ("clf", LogisticRegression())]).fit(TEXTS, TOPICS),
    "svc": lambda: SVC(random_state=0).fit(DIGITS, DIGIT_LABELS),
    "forest": lambda: RandomForestClassifier(20, random_state=0).fit(DIGITS, DIGIT_LABELS),
    "mlp": lambda: MLPClassifier((64, 32), max_iter=60, random_state=0).fit(DIGITS, DIGIT_LABELS),
    "mlp-float32": lambda: MLPClassifier((64,), max_iter=60, random_state=0).fit(
        DIGITS.astype(np.float32), DIGIT_LABELS
    ),
    "scaled": lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(DIGITS, DIGIT_LABELS.astype(str).astype(object)),
    "kd-tree": lambda: KNeighborsClassifier(algorithm="kd_tree").fit(DIGITS, DIGIT_LABELS),
    "neighbours": lambda: KNeighborsClassifier(algorithm="brute").fit(DIGITS, DIGIT_LABELS),
    "bayes": lambda: GaussianNB().fit(DIGITS, DIGIT_LABELS),
    "boosting": lambda: HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(DIGITS, DIGIT_LABELS),
}
# Share of equal predictions at 8 bits; measured 1 for all but mlp (see -rP).
AGREEMENT = 0.99


@pytest.fixture(scope="module")
def trained():
    made = {}

    def train(name):
        if name not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made[name] = MODELS[name]()
        return made[name]

    return train


def predictions(name, model):
    return model.predict(TEXTS if name == "tfidf" else DIGITS)


def arrays_of(value, path="", seen=None):
    """path -> array, of everything that a model holds."""
    seen = {} if seen is None else seen  # with the objects themselves: an id of what is gone is taken again
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {path: value}
    if id(value) in seen:
        return {}
    seen[id(value)] = value
    inside = {}
    if isinstance(value, dict):
        inside = value
    elif isinstance(value, (list, tuple, np.ndarray)):
        inside = dict(enumerate(value))
    elif hasattr(value, "__reduce_ex__") and type(value).__module__.startswith(("sklearn", "scipy", "numpy")):
        try:
            inside = dict(enumerate(value.__reduce_ex__(4)[1:3]))
        except TypeError:
            inside = {}
    out = {}
    for key, one in inside.items():
        out.update(arrays_of(one, f"{path}.{key}", seen))
    return out


def check_arrays(before, after, to):
    """All but float arrays are equal; these have their dtype, shape and order, and lie close."""
    first, second = arrays_of(before), arrays_of(after)
    assert first.keys() == second.keys() and first
    changed = 0
    for path, was in first.items():
        now = second[path]
        assert (was.dtype, was.shape, was.flags.f_contiguous, was.flags.c_contiguous) == (
            now.dtype,
            now.shape,
            now.flags.f_contiguous,
            now.flags.c_contiguous,
        ), path
        if was.dtype.kind != "f":
            # Of structures only the fields: what lies between them is made anew each time.
            for field in was.dtype.names or [...]:
                assert was[field].tobytes() == now[field].tobytes(), path
            continue
        changed += was.tobytes() != now.tobytes()
        if was.tobytes() != now.tobytes():
            assert now.flags.writeable, path
            # Half a step of fp16 at each number, of int8 at the largest.
            bound = np.abs(was) * 2**-11 + 2**-25 if to == "fp16" else np.abs(was).max() / 127
            assert (np.abs(was - now) <= bound).all(), path
    return changed


def write(model, path, protocol):
    if path.suffix == ".joblib":
        joblib.dump(model, path, protocol=protocol)
    else:
        path.write_bytes(pickle.dumps(model, protocol=protocol))


def read(path):
    return joblib.load(path) if path.suffix == ".joblib" else pickle.loads(path.read_bytes())


@pytest.mark.parametrize("ending", ["pkl", "joblib"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_predicts_the_same(name, ending, bitmill, trained, tmp_path):
    model = trained(name)
    expected = predictions(name, model)
    for protocol in PROTOCOLS:
        source = tmp_path / f"model-{protocol}.{ending}"
        write(model, source, protocol)
        for to in ("fp16", "int8"):
            out = tmp_path / f"{to}-{source.name}"
            report = bitmill("quantize", source, "-o", out, "--to", to, "--json").json()
            assert report["bytes"] == out.stat().st_size <= source.stat().st_size == report["source_bytes"]
            loaded = read(out)
            changed = check_arrays(model, loaded, to)
            coded = [t for t in report["tensors"] if t["effective"] != "keep"]
            # Boosted trees are structures of their own; neighbours rely on their points, bayes on its divisors.
            stays = name in ("bayes", "boosting", "kd-tree", "neighbours")
            assert bool(coded) != stays and (coded or not changed), (protocol, to)
            same = np.mean(predictions(name, loaded) == expected)
            assert same >= (1 if to == "fp16" else AGREEMENT), (protocol, to, same)
            print(f"{name} {ending} {protocol} {to}: {source.stat().st_size} -> {out.stat().st_size}, agreement {same}")
            if ending == "pkl":
                assert [op.name for op, *_ in pickletools.genops(out.read_bytes())][-1] == "STOP"


def test_one_object_stays_one(bitmill, tmp_path):
    weights = np.random.default_rng(0).normal(size=(40, 50))
    for protocol in PROTOCOLS:
        source, out = tmp_path / f"m{protocol}.pkl", tmp_path / f"o{protocol}.pkl"
        pad = [object() for _ in range(200 * (protocol % 2))]  # a memo of more than 256 places, too
        write({"pad": [str(id(p)) for p in pad], "a": weights, "b": [weights], "c": weights.T}, source, protocol)
        bitmill("quantize", source, "-o", out, "--to", "int8")
        model = read(out)
        assert model["a"] is model["b"][0] and model["a"].flags.c_contiguous and model["c"].flags.f_contiguous
        assert np.abs(model["a"] - weights).max() <= np.abs(weights).max() / 127


def test_dtypes_shapes_and_orders(bitmill, tmp_path):
    rng = np.random.default_rng(3)
    model = {
        f"{dtype} {shape} {order}": np.asarray(rng.normal(size=shape), dtype=dtype, order=order)
        for dtype in ("f8", "f4", "f2", ">f8", "f16", "c8")
        for shape in ((400,), (20, 40), (40, 20), (4, 5, 40), (40, 5, 4), (0, 3), ())
        for order in "CF"
    }
    for protocol in PROTOCOLS:
        for ending in ("pkl", "joblib"):
            source = tmp_path / f"m{protocol}.{ending}"
            write(model, source, protocol)
            expected = read(source)  # joblib swaps the bytes of what is big-endian
            for to in ("fp16", "int8"):
                for options in ([], ["--per-tensor"]) if to == "int8" else ([],):
                    out = tmp_path / f"o.{ending}"
                    report = bitmill("quantize", source, "-o", out, "--to", to, "--force", "--json", *options).json()
                    loaded = read(out)
                    assert loaded.keys() == expected.keys()
                    for key, was in expected.items():
                        now = loaded[key]
                        assert (now.dtype, now.shape) == (was.dtype, was.shape), key
                        assert now.flags.f_contiguous == was.flags.f_contiguous, key
                        assert np.allclose(now, was, atol=0.03), (key, to, protocol)
                    rows = {t["name"]: t for t in report["tensors"]}
                    assert rows["f8 (20, 40) C"]["effective"] == (
                        "fp16" if to == "fp16" else "int8 per_tensor" if options else "int8 per_channel"
                    )
                    assert rows[">f8 (400,) C"]["reason"] == "big-endian"


def test_int8_is_what_numpy_says(bitmill, tmp_path):
    """Whole multiples of a row's scale, half a step away at most; the largest magnitude is 127.5 scales."""
    weights = np.random.default_rng(5).normal(size=(16, 64))
    write(weights, tmp_path / "m.pkl", 4)
    bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / "o.pkl", "--to", "int8")
    scales = (np.abs(weights.astype(np.float32)).max(axis=1, keepdims=True) / np.float32(127.5)).astype(np.float64)
    codes = read(tmp_path / "o.pkl") / scales
    assert np.allclose(codes, np.rint(codes), rtol=0, atol=1e-9)
    assert (np.abs(codes - weights / scales) <= 0.5 + 1e-4).all()


def test_fp16_is_what_numpy_says(bitmill, tmp_path):
    weights = np.random.default_rng(5).normal(size=1000)
    for dtype in ("f8", "f4"):
        write(weights.astype(dtype), tmp_path / "m.pkl", 2)
        bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / "o.pkl", "--to", "fp16", "--force")
        assert np.array_equal(read(tmp_path / "o.pkl"), weights.astype(dtype).astype("f2").astype(dtype))


def test_pruning_and_bit_depth_32(bitmill, tmp_path):
    weights = {"w": np.random.default_rng(5).normal(size=(20, 50)), "n": np.arange(500)}
    for protocol in (3, 4, 5):
        for ending in ("pkl", "joblib"):
            source, out = tmp_path / f"m{protocol}.{ending}", tmp_path / f"o{protocol}.{ending}"
            write(weights, source, protocol)
            bitmill("quantize", source, "-o", out, "--to", "fp32", "--weight-threshold", "0.5")
            expected = np.where(np.abs(weights["w"]) < 0.5, 0, weights["w"])
            assert np.array_equal(read(out)["w"], expected) and np.array_equal(read(out)["n"], weights["n"])
            assert out.stat().st_size == source.stat().st_size
            bitmill("quantize", source, "-o", out, "--to", "fp32", "--force")
            assert out.read_bytes() == source.read_bytes()
            bitmill("quantize", source, "-o", out, "--to", "int8", "--weight-threshold", "0.5", "--force")
            assert ((read(out)["w"] == 0) >= (expected == 0)).all()


def test_what_cannot_gain_is_copied_and_the_report_says_why(bitmill, tmp_path):
    source, out = tmp_path / "m.pkl", tmp_path / "o.pkl"
    write({"coef_": np.arange(5.0), "classes_": np.arange(100.0)[::-1], "ids": np.arange(9999.0)[::-1], "big": np.array([1e300] * 50), "n": np.arange(99)}, source, 4)
    done = bitmill("quantize", source, "-o", out, "--to", "int8", "--json")
    assert out.read_bytes() == source.read_bytes() and "copied as it is" in done.err
    assert {t["name"]: t["reason"] for t in done.json()["tensors"]} == {
        "coef_": "too small to gain",
        "classes_": "of what scikit-learn fits, only known weights are coded (include names others)",
        "ids": "whole numbers may name or count something",
        "big": "holds numbers beyond float32",
        "n": "not a float array",
    }
    again = bitmill("quantize", source, "-o", out, "--to", "int8", "--json").json()
    assert again["already_milled"]
    write(np.array([1.0] * 99 + [np.nan]), source, 4)
    done = bitmill("quantize", source, "-o", out, "--to", "fp16", "--force", "--json").json()
    assert "element 99 is NaN" in done["tensors"][0]["reason"]
    assert out.read_bytes() == source.read_bytes()
    assert "element 99 is NaN" in bitmill("quantize", source, "-o", out, "--to", "fp16", "--force", "--strict", code=3).err


def test_small_and_wide_numbers_take_more_bits_or_stay(bitmill, tmp_path):
    rng = np.random.default_rng(1)
    model = {
        "outlier": np.append(rng.normal(size=1000), 1e4)[None],
        "tiny": rng.normal(size=(1, 1000)) * 1e-9,
        "large": rng.normal(size=(1, 1000)) * 1e6,
        "variances": np.geomspace(1e-4, 10, 1000)[None],
        "small variances": np.geomspace(1e-9, 10, 1000)[None],
        "vector": rng.normal(size=1000),
        "coef_": rng.normal(size=1000),
        "columns": rng.normal(size=(500, 2)) + [47, -122],
    }
    write(model, tmp_path / "m.pkl", 4)
    for to, expected in (
        ("int8", {"outlier": "fp16", "tiny": "int8 per_tensor", "large": "int8 per_tensor", "variances": "fp16", "small variances": "keep", "vector": "fp16", "coef_": "int8 per_tensor", "columns": "keep"}),
        ("fp16", {"outlier": "fp16", "tiny": "keep", "large": "keep", "variances": "fp16", "small variances": "keep", "vector": "fp16", "coef_": "fp16", "columns": "keep"}),
    ):
        report = bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / to, "--to", to, "--json").json()
        assert {t["name"]: t["effective"] for t in report["tensors"]} == expected, to
    done = bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / "no", "--to", "int8", "--strict", "--exclude", "^(?!vector)", code=None)
    assert done.code != 0 and "vector" in done.err
    model = {"outlier": np.append(rng.normal(size=100000), 1e3)[None], "offset": np.append(60 + rng.normal(size=10000), -1)[None]}
    write(model, tmp_path / "m.pkl", 4)
    report = bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / "again", "--to", "int8", "--json").json()
    row = report["tensors"][1]
    assert row["effective"] == "fp16" and "int8 would keep only" in row["reason"], row
    row = report["tensors"][0]
    assert row["effective"] == "fp16" and "over a twentieth of it would become 0" in row["reason"], row


def test_it_loads_with_numpy_alone(bitmill, tmp_path):
    """Only numpy, its parts and Python's own modules are imported, and those that the source itself names."""
    model = {"coef_": np.random.default_rng(0).normal(size=(30, 40)), "f4": np.ones(500, "f4")}
    code = """
import builtins, pickle, sys
import numpy
real = builtins.__import__
def only_numpy(name, *rest, **more):
    assert name.partition(".")[0] in ("numpy", "_codecs", "codecs", "encodings", "_io", "pickle"), name
    return real(name, *rest, **more)
builtins.__import__ = only_numpy
names = []
class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        names.append(module + "." + name)
        return super().find_class(module, name)
with open(sys.argv[1], "rb") as file:
    model = Unpickler(file).load()
builtins.__import__ = real
assert str(model["coef_"].dtype) == "float64" and str(model["f4"].dtype) == "float32"
assert type(model["coef_"]) is type(model["f4"]) is numpy.ndarray
print(*sorted(set(names)))
"""
    for protocol in PROTOCOLS:
        for to in ("int8", "fp16"):
            source, out = tmp_path / f"m{protocol}.pkl", tmp_path / f"{to}-{protocol}.pkl"
            write(model, source, protocol)
            bitmill("quantize", source, "-o", out, "--to", to)
            run = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True)
            assert run.returncode == 0, run.stderr
            assert all(name.startswith(("numpy.", "_codecs.")) for name in run.stdout.split()), run.stdout


def test_a_milled_model_is_read_again(bitmill, tmp_path):
    write({"coef_": np.random.default_rng(0).normal(size=(30, 40))}, tmp_path / "m.pkl", 4)
    bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / "o.pkl", "--to", "int8")
    (row,) = bitmill("inspect", tmp_path / "o.pkl", "--json").json()["tensors"]
    assert row["dtype"] == "I8" and row["shape"] == [30, 40]
    codes = np.frombuffer((tmp_path / "o.pkl").read_bytes(), "i1", 1200, row["offset"])
    assert np.abs(codes).max() == 127
    bitmill("quantize", tmp_path / "o.pkl", "-o", tmp_path / "again.pkl", "--to", "int8")
    assert (tmp_path / "again.pkl").read_bytes() == (tmp_path / "o.pkl").read_bytes()


def test_memory_mapping_of_what_stays(bitmill, tmp_path):
    """joblib maps arrays that lie at multiples of 16; those behind a coded one are moved to such a place again."""
    model = {"a": np.random.default_rng(0).normal(size=(30, 41)), "n": np.arange(1000), "b": np.arange(77.0) ** 9, "m": np.arange(99)}
    write(model, tmp_path / "m.joblib", 4)
    bitmill("quantize", tmp_path / "m.joblib", "-o", tmp_path / "o.joblib", "--to", "fp16")
    mapped = joblib.load(tmp_path / "o.joblib", mmap_mode="r")
    assert isinstance(mapped["n"], np.memmap) and mapped["n"].offset % 16 == 0 and np.array_equal(mapped["n"], model["n"])
    assert isinstance(mapped["m"], np.memmap) and mapped["m"].offset % 16 == 0 and np.array_equal(mapped["m"], model["m"])
    assert type(mapped["a"]) is np.ndarray


def test_compressed_files_say_how_to_save(bitmill, trained, tmp_path):
    for packer in (("gzip", 3), ("zlib", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)):
        joblib.dump(trained("tfidf"), tmp_path / "m.joblib", compress=packer)
        done = bitmill("quantize", tmp_path / "m.joblib", "-o", tmp_path / "o", "--to", "int8", code=2)
        assert "compress=0" in done.err or packer[0] == "lzma", done.err


class Own:
    pass


def test_a_class_of_ones_own_is_named(bitmill, tmp_path):
    write({"model": Own()}, tmp_path / "m.pkl", 4)
    done = bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / "o.pkl", "--to", "int8", "--json", code=2)
    assert f"{Own.__module__}.Own" in done.err and done.json()["error"]["offset"] > 0
    assert not (tmp_path / "o.pkl").exists()


def test_batch_takes_pickled_models_beside_others(bitmill, trained, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    write(trained("tfidf"), folder / "intent.pkl", 4)
    write(trained("mlp"), folder / "sentiment.joblib", 4)
    (folder / "broken.pickle").write_bytes(b"\x80\x04cos\nsystem\n.")
    told = bitmill("batch", folder, "--bit-depth", "8", "--weight-threshold", "0", "--json", code=2).json()
    assert {n: m["status"] for n, m in told["models"].items()} == {
        "broken": "error", "intent": "success", "sentiment": "success"
    }
    assert sorted(p.name for p in (folder / "quantized").iterdir()) == ["intent.pkl", "sentiment.joblib"]
    assert np.mean(read(folder / "quantized" / "intent.pkl").predict(TEXTS) == TOPICS) > 0.99
    assert told["summary"]["overall_size_reduction_percent"] > 40
    again = bitmill("batch", folder, "--bit-depth", "8", "--weight-threshold", "0", code=2).out
    assert again.count("milled already") == 2


EVIL = {name: content for name, content in evil_files().items()}


def evil_pickles():
    """The pickles inside of torch's archives, as files of their own."""
    for name, content in EVIL.items():
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                yield name, packed.read(next(n for n in packed.namelist() if n.endswith("data.pkl")))
        except (zipfile.BadZipFile, StopIteration, NotImplementedError, RuntimeError, OSError):
            continue


def test_what_runs_code_is_refused_and_nothing_runs(bitmill, bitmill_path, tmp_path):
    looked, taken = 0, []
    for name, inner in evil_pickles():
        looked += 1
        (tmp_path / "m.pkl").write_bytes(inner)
        done = bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / "o.pkl", "--to", "int8", code=None, timeout=20)
        if done.code == 0:  # a pickle that runs nothing is copied
            taken.append(name)
            assert (tmp_path / "o.pkl").read_bytes() == inner
            (tmp_path / "o.pkl").unlink()
            continue
        assert done.code in (2, 3) and "m.pkl" in done.err, (name, done)
        assert len(done.err.splitlines()) == 1 and done.err.rstrip("\n").isprintable(), (name, done)
        assert {p.name for p in tmp_path.iterdir()} == {"m.pkl"}, name
    # Python cannot load the first two, which run nothing either.
    assert taken == ["append-to-dict", "reduce-with-a-list", "number"]
    assert looked >= 30 and not pathlib.Path(CANARY).exists()


def test_reading_evil_pickles_calls_nothing_but_the_reading_of_them(bitmill_path, tmp_path):
    for name, inner in evil_pickles():
        (tmp_path / "evil.pkl").write_bytes(inner)
        assert_only_reads(bitmill_path, "inspect", tmp_path / "evil.pkl")


def test_what_pickles_do_not_take(bitmill, tmp_path):
    source, out = tmp_path / "m.pkl", tmp_path / "o.pkl"
    write(np.random.default_rng(6).normal(size=(20, 50)), source, 4)
    for command, words in (
        (("quantize", source, "-o", out, "--to", "int4"), "int4"),
        (("quantize", source, "-o", out, "--to", "both"), "one type at a time"),
        (("quantize", source, "-o", out, "--to", "int8", "--prune-relative", "0.1"), "weight_threshold"),
        (("quantize", source, "-o", out, "--to", "int8", "--target-sparsity", "0.5"), "weight_threshold"),
        (("quantize", source, "-o", tmp_path / "o.gguf", "--to", "int8"), ".pkl"),
        (("dequantize", source, "-o", out), "pickle.load"),
        (("convert", source, "-o", out, "--format", "gptq"), "pickled model"),
        (("verify", source, source), "no manifest.json"),
        (("quantize", source, "-o", source, "--to", "int8"), "is the model that is read"),
    ):
        done = bitmill(*command, code=None)
        assert done.code in (2, 3, 4) and words in done.err, (command, done)
        assert {p.name for p in tmp_path.iterdir()} == {"m.pkl"}
