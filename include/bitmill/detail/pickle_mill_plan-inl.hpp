// What becomes of each array of a pickled model. An array that is coded is made again by the calls that the new file
// holds: numpy.multiply(codes, scale) for int8, numpy.array(halves, dtype) for fp16. numpy alone loads it, and gives it
// its dtype, shape and order back.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <bitmill/codec/codec.hpp>
#include <bitmill/core/half.hpp>
#include <bitmill/detail/element_buffer-inl.hpp>
#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/detail/pickle_mill_instructions-inl.hpp>
#include <bitmill/detail/pickle_mill_rules-inl.hpp>
#include <bitmill/detail/plan-inl.hpp>
#include <bitmill/detail/tile_runner-inl.hpp>
#include <bitmill/io/pickle_model.hpp>
#include <bitmill/mill/options.hpp>
#include <bitmill/mill/plan.hpp>

namespace bitmill::detail {

struct pickle_item {
    std::optional<scheme> requested, effective;  // empty: keep
    bool prune_only = false;
    double one_sign = 0;  // where all elements have one sign: the smallest magnitude
    double spread = 0;    // squares of the elements about the mean of their column
    double strain = 0;    // see pickle_strain
    double kernel =
        0;  // of support vectors: the root of the squares of what they are multiplied by, in margins
    std::string reason;
    value_range range;       // of its elements, with per_tensor
    std::uint64_t rows = 0;  // as they follow one another in the file
    std::uint64_t cols = 0;
    std::string scales;  // little-endian, of the scheme's scale_dtype
    error_metrics error;
};

// Range and soundness of an array's elements.
struct pickle_range {
    double low = std::numeric_limits<double>::infinity();
    double high = -low;
    double last = -low;
    bool ascending = true;
    bool whole = true;
    std::optional<std::uint64_t> not_finite;  // the first such element
};

class pickle_planner {
public:
    // Under as many bytes the instructions that a coded array takes outweigh what it saves.
    static constexpr std::uint64_t least_bytes = 256;
    // Rows of fewer elements share one scale: 4 bytes for each row would add an eighth and more to their codes.
    static constexpr std::uint64_t least_cols = 32;
    // A tenth of the array's size as error, and 0.3 %: less is left only where a few large numbers set the scale, or
    // where most numbers are below fp16's normal ones.
    static constexpr double least_int8_db = 20;
    static constexpr double least_fp16_db = 50;
    // The same, of what the numbers differ by: the 2000 that all years share is no signal.
    static constexpr double least_fp16_spread_db = 40;
    // Weights that int8 takes for 0: 1 % of normal ones, 3 % of Laplace's. More stand for features of another unit.
    static constexpr double most_zeroed = 0.05;
    // Fitted weights under as many bytes are few, of features that need not be of one unit, and 8 bits save little.
    static constexpr std::uint64_t least_int8_bytes = 4096;
    // Of what a kernel machine says, whose margins are 1 away.
    static constexpr double most_kernel_error = 0.05;
    // Whose means are looked at: a column takes 32 bytes.
    static constexpr std::uint64_t most_columns = 65536;
    // Above this fp16 does not hold each whole number.
    static constexpr double most_whole_in_fp16 = 2048;

    pickle_planner(const pickle_model& model, const mill_options& options)
        : model_(model), options_(options), source_(memory_or_default(options.memory)),
          codes_(memory_or_default(options.memory)), scales_(memory_or_default(options.memory)) {}

    result<std::vector<pickle_item>> plan() {
        if (auto sound = check_options(); !sound) return sound.error();
        auto include = pattern_list::compile(options_.include, "include");
        if (!include) return include.error();
        auto exclude = pattern_list::compile(options_.exclude, "exclude");
        if (!exclude) return exclude.error();
        std::vector<pickle_item> items(model_.arrays().size());
        if (auto measured = measure_companions(); !measured) return measured.error();
        for (std::size_t i = 0; i < items.size(); ++i) wish(i, items[i], *include, *exclude);
        for (std::size_t i = 0; i < items.size(); ++i)
            if (auto done = look_at(i, items[i]); !done) return done.error();
        if (!options_.dynamic_range) share_range(items);
        for (std::size_t i = 0; i < items.size(); ++i)
            if (auto done = decide(i, items[i]); !done) return done.error();
        return items;
    }

    // use(bytes) -> result<void> gets the codes of an array, tile by tile.
    template <class Use>
    result<void> encode_array(std::size_t index, pickle_item& item, float threshold, bool measure,
                              const Use& use);
    // The same elements, those below the threshold as 0.
    template <class Use>
    result<void> prune_array(std::size_t index, pickle_item& item, const Use& use);
    // Numbers of one sign may be variances, which divide: none of them becomes 0.
    [[nodiscard]] float threshold_of(const pickle_array& array, const pickle_item& item) const {
        return array.shape.size() < 2 || item.one_sign > 0 ? 0 : options_.weight_threshold;
    }

    // The calls that make the array from its codes.
    [[nodiscard]] static std::string before(const pickle_item& item) {
        return numpy_name(is_int8(item) ? "multiply" : "array");
    }
    [[nodiscard]] static std::string after(const pickle_array& array, const pickle_item& item);
    [[nodiscard]] static std::string code_dtype(const pickle_item& item) {
        return "0" + numpy_name("dtype") + pickle_text(is_int8(item) ? "i1" : "f2") + "\x89\x88\x87R";
    }
    [[nodiscard]] static std::uint64_t code_bytes(const pickle_array& array, const pickle_item& item) {
        return item.prune_only ? array.bytes : array.elements * (is_int8(item) ? 1 : 2);
    }
    // What stands before the codes in the place of the instruction that held the elements.
    [[nodiscard]] static std::string code_head(const pickle_array& array, const pickle_item& item) {
        using storage = pickle_array::storage;
        const std::uint64_t bytes = code_bytes(array, item);
        if (array.stored == storage::raw) return {};
        return array.stored == storage::byte_array ? "\x96" + pickle_le(bytes, 8) : pickle_bytes_head(bytes);
    }
    // Bytes that all of that takes less than the array did; negative where it takes more.
    [[nodiscard]] static std::int64_t saving(const pickle_array& array, const pickle_item& item);

private:
    [[nodiscard]] static bool is_int8(const pickle_item& item) {
        return item.effective && item.effective->type == scheme_type::int8;
    }
    // Means, divisors and counts of features stand in vectors: on one scale the small ones are lost, and with a divisor
    // all that it divides. Weights that stand in one are named so.
    [[nodiscard]] static bool is_vector(const pickle_array& array) {
        return array.shape.size() < 2 && pickle_use_of(array.name) != pickle_use::weight;
    }
    [[nodiscard]] static bool has_fit_name(const pickle_array& array) {
        return pickle_use_of(array.name) != pickle_use::any;
    }
    [[nodiscard]] bool prunes_only() const { return options_.to == scheme_type::f32; }
    result<void> check_options() const;
    result<void> measure_companions();
    template <class Use>
    void each_companion(const pickle_array& array, const Use& use) const;
    [[nodiscard]] double strain_on(const pickle_array& array, double largest) const;
    [[nodiscard]] double kernel_on(const pickle_array& array) const;
    [[nodiscard]] std::string too_lossy(const pickle_item& item, const scheme& wanted) const;
    void wish(std::size_t index, pickle_item& item, const pattern_list& include,
              const pattern_list& exclude) const;
    result<void> look_at(std::size_t index, pickle_item& item);
    void share_range(std::vector<pickle_item>& items) const;
    result<void> decide(std::size_t index, pickle_item& item);
    result<bool> try_scheme(std::size_t index, pickle_item& item, const scheme& wanted);
    result<void> leave(std::size_t index, pickle_item& item, std::string reason) const;
    [[nodiscard]] scheme wanted_scheme(const pickle_array& array, const pickle_item& item) const;
    template <class Use>
    result<void> each_tile(std::size_t index, std::uint64_t elements, const Use& use);

    const pickle_model& model_;
    const mill_options& options_;
    element_buffer source_, codes_, scales_;
    std::map<std::string, pickle_magnitudes, std::less<>> companions_;  // by path
};

inline result<void> pickle_planner::check_options() const {
    const auto refuse = [](std::string message) {
        return error{.code = error_code::invalid_argument, .message = std::move(message)};
    };
    if (options_.to != scheme_type::int8 && options_.to != scheme_type::f16 &&
        options_.to != scheme_type::f32)
        return refuse(std::string("numpy has no ") + facts(options_.to).name +
                      ": a pickled model takes int8, fp16 and fp32 (copy and prune only)");
    if (options_.format != format::automatic && options_.format != format::pickle)
        return refuse("a pickled model stays a pickle: leave out the format");
    if (options_.activation != activation::floating || options_.embeddings || !options_.levels.empty() ||
        !options_.override.empty() || !options_.symmetric || options_.double_quant)
        return refuse(
            "of the options of coding, a pickled model knows per_tensor, per_channel, include, exclude, "
            "weight_threshold and method absmax only");
    if (options_.method.value_or(method::absmax) != method::absmax)
        return refuse("a pickled model is coded by method absmax");
    if (options_.granularity.value_or(granularity::per_channel) == granularity::group)
        return refuse("a pickled model has one scale for an array or for each of its rows, not for groups");
    if (auto sound = check_pruning(options_); !sound) return sound;
    if (options_.prune_relative > 0 || options_.target_sparsity > 0)
        return refuse("a pickled model is pruned by weight_threshold only");
    if (options_.memory_limit < 4 * tile_bytes)
        return error{.code = error_code::out_of_memory,
                     .message = "one tile needs 2 MiB, more than the memory limit: raise --memory-limit"};
    return {};
}

// What is asked of an array, by what it is.
inline void pickle_planner::wish(std::size_t index, pickle_item& item, const pattern_list& include,
                                 const pattern_list& exclude) const {
    const pickle_array& array = model_.arrays()[index];
    const pickle_use use = pickle_use_of(array.name);
    if (!facts(array.type).weight)
        item.reason = "not a float array";
    else if (array.bytes < least_bytes)
        item.reason = "too small to gain";
    else if (array.search_tree)
        item.reason = "a search tree relies on its exact points and bounds";
    else if (!include.empty() && !include.match(array.name))
        item.reason = "not included";
    else if (exclude.match(array.name))
        item.reason = "excluded";
    else if (use == pickle_use::exact && include.empty())
        item.reason = "of what scikit-learn fits, only known weights are coded (include names others)";
    else
        item.requested.emplace().type = options_.to;
}

template <class Use>
result<void> pickle_planner::each_tile(std::size_t index, std::uint64_t elements, const Use& use) {
    const pickle_array& array = model_.arrays()[index];
    const std::uint64_t width = element_bytes(array.type);
    pickle_array_reader reader(model_, array);
    for (std::uint64_t at = 0; at < array.elements;) {
        const std::uint64_t count = std::min(elements, array.elements - at);
        std::byte* const tile = grow(source_, count * width);
        if (auto read = reader.next({tile, static_cast<std::size_t>(count * width)}); !read) return read;
        if (auto used = use(tile, at, count); !used) return used;
        at += count;
    }
    return {};
}

inline double pickle_element(const std::byte* tile, dtype type, std::uint64_t index) {
    if (type == dtype::f64) return reinterpret_cast<const double*>(tile)[index];
    if (type == dtype::f32) return static_cast<double>(reinterpret_cast<const float*>(tile)[index]);
    return static_cast<double>(f32_from_f16(reinterpret_cast<const std::uint16_t*>(tile)[index]));
}

inline result<void> pickle_planner::measure_companions() {
    const auto is_one = [](std::string_view name) {
        return std::any_of(std::begin(pickle_strains), std::end(pickle_strains),
                           [&](const pickle_strain& row) { return row.beside == name; });
    };
    for (const auto& one : model_.singles())
        if (is_one(last_of(one.name))) companions_[one.name].add(static_cast<double>(one.value));
    for (std::size_t i = 0; i < model_.arrays().size(); ++i) {
        const pickle_array& array = model_.arrays()[i];
        const std::string_view path = attribute_path(array.name);
        if (!facts(array.type).weight || !is_one(last_of(path)) || array.fixed == "big-endian") continue;
        pickle_magnitudes& found = companions_[std::string(path)];
        const auto look = [&](const std::byte* tile, std::uint64_t, std::uint64_t count) -> result<void> {
            for (std::uint64_t k = 0; k < count; ++k) found.add(pickle_element(tile, array.type, k));
            return {};
        };
        if (auto done = each_tile(i, tile_bytes / 8, look); !done) return done;
    }
    return {};
}

// use(strain, magnitudes) of each attribute that stands beside the array and counts.
template <class Use>
void pickle_planner::each_companion(const pickle_array& array, const Use& use) const {
    const std::string_view path = attribute_path(array.name);
    const std::string_view owner = owner_of(path);
    for (const auto& row : pickle_strains) {
        if (row.array != last_of(path)) continue;
        const auto beside =
            companions_.find((owner.empty() ? "" : std::string(owner) + ".") + std::string(row.beside));
        if (beside != companions_.end()) use(row, beside->second);
    }
}

inline double pickle_planner::strain_on(const pickle_array& array, double largest) const {
    double worst = 0;
    each_companion(array, [&](const pickle_strain& row, const pickle_magnitudes& beside) {
        const double strain = strain_of(row.how, beside, largest);
        worst = strain > worst || std::isnan(strain) ? strain : worst;
    });
    return worst;
}

inline double pickle_planner::kernel_on(const pickle_array& array) const {
    double most = 0;
    each_companion(array, [&](const pickle_strain& row, const pickle_magnitudes& beside) {
        if (row.how == pickle_strain::measure::kernel && beside.largest > 0)
            most = std::max(most, std::sqrt(beside.squares) / std::min(1.0, beside.largest));
    });
    return most;
}

// What cannot be coded is found before anything is.
inline result<void> pickle_planner::look_at(std::size_t index, pickle_item& item) {
    const pickle_array& array = model_.arrays()[index];
    if (!item.requested || !array.fixed.empty()) return {};
    pickle_range found;
    // Columns are features, most of the time: what all of theirs share, such as the 2000 of years, is no signal. As
    // they follow one another in the file, those of a column_major array are rows.
    const bool by_feature = array.shape.size() == 2 && array.shape[0] > 1 && array.elements != 0 &&
                            array.shape[1] <= most_columns;
    const std::uint64_t run = by_feature ? array.shape[array.column_major ? 0 : 1] : 1;
    pickle_spread spread(by_feature ? static_cast<std::size_t>(array.shape[1]) : 1);
    const auto look = [&](const std::byte* tile, std::uint64_t first, std::uint64_t count) -> result<void> {
        for (std::uint64_t i = 0; i < count; ++i) {
            const double value = pickle_element(tile, array.type, i);
            if (!std::isfinite(value) && !found.not_finite) found.not_finite = first + i;
            found.low = std::min(found.low, value);
            found.high = std::max(found.high, value);
            found.ascending = found.ascending && value > found.last;
            found.whole = found.whole && value == std::rint(value);
            const std::uint64_t at = first + i;
            spread.add(static_cast<std::size_t>(!by_feature          ? 0
                                                : array.column_major ? at / run
                                                                     : at % run),
                       value);
            found.last = value;
        }
        return {};
    };
    if (auto done = each_tile(index, tile_bytes / 8, look); !done) return done;
    item.one_sign = std::max({found.low, -found.high, 0.0});
    if (prunes_only()) return {};
    // Scores, distances and what was missing in training data are NaN or infinite in sound models.
    if (found.not_finite)
        return leave(index, item, "element " + std::to_string(*found.not_finite) + " is NaN or infinite");
    const double largest = std::max(found.high, -found.low);
    if (largest > static_cast<double>(std::numeric_limits<float>::max()))
        return leave(index, item, "holds numbers beyond float32");
    if (largest > 0 && largest < static_cast<double>(std::numeric_limits<float>::min()))
        return leave(index, item, "holds numbers below float32");
    if (array.shape.size() == 1 && found.ascending)
        return leave(index, item, "ascending numbers are looked up by value");
    if (found.whole && largest > most_whole_in_fp16 && !has_fit_name(array))
        return leave(index, item, "whole numbers may name or count something");
    item.spread = spread.sum();
    item.strain = strain_on(array, largest);
    item.kernel = kernel_on(array);
    item.range.include({static_cast<float>(found.low), static_cast<float>(found.high)});
    return {};
}

inline void pickle_planner::share_range(std::vector<pickle_item>& items) const {
    value_range whole;
    for (std::size_t i = 0; i < items.size(); ++i)
        if (items[i].requested && items[i].reason.empty() && !is_vector(model_.arrays()[i]))
            whole.include(items[i].range);
    for (auto& item : items) item.range = whole;
}

inline result<void> pickle_planner::leave(std::size_t index, pickle_item& item, std::string reason) const {
    if (options_.strict)
        return make_error(error_code::bad_input, reason + "; strict forbids to keep it as it is",
                          model_.file().path(), model_.arrays()[index].name);
    item.effective.reset();
    item.prune_only = false;
    item.reason = std::move(reason);
    return {};
}

inline scheme pickle_planner::wanted_scheme(const pickle_array& array, const pickle_item& item) const {
    scheme out;
    out.type = options_.to;
    // A half times a wider scale is no half.
    out.scale_dtype = array.type == dtype::f16 ? dtype::f16 : dtype::f32;
    const bool rows = options_.granularity.value_or(granularity::per_channel) == granularity::per_channel &&
                      options_.dynamic_range && array.type != dtype::f16 && item.rows > 1 &&
                      item.cols >= least_cols && item.cols <= tile_bytes / 8;
    out.granularity = rows ? granularity::per_channel : granularity::per_tensor;
    return out;
}

inline result<void> pickle_planner::decide(std::size_t index, pickle_item& item) {
    const pickle_array& array = model_.arrays()[index];
    if (!item.requested || !item.reason.empty()) return {};
    if (!array.fixed.empty()) return leave(index, item, array.fixed);
    if (prunes_only()) {
        if (threshold_of(array, item) == 0) {
            item.reason = options_.weight_threshold == 0 ? "fp32 copies and prunes only"
                          : array.shape.size() < 2       ? "a vector is not pruned"
                                                         : "numbers of one sign may be divisors: not pruned";
            return {};
        }
        if (array.stored == pickle_array::storage::latin1)
            return leave(index, item, "protocol 2 holds it as text; save it with protocol 4 to prune it");
        item.prune_only = true;
        return prune_array(index, item, [](std::span<const std::byte>) { return result<void>(); });
    }
    item.rows = array.shape.size() > 1 ? array.shape[array.column_major ? array.shape.size() - 1 : 0] : 1;
    item.cols = array.elements / std::max<std::uint64_t>(item.rows, 1);
    const scheme wanted = wanted_scheme(array, item);
    item.requested = wanted;
    std::string why;
    if (wanted.type == scheme_type::int8 && is_vector(array))
        why = "numbers of a vector need not be of one unit";
    else if (wanted.type == scheme_type::int8 && has_fit_name(array) &&
             pickle_use_of(array.name) != pickle_use::weight)
        why = "of what scikit-learn fits, weights alone stand 8 bits";
    else if (wanted.type == scheme_type::int8 && has_fit_name(array) && array.bytes < least_int8_bytes)
        why = "8 bits would save little, and features need not be of one unit";
    else if (wanted.type == scheme_type::int8 && item.one_sign > 0)
        why = "numbers of one sign may be divisors, which need all of their size";
    if (why.empty()) {
        const auto done = try_scheme(index, item, wanted);
        if (!done || *done) return done ? result<void>() : done.error();
        why = item.reason;
    }
    if (wanted.type != scheme_type::int8 || array.type == dtype::f16 || options_.strict)
        return leave(index, item, why);
    scheme half;
    half.type = scheme_type::f16;
    const auto done = try_scheme(index, item, half);
    if (!done) return done.error();
    if (!*done) return leave(index, item, why + "; " + item.reason);
    item.reason = why;
    return {};
}

// Whether the scheme gains, and keeps enough; item.reason says why not.
inline result<bool> pickle_planner::try_scheme(std::size_t index, pickle_item& item, const scheme& wanted) {
    const pickle_array& array = model_.arrays()[index];
    item.effective = wanted;
    item.scales.clear();
    const auto refuse = [&](std::string why) {
        item.reason = std::move(why);
        item.effective.reset();
        return false;
    };
    if (wanted.type == scheme_type::f16) {
        if (array.type == dtype::f16) return refuse("has 16 bits already");
        // 65520 and more round to infinity.
        if (std::max(item.range.high, -item.range.low) >= 65520) return refuse("overflows fp16");
        // Below its normal numbers fp16 keeps no share of a number: variances of scikit-learn's digits grew by 1.6.
        if (item.one_sign > 0 && item.one_sign < 0x1p-14)
            return refuse("fp16 rounds its smallest numbers too much");
    }
    // How much the codes alone lose decides: what pruning takes is the caller's wish.
    const auto none = [](std::span<const std::byte>) { return result<void>(); };
    if (auto done = encode_array(index, item, 0, true, none); !done) return done.error();
    if (std::string why = too_lossy(item, wanted); !why.empty()) return refuse(std::move(why));
    if (threshold_of(array, item) > 0)
        if (auto done = encode_array(index, item, threshold_of(array, item), true, none); !done)
            return done.error();
    if (saving(array, item) <= 0) return refuse("would not shrink");
    item.reason.clear();
    return true;
}

// Why the item's error is too large for the scheme that it comes from; "" where it is not.
inline std::string pickle_planner::too_lossy(const pickle_item& item, const scheme& wanted) const {
    const bool eight = wanted.type == scheme_type::int8;
    const std::string name = facts(wanted.type).name;
    if (!(item.strain <= (eight ? most_int8_strain : most_fp16_strain)))
        return "what stands beside it makes the error of " + name + " larger";
    const auto added = static_cast<double>(item.error.zeros_after() - item.error.zeros_before());
    if (eight && added > most_zeroed * static_cast<double>(item.error.elements()))
        return "over a twentieth of it would become 0";
    const auto keeps = [&](double db, const char* of) {
        const auto tenths = static_cast<long>(std::max(db, -99.0) * 10);
        return name + " would keep only " + std::to_string(tenths / 10) + "." +
               std::to_string(std::abs(tenths % 10)) + " dB of " + of;
    };
    const auto& sums = item.error.sums();
    if (sums.err2 == 0) return {};
    // What a linear kernel multiplies an error by: a vector's length, and what they are added with.
    const double length2 = sums.src2 / static_cast<double>(std::max<std::uint64_t>(item.rows, 1));
    const double error2 = sums.err2 / static_cast<double>(item.error.elements());
    if (item.kernel * std::sqrt(length2 * error2) > most_kernel_error)
        return name + " would move what its kernel says by " +
               std::to_string(item.kernel * std::sqrt(length2 * error2));
    const double db = item.error.snr_db();
    if (db < (eight ? least_int8_db : least_fp16_db)) return keeps(db, "it");
    const double spread_db = 10 * std::log10(item.spread / sums.err2);
    if (spread_db < (eight ? least_int8_db : least_fp16_spread_db))
        return keeps(spread_db, "what its numbers differ by");
    return {};
}

template <class Use>
result<void> pickle_planner::encode_array(std::size_t index, pickle_item& item, float threshold, bool measure,
                                          const Use& use) {
    const pickle_array& array = model_.arrays()[index];
    const scheme& s = *item.effective;
    const bool by_row = s.type == scheme_type::int8 && s.granularity == granularity::per_channel;
    const std::uint64_t per_tile =
        by_row ? std::max<std::uint64_t>(1, tile_bytes / 8 / item.cols) * item.cols : tile_bytes / 8;
    const std::uint64_t width = s.type == scheme_type::int8 ? 1 : 2;
    encode_options how;
    how.weight_threshold = threshold;
    how.measure = measure;
    how.count_zeros = measure;
    how.memory = options_.memory;
    if (!by_row) how.range = item.range;
    if (measure) {
        item.error = {};
        item.scales.clear();
    }
    return each_tile(
        index, per_tile, [&](const std::byte* tile, std::uint64_t, std::uint64_t count) -> result<void> {
            const auto rows = static_cast<std::size_t>(by_row ? count / item.cols : 1);
            const auto cols = static_cast<std::size_t>(count) / rows;
            const std::size_t scale_bytes = element_bytes(s.scale_dtype) * rows;
            encoded_view out;
            out.codes = grow(codes_, count * width);
            out.scales = grow(scales_, scale_bytes);
            const auto metrics = encode(s, {array.type, tile, rows, cols}, out, how);
            if (!metrics) {
                error failed = metrics.error();
                failed.file = model_.file().path();
                failed.tensor = array.name;
                failed.offset = array.data;
                return failed;
            }
            if (measure) {
                item.error.add(*metrics);
                if (!by_row) item.scales.clear();
                if (width == 1) item.scales.append(reinterpret_cast<const char*>(out.scales), scale_bytes);
            }
            return use(std::span<const std::byte>(out.codes, static_cast<std::size_t>(count * width)));
        });
}

template <class Use>
result<void> pickle_planner::prune_array(std::size_t index, pickle_item& item, const Use& use) {
    const pickle_array& array = model_.arrays()[index];
    const std::size_t width = element_bytes(array.type);
    const auto threshold = static_cast<double>(threshold_of(array, item));
    item.error = {};
    return each_tile(index, tile_bytes / 8, [&](std::byte* tile, std::uint64_t, std::uint64_t count) {
        kernels::sums sums;
        std::uint64_t zeros = 0, pruned = 0;
        for (std::uint64_t i = 0; i < count; ++i) {
            const double value = std::abs(pickle_element(tile, array.type, i));
            sums.src2 += value * value;
            zeros += value == 0 ? 1 : 0;
            if (!(value < threshold)) continue;
            std::fill_n(tile + i * width, width, std::byte{0});
            sums.err2 += value * value;
            sums.max_err = std::max(sums.max_err, static_cast<float>(value));
            pruned += value == 0 ? 0 : 1;
        }
        sums.dst2 = sums.src2 - sums.err2;
        item.error.add(sums, count);
        item.error.add_zeros(zeros, zeros + pruned);
        return use(std::span<const std::byte>(tile, static_cast<std::size_t>(count) * width));
    });
}

inline std::string pickle_planner::after(const pickle_array& array, const pickle_item& item) {
    std::string out;
    const std::string type = pickle_text(numpy_dtype(array.type));
    if (!is_int8(item)) {
        out = type;
    } else if (item.effective->granularity == granularity::per_tensor) {
        // The scale's type makes the product's: a float of Python stands for float64 beside int8.
        const auto bits =
            static_cast<unsigned char>(item.scales[0]) | static_cast<unsigned char>(item.scales[1]) << 8;
        float scale = f32_from_f16(static_cast<std::uint16_t>(bits));
        if (array.type != dtype::f16) std::memcpy(&scale, item.scales.data(), sizeof scale);
        out = pickle_float(static_cast<double>(scale));
        if (array.type != dtype::f64)
            out = numpy_name(array.type == dtype::f32 ? "float32" : "float16") + out + "\x85R";
    } else {
        // An array of the scales that spreads over the rows.
        std::string shape = "(";
        for (std::size_t d = 0; d < array.shape.size(); ++d)
            shape += pickle_integer(d == (array.column_major ? array.shape.size() - 1 : 0) ? item.rows : 1);
        out = numpy_name("ndarray") + shape + "t" + pickle_text("<f4") +
              pickle_bytes_head(item.scales.size()) + item.scales + "\x87R";
        if (array.type == dtype::f64) out = numpy_name("array") + out + type + "\x86R";
    }
    out += "\x86R";
    if (array.memo)
        out += *array.memo <= 0xff ? "q" + pickle_le(*array.memo, 1) : "r" + pickle_le(*array.memo, 4);
    return out;
}

inline std::int64_t pickle_planner::saving(const pickle_array& array, const pickle_item& item) {
    std::uint64_t added = before(item).size() + code_dtype(item).size() + after(array, item).size() +
                          code_head(array, item).size() + code_bytes(array, item);
    if (array.stored == pickle_array::storage::latin1) added += 6;  // an empty text, and POP
    return static_cast<std::int64_t>(array.data_end - array.op) - static_cast<std::int64_t>(added);
}

}  // namespace bitmill::detail
