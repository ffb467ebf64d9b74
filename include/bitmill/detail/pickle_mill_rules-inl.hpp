// How far the arrays of a pickled model may be coded, by their names and by what stands beside them. Of what scikit-learn
// fits, the weights that are known here are coded: all else may divide, be compared, be looked up, or be taken away from
// numbers of its own size, and a share of it as error may be all that counts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

namespace bitmill::detail {

enum class pickle_use : std::uint8_t {
    any,     // not scikit-learn's name: the caller's own arrays
    weight,  // stands 8 bits
    half,    // stands 16: numbers that add up or multiply, each with a digit that counts
    exact,
};

// The path without its last part: "steps.0.1" of "steps.0.1.idf_"; "" of "idf_".
inline std::string_view owner_of(std::string_view path) {
    const std::size_t dot = path.rfind('.');
    return dot == std::string_view::npos ? std::string_view() : path.substr(0, dot);
}
inline std::string_view last_of(std::string_view path) {
    const std::size_t dot = path.rfind('.');
    return dot == std::string_view::npos ? path : path.substr(dot + 1);
}

// The path of the attribute that an array belongs to: "m.categories_" of "m.categories_.2", "m.coef_" of the "m.coef_.data"
// of a sparse matrix.
inline std::string_view attribute_path(std::string_view path) {
    while (path.find('.') != std::string_view::npos &&
           (last_of(path).find_first_not_of("0123456789") == std::string_view::npos ||
            (last_of(path) == "data" && last_of(owner_of(path)).ends_with('_')) ||
            (last_of(path) == "data" && last_of(owner_of(path)).starts_with('_'))))
        path = owner_of(path);
    return path;
}

inline bool is_fit_name(std::string_view name) { return name.ends_with('_') || name.starts_with('_'); }

inline pickle_use pickle_use_of(std::string_view path) {
    static constexpr std::string_view weights[] = {"_best_coefs", "cluster_centers_", "coef_",
                                                   "coefs_",      "components_",      "support_vectors_"};
    const std::string_view attribute = attribute_path(path);
    const std::string_view name = last_of(attribute);
    const bool is_weight = std::find(std::begin(weights), std::end(weights), name) != std::end(weights);
    bool fitted = is_fit_name(name);
    for (std::string_view at = owner_of(attribute); !at.empty(); at = owner_of(at)) {
        // A selector compares the weights of its estimator when it is asked, not when it is fitted.
        if (last_of(at) == "estimator_") return pickle_use::exact;
        if (last_of(at) == "_optimizer") return pickle_use::any;  // what only further training reads
        fitted = fitted || is_fit_name(last_of(at));
    }
    if (is_weight) return pickle_use::weight;
    if (name == "intercepts_" || (name == "values" && last_of(owner_of(attribute)) == "tree_"))
        return pickle_use::half;
    return fitted ? pickle_use::exact : pickle_use::any;
}

// What another attribute of the same object says of an array's error: it grows by the strain, as seen in what the model
// says in the end. Up to 8 times int8 is good enough, up to 32 times fp16.
struct pickle_strain {
    enum class measure : std::uint8_t {
        against,  // the largest number beside the array's own largest: what is added takes as much away
        kernel,   // support vectors are multiplied by each other and these, and added: see too_lossy
        spread,  // of variances: the square root of the largest over the smallest, which whitening makes up for
        there,  // whatever its numbers
    };
    std::string_view array, beside;
    measure how;
};
inline constexpr pickle_strain pickle_strains[] = {
    {"coef_", "intercept_", pickle_strain::measure::against},
    {"components_", "explained_variance_", pickle_strain::measure::spread},
    {"components_", "normalization_", pickle_strain::measure::there},
    {"components_", "whitening_", pickle_strain::measure::there},
    {"support_vectors_", "_dual_coef_", pickle_strain::measure::kernel},
    {"support_vectors_", "dual_coef_", pickle_strain::measure::kernel},
};
inline constexpr double most_int8_strain = 8;
inline constexpr double most_fp16_strain = 32;

struct pickle_magnitudes {
    double least = std::numeric_limits<double>::infinity();
    double largest = 0;
    double squares = 0;

    void add(double value) {
        least = std::min(least, std::abs(value));
        largest = std::max(largest, std::abs(value));
        squares += value * value;
    }
};

inline double strain_of(pickle_strain::measure how, const pickle_magnitudes& beside, double own_largest) {
    switch (how) {
        case pickle_strain::measure::against: return own_largest == 0 ? 0 : beside.largest / own_largest;
        case pickle_strain::measure::kernel: return 0;
        case pickle_strain::measure::spread: return std::sqrt(beside.largest / beside.least);
        case pickle_strain::measure::there: break;
    }
    return std::numeric_limits<double>::infinity();
}

// Squares about the mean, of all numbers or of each of `columns`.
class pickle_spread {
public:
    explicit pickle_spread(std::size_t columns) : columns_(columns) {}
    void add(std::size_t which, double value) {
        auto& c = columns_[which];
        if (c.count++ == 0) c.first = value;
        const double moved =
            value - c.first;  // small where all are alike, so that the squares keep their digits
        c.sum += moved;
        c.squares += moved * moved;
    }
    [[nodiscard]] double sum() const {
        double out = 0;
        for (const auto& c : columns_)
            if (c.count != 0) out += std::max(0.0, c.squares - c.sum * c.sum / static_cast<double>(c.count));
        return out;
    }

private:
    struct column {
        double first = 0, sum = 0, squares = 0;
        std::uint64_t count = 0;
    };
    std::vector<column> columns_;
};

}  // namespace bitmill::detail
