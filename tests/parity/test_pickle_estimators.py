"""Estimators that look numbers up, divide by them or keep training data: their outputs stay what they were."""

import pickle
import struct

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, FastICA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import RFE, SelectFromModel, SelectKBest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.isotonic import IsotonicRegression
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier

DIGITS, LABELS = load_digits(return_X_y=True)
RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(size=(600, 20))
TARGET = NORMAL @ RANDOM.normal(size=20)
KINDS = np.round(RANDOM.normal(size=(500, 2)) * 10) / 7  # labels that are no short floats
HOLES = np.where(RANDOM.random(NORMAL.shape) < 0.1, np.nan, NORMAL)
# Features whose numbers share most of their size, as years and prices do.
YEARS = 2000 + 5 * NORMAL[:, :18]
UNITS = np.hstack([NORMAL, 1e5 * RANDOM.normal(size=(600, 20))])  # half of them in small units
UNIT_TARGET = UNITS @ np.append(RANDOM.normal(size=20), 1e-5 * RANDOM.normal(size=20))
WIDE = RANDOM.normal(size=(600, 40)) @ (np.geomspace(1, 1e4, 40)[:, None] * RANDOM.normal(size=(40, 40)))
CANCER = load_breast_cancer(return_X_y=True)
WINE = load_wine(return_X_y=True)
TEXTS = [" ".join(f"w{w}" for w in RANDOM.zipf(1.4, 30) if w < 500) for _ in range(400)]
# Name: (estimator, data, target, what is asked, what it is asked of).
CASES = {
    "one-hot": (OneHotEncoder(), KINDS, None, "transform", KINDS),
    "ordinal": (OrdinalEncoder(), KINDS, None, "transform", KINDS),
    "target": (TargetEncoder(random_state=0), KINDS, KINDS[:, 0] > 0, "transform", KINDS),
    "columns": (
        ColumnTransformer([("o", OneHotEncoder(handle_unknown="ignore"), [0]), ("s", StandardScaler(), [1])]),
        KINDS, None, "transform", KINDS,
    ),
    "isotonic": (IsotonicRegression(out_of_bounds="clip"), NORMAL[:, 0], NORMAL[:, 0] ** 3, "predict", NORMAL[:, 0]),
    "bins": (KBinsDiscretizer(60, encode="ordinal"), NORMAL, None, "transform", NORMAL),
    "quantiles": (QuantileTransformer(n_quantiles=300), NORMAL, None, "transform", NORMAL),
    "splines": (SplineTransformer(n_knots=50), NORMAL, None, "transform", NORMAL),
    "mixture": (GaussianMixture(5, random_state=0), DIGITS, None, "predict", DIGITS),
    "bayes": (GaussianNB(), DIGITS, LABELS, "predict", DIGITS),
    "random-features": (RBFSampler(random_state=0), DIGITS, None, "transform", DIGITS),
    "neighbours": (KNeighborsRegressor(algorithm="brute"), NORMAL, TARGET, "predict", NORMAL),
    "imputer": (KNNImputer(), HOLES, None, "transform", HOLES),
    "selector": (SelectKBest(k=10), DIGITS, LABELS, "transform", DIGITS),
    "years, scaled": (StandardScaler(), np.hstack([YEARS, YEARS]), None, "transform", np.hstack([YEARS, YEARS])),
    "years, ridge": (Ridge(), np.hstack([YEARS, YEARS**2 / 2000]), TARGET, "predict", np.hstack([YEARS, YEARS**2 / 2000])),
    "years, neighbours": (KNeighborsRegressor(algorithm="brute"), YEARS, TARGET, "predict", YEARS),
    "years, centres": (KMeans(30, n_init=1, random_state=0), YEARS, None, "predict", YEARS),
    "years, support vectors": (SVR(C=100), YEARS, TARGET, "predict", YEARS),
    "years, discriminant": (LinearDiscriminantAnalysis(), np.hstack([YEARS, NORMAL]), TARGET > 0, "predict", np.hstack([YEARS, NORMAL])),
    "units, ridge": (Ridge(), UNITS, UNIT_TARGET, "predict", UNITS),
    "support vectors of much weight": (SVC(C=1e6, gamma=1e-3), NORMAL, TARGET > 0, "decision_function", NORMAL),
    "kernel ridge": (KernelRidge(kernel="rbf", alpha=1e-6), NORMAL, TARGET, "predict", NORMAL),
    "process": (GaussianProcessRegressor(alpha=1e-8), NORMAL, TARGET, "predict", NORMAL),
    "landmarks": (Nystroem(n_components=100, random_state=0), NORMAL, None, "transform", NORMAL),
    "whitened": (PCA(whiten=True), WIDE, None, "transform", WIDE),
    "sources": (FastICA(random_state=0), WIDE, None, "transform", WIDE),
    "components": (PCA(20), DIGITS, None, "transform", DIGITS),
    "selection by a model": (SelectFromModel(LogisticRegression(max_iter=50)), DIGITS, LABELS, "transform", DIGITS),
    "elimination": (RFE(Ridge(), n_features_to_select=30), DIGITS, LABELS, "predict", DIGITS),
    "imputer by a model": (IterativeImputer(random_state=0, max_iter=2), HOLES, None, "transform", HOLES),
    "counts": (MultinomialNB(), DIGITS, LABELS, "predict_log_proba", DIGITS),
    "linear kernel": (SVC(kernel="linear", C=0.1), *CANCER, "decision_function", CANCER[0]),
    "linear kernel, regression": (SVR(kernel="linear"), *WINE, "predict", WINE[0]),
    "discriminant": (LinearDiscriminantAnalysis(), *WINE, "decision_function", WINE[0]),
    "least squares": (LinearRegression(), DIGITS, LABELS, "predict", DIGITS),
    "tree": (DecisionTreeClassifier(max_depth=6, random_state=0), DIGITS, LABELS, "predict_proba", DIGITS),
    "tree of texts": (
        make_pipeline(TfidfVectorizer(), DecisionTreeClassifier(random_state=0)),
        TEXTS, np.arange(400) % 7 > 2, "predict_proba", TEXTS,
    ),
    "function": (make_pipeline(FunctionTransformer(np.log1p), Ridge()), DIGITS, LABELS, "predict", DIGITS),
}


def dense(values):
    return values.toarray() if hasattr(values, "toarray") else np.asarray(values)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_outputs_stay(name, bitmill, tmp_path):
    estimator, data, target, ask, asked = CASES[name]
    model = estimator.fit(data) if target is None else estimator.fit(data, target)
    expected = dense(getattr(model, ask)(asked))
    models = tmp_path / "models"
    models.mkdir()
    for protocol in (2, 5):
        (models / "m.pkl").write_bytes(pickle.dumps(model, protocol=protocol))
        for depth in (8, 16, 32):  # batch prunes networks by default, and these never
            bitmill("batch", models, "-o", tmp_path / "out", "--bit-depth", depth, "--force")
            assert (tmp_path / "out" / "m.pkl").stat().st_size <= (models / "m.pkl").stat().st_size
            got = dense(getattr(pickle.loads((tmp_path / "out" / "m.pkl").read_bytes()), ask)(asked))
            if expected.dtype.kind in "fc" and name not in ("one-hot", "ordinal", "bins"):
                # Over all, not at the worst: the nearest neighbour of rounded points may be another.
                assert np.sqrt(np.mean((got - expected) ** 2)) <= 0.02 * np.sqrt(np.mean(expected**2))
            else:
                assert np.mean(got == expected) >= 0.99


def quantize(bitmill, tmp_path, model, *options):
    """What the model becomes, and the report's rows by name."""
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(model))
    told = bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / "o.pkl", "--json", "--force", *options).json()
    return pickle.loads((tmp_path / "o.pkl").read_bytes()), {t["name"]: t for t in told["tensors"]}


def test_known_weights_are_coded_and_include_names_others(bitmill, tmp_path):
    wide = RANDOM.normal(size=(600, 200))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=50)).fit(wide, LABELS[:600])
    milled, rows = quantize(bitmill, tmp_path, model, "--to", "int8")
    assert [n.rpartition(".")[2] for n, t in rows.items() if t["effective"] != "keep"] == ["coef_"]
    assert "int8" in rows[next(n for n in rows if n.endswith("coef_"))]["effective"]
    assert np.array_equal(milled[0].mean_, model[0].mean_) and np.array_equal(milled[0].scale_, model[0].scale_)
    milled, rows = quantize(bitmill, tmp_path, model, "--to", "int8", "--include", "mean_$")
    assert {n.rpartition(".")[2]: t["effective"] for n, t in rows.items() if t["effective"] != "keep"} == {"mean_": "fp16"}


def test_what_stands_beside_weights_counts(bitmill, tmp_path):
    for intercept, expected in ((0.5, "int8"), (20.0, "fp16"), (5000.0, "keep")):
        for kind in (np.float64, lambda v: np.array([v])):
            model = Ridge().fit(NORMAL, TARGET)
            model.coef_ = np.clip(np.random.default_rng(1).normal(size=600), -1, 1)
            model.intercept_ = kind(intercept)
            told = quantize(bitmill, tmp_path, model, "--to", "int8")[1]["coef_"]
            assert told["effective"].startswith(expected), (intercept, told)


def test_numbers_of_ones_own_that_name_something_stay(bitmill, tmp_path):
    numbers = {"ids": RANDOM.integers(0, 10**6, (20, 20)).astype(float), "flags": RANDOM.integers(0, 2, (20, 20)).astype(float)}
    milled, rows = quantize(bitmill, tmp_path, numbers, "--to", "fp16")
    assert rows["ids"]["effective"] == "keep" and rows["flags"]["effective"] == "fp16"
    assert all(np.array_equal(milled[n], numbers[n]) for n in numbers)


def test_many_scalars_of_numpy_are_no_burden(bitmill, tmp_path):
    for protocol in (2, 3, 4, 5):
        values = list(RANDOM.normal(size=50_000))
        (tmp_path / "m.pkl").write_bytes(pickle.dumps({"list": values, "w": NORMAL}, protocol=protocol))
        bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / "o.pkl", "--to", "int8", "--force")
        assert pickle.loads((tmp_path / "o.pkl").read_bytes())["list"] == values


def test_pruning_spares_what_may_divide(bitmill, tmp_path):
    model = GaussianNB().fit(DIGITS * 1e-4, LABELS)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(model))
    bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / "o.pkl", "--to", "fp32", "--weight-threshold", "0.001")
    assert np.array_equal(pickle.loads((tmp_path / "o.pkl").read_bytes()).var_, model.var_)


def test_numbers_that_float32_does_not_hold_stay(bitmill, tmp_path):
    tiny = np.linspace(-1e-310, 1e-310, 100).reshape(10, 10)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(tiny))
    bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / "o.pkl", "--to", "int8")
    assert np.array_equal(pickle.loads((tmp_path / "o.pkl").read_bytes()), tiny)


def test_the_model_itself_is_not_replaced(bitmill, tmp_path):
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(NORMAL))
    before = path.read_bytes()
    done = bitmill("quantize", path, "-o", path, "--to", "int8", "--force", code=2)
    assert "is the model that is read" in done.err and path.read_bytes() == before


# ---- what would run where a milled model is loaded --------------------------------------------------------------


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


RIDGE = name("sklearn.linear_model._ridge", "Ridge") + b")\x81"
BUNCH = name("sklearn.utils._bunch", "Bunch") + b")\x81"
RUN = name("sklearn.utils._available_if", "MethodType") + name("numpy.testing._private.utils", "runstring") + text("1") + b"\x86R"
MEAN = name("numpy", "mean")
HOSTILE = {
    "a class that a module imports": name("sklearn.datasets._covtype", "GzipFile") + text("x") + text("wb") + b"\x86R",
    "a connection": name("sklearn.callback._transport", "Client") + text("x") + b"\x85R",
    "a test runner": name("scipy.sparse", "test") + text("fast") + b"\x85R",
    "a file that is written": name("scipy.sparse", "save_npz") + text("x") + b"K\x01\x86R",
    "an import by name": name("numpy._core", "_ufunc_reconstruct") + text("antigravity") + text("x") + b"\x86R",
    "a bound method": RUN,
    "a function that runs a file": RIDGE + b"}" + text("append") + name("numpy.testing._private.utils", "rundocs") + b"sb" + text("x") + b"a",
    # The names below are all fine; what they are used for is not.
    "append looked up in the state": RIDGE + b"}" + text("append") + MEAN + b"sb" + text("x") + b"a",
    "append looked up in the items": BUNCH + text("append") + MEAN + b"s" + text("x") + b"a",
    "a state that is set by the state": RIDGE + b"}" + text("__setstate__") + MEAN + b"sb}b",
    "a state that is an object": RIDGE + RIDGE + b"}" + text("pop") + MEAN + b"sbb",
    "keys looked up in the state": name("collections", "OrderedDict") + RIDGE + b"}" + text("keys") + MEAN + b"sb\x85R",
    "an array of an object": name("numpy", "array") + RIDGE + b"}" + text("__array__") + MEAN + b"sb\x85R",
    "an array of a list": name("numpy", "array") + b"]" + RIDGE + b"a\x85R",
    "a metric that calls back": name("sklearn.metrics._dist_metrics", "PyFuncDistance64") + b")R",
    "a program among numpy's modules": name("numpy.f2py.__main__", "float64"),
    "a test among scikit-learn's": name("sklearn.linear_model.tests.test_ridge", "Ridge") + b")\x81",
    "a module of scipy.sparse that is no matrix": name("scipy.sparse.linalg", "csr_matrix") + b")\x81",
    "an estimator of the same name elsewhere": name("sklearn.externals.x", "Ridge") + b")R",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_would_call_back_is_refused(case, bitmill, tmp_path):
    array = pickle.dumps(np.arange(400.0) * 0.37 - 50, protocol=2)[2:-1]
    for content in (HOSTILE[case], b"]" + array + b"a" + HOSTILE[case] + b"a"):
        (tmp_path / "m.pkl").write_bytes(b"\x80\x02" + content + b".")
        done = bitmill("quantize", tmp_path / "m.pkl", "-o", tmp_path / "o.pkl", "--to", "fp16", code=None)
        assert done.code in (2, 3) and "m.pkl" in done.err and "byte" in done.err, done
        assert [p.name for p in tmp_path.iterdir()] == ["m.pkl"]
