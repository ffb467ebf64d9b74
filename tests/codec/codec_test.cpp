// Every scheme on every source type and awkward sizes: parts as large as promised, nothing written beside
// them, and every code the nearest one.
#include <bitmill/codec/codec.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <coded.hpp>
#include <weights.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::granularity;
using bitmill::scheme_type;

namespace {

constexpr dtype float_types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::f64};

// Wrong codes of an integer scheme: decode is (q - zero) * scale in f32, and q is the nearest or a limit.
std::size_t wrong_integers(coded_matrix& m, const std::vector<double>& source, const std::string& decoded) {
    const double low = m.lowest_code();
    const double high = m.scheme.planes ? 119 : -low - 1;
    std::size_t wrong = 0;
    for (std::size_t r = 0; r < m.rows; ++r) {
        for (std::size_t c = 0; c < m.cols; ++c) {
            const std::size_t i = r * m.cols + c;
            const float scale = m.scale_at(i / m.group());
            const float zero = m.zero_at(i / m.group());
            const int q = m.code_at(r, c);
            const float expected = (static_cast<float>(q) - zero) * scale;
            float got = 0;
            std::memcpy(&got, decoded.data() + i * 4, 4);
            if (got != expected) ++wrong;
            const double exact = source[i] / static_cast<double>(scale) + static_cast<double>(zero);
            const bool clipped = (q == low && exact <= low) || (q == high && exact >= high);
            if (!clipped && !(std::fabs(exact - q) <= 0.5 * (1 + 1e-4))) ++wrong;
        }
    }
    return wrong;
}

std::size_t wrong_book_codes(coded_matrix& m, const std::vector<double>& source, const std::string& decoded) {
    const auto& book = bitmill::book_of(m.scheme.type);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < source.size(); ++i) {
        const float absmax = m.absmax_at(i / m.scheme.group_size);
        const float expected = book.value[m.book_code_at(i)] * absmax;
        float got = 0;
        std::memcpy(&got, decoded.data() + i * 4, 4);
        if (got != expected) ++wrong;
        if (m.scheme.double_quant) continue;  // its codes were rounded against the exact absmax
        double best = std::numeric_limits<double>::infinity();
        for (const float value : book.value)
            best = std::min(best,
                            std::fabs(source[i] - static_cast<double>(value) * static_cast<double>(absmax)));
        const double error = std::fabs(source[i] - static_cast<double>(got));
        if (!(error <= best + 1e-6 * static_cast<double>(absmax))) ++wrong;
    }
    return wrong;
}

std::size_t wrong_casts(const bitmill::scheme& s, const std::vector<double>& source,
                        const std::string& decoded) {
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < source.size(); ++i) {
        float got = 0;
        std::memcpy(&got, decoded.data() + i * 4, 4);
        float expected = static_cast<float>(source[i]);
        if (s.type == scheme_type::f16)
            expected = bitmill::f32_from_f16(bitmill::f16_from_f32(bitmill::f32_from_f64_to_odd(source[i])));
        if (s.type == scheme_type::bf16)
            expected =
                bitmill::f32_from_bf16(bitmill::bf16_from_f32(bitmill::f32_from_f64_to_odd(source[i])));
        wrong += got != expected;
    }
    return wrong;
}

// No weight is farther from its code than one and a half steps of the range of its block; absmax: one. (Scales of
// sub-blocks are themselves rounded.)
std::size_t wrong_blocks(const coding& how, const std::vector<double>& source, const std::string& decoded) {
    const auto& type = bitmill::facts(how.scheme.type);
    const std::size_t block = type.ggml->block_elements;
    const auto got = values_of(dtype::f32, decoded.data(), source.size());
    std::size_t wrong = 0;
    for (std::size_t start = 0; start < source.size(); start += block) {
        double low = 0;
        double high = 0;
        for (std::size_t i = start; i < start + block; ++i) {
            low = std::min(low, source[i]);
            high = std::max(high, source[i]);
        }
        const double most = std::max(high, -low);
        const double step = 2 * most / ((1 << type.bits) - 1);
        for (std::size_t i = start; i < start + block; ++i)
            wrong +=
                !(std::fabs(source[i] - got[i]) <= (how.method == bitmill::method::mse ? 1.5 : 1) * step);
    }
    return wrong;
}

bitmill::encoded_sizes expected_sizes(const bitmill::scheme& s, std::size_t rows, std::size_t cols) {
    bitmill::encoded_sizes sizes;
    const std::size_t count = rows * cols;
    const auto up = [](std::size_t a, std::size_t b) { return (a + b - 1) / b; };
    const auto& type = bitmill::facts(s.type);
    if (type.code_book) {
        const std::size_t blocks = up(count, s.group_size);
        sizes.codes = up(count, 2);
        sizes.scales = s.double_quant ? blocks : 4 * blocks;
        sizes.nested_scales = s.double_quant ? 4 * up(blocks, 256) : 0;
    } else if (type.ggml != nullptr) {
        sizes.codes = count / type.ggml->block_elements * type.ggml->block_bytes;
    } else if (type.integer) {
        sizes.codes = rows * up(up(cols * (s.planes ? 4 : type.bits), 8), s.row_alignment) * s.row_alignment;
        sizes.residual = s.planes ? sizes.codes : 0;
        std::size_t scales = s.granularity == granularity::per_tensor ? 1 : cols == 0 ? 0 : rows;
        if (s.granularity == granularity::group) scales = count / s.group_size;
        sizes.scales = scales * bitmill::element_bytes(s.scale_dtype);
        sizes.zero_points = s.symmetric ? 0 : scales;
    } else {
        sizes.codes = count * type.bits / 8;
    }
    return sizes;
}

void check_matrix(const coding& how, dtype type, std::size_t rows, std::size_t cols) {
    CAPTURE(bitmill::to_text(how.scheme));
    CAPTURE(static_cast<int>(how.method));
    CAPTURE(bitmill::facts(type).name);
    CAPTURE(rows);
    CAPTURE(cols);
    auto floats = make_weights(rows * cols, rows * 131 + cols);
    const std::string bytes = bytes_as(type, floats);
    const aligned_bytes data(bytes);
    const auto source = values_of(type, bytes.data(), floats.size());
    const auto sizes = bitmill::encode_bound(how.scheme, rows, cols).value();
    const auto expected = expected_sizes(how.scheme, rows, cols);
    CHECK(sizes.codes == expected.codes);
    CHECK(sizes.scales == expected.scales);
    CHECK(sizes.zero_points == expected.zero_points);
    CHECK(sizes.nested_scales == expected.nested_scales);
    CHECK(sizes.residual == expected.residual);
    coded_matrix m(how.scheme, rows, cols, sizes);
    bitmill::encode_options options;
    options.method = how.method;
    const auto metrics = bitmill::encode(how.scheme, view_of(type, data, rows, cols), m.view, options);
    REQUIRE(metrics);
    CHECK(metrics->elements() == rows * cols);
    CHECK(m.intact());
    const std::string decoded = m.decoded(dtype::f32);
    REQUIRE(decoded.size() == rows * cols * 4);
    if (bitmill::facts(how.scheme.type).integer)
        CHECK(wrong_integers(m, source, decoded) == 0);
    else if (bitmill::facts(how.scheme.type).code_book)
        CHECK(wrong_book_codes(m, source, decoded) == 0);
    else if (bitmill::facts(how.scheme.type).ggml != nullptr)
        CHECK(wrong_blocks(how, source, decoded) == 0);
    else
        CHECK(wrong_casts(how.scheme, source, decoded) == 0);
    // Other destinations are the f32 values rounded once more.
    const auto wide = values_of(dtype::f32, decoded.data(), source.size());
    std::vector<float> narrow(wide.begin(), wide.end());
    for (const dtype to : {dtype::f16, dtype::bf16, dtype::f64}) CHECK(m.decoded(to) == bytes_as(to, narrow));
    CHECK(m.intact());
}

}  // namespace

TEST_CASE("codec: every scheme, source type and size") {
    for (const std::size_t cols : {0u, 1u, 15u, 16u, 17u, 31u, 32u, 33u, 127u, 128u, 129u})
        for (const std::size_t rows : {0u, 1u, 3u})
            for (const auto& how : codings_for(cols))
                for (const dtype type : float_types) check_matrix(how, type, rows, cols);
}

TEST_CASE("codec: matrices longer than one internal run") {
    for (const auto& [rows, cols] :
         {std::pair<std::size_t, std::size_t>{2, 4097}, {70, 64}, {67, 128}, {1, 8193}, {5, 8192}})
        for (const auto& how : codings_for(cols))
            check_matrix(how, rows == 67 ? dtype::f16 : dtype::f32, rows, cols);
}

TEST_CASE("codec: the fill of an aligned row is 0") {
    const auto floats = make_weights(3 * 17, 5);
    const aligned_bytes data(bytes_as(dtype::f32, floats));
    struct row_of_17 {
        scheme_type type;
        std::size_t used, row;
    };
    for (const auto& [type, used, row] :
         {row_of_17{scheme_type::int8, 17, 24}, {scheme_type::int4, 9, 16}, {scheme_type::int2, 5, 8}}) {
        const bitmill::scheme s{.type = type, .offset_binary = true, .row_alignment = 8};
        coded_matrix m(s, 3, 17, bitmill::encode_bound(s, 3, 17).value());
        REQUIRE(m.codes.size() == 3 * row);
        REQUIRE(bitmill::encode(s, view_of(dtype::f32, data, 3, 17), m.view));
        std::size_t filled = 0;
        for (std::size_t r = 0; r < 3; ++r)
            for (std::size_t i = used; i < row; ++i) filled += m.codes.data()[r * row + i] == std::byte{0};
        CHECK(filled == 3 * (row - used));
        // So are the bits past the last code of a row.
        const unsigned last_bits = bitmill::facts(type).bits;
        for (std::size_t r = 0; r < 3; ++r)
            CHECK((static_cast<unsigned>(m.codes.data()[r * row + used - 1]) >> last_bits) == 0);
        CHECK(m.intact());
    }
}

TEST_CASE("codec: the base plane alone is the int4 matrix of its codes, and its error is reported") {
    for (const std::size_t cols : {std::size_t{17}, std::size_t{128}, std::size_t{4224}}) {
        const std::size_t rows = 3;
        const auto floats = make_weights(rows * cols, cols);
        const aligned_bytes data(bytes_as(dtype::f32, floats));
        for (const auto& how : codings_for(cols)) {
            if (!how.scheme.planes) continue;
            CAPTURE(bitmill::to_text(how.scheme));
            CAPTURE(cols);
            coded_matrix m(how.scheme, rows, cols, bitmill::encode_bound(how.scheme, rows, cols).value());
            bitmill::error_metrics base;
            bitmill::encode_options options;
            options.method = how.method;
            options.base_error = &base;
            REQUIRE(bitmill::encode(how.scheme, view_of(dtype::f32, data, rows, cols), m.view, options));
            bitmill::scheme int4 = how.scheme;
            int4.type = scheme_type::int4;
            int4.planes = false;
            std::vector<float> as_int4(rows * cols), alone(rows * cols);
            REQUIRE(bitmill::decode(int4, m.view, rows, cols, dtype::f32, as_int4.data()));
            m.view.residual = nullptr;
            REQUIRE(bitmill::decode(how.scheme, m.view, rows, cols, dtype::f32, alone.data()));
            CHECK(alone == as_int4);
            double error = 0;
            for (std::size_t i = 0; i < alone.size(); ++i)
                error += std::pow(static_cast<double>(floats[i]) - static_cast<double>(alone[i]), 2);
            CHECK(base.elements() == alone.size());
            CHECK(base.sums().err2 == doctest::Approx(error).epsilon(1e-5));
        }
    }
}

TEST_CASE("codec: per_tensor with a given range uses it") {
    const std::vector<float> floats{-1.0f, -0.5f, 0.0f, 0.25f, 0.5f, 4.0f};
    const aligned_bytes data(bytes_as(dtype::f32, floats));
    bitmill::scheme s{.type = scheme_type::int8, .granularity = granularity::per_tensor};
    bitmill::encode_options options;
    options.range = bitmill::value_range{-1.0f, 1.0f};
    coded_matrix m(s, 2, 3, bitmill::encode_bound(s, 2, 3).value());
    REQUIRE(bitmill::encode(s, view_of(dtype::f32, data, 2, 3), m.view, options));
    CHECK(m.scale_at(0) == 1.0f / 127.5f);
    CHECK(m.code_at(0, 0) == -127);  // 127.5 in f32 is a little less: 1 / (1 / 127.5f)
    CHECK(m.code_at(0, 1) == -64);
    CHECK(m.code_at(0, 2) == 0);
    CHECK(m.code_at(1, 2) == 127);  // beyond the range: clipped
    // Tiles of one tensor, coded apart with the tensor's range, are the tensor coded whole.
    const auto whole_floats = make_weights(40 * 64, 9);
    const aligned_bytes whole(bytes_as(dtype::f32, whole_floats));
    for (const bool symmetric : {true, false}) {
        s.symmetric = symmetric;
        coded_matrix a(s, 40, 64, bitmill::encode_bound(s, 40, 64).value());
        REQUIRE(bitmill::encode(s, view_of(dtype::f32, whole, 40, 64), a.view));
        options.range = bitmill::find_range(view_of(dtype::f32, whole, 40, 64)).value();
        std::string codes;
        for (const std::size_t first : {0u, 10u}) {
            const std::size_t rows = first == 0 ? 10 : 30;
            coded_matrix part(s, rows, 64, bitmill::encode_bound(s, rows, 64).value());
            const bitmill::weight_view tile{dtype::f32, static_cast<const float*>(whole.data()) + first * 64,
                                            rows, 64};
            REQUIRE(bitmill::encode(s, tile, part.view, options));
            codes += part.codes.text();
            CHECK(part.scales.text() == a.scales.text());
            CHECK(part.zero_points.text() == a.zero_points.text());
        }
        CHECK(codes == a.codes.text());
    }
}

TEST_CASE("codec: weight_threshold zeroes what is below it") {
    const std::vector<float> floats{0.0009f, -0.0009f, 0.001f, -0.001f, 0.5f, -0.5f, 0.0f, 0.002f};
    for (const dtype type : {dtype::f32, dtype::f64}) {
        const aligned_bytes data(bytes_as(type, floats));
        bitmill::encode_options options;
        options.weight_threshold = 0.001f;
        const bitmill::scheme s{.type = scheme_type::f32};
        coded_matrix m(s, 1, 8, bitmill::encode_bound(s, 1, 8).value());
        REQUIRE(bitmill::encode(s, view_of(type, data, 1, 8), m.view, options));
        const std::vector<float> pruned{0.0f, 0.0f, 0.001f, -0.001f, 0.5f, -0.5f, 0.0f, 0.002f};
        CHECK(m.decoded(dtype::f32) == bytes_as(dtype::f32, pruned));
        options.weight_threshold = 0.4f;
        const bitmill::scheme coarse{.type = scheme_type::int8};
        coded_matrix q(coarse, 1, 8, bitmill::encode_bound(coarse, 1, 8).value());
        REQUIRE(bitmill::encode(coarse, view_of(type, data, 1, 8), q.view, options));
        int others = 0;
        for (std::size_t c = 0; c < 8; ++c) others += c != 4 && c != 5 && q.code_at(0, c) != 0;
        CHECK(others == 0);
        CHECK(q.code_at(0, 5) == -127);
    }
}

TEST_CASE("codec: of equals the first ones are pruned, range and absmax are those of what is left") {
    // 5000 elements: the index lies in the second chunk.
    std::vector<float> floats(5000, 0.25f);
    for (std::size_t i = 1; i < floats.size(); i += 2) floats[i] = -0.25f;
    floats[4999] = 0.5f;
    floats[0] = 0.125f;
    auto left = floats;
    std::fill(left.begin(), left.begin() + 4500, 0.0f);
    for (const dtype type : float_types) {
        CAPTURE(bitmill::facts(type).name);
        const aligned_bytes data(bytes_as(type, floats)), pruned(bytes_as(type, left));
        bitmill::encode_options options;
        options.weight_threshold = 0.25f;
        options.equal_before = 4500;
        options.count_zeros = true;
        for (const bitmill::scheme& s :
             {bitmill::scheme{.type = scheme_type::f32}, bitmill::scheme{.type = scheme_type::int8},
              bitmill::scheme{
                  .type = scheme_type::nf4, .granularity = granularity::block, .group_size = 64}}) {
            const auto sizes = bitmill::encode_bound(s, 1, 5000).value();
            coded_matrix m(s, 1, 5000, sizes), expected(s, 1, 5000, sizes);
            const auto error = bitmill::encode(s, view_of(type, data, 1, 5000), m.view, options).value();
            REQUIRE(bitmill::encode(s, view_of(type, pruned, 1, 5000), expected.view));
            CHECK(m.all_bytes() == expected.all_bytes());
            CHECK(error.zeros_before() == 0);
            CHECK(error.zeros_after() == 4500);
            CHECK(error.sums().err2 == doctest::Approx(4499 * 0.0625 + 0.015625).epsilon(0.01));
        }
        const auto view = view_of(type, data, 1, 5000);
        CHECK(bitmill::find_range(view, {0.25f, 4999}).value().low == 0);
        CHECK(bitmill::find_range(view, {0.25f, 4500}).value().low == -0.25f);
        CHECK(bitmill::sum_absmax(view, 64, {0.25f, 4992}).value() == 0.5);
    }
}

TEST_CASE("codec: zeros are counted as they decode") {
    // A scale of 4 / 127: everything below half of it becomes 0.
    const std::vector<float> floats{0.0f, -0.0f, 0.001f, -0.015f, 4.0f, 0.5f, 0.0f, 1e-30f};
    const aligned_bytes data(bytes_as(dtype::f32, floats));
    const bitmill::scheme s{.type = scheme_type::int8};
    coded_matrix m(s, 1, 8, bitmill::encode_bound(s, 1, 8).value());
    bitmill::encode_options options;
    CHECK(bitmill::encode(s, view_of(dtype::f32, data, 1, 8), m.view, options).value().zeros_after() == 0);
    options.count_zeros = true;
    const auto error = bitmill::encode(s, view_of(dtype::f32, data, 1, 8), m.view, options).value();
    CHECK(error.zeros_before() == 3);
    CHECK(error.zeros_after() == 6);
}

TEST_CASE("codec: cast between all float types rounds once") {
    test::random rng(3);
    std::vector<float> floats;
    for (int i = 0; i < 5000; ++i)
        floats.push_back(rng.normal() * std::ldexp(1.0f, static_cast<int>(rng.below(60)) - 40));
    floats.insert(floats.end(), {0.0f, -0.0f, 65519.0f, 65520.0f, 1e-45f, 3.4e38f});
    for (const dtype from : float_types) {
        const std::string bytes = bytes_as(from, floats);
        const aligned_bytes data(bytes);
        const auto exact = values_of(from, bytes.data(), floats.size());
        for (const dtype to : float_types) {
            CAPTURE(bitmill::facts(from).name);
            CAPTURE(bitmill::facts(to).name);
            guarded out(floats.size() * bitmill::element_bytes(to));
            bitmill::cast({from, data.data(), 1, floats.size()}, to, out.data());
            CHECK(out.intact());
            std::vector<float> as_float(exact.begin(), exact.end());
            CHECK(out.text() == bytes_as(to, as_float));
        }
    }
}

namespace {

// Half way between two f16 values and a little more: f32 cannot hold the little.
bool rounds_once(float threshold) {
    const std::vector<double> doubles{1 + 0x1p-11 + 0x1p-40, 1.0, 0.5, -1 - 0x1p-11 - 0x1p-40};
    const bitmill::scheme s{.type = scheme_type::f16};
    bitmill::encode_options options;
    options.weight_threshold = threshold;
    coded_matrix m(s, 1, 4, bitmill::encode_bound(s, 1, 4).value());
    (void)bitmill::encode(s, {dtype::f64, doubles.data(), 1, 4}, m.view, options).value();
    const auto back = values_of(dtype::f16, m.codes.data(), 4);
    return back[0] == 1 + 0x1p-10 && back[3] == -1 - 0x1p-10;
}

}  // namespace

TEST_CASE("codec: a double is rounded to f16 once") { CHECK(rounds_once(0)); }

TEST_CASE("codec: a double is rounded to f16 once where small weights are pruned") {
    CHECK(rounds_once(0.001f));
}
