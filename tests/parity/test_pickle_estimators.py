"""Estimators that look numbers up, divide by them or keep training data: their outputs stay what they were."""

import pickle
import struct

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.feature_selection import SelectKBest
from sklearn.impute import KNNImputer
from sklearn.isotonic import IsotonicRegression
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import Ridge
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
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

DIGITS, LABELS = load_digits(return_X_y=True)
RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(size=(600, 20))
TARGET = NORMAL @ RANDOM.normal(size=20)
KINDS = np.round(RANDOM.normal(size=(500, 2)) * 10) / 7  # labels that are no short floats
HOLES = np.where(RANDOM.random(NORMAL.shape) < 0.1, np.nan, NORMAL)
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
