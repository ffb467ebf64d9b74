// Expressions of any layout, lazy or in memory: the bytes that the plain codec gives for an element-by-element copy;
// decoding into views writes their elements and nothing else.
#include <bitmill/xtensor.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if __has_include(<xtensor/views/xview.hpp>)
#include <xtensor/containers/xadapt.hpp>
#include <xtensor/containers/xfixed.hpp>
#include <xtensor/misc/xmanipulation.hpp>
#include <xtensor/views/xstrided_view.hpp>
#include <xtensor/views/xview.hpp>
#else
#include <xtensor/xadapt.hpp>
#include <xtensor/xfixed.hpp>
#include <xtensor/xmanipulation.hpp>
#include <xtensor/xstrided_view.hpp>
#include <xtensor/xview.hpp>
#endif

#include <doctest/doctest.h>

#include <coded.hpp>

using namespace bitmill_test;
using bitmill::dtype;

namespace {

template <class T>
constexpr dtype dtype_for = std::is_same_v<T, double> ? dtype::f64 : dtype::f32;

// Row-major elements, read one by one through the expression's own operator.
template <class E>
auto elements_of(const E& e) {
    std::vector<std::remove_cv_t<typename E::value_type>> out;
    std::vector<std::size_t> at(e.dimension(), 0);
    for (std::size_t i = 0; i < e.size(); ++i) {
        out.push_back(e.element(at.begin(), at.end()));
        for (std::size_t d = at.size(); d-- > 0;) {
            if (++at[d] < e.shape()[d]) break;
            at[d] = 0;
        }
    }
    return out;
}

std::string text_of(const bitmill::encoded_array::bytes& part) {
    return {reinterpret_cast<const char*>(part.data()), part.size()};
}

// Whether it lies in memory as matrix_in_place() sees it.
template <class E>
bool in_place(const E& e) {
    using element = bitmill::detail::element_of<E>;
    const std::size_t cols = e.dimension() == 0 ? 1 : e.shape()[e.dimension() - 1];
    if constexpr (bitmill::detail::strided_expression<const E, const element*>)
        return bitmill::detail::matrix_in_place<dtype_for<element>, const void*>(e, e.size() / cols, cols)
            .has_value();
    return false;
}

using encoder = std::function<bitmill::encoded_array(const bitmill::scheme&, const bitmill::encode_options&)>;

// Not a template, as xtensor's compile slowly enough.
void check_codes(const bitmill::weight_view& dense, const encoder& encode) {
    for (const auto& [scheme, method] : codings_for(dense.cols)) {
        CAPTURE(bitmill::to_text(scheme));
        bitmill::encode_options options;
        options.method = method;
        coded_matrix expected(scheme, dense.rows, dense.cols,
                              bitmill::encode_bound(scheme, dense.rows, dense.cols).value());
        const auto error = bitmill::encode(scheme, dense, expected.view, options).value();
        const auto got = encode(scheme, options);
        CHECK(got.rows() == dense.rows);
        CHECK(got.cols() == dense.cols);
        CHECK(text_of(got.codes) == expected.codes.text());
        CHECK(text_of(got.scales) == expected.scales.text());
        CHECK(text_of(got.zero_points) == expected.zero_points.text());
        CHECK(text_of(got.nested_scales) == expected.nested_scales.text());
        CHECK(got.nested_offset == expected.view.nested_offset);
        CHECK(got.error.mse() == error.mse());
        const xt::xarray<float> back = bitmill::decode<float>(got).value();
        CHECK(std::equal(back.shape().begin(), back.shape().end(), got.shape.begin(), got.shape.end()));
        const std::string decoded = expected.decoded(dtype::f32);
        CHECK(std::memcmp(back.data(), decoded.data(), decoded.size()) == 0);
    }
}

template <class E>
void check_encode(const char* name, const E& e, std::size_t rows, std::size_t cols, bool expect_in_place) {
    CAPTURE(name);
    const auto dense = elements_of(e);
    REQUIRE(dense.size() == rows * cols);
    CHECK(in_place(e) == expect_in_place);
    check_codes(
        {dtype_for<bitmill::detail::element_of<E>>, dense.data(), rows, cols},
        [&e](const bitmill::scheme& s, const bitmill::encode_options& options) {
            auto coded = bitmill::encode(s, e, options).value();
            CHECK(std::equal(coded.shape.begin(), coded.shape.end(), e.shape().begin(), e.shape().end()));
            return coded;
        });
}

constexpr std::size_t rows = 24, cols = 128;

template <class T = float>
xt::xtensor<T, 2> weights(std::size_t height, std::size_t width) {
    const auto values = make_weights(height * width, height + width);
    xt::xtensor<T, 2> out({height, width});
    std::copy(values.begin(), values.end(), out.data());
    return out;
}

// Decodes into the view `dst` of `whole`: its elements change to `decoded`, all others keep their value.
template <class T, class View>
void check_decode(const char* name, xt::xtensor<T, 2>& whole, View&& dst, const bitmill::encoded_array& coded,
                  const std::vector<T>& decoded) {
    CAPTURE(name);
    constexpr T gap = 77;
    whole.fill(gap);
    bitmill::decode(coded, std::forward<View>(dst)).value();
    CHECK(elements_of(dst) == decoded);
    CHECK(static_cast<std::size_t>(std::count(whole.data(), whole.data() + whole.size(), gap)) ==
          whole.size() - decoded.size());
}

}  // namespace

TEST_CASE("xtensor: containers of every layout give the codes of their dense copy") {
    const auto dense = weights(rows, cols);
    const xt::xarray<float, xt::layout_type::column_major> fortran = dense;
    xt::xarray<float, xt::layout_type::dynamic> dynamic;
    dynamic.resize({rows, cols}, xt::layout_type::column_major);
    dynamic = dense;
    const xt::xtensor_fixed<float, xt::xshape<rows, cols>> fixed = dense;
    const float* raw = dense.data();

    check_encode("row major", dense, rows, cols, true);
    check_encode("column major", fortran, rows, cols, true);
    check_encode("dynamic layout", dynamic, rows, cols, true);
    check_encode("fixed", fixed, rows, cols, true);
    check_encode("the program's own buffer",
                 xt::adapt(raw, rows * cols, xt::no_ownership(), std::array{rows, cols}), rows, cols, true);
    check_encode("f64", weights<double>(rows, cols), rows, cols, true);
    check_encode("f64 transposed", xt::transpose(weights<double>(cols, rows)), rows, cols, true);
    check_encode("a number", xt::xarray<float>(0.25f), 1, 1, true);
}

TEST_CASE("xtensor: views in memory give the codes of their dense copy, and are not copied") {
    const auto dense = weights(rows, cols);
    const auto big = weights(2 * rows + 5, 3 * cols + 7);
    const auto tall = weights(cols, rows);
    check_encode("transposed", xt::transpose(tall), rows, cols, true);
    check_encode("transposed twice", xt::transpose(xt::transpose(dense)), rows, cols, true);
    check_encode("a window", xt::view(big, xt::range(3, 3 + rows), xt::range(5, 5 + cols)), rows, cols, true);
    check_encode(
        "a window in a window",
        xt::view(xt::view(big, xt::range(2, 40), xt::all()), xt::range(1, 1 + rows), xt::range(5, 5 + cols)),
        rows, cols, true);
    check_encode("steps", xt::view(big, xt::range(1, 1 + 2 * rows, 2), xt::range(2, 2 + 3 * cols, 3)), rows,
                 cols, true);
    check_encode("transposed window", xt::transpose(xt::view(big, xt::range(0, 32), xt::range(7, 7 + rows))),
                 rows, 32, true);
    check_encode("window of a transposed", xt::view(xt::transpose(tall), xt::range(2, 9), xt::range(32, 96)),
                 7, 64, true);
    check_encode("strided window", xt::strided_view(big, {xt::range(3, 3 + rows), xt::range(5, 5 + cols)}),
                 rows, cols, true);
    check_encode("upside down", xt::flip(dense, 0), rows, cols, true);
    check_encode("mirrored", xt::flip(dense, 1), rows, cols, true);
    check_encode("one column", xt::view(big, xt::range(0, rows), xt::range(9, 10)), rows, 1, true);
    check_encode("one row", xt::view(big, xt::range(4, 5), xt::range(0, 96)), 1, 96, true);
    check_encode("a row of one dimension", xt::row(dense, 5), 1, cols, true);
    check_encode("a column of one dimension", xt::col(tall, 5), 1, cols, true);
}

TEST_CASE("xtensor: other expressions are evaluated once") {
    const auto dense = weights(rows, cols);
    const auto tall = weights(cols, rows);
    check_encode("sum and product", dense * 3.0f + 0.5f, rows, cols, false);
    check_encode("f64 by its arithmetic", dense * 3.0, rows, cols, false);
    check_encode("chosen rows", xt::view(tall, xt::keep(7, 1, 30), xt::range(0, 16)), 3, 16, false);
    check_encode("one row broadcast", xt::broadcast(xt::row(dense, 0), std::array{rows, cols}), rows, cols,
                 false);
    check_encode("transposed sum", xt::transpose(tall + tall), rows, cols, false);
    // Stride 0 means no gaps to the codec; here it means one row, or one column, again and again.
    const std::array shape{rows, cols};
    for (const auto& strides : {std::array<std::ptrdiff_t, 2>{0, 1}, {1, 0}})
        check_encode("elements in one place",
                     xt::adapt(dense.data(), dense.size(), xt::no_ownership(), shape, strides), rows, cols,
                     false);
}

TEST_CASE("xtensor: leading dimensions are rows") {
    const xt::xarray<float> cube = xt::reshape_view(weights(12, 256), {4, 3, 8, 32});
    check_encode("four dimensions", cube, 96, 32, true);
    check_encode("rows with gaps", xt::view(cube, xt::all(), xt::all(), xt::all(), xt::range(8, 24)), 96, 16,
                 true);
    check_encode("rows that step unevenly", xt::view(cube, xt::all(), xt::all(), xt::range(0, 4)), 48, 32,
                 false);
    check_encode("dimensions of one", xt::view(cube, xt::range(1, 2), 2, xt::newaxis(), xt::range(0, 4)), 4,
                 32, true);
    check_encode("axes swapped", xt::transpose(cube, {1, 0, 2, 3}), 96, 32, false);
}

TEST_CASE("xtensor: decoding into a view leaves the rest alone") {
    bitmill::scheme int4;
    int4.type = bitmill::scheme_type::int4;
    const auto coded = bitmill::encode(int4, weights(rows, cols)).value();
    const auto decoded = elements_of(bitmill::decode<float>(coded).value());

    xt::xtensor<float, 2> whole({2 * cols + 7, 2 * cols + 9});
    auto r = xt::range(3, 3 + rows), c = xt::range(5, 5 + cols);
    check_decode("window", whole, xt::view(whole, r, c), coded, decoded);
    check_decode("steps", whole, xt::view(whole, xt::range(0, 2 * rows, 2), xt::range(1, 1 + 2 * cols, 2)),
                 coded, decoded);
    check_decode("strided window", whole, xt::strided_view(whole, {r, c}), coded, decoded);
    check_decode("transposed window", whole, xt::transpose(xt::view(whole, c, r)), coded, decoded);
    check_decode("upside down", whole, xt::flip(xt::view(whole, r, c), 0), coded, decoded);
    std::vector<std::size_t> odd;
    for (std::size_t i = 0; i < cols; ++i) odd.push_back(2 * i + i % 2);
    check_decode("chosen columns", whole, xt::view(whole, r, xt::keep(odd)), coded, decoded);

    xt::xtensor<double, 2> wide({rows + 1, 2 * cols});
    check_decode("f64", wide, xt::view(wide, xt::range(1, rows + 1), xt::range(0, cols)), coded,
                 elements_of(bitmill::decode<double>(coded).value()));

    xt::xarray<float, xt::layout_type::column_major> fortran(std::vector<std::size_t>{rows, cols});
    bitmill::decode(coded, fortran).value();
    CHECK(elements_of(fortran) == decoded);
    xt::xarray<float, xt::layout_type::column_major> cube(std::vector<std::size_t>{4, 6, cols});
    CHECK(bitmill::decode(coded, cube).error().code == bitmill::error_code::invalid_argument);
    bitmill::decode(bitmill::encode(int4, xt::reshape_view(weights(rows, cols), {4, 6, 128})).value(), cube)
        .value();
    CHECK(elements_of(cube) == decoded);
}

TEST_CASE("xtensor: 16-bit floats are bits of a named dtype") {
    const auto check = []<dtype Type>() {
        const std::string bits = bytes_as(Type, make_weights(rows * cols, 9));
        xt::xtensor<std::uint16_t, 2> dense({rows, cols});
        std::memcpy(dense.data(), bits.data(), bits.size());
        const xt::xtensor<std::uint16_t, 2> turned = xt::transpose(dense);
        for (const auto& [scheme, method] : codings_for(cols)) {
            CAPTURE(bitmill::to_text(scheme));
            bitmill::encode_options options;
            options.method = method;
            coded_matrix expected(scheme, rows, cols, bitmill::encode_bound(scheme, rows, cols).value());
            (void)bitmill::encode(scheme, {Type, dense.data(), rows, cols}, expected.view, options).value();
            const auto got = bitmill::encode<Type>(scheme, dense, options).value();
            CHECK(text_of(got.codes) == expected.codes.text());
            CHECK(text_of(got.scales) == expected.scales.text());
            CHECK(bitmill::encode<Type>(scheme, xt::transpose(turned), options).value().codes == got.codes);
            xt::xtensor<std::uint16_t, 2> back({rows, cols});
            bitmill::decode<Type>(got, back).value();
            CHECK(std::memcmp(back.data(), expected.decoded(Type).data(), bits.size()) == 0);
        }
    };
    check.operator()<dtype::f16>();
    check.operator()<dtype::bf16>();
}

TEST_CASE("xtensor: what cannot be encoded is an error, empty expressions are not") {
    const bitmill::scheme int8;
    xt::xtensor<float, 2> tall = weights(cols, rows);
    tall(7, 3) = std::numeric_limits<float>::quiet_NaN();
    // The index is the expression's, not the buffer's.
    const auto in_place = bitmill::encode(int8, xt::transpose(tall));
    REQUIRE_FALSE(in_place);
    CHECK(in_place.error().code == bitmill::error_code::bad_input);
    CHECK(in_place.error().offset == 3 * cols + 7);
    CHECK(bitmill::encode(int8, xt::transpose(tall + tall)).error().offset == 3 * cols + 7);

    const bitmill::scheme group{bitmill::scheme_type::int4, bitmill::granularity::group, 48};
    CHECK(bitmill::encode(group, weights(rows, cols)).error().code == bitmill::error_code::invalid_argument);

    for (const auto& shape : {std::vector<std::size_t>{0, 7}, {7, 0}, {0}, {3, 0, 2}}) {
        const xt::xarray<float> empty(shape);
        const auto coded = bitmill::encode(int8, empty).value();
        CHECK(coded.codes.size() == 0);
        CHECK(bitmill::decode<float>(coded).value().shape() == empty.shape());
    }
}
