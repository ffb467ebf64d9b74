// The names that a pickled model may hold. Pickles call functions when Python loads them: a model that names anything
// else is refused, so that nothing hostile comes out of a mill as a file of its own.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace bitmill::detail {

enum class pickle_name : std::uint8_t {
    passive,  // may be named, not called
    callable,
    ndarray,
    dtype,
    reconstruct,
    from_buffer,
    encode,
    joblib_array,
    scalar,
    search_tree,
    named_tuple,  // keeps what it is given, and asks nothing of it
};

struct pickle_name_row {
    std::string_view module, name;
    pickle_name what;
};

inline constexpr pickle_name_row pickle_names[] = {
    {"numpy", "ndarray", pickle_name::ndarray},
    {"numpy", "dtype", pickle_name::dtype},
    {"numpy._core.multiarray", "_reconstruct", pickle_name::reconstruct},
    {"numpy.core.multiarray", "_reconstruct", pickle_name::reconstruct},
    {"numpy._core.numeric", "_frombuffer", pickle_name::from_buffer},
    {"numpy.core.numeric", "_frombuffer", pickle_name::from_buffer},
    {"_codecs", "encode", pickle_name::encode},
    {"joblib.numpy_pickle", "NumpyArrayWrapper", pickle_name::joblib_array},
    {"sklearn.neighbors._kd_tree", "newObj", pickle_name::search_tree},
    {"sklearn.neighbors._ball_tree", "newObj", pickle_name::search_tree},
    {"numpy._core.multiarray", "scalar", pickle_name::scalar},
    {"numpy.core.multiarray", "scalar", pickle_name::scalar},
    {"numpy.ma.core", "_mareconstruct", pickle_name::callable},
    {"numpy.random.bit_generator", "__pyx_unpickle_SeedSequence", pickle_name::callable},
    {"numpy.random._pickle", "__bit_generator_ctor", pickle_name::callable},
    {"numpy.random._pickle", "__generator_ctor", pickle_name::callable},
    {"numpy.random._pickle", "__randomstate_ctor", pickle_name::callable},
    {"scipy.interpolate._bsplines", "BSpline", pickle_name::callable},
    {"scipy.interpolate._interpolate", "interp1d", pickle_name::callable},
    {"sklearn.impute._iterative", "_ImputerTriplet", pickle_name::named_tuple},
    {"sklearn.metrics._dist_metrics", "newObj", pickle_name::callable},
    {"sklearn.utils._metadata_requests", "RouterMappingPair", pickle_name::named_tuple},
    {"scipy._lib.array_api_compat.numpy._aliases", "asarray", pickle_name::passive},
    // What a milled pickle calls.
    {"numpy", "array", pickle_name::callable},
    {"numpy", "multiply", pickle_name::callable},
    {"numpy", "float16", pickle_name::callable},
    {"numpy", "float32", pickle_name::callable},
    {"collections", "OrderedDict", pickle_name::callable},
    {"collections", "defaultdict", pickle_name::callable},
    {"collections", "deque", pickle_name::callable},
    {"collections", "Counter", pickle_name::callable},
    {"datetime", "date", pickle_name::callable},
    {"datetime", "datetime", pickle_name::callable},
    {"datetime", "timedelta", pickle_name::callable},
};

// Types of Python itself that picklers call, all harmless to make; and those that they only name.
inline constexpr std::string_view pickle_builtins[] = {"bytearray", "bytes", "complex", "frozenset",
                                                       "object",    "range", "set",     "slice"};
inline constexpr std::string_view pickle_builtin_types[] = {"bool", "dict", "float", "int",
                                                            "list", "str",  "tuple"};

// Types of numbers, generators of random numbers, and what a FunctionTransformer is made with.
inline constexpr std::string_view pickle_numpy_names[] = {
    "MT19937",    "MaskedArray", "PCG64",      "PCG64DXSM",   "Philox", "SFC64",   "SeedSequence",
    "abs",        "absolute",    "bool",       "bool_",       "bytes_", "cbrt",    "complex128",
    "complex64",  "cos",         "datetime64", "exp",         "exp2",   "expm1",   "float16",
    "float32",    "float64",     "floating",   "generic",     "int16",  "int32",   "int64",
    "int8",       "integer",     "intc",       "intp",        "log",    "log10",   "log1p",
    "log2",       "matrix",      "mean",       "median",      "number", "object_", "ravel",
    "reciprocal", "recarray",    "record",     "rint",        "sign",   "sin",     "sqrt",
    "square",     "str_",        "tanh",       "timedelta64", "uint16", "uint32",  "uint64",
    "uint8",      "uintc",       "uintp",      "void",
};

// Classes of scikit-learn 0.24 to 1.9 whose objects lie in fitted models, ascending. By name, since modules move; not by
// module, since modules hold whatever else they import.
inline constexpr std::string_view pickle_sklearn_classes[] = {
    "ARDRegression",
    "AbsoluteError",
    "AdaBoostClassifier",
    "AdaBoostRegressor",
    "AdamOptimizer",
    "AdditiveChi2Sampler",
    "AffinityPropagation",
    "AgglomerativeClustering",
    "BaggingClassifier",
    "BaggingRegressor",
    "BallTree",
    "BallTree32",
    "BallTree64",
    "BayesianGaussianMixture",
    "BayesianRidge",
    "BernoulliNB",
    "BernoulliRBM",
    "Binarizer",
    "BinomialDeviance",
    "Birch",
    "BisectingKMeans",
    "Bunch",
    "CCA",
    "CalibratedClassifierCV",
    "CategoricalNB",
    "ClassicalMDS",
    "ClassifierChain",
    "ColumnTransformer",
    "ComplementNB",
    "CompoundKernel",
    "ConstantKernel",
    "CountVectorizer",
    "CyAbsoluteError",
    "CyExponentialLoss",
    "CyHalfBinomialLoss",
    "CyHalfGammaLoss",
    "CyHalfMultinomialLoss",
    "CyHalfPoissonLoss",
    "CyHalfSquaredError",
    "CyHalfTweedieLoss",
    "CyHalfTweedieLossIdentity",
    "CyHuberLoss",
    "CyPinballLoss",
    "DBSCAN",
    "DecisionTreeClassifier",
    "DecisionTreeRegressor",
    "DictVectorizer",
    "DictionaryLearning",
    "DotProduct",
    "DummyClassifier",
    "DummyRegressor",
    "ElasticNet",
    "ElasticNetCV",
    "EllipticEnvelope",
    "EmpiricalCovariance",
    "EpsilonInsensitive",
    "ExpSineSquared",
    "ExponentialLoss",
    "Exponentiation",
    "ExtraTreeClassifier",
    "ExtraTreeRegressor",
    "ExtraTreesClassifier",
    "ExtraTreesRegressor",
    "FactorAnalysis",
    "FastICA",
    "FeatureAgglomeration",
    "FeatureHasher",
    "FeatureUnion",
    "FixedThresholdClassifier",
    "FrozenEstimator",
    "FunctionTransformer",
    "GammaRegressor",
    "GaussianMixture",
    "GaussianNB",
    "GaussianProcessClassifier",
    "GaussianProcessRegressor",
    "GaussianRandomProjection",
    "GenericUnivariateSelect",
    "GradientBoostingClassifier",
    "GradientBoostingRegressor",
    "GraphicalLasso",
    "GraphicalLassoCV",
    "GridSearchCV",
    "GroupKFold",
    "GroupShuffleSplit",
    "HDBSCAN",
    "HalfBinomialLoss",
    "HalfBinomialLossArrayAPI",
    "HalfGammaLoss",
    "HalfLogitLink",
    "HalfMultinomialLoss",
    "HalfMultinomialLossArrayAPI",
    "HalfPoissonLoss",
    "HalfPoissonLossArrayAPI",
    "HalfSquaredError",
    "HalfTweedieLoss",
    "HalfTweedieLossIdentity",
    "HalvingGridSearchCV",
    "HalvingRandomSearchCV",
    "HashingVectorizer",
    "Hinge",
    "HistGradientBoostingClassifier",
    "HistGradientBoostingRegressor",
    "HuberLoss",
    "HuberLossFunction",
    "HuberRegressor",
    "Hyperparameter",
    "IdentityLink",
    "IncrementalPCA",
    "Interval",
    "IsolationForest",
    "Isomap",
    "IsotonicRegression",
    "IterativeImputer",
    "KBinsDiscretizer",
    "KDTree",
    "KDTree32",
    "KDTree64",
    "KFold",
    "KMeans",
    "KNNImputer",
    "KNeighborsClassifier",
    "KNeighborsRegressor",
    "KNeighborsTransformer",
    "KernelCenterer",
    "KernelDensity",
    "KernelPCA",
    "KernelRidge",
    "LabelBinarizer",
    "LabelEncoder",
    "LabelPropagation",
    "LabelSpreading",
    "Lars",
    "LarsCV",
    "Lasso",
    "LassoCV",
    "LassoLars",
    "LassoLarsCV",
    "LassoLarsIC",
    "LatentDirichletAllocation",
    "LeastAbsoluteError",
    "LeastSquaresError",
    "LeaveOneGroupOut",
    "LeaveOneOut",
    "LeavePGroupsOut",
    "LeavePOut",
    "LedoitWolf",
    "LinearDiscriminantAnalysis",
    "LinearRegression",
    "LinearSVC",
    "LinearSVR",
    "LocalOutlierFactor",
    "LocallyLinearEmbedding",
    "LogLink",
    "LogisticRegression",
    "LogisticRegressionCV",
    "LogitLink",
    "LossFunction",
    "MDS",
    "MLPClassifier",
    "MLPRegressor",
    "Matern",
    "MaxAbsScaler",
    "MeanShift",
    "MetadataRequest",
    "MetadataRouter",
    "MethodMapping",
    "MethodMetadataRequest",
    "MethodPair",
    "MinCovDet",
    "MinMaxScaler",
    "MiniBatchDictionaryLearning",
    "MiniBatchKMeans",
    "MiniBatchNMF",
    "MiniBatchSparsePCA",
    "MissingIndicator",
    "ModifiedHuber",
    "MultiLabelBinarizer",
    "MultiOutputClassifier",
    "MultiOutputRegressor",
    "MultiTaskElasticNet",
    "MultiTaskElasticNetCV",
    "MultiTaskLasso",
    "MultiTaskLassoCV",
    "MultinomialDeviance",
    "MultinomialLogit",
    "MultinomialNB",
    "NMF",
    "NearestCentroid",
    "NearestNeighbors",
    "NeighborhoodComponentsAnalysis",
    "Normalizer",
    "NuSVC",
    "NuSVR",
    "Nystroem",
    "OAS",
    "OPTICS",
    "OneClassSVM",
    "OneHotEncoder",
    "OneVsOneClassifier",
    "OneVsRestClassifier",
    "OrdinalEncoder",
    "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV",
    "OutputCodeClassifier",
    "PCA",
    "PLSCanonical",
    "PLSRegression",
    "PLSSVD",
    "PairwiseKernel",
    "PassiveAggressiveClassifier",
    "PassiveAggressiveRegressor",
    "PatchExtractor",
    "Perceptron",
    "PinballLoss",
    "Pipeline",
    "PoissonRegressor",
    "PolynomialCountSketch",
    "PolynomialFeatures",
    "PowerTransformer",
    "PredefinedSplit",
    "Product",
    "QuadraticDiscriminantAnalysis",
    "QuantileLossFunction",
    "QuantileRegressor",
    "QuantileTransformer",
    "RANSACRegressor",
    "RBF",
    "RBFSampler",
    "RFE",
    "RFECV",
    "RadiusNeighborsClassifier",
    "RadiusNeighborsRegressor",
    "RadiusNeighborsTransformer",
    "RandomForestClassifier",
    "RandomForestRegressor",
    "RandomTreesEmbedding",
    "RandomizedSearchCV",
    "RationalQuadratic",
    "RegressorChain",
    "RepeatedKFold",
    "RepeatedStratifiedKFold",
    "Ridge",
    "RidgeCV",
    "RidgeClassifier",
    "RidgeClassifierCV",
    "RobustScaler",
    "SGDClassifier",
    "SGDOneClassSVM",
    "SGDOptimizer",
    "SGDRegressor",
    "SVC",
    "SVR",
    "SelectFdr",
    "SelectFpr",
    "SelectFromModel",
    "SelectFwe",
    "SelectKBest",
    "SelectPercentile",
    "SelfTrainingClassifier",
    "SequentialFeatureSelector",
    "ShrunkCovariance",
    "ShuffleSplit",
    "SimpleImputer",
    "SkewedChi2Sampler",
    "SparseCoder",
    "SparsePCA",
    "SparseRandomProjection",
    "SpectralBiclustering",
    "SpectralClustering",
    "SpectralCoclustering",
    "SpectralEmbedding",
    "SplineTransformer",
    "SquaredEpsilonInsensitive",
    "SquaredHinge",
    "StackingClassifier",
    "StackingRegressor",
    "StandardScaler",
    "StratifiedGroupKFold",
    "StratifiedKFold",
    "StratifiedShuffleSplit",
    "Sum",
    "TSNE",
    "TargetEncoder",
    "TfidfTransformer",
    "TfidfVectorizer",
    "TheilSenRegressor",
    "TimeSeriesSplit",
    "TransformedTargetRegressor",
    "Tree",
    "TreePredictor",
    "TruncatedSVD",
    "TunedThresholdClassifierCV",
    "TweedieRegressor",
    "VarianceThreshold",
    "VotingClassifier",
    "VotingRegressor",
    "WhiteKernel",
    "_BinMapper",
    "_BinaryGaussianProcessClassifierLaplace",
    "_BisectingTree",
    "_CFNode",
    "_CFSubcluster",
    "_CalibratedClassifier",
    "_ConstantPredictor",
    "_CurveScorer",
    "_IsotonicCalibration",
    "_MultimetricScorer",
    "_PassthroughScorer",
    "_PredictScorer",
    "_ProbaScorer",
    "_RemainderColsList",
    "_Scorer",
    "_SigmoidCalibration",
    "_TemperatureScaling",
    "_ThresholdScorer",
    "make_column_selector",
};
static_assert(std::is_sorted(std::begin(pickle_sklearn_classes), std::end(pickle_sklearn_classes)));

inline bool is_sparse_kind(std::string_view kind) {
    static constexpr std::string_view kinds[] = {"bsr", "coo", "csc", "csr", "dia", "dok", "lil"};
    return std::find(std::begin(kinds), std::end(kinds), kind) != std::end(kinds);
}
inline bool is_sparse_class(std::string_view name) {
    return is_sparse_kind(name.substr(0, 3)) && (name.substr(3) == "_matrix" || name.substr(3) == "_array");
}

// Loading a name imports its module, which runs what stands there. These hold what models name; of numpy's others some
// are programs (numpy.f2py.__main__), and of scikit-learn's some are tests or fetch data.
inline constexpr std::string_view pickle_numpy_modules[] = {
    "numpy",
    "numpy._core._multiarray_umath",
    "numpy._core.fromnumeric",
    "numpy._core.multiarray",
    "numpy._core.numeric",
    "numpy._core.numerictypes",
    "numpy._core.records",
    "numpy._core.umath",
    "numpy.core._multiarray_umath",
    "numpy.core.fromnumeric",
    "numpy.core.multiarray",
    "numpy.core.numeric",
    "numpy.core.numerictypes",
    "numpy.core.records",
    "numpy.core.umath",
    "numpy.lib._function_base_impl",
    "numpy.lib.function_base",
    "numpy.ma",
    "numpy.ma.core",
    "numpy.matrixlib.defmatrix",
    "numpy.random",
    "numpy.random._generator",
    "numpy.random._mt19937",
    "numpy.random._pcg64",
    "numpy.random._philox",
    "numpy.random._pickle",
    "numpy.random._sfc64",
    "numpy.random.bit_generator",
    "numpy.random.mtrand",
    "numpy.rec",
};

inline bool is_quiet_sklearn_module(std::string_view module) {
    static constexpr std::string_view loud[] = {"__check_build", "__main__", "_build_utils",
                                                "conftest",      "datasets", "experimental",
                                                "externals",     "setup",    "tests"};
    while (!module.empty()) {
        const std::size_t dot = std::min(module.find('.'), module.size());
        const std::string_view part = module.substr(0, dot);
        if (part.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") != std::string_view::npos)
            return false;
        if (std::find(std::begin(loud), std::end(loud), part) != std::end(loud)) return false;
        module.remove_prefix(std::min(dot + 1, module.size()));
    }
    return true;
}

// "scipy.sparse._csr" since 1.8, "scipy.sparse.csr" before it.
inline bool is_sparse_module(std::string_view module) {
    static constexpr std::string_view package = "scipy.sparse";
    if (!module.starts_with(package)) return false;
    module.remove_prefix(package.size());
    if (module.empty()) return true;
    if (!module.starts_with('.')) return false;
    module.remove_prefix(module.starts_with("._") ? 2 : 1);
    return module.size() == 3 && is_sparse_kind(module);
}

inline bool is_sklearn_class(std::string_view module, std::string_view name) {
    const bool distance =
        name.ends_with("Distance32") || name.ends_with("Distance64") || name.ends_with("Distance");
    if (module == "sklearn.metrics._dist_metrics") return distance && !name.starts_with("PyFunc");
    return std::binary_search(std::begin(pickle_sklearn_classes), std::end(pickle_sklearn_classes), name);
}

// Functions that scorers, selectors and clusterings keep, to call when they are fitted.
inline bool is_sklearn_function(std::string_view module, std::string_view name) {
    if (module.starts_with("sklearn.metrics._"))
        return name.ends_with("_score") || name.ends_with("_error") || name.ends_with("_loss") ||
               name.ends_with("_deviance");
    if (module.starts_with("sklearn.feature_selection._"))
        return name == "chi2" || name == "f_classif" || name == "f_oneway" || name == "f_regression" ||
               name == "r_regression" || name.starts_with("mutual_info_");
    return module == "sklearn.cluster._kmeans" && name.starts_with("_kmeans_single_");
}

// What a name may do; nothing where it is refused.
inline std::optional<pickle_name> pickle_name_of(std::string_view module, std::string_view name) {
    const auto among = [&](const auto& list) {
        return std::find(std::begin(list), std::end(list), name) != std::end(list);
    };
    const auto allowed = [](bool found, pickle_name what) {
        return found ? std::optional(what) : std::nullopt;
    };
    for (const auto& row : pickle_names)
        if (row.module == module && row.name == name) return row.what;
    if (module == "builtins" || module == "__builtin__") {
        if (among(pickle_builtins)) return pickle_name::callable;
        return allowed(among(pickle_builtin_types), pickle_name::passive);
    }
    if (is_sparse_module(module)) return allowed(is_sparse_class(name), pickle_name::callable);
    if (std::find(std::begin(pickle_numpy_modules), std::end(pickle_numpy_modules), module) !=
        std::end(pickle_numpy_modules))
        return allowed(among(pickle_numpy_names), pickle_name::passive);
    if (!module.starts_with("sklearn.") || !is_quiet_sklearn_module(module)) return std::nullopt;
    constexpr std::string_view cython = "__pyx_unpickle_";  // how its classes are made anew
    const std::string_view type = name.starts_with(cython) ? name.substr(cython.size()) : name;
    if (is_sklearn_class(module, type)) return pickle_name::callable;
    return allowed(is_sklearn_function(module, name), pickle_name::passive);
}

}  // namespace bitmill::detail
