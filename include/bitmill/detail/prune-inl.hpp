// Which weights of a tensor become 0 where that depends on all of them: found tile by tile in passes of bounded memory,
// the same on any number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <vector>

#include <bitmill/codec/codec.hpp>
#include <bitmill/detail/float_source-inl.hpp>

namespace bitmill::detail {

// The magnitudes of f32 sort as their bits do. Each pass counts the elements that agree with the bits found so far by
// their next 11 bits, and so finds these; counts are integers, so the order in which they are added does not matter.
class magnitude_selection {
public:
    static constexpr unsigned digit_bits = 11;
    using counts = std::array<std::uint64_t, std::size_t{1} << digit_bits>;

    // `rank`: how many elements come before it, in ascending order. `source`: whose f32 the elements are; f16 and bf16
    // leave the lowest bits 0.
    magnitude_selection(std::uint64_t rank, dtype source)
        : rank_(rank), least_(source == dtype::f16    ? 13
                              : source == dtype::bf16 ? 16
                                                      : 0) {}

    // After enough passes.
    [[nodiscard]] bool found() const { return low_ <= least_; }
    [[nodiscard]] float magnitude() const { return std::bit_cast<float>(prefix_ << low_); }
    // Of the elements of just this magnitude: how many there are, and how many of them come before the rank.
    [[nodiscard]] std::uint64_t ties() const { return ties_; }
    [[nodiscard]] std::uint64_t ties_before() const { return rank_; }

    // A pass sees every element once; any thread, each with counts of its own.
    void count(const float* values, std::size_t size, counts& into) const {
        const unsigned low = next_low();
        const std::uint32_t mask = (std::uint32_t{1} << (low_ - low)) - 1;
        for (std::size_t i = 0; i < size; ++i) {
            const std::uint32_t bits = bits_of(values[i]);
            if (bits >> low_ == prefix_) ++into[bits >> low & mask];
        }
    }
    void end_pass(const counts& all) {
        std::uint32_t digit = 0;
        // A source that somebody writes to while it is read ends in nonsense, but ends.
        while (rank_ >= all[digit] && digit + 1 < all.size()) rank_ -= all[digit++];
        ties_ = all[digit];
        const unsigned low = next_low();
        prefix_ = prefix_ << (low_ - low) | digit;
        low_ = low;
    }

private:
    [[nodiscard]] static std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(std::fabs(x)); }
    [[nodiscard]] unsigned next_low() const { return low_ < digit_bits ? 0 : low_ - digit_bits; }

    std::uint64_t rank_;
    unsigned least_;
    unsigned low_ = 31;  // the bits from here on are found
    std::uint32_t prefix_ = 0;
    std::uint64_t ties_ = 0;
};

// The threshold below which |w| < share * absmax: the product is no f32, the next one above it parts the same weights.
inline float relative_threshold(double share, float absmax) {
    const double exact = share * static_cast<double>(absmax);
    const auto near = static_cast<float>(exact);
    return static_cast<double>(near) < exact ? std::nextafter(near, std::numeric_limits<float>::infinity())
                                             : near;
}

// How many of n elements make a share of at least `sparsity` < 1.
inline std::uint64_t sparse_count(double sparsity, std::uint64_t n) {
    const double wanted = std::ceil(sparsity * static_cast<double>(n));
    return wanted >= static_cast<double>(n) ? n : static_cast<std::uint64_t>(wanted);
}

// A tensor's tiles [first, first + count), in any order and on many threads. visit: number of the tile, the index of its
// first element, its elements.
using visit_fn = std::function<void(std::size_t, std::uint64_t, const weight_view&)>;
using each_tile_fn = std::function<result<void>(const visit_fn&, std::size_t first, std::size_t count)>;

// Nothing for a tensor that holds NaN or infinity: whatever codes it says so.
inline result<pruning> find_relative(double share, std::size_t tiles, const each_tile_fn& each_tile) {
    value_range range;
    bool finite = true;
    std::mutex mutex;
    auto done = each_tile(
        [&](std::size_t, std::uint64_t, const weight_view& view) {
            const auto part = find_range(view);
            const std::lock_guard lock(mutex);
            finite = finite && part;
            if (part) range.include(*part);
        },
        0, tiles);
    if (!done) return done.error();
    return finite ? pruning{relative_threshold(share, std::max(range.high, -range.low))} : pruning{};
}

// body(index of the first, values, how many) over the elements of a matrix, as f32.
template <class Body>
void each_chunk(const weight_view& view, memory_source memory, const Body& body) {
    float_source source(view, {}, memory);
    for (std::size_t start = 0; start < source.elements(); start += chunk_elements) {
        const std::size_t count = std::min(chunk_elements, source.elements() - start);
        body(start, source.read(start, count), count);
    }
}

// Before which element `wanted` others have just this magnitude.
inline result<std::uint64_t> find_tie(float magnitude, std::uint64_t wanted, std::size_t tiles,
                                      const each_tile_fn& each_tile, memory_source memory) {
    std::vector<std::uint64_t> ties(tiles);
    auto done = each_tile(
        [&](std::size_t at, std::uint64_t, const weight_view& view) {
            each_chunk(view, memory, [&](std::size_t, const float* values, std::size_t count) {
                ties[at] += static_cast<std::uint64_t>(std::count_if(
                    values, values + count, [=](float x) { return std::fabs(x) == magnitude; }));
            });
        },
        0, tiles);
    std::size_t last = 0;  // the tile with the last of them
    while (done && wanted > ties[last] && last + 1 < tiles) wanted -= ties[last++];
    std::uint64_t end = 0;
    if (done)
        done = each_tile(
            [&](std::size_t, std::uint64_t first, const weight_view& view) {
                each_chunk(view, memory, [&](std::size_t start, const float* values, std::size_t count) {
                    for (std::size_t i = 0; i < count && wanted != 0; ++i)
                        if (std::fabs(values[i]) == magnitude && --wanted == 0) end = first + start + i + 1;
                });
            },
            last, 1);
    if (!done) return done.error();
    return end;
}

// The `wanted` smallest of a tensor, at least one; of equals the first ones. Nothing for a tensor that has as many zeros
// anyway, or where NaN or infinity is among them.
inline result<pruning> find_smallest(std::uint64_t wanted, dtype type, std::size_t tiles,
                                     const each_tile_fn& each_tile, memory_source memory) {
    magnitude_selection selection(wanted - 1, type);
    std::mutex mutex;
    while (!selection.found()) {
        magnitude_selection::counts all{};
        auto done = each_tile(
            [&](std::size_t, std::uint64_t, const weight_view& view) {
                magnitude_selection::counts own{};
                each_chunk(view, memory, [&](std::size_t, const float* values, std::size_t count) {
                    selection.count(values, count, own);
                });
                const std::lock_guard lock(mutex);
                for (std::size_t i = 0; i < own.size(); ++i) all[i] += own[i];
            },
            0, tiles);
        if (!done) return done.error();
        selection.end_pass(all);
    }
    const float magnitude = selection.magnitude();
    if (magnitude == 0 || !std::isfinite(magnitude)) return pruning{};
    const std::uint64_t equals = selection.ties_before() + 1;
    if (equals == selection.ties()) return pruning{magnitude, std::numeric_limits<std::size_t>::max()};
    const auto end = find_tie(magnitude, equals, tiles, each_tile, memory);
    if (!end) return end.error();
    return pruning{magnitude, static_cast<std::size_t>(*end)};
}

}  // namespace bitmill::detail
