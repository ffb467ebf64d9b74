// Matrices with gaps, transposed, mirrored: the same codes as their dense copy, and nothing written in the gaps.
// Scratch from the host's memory.
#include <bitmill/codec/codec.hpp>

#include <atomic>
#include <limits>
#include <memory_resource>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <coded.hpp>

using namespace bitmill_test;
using bitmill::dtype;

namespace {

struct placement {
    const char* name;
    std::ptrdiff_t row_stride;
    std::ptrdiff_t col_stride;
    std::ptrdiff_t first;  // element of row 0 and column 0
    std::size_t span;      // elements in all
};

std::vector<placement> placements(std::size_t rows, std::size_t cols) {
    const auto r = static_cast<std::ptrdiff_t>(rows);
    const auto c = static_cast<std::ptrdiff_t>(cols);
    return {{"gaps behind rows", c + 5, 1, 3, (cols + 5) * rows + 3},
            {"gaps behind elements", 3 * c, 3, 0, 3 * rows * cols},
            {"transposed", 1, r, 0, rows * cols},
            {"rows backwards", -c, 1, c * (r - 1), rows * cols},
            {"both backwards", -c, -1, r * c - 1, rows * cols}};
}

constexpr char gap = '\x5a';

// The dense bytes of a matrix spread over a placement.
std::string spread_out(const placement& p, const std::string& dense, std::size_t rows, std::size_t cols,
                       std::size_t width) {
    std::string out(p.span * width, gap);
    for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t col = 0; col < cols; ++col) {
            const auto at = p.first + static_cast<std::ptrdiff_t>(row) * p.row_stride +
                            static_cast<std::ptrdiff_t>(col) * p.col_stride;
            std::memcpy(out.data() + static_cast<std::size_t>(at) * width,
                        dense.data() + (row * cols + col) * width, width);
        }
    return out;
}

class counting_memory : public std::pmr::memory_resource {
public:
    std::atomic<std::uint64_t> given{0};
    std::atomic<std::uint64_t> taken_back{0};
    std::uint64_t limit = ~std::uint64_t{0};

private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
        if (given.fetch_add(bytes) + bytes > limit) throw std::bad_alloc();
        return std::pmr::new_delete_resource()->allocate(bytes, alignment);
    }
    void do_deallocate(void* at, std::size_t bytes, std::size_t alignment) override {
        taken_back += bytes;
        std::pmr::new_delete_resource()->deallocate(at, bytes, alignment);
    }
    [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
        return this == &other;
    }
};

}  // namespace

TEST_CASE("strided: any placement of a matrix gives the codes of its dense copy, and decodes into itself") {
    for (const auto& [rows, cols] :
         {std::pair<std::size_t, std::size_t>{1, 7}, {3, 32}, {37, 128}, {2, 5000}})
        for (const auto type : {dtype::f32, dtype::f16, dtype::bf16, dtype::f64}) {
            const std::size_t width = bitmill::element_bytes(type);
            const std::string dense = bytes_as(type, make_weights(rows * cols, rows + cols));
            const aligned_bytes source(dense);
            for (const auto& [scheme, method] : codings_for(cols)) {
                const auto sizes = bitmill::encode_bound(scheme, rows, cols).value();
                bitmill::encode_options options;
                options.method = method;
                options.weight_threshold = 0.01f;
                coded_matrix expected(scheme, rows, cols, sizes);
                const auto metrics =
                    bitmill::encode(scheme, view_of(type, source, rows, cols), expected.view, options)
                        .value();
                const std::string decoded = expected.decoded(type);
                for (const auto& p : placements(rows, cols)) {
                    CAPTURE(bitmill::to_text(scheme));
                    CAPTURE(p.name);
                    const aligned_bytes placed(spread_out(p, dense, rows, cols, width));
                    const auto* first =
                        static_cast<const std::byte*>(placed.data()) + p.first * static_cast<int>(width);
                    coded_matrix got(scheme, rows, cols, sizes);
                    const auto measured =
                        bitmill::encode(scheme, {type, first, rows, cols, p.row_stride, p.col_stride},
                                        got.view, options)
                            .value();
                    CHECK(got.all_bytes() == expected.all_bytes());
                    CHECK(measured.mse() == metrics.mse());
                    CHECK(got.intact());

                    guarded out(p.span * width);
                    std::memset(out.data(), gap, out.size());
                    bitmill::decode(scheme, got.view,
                                    {type, out.data() + p.first * static_cast<int>(width), rows, cols,
                                     p.row_stride, p.col_stride})
                        .value();
                    CHECK(out.intact());
                    CHECK(out.text() == spread_out(p, decoded, rows, cols, width));
                }
            }
        }
}

TEST_CASE("strided: a cast, a range and an obstacle are found in any placement") {
    std::vector<float> values = make_weights(12 * 50, 4);
    values[7 * 50 + 9] = 70000.0f;
    const std::string dense = bytes_as(dtype::f64, values);
    for (const auto& p : placements(12, 50)) {
        const aligned_bytes placed(spread_out(p, dense, 12, 50, 8));
        const bitmill::weight_view view{
            dtype::f64,  static_cast<const std::byte*>(placed.data()) + p.first * 8, 12, 50, p.row_stride,
            p.col_stride};
        std::vector<float> narrow(values.size());
        bitmill::cast(view, dtype::f32, narrow.data());
        CHECK(narrow == values);
        CHECK(bitmill::find_range(view).value().high == 70000.0f);
        const auto obstacle = bitmill::find_cast_obstacle(view, dtype::f16);
        REQUIRE(obstacle.has_value());
        CHECK(obstacle->index == 7 * 50 + 9);
    }
}

TEST_CASE(
    "strided: strides that reach farther than memory are refused; of one row or column they say nothing") {
    constexpr auto low = std::numeric_limits<std::ptrdiff_t>::min();
    constexpr auto high = std::numeric_limits<std::ptrdiff_t>::max();
    std::vector<float> values(12, 0.5f);
    std::vector<std::byte> codes(12), scales(16);
    bitmill::encoded_view coded{.codes = codes.data(), .scales = scales.data()};
    const bitmill::scheme int8;
    const auto refused = [](const auto& outcome) {
        return !outcome && outcome.error().code == bitmill::error_code::invalid_argument;
    };
    for (const auto stride : {low, low + 1, low / 4, high, high / 4, high / 8})
        for (const bool of_rows : {true, false}) {
            CAPTURE(stride);
            bitmill::matrix_view to{dtype::f32, values.data(), 4, 3};
            (of_rows ? to.row_stride : to.col_stride) = stride;
            const bitmill::weight_view from{to.type, to.data, 4, 3, to.row_stride, to.col_stride};
            CHECK(refused(bitmill::encode(int8, from, coded)));
            CHECK(refused(bitmill::decode(int8, coded, to)));
            CHECK(refused(bitmill::find_range(from)));
            CHECK(refused(bitmill::sum_absmax(from, 64)));
            CHECK_THROWS_AS(bitmill::cast(from, dtype::f64, scales.data()), bitmill::exception);
            CHECK_THROWS_AS((void)bitmill::find_cast_obstacle(from, dtype::f16), bitmill::exception);
        }
    for (const auto stride : {low, high}) {
        const bitmill::weight_view row{dtype::f32, values.data(), 1, 3, stride, 2};
        CHECK(bitmill::find_range(row).value().high == 0.5f);
        const bitmill::weight_view column{dtype::f32, values.data() + 9, 4, 1, -3, stride};
        CHECK(bitmill::find_range(column).value().high == 0.5f);
    }
}

TEST_CASE("memory: scratch comes from the host, goes back, and running out is an exception") {
    const std::size_t rows = 64, cols = 4096;
    const aligned_bytes source(bytes_as(dtype::bf16, make_weights(rows * cols, 1)));
    for (const auto& [scheme, method] : codings_for(cols)) {
        CAPTURE(bitmill::to_text(scheme));
        coded_matrix coded(scheme, rows, cols, bitmill::encode_bound(scheme, rows, cols).value());
        counting_memory memory;
        bitmill::encode_options options;
        options.method = method;
        options.memory = &memory;
        (void)bitmill::encode(scheme, view_of(dtype::bf16, source, rows, cols), coded.view, options).value();
        CHECK(memory.given > 0);
        CHECK(memory.given == memory.taken_back);
        const std::string bytes = coded.all_bytes();

        memory.limit = memory.given - 1;
        memory.given = memory.taken_back = 0;
        CHECK_THROWS_AS(
            (void)bitmill::encode(scheme, view_of(dtype::bf16, source, rows, cols), coded.view, options),
            std::bad_alloc);

        memory.limit = ~std::uint64_t{0};
        memory.given = memory.taken_back = 0;
        std::vector<float> out(2 * rows * cols);
        bitmill::decode(scheme, coded.view, {dtype::f32, out.data(), rows, cols, 2 * cols, 2}, &memory)
            .value();
        CHECK(memory.given > 0);
        CHECK(memory.given == memory.taken_back);
    }
}
