// xtensor in and out: any expression to codes and scales, and back into an xarray or into any view. Needs xtensor
// 0.24 or newer, which nothing else in bitmill does.
//
// An expression of n dimensions is a matrix of its last one: 2-D as it is, 1-D is one row, the leading dimensions of
// 3-D and more are rows one after another. What lies in memory with even steps (containers of either layout, views,
// transposes, flips) is read and written in place; anything else is evaluated once into a dense copy.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <bitmill/codec/codec.hpp>

#if __has_include(<xtensor/containers/xarray.hpp>)  // xtensor 0.26 moved its headers
#include <xtensor/containers/xarray.hpp>
#include <xtensor/containers/xtensor.hpp>
#include <xtensor/core/xnoalias.hpp>
#else
#include <xtensor/xstorage.hpp>
#if defined(__clang__) && __clang_major__ >= 19 && XTENSOR_VERSION_MAJOR == 0 && XTENSOR_VERSION_MINOR == 24
// xtensor 0.24 meets clang 19's relaxed template template arguments (P0522) with two equally good specialisations.
namespace xt {
template <class X, class T, std::size_t N>
struct rebind_container<X, svector<T, N, std::allocator<T>, true>> {
    using type = svector<X, N, std::allocator<X>, true>;
};
template <class X, class T, std::size_t N>
struct rebind_container<X, std::array<T, N>> {
    using type = std::array<X, N>;
};
}  // namespace xt
#endif
#include <xtensor/xarray.hpp>
#include <xtensor/xnoalias.hpp>
#include <xtensor/xtensor.hpp>
#endif

namespace bitmill {

// An encoded expression that owns its parts, as bytes: those of encoded_view, of encode_bound() bytes.
struct encoded_array {
    using bytes = xt::xtensor<std::uint8_t, 1>;

    bitmill::scheme scheme;
    std::vector<std::size_t> shape;
    bytes codes, scales, zero_points, nested_scales, residual;
    float nested_offset = 0;
    error_metrics error;  // of decode(encode(x)) against x, where encode_options::measure is on

    [[nodiscard]] std::size_t cols() const { return shape.empty() ? 1 : shape.back(); }
    [[nodiscard]] std::size_t rows() const {
        std::size_t product = 1;
        for (std::size_t i = 0; i + 1 < shape.size(); ++i) product *= shape[i];
        return product;
    }
    [[nodiscard]] std::size_t size_bytes() const {
        return codes.size() + scales.size() + zero_points.size() + nested_scales.size() + residual.size();
    }
    [[nodiscard]] encoded_view view() {
        const auto part = [](bytes& one) { return reinterpret_cast<std::byte*>(one.data()); };
        return {part(codes),         part(scales),  part(zero_points),
                part(nested_scales), nested_offset, residual.size() == 0 ? nullptr : part(residual)};
    }
};

namespace detail {

template <class E>
using element_of = std::remove_cv_t<typename std::remove_cvref_t<E>::value_type>;

template <class T>
constexpr dtype dtype_of() {
    static_assert(
        std::is_same_v<T, float> || std::is_same_v<T, double>,
        "the expression's elements are neither float nor double: xt::cast<float>(x) converts integers, "
        "encode<bitmill::dtype::f16>(...) and <bitmill::dtype::bf16> take 16-bit floats");
    return std::is_same_v<T, double> ? dtype::f64 : dtype::f32;
}

// Elements of the caller's own 16-bit type, or their bits in a std::uint16_t, count as f16 and bf16.
template <dtype Type, class T>
constexpr bool holds =
    (Type == dtype::f32 && std::is_same_v<T, float>) || (Type == dtype::f64 && std::is_same_v<T, double>) ||
    ((Type == dtype::f16 || Type == dtype::bf16) && sizeof(T) == 2 && std::is_trivially_copyable_v<T>);

// Elements lie in memory: the first at data() + data_offset(), the others at multiples of strides().
template <class E, class Pointer>
concept strided_expression = requires(E& e) {
    { e.data() } -> std::convertible_to<Pointer>;
    { e.data_offset() } -> std::convertible_to<std::size_t>;
    { e.strides()[0] } -> std::convertible_to<std::ptrdiff_t>;
};

// The matrix in place; nothing where its rows do not step evenly, or elements share a place.
template <dtype Type, class Pointer, class E>
std::optional<strided_matrix<Pointer>> matrix_in_place(E& e, std::size_t rows, std::size_t cols) {
    const std::size_t dimensions = e.dimension();
    strided_matrix<Pointer> out{Type, e.data() + static_cast<std::ptrdiff_t>(e.data_offset()), rows, cols};
    if (rows == 0 || cols == 0) return out;
    // A dimension of one element has stride 0.
    if (cols > 1) {
        out.col_stride = static_cast<std::ptrdiff_t>(e.strides()[dimensions - 1]);
        if (out.col_stride == 0) return std::nullopt;
    }
    std::ptrdiff_t inner_rows = 1;
    for (std::size_t i = dimensions; i > 1; --i) {
        const auto extent = static_cast<std::ptrdiff_t>(e.shape()[i - 2]);
        const auto stride = static_cast<std::ptrdiff_t>(e.strides()[i - 2]);
        if (extent == 1) continue;
        if (inner_rows == 1) out.row_stride = stride;
        if (stride == 0 || stride != out.row_stride * inner_rows) return std::nullopt;
        inner_rows *= extent;
    }
    return out;
}

template <class T>
using dense_copy = xt::xarray<T, xt::layout_type::row_major>;

inline result<encoded_array> encode_matrix(encoded_array out, const weight_view& src,
                                           const encode_options& options) {
    const auto sizes = encode_bound(out.scheme, src.rows, src.cols);
    if (!sizes) return sizes.error();
    const auto part = [](std::uint64_t count) {
        return encoded_array::bytes(std::array{static_cast<std::size_t>(count)});
    };
    out.codes = part(sizes->codes);
    out.scales = part(sizes->scales);
    out.zero_points = part(sizes->zero_points);
    out.nested_scales = part(sizes->nested_scales);
    out.residual = part(sizes->residual);
    encoded_view view = out.view();
    auto error = bitmill::encode(out.scheme, src, view, options);
    if (!error) return error.error();
    out.nested_offset = view.nested_offset;
    out.error = *error;
    return out;
}

inline result<void> decode_matrix(const encoded_array& src, const matrix_view& dst, memory_source memory) {
    // decode() only reads the parts.
    return bitmill::decode(src.scheme, const_cast<encoded_array&>(src).view(), dst, memory);
}

}  // namespace detail

// Encodes an expression of 16-bit floats: encode<dtype::bf16>(...). Errors: those of encode() in codec.hpp; the index
// of a NaN is that of the flattened expression in row-major order.
template <dtype Type, class E>
[[nodiscard]] result<encoded_array> encode(const scheme& s, const xt::xexpression<E>& expression,
                                           const encode_options& options = {}) {
    using element = detail::element_of<E>;
    static_assert(detail::holds<Type, element>, "the expression's elements are not of this dtype");
    const E& src = expression.derived_cast();
    encoded_array out;
    out.scheme = s;
    out.shape.assign(src.shape().begin(), src.shape().end());
    const std::size_t rows = out.rows(), cols = out.cols();
    if constexpr (detail::strided_expression<const E, const element*>) {
        if (const auto place = detail::matrix_in_place<Type, const void*>(src, rows, cols))
            return detail::encode_matrix(std::move(out), *place, options);
    }
    const detail::dense_copy<element> copy = src;
    return detail::encode_matrix(std::move(out), {Type, copy.data(), rows, cols}, options);
}

// Encodes an expression of float or double.
template <class E>
[[nodiscard]] result<encoded_array> encode(const scheme& s, const xt::xexpression<E>& expression,
                                           const encode_options& options = {}) {
    return encode<detail::dtype_of<detail::element_of<E>>()>(s, expression, options);
}

// Decodes into a container or view of the encoded shape; what lies between the elements of a view is not written.
// Errors: invalid_argument for another shape.
template <dtype Type, class E>
[[nodiscard]] result<void> decode(const encoded_array& src, E&& dst, memory_source memory = nullptr) {
    using element = detail::element_of<E>;
    static_assert(detail::holds<Type, element>, "the destination's elements are not of this dtype");
    if (!std::equal(src.shape.begin(), src.shape.end(), dst.shape().begin(), dst.shape().end()))
        return error{.code = error_code::invalid_argument,
                     .message = "the destination has another shape than what was encoded"};
    const std::size_t rows = src.rows(), cols = src.cols();
    if constexpr (detail::strided_expression<E, element*>) {
        if (const auto place = detail::matrix_in_place<Type, void*>(dst, rows, cols))
            return detail::decode_matrix(src, *place, memory);
    }
    auto copy = detail::dense_copy<element>::from_shape(src.shape);
    if (auto done = detail::decode_matrix(src, {Type, copy.data(), rows, cols}, memory); !done) return done;
    xt::noalias(dst) = copy;
    return {};
}
template <class E>
    requires requires(E& e) { e.shape(); }
[[nodiscard]] result<void> decode(const encoded_array& src, E&& dst, memory_source memory = nullptr) {
    return decode<detail::dtype_of<detail::element_of<E>>()>(src, dst, memory);
}

// Decodes into a new array of the encoded shape: decode<float>(src), decode<double>(src).
template <class T>
[[nodiscard]] result<xt::xarray<T>> decode(const encoded_array& src) {
    auto dst = xt::xarray<T>::from_shape(src.shape);
    if (auto done = decode(src, dst); !done) return done.error();
    return dst;
}

}  // namespace bitmill
