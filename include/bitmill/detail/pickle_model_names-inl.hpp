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
    search_tree,
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
    {"numpy._core.multiarray", "scalar", pickle_name::callable},
    {"numpy.core.multiarray", "scalar", pickle_name::callable},
    {"numpy.ma.core", "_mareconstruct", pickle_name::callable},
    {"numpy.random.bit_generator", "__pyx_unpickle_SeedSequence", pickle_name::callable},
    {"numpy.random._pickle", "__bit_generator_ctor", pickle_name::callable},
    {"numpy.random._pickle", "__generator_ctor", pickle_name::callable},
    {"numpy.random._pickle", "__randomstate_ctor", pickle_name::callable},
    {"scipy.interpolate._bsplines", "BSpline", pickle_name::callable},
    {"scipy.interpolate._interpolate", "interp1d", pickle_name::callable},
    {"sklearn.metrics._dist_metrics", "newObj", pickle_name::callable},
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
    "RouterMappingPair",
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
    "_ImputerTriplet",
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

inline bool is_sparse_class(std::string_view name) {
    for (const std::string_view kind : {"bsr", "coo", "csc", "csr", "dia", "dok", "lil"})
        if (name.starts_with(kind) && (name.substr(3) == "_matrix" || name.substr(3) == "_array"))
            return true;
    return false;
}

// What a name may do; nothing where it is refused.
inline std::optional<pickle_name> pickle_name_of(std::string_view module, std::string_view name) {
    const auto among = [&](const auto& list) {
        return std::find(std::begin(list), std::end(list), name) != std::end(list);
    };
    const auto below = [&](std::string_view package) {
        return module == package ||
               (module.starts_with(package) && module.substr(package.size()).starts_with('.'));
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
    if (below("scipy.sparse")) return allowed(is_sparse_class(name), pickle_name::callable);
    if (below("numpy")) return allowed(among(pickle_numpy_names), pickle_name::passive);
    if (!below("sklearn") || module.find(".externals") != std::string_view::npos) return std::nullopt;
    constexpr std::string_view cython = "__pyx_unpickle_";  // how its classes are made anew
    const std::string_view type = name.starts_with(cython) ? name.substr(cython.size()) : name;
    if (is_sklearn_class(module, type)) return pickle_name::callable;
    return allowed(is_sklearn_function(module, name), pickle_name::passive);
}

}  // namespace bitmill::detail
