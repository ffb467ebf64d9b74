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
    {"numpy._core", "_ufunc_reconstruct", pickle_name::callable},
    {"numpy.core", "_ufunc_reconstruct", pickle_name::callable},
    {"numpy.ma.core", "_mareconstruct", pickle_name::callable},
    {"numpy.random.bit_generator", "__pyx_unpickle_SeedSequence", pickle_name::callable},
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

// Types of Python itself, all harmless to make.
inline constexpr std::string_view pickle_builtins[] = {
    "bool", "bytearray", "bytes", "complex", "dict",  "float", "frozenset", "int",
    "list", "object",    "range", "set",     "slice", "str",   "tuple",
};

// What a name may do; nothing where it is refused.
inline std::optional<pickle_name> pickle_name_of(std::string_view module, std::string_view name) {
    for (const auto& row : pickle_names)
        if (row.module == module && row.name == name) return row.what;
    const auto below = [&](std::string_view package) {
        return module == package ||
               (module.starts_with(package) && module.substr(package.size()).starts_with('.'));
    };
    if (module == "builtins" || module == "__builtin__")
        return std::find(std::begin(pickle_builtins), std::end(pickle_builtins), name) !=
                       std::end(pickle_builtins)
                   ? std::optional(pickle_name::callable)
                   : std::nullopt;
    // A dotted name reaches into what it names: picklers write it only for nested classes and methods.
    if (name.find('.') != std::string_view::npos) return std::nullopt;
    if (below("numpy.random._pickle")) return pickle_name::callable;
    if (below("scipy.sparse")) return pickle_name::callable;
    if (below("sklearn") || below("scipy.interpolate")) {
        // Classes, and how Cython's classes are made anew; scikit-learn's other functions fetch and run things.
        const std::size_t first = name.find_first_not_of('_');
        const bool is_class = first != std::string_view::npos && name[first] >= 'A' && name[first] <= 'Z';
        return is_class || name == "newObj" || name.starts_with("__pyx_unpickle_") ? pickle_name::callable
                                                                                   : pickle_name::passive;
    }
    return below("numpy") || below("scipy") ? std::optional(pickle_name::passive) : std::nullopt;
}

}  // namespace bitmill::detail
