// The C interface and the C++ codec give the same bytes, numbers and errors.
#include <string>
#include <vector>

#include <bitmill.h>
#include <bitmill/codec/codec.hpp>

#include <doctest/doctest.h>

#include <coded.hpp>

using namespace bitmill_test;
using bitmill::dtype;

namespace {

bitmill_dtype number_of(dtype type) {
    return type == dtype::f32    ? BITMILL_F32
           : type == dtype::f16  ? BITMILL_F16
           : type == dtype::bf16 ? BITMILL_BF16
                                 : BITMILL_F64;
}

bitmill_scheme scheme_of(const bitmill::scheme& s) {
    constexpr bitmill_scheme_type types[] = {
        BITMILL_SCHEME_FP32, BITMILL_SCHEME_FP16, BITMILL_SCHEME_BF16,   BITMILL_SCHEME_INT8,
        BITMILL_SCHEME_INT4, BITMILL_SCHEME_NF4,  BITMILL_SCHEME_FP4,    BITMILL_SCHEME_INT2,
        BITMILL_SCHEME_Q8_0, BITMILL_SCHEME_Q4_0, BITMILL_SCHEME_Q4_1,   BITMILL_SCHEME_Q5_0,
        BITMILL_SCHEME_Q5_1, BITMILL_SCHEME_Q2_K, BITMILL_SCHEME_Q3_K,   BITMILL_SCHEME_Q4_K,
        BITMILL_SCHEME_Q5_K, BITMILL_SCHEME_Q6_K, BITMILL_SCHEME_IQ4_NL, BITMILL_SCHEME_IQ4_XS,
        BITMILL_SCHEME_MXFP4};
    constexpr bitmill_granularity grains[] = {BITMILL_PER_TENSOR, BITMILL_PER_CHANNEL, BITMILL_GROUP,
                                              BITMILL_BLOCK};
    bitmill_scheme out = BITMILL_SCHEME_INIT;
    out.type = types[static_cast<std::size_t>(s.type)];
    out.granularity = grains[static_cast<std::size_t>(s.granularity)];
    out.scale_dtype = number_of(s.scale_dtype);
    out.group_size = s.group_size;
    out.asymmetric = !s.symmetric;
    out.double_quant = s.double_quant;
    out.offset_binary = s.offset_binary;
    out.row_alignment = s.row_alignment;
    out.planes = s.planes;
    return out;
}

bitmill_encoded encoded_of(coded_matrix& coded) {
    bitmill_encoded out = BITMILL_ENCODED_INIT;
    out.codes = coded.codes.data();
    out.codes_bytes = coded.codes.size();
    out.scales = coded.scales.data();
    out.scales_bytes = coded.scales.size();
    out.zero_points = coded.zero_points.data();
    out.zero_points_bytes = coded.zero_points.size();
    out.nested_scales = coded.nested_scales.data();
    out.nested_scales_bytes = coded.nested_scales.size();
    out.residual = coded.residual.data();
    out.residual_bytes = coded.residual.size();
    return out;
}

}  // namespace

TEST_CASE("twin: encode and decode through C give the bytes of C++, for every scheme and dtype") {
    for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{1, 7}, {37, 128}, {3, 5000}})
        for (const auto type : {dtype::f32, dtype::f16, dtype::bf16, dtype::f64}) {
            const aligned_bytes source(bytes_as(type, make_weights(rows * cols, rows + cols)));
            bitmill_matrix matrix = BITMILL_MATRIX_INIT;
            matrix.dtype = number_of(type);
            matrix.rows = rows;
            matrix.cols = cols;
            for (const auto& [scheme, method] : codings_for(cols)) {
                CAPTURE(bitmill::to_text(scheme));
                const auto sizes = bitmill::encode_bound(scheme, rows, cols).value();
                coded_matrix expected(scheme, rows, cols, sizes), got(scheme, rows, cols, sizes);
                bitmill::encode_options how;
                how.method = method;
                how.weight_threshold = 0.01f;
                bitmill::error_metrics base;
                how.base_error = &base;
                const auto metrics =
                    bitmill::encode(scheme, view_of(type, source, rows, cols), expected.view, how).value();

                const bitmill_scheme c_scheme = scheme_of(scheme);
                bitmill_encoded bound = BITMILL_ENCODED_INIT;
                REQUIRE(bitmill_encode_bound(&c_scheme, rows, cols, &bound, nullptr) == BITMILL_OK);
                CHECK(bound.codes_bytes == sizes.codes);
                CHECK(bound.scales_bytes == sizes.scales);
                CHECK(bound.zero_points_bytes == sizes.zero_points);
                CHECK(bound.nested_scales_bytes == sizes.nested_scales);
                CHECK(bound.residual_bytes == sizes.residual);

                bitmill_encoded c_coded = encoded_of(got);
                bitmill_encode_options c_how = BITMILL_ENCODE_OPTIONS_INIT;
                c_how.method = method == bitmill::method::mse ? BITMILL_MSE : BITMILL_ABSMAX;
                c_how.weight_threshold = 0.01f;
                bitmill_metrics c_base = BITMILL_METRICS_INIT;
                c_how.base_metrics = &c_base;
                bitmill_metrics c_metrics = BITMILL_METRICS_INIT;
                REQUIRE(bitmill_encode(&c_scheme, &matrix, source.data(), &c_coded, &c_how, &c_metrics,
                                       nullptr) == BITMILL_OK);
                CHECK(got.all_bytes() == expected.all_bytes());
                CHECK(got.intact());
                CHECK(c_coded.nested_offset == expected.view.nested_offset);
                CHECK(c_base.elements == base.elements());
                CHECK(c_base.mse == base.mse());
                CHECK(c_metrics.elements == metrics.elements());
                CHECK(c_metrics.mse == metrics.mse());
                CHECK(c_metrics.max_abs == metrics.max_abs());
                CHECK(c_metrics.snr_db == metrics.snr_db());
                CHECK(c_metrics.cosine == metrics.cosine());

                guarded out(rows * cols * bitmill::element_bytes(type));
                REQUIRE(bitmill_decode(&c_scheme, &c_coded, &matrix, out.data(), nullptr, nullptr) ==
                        BITMILL_OK);
                CHECK(out.text() == expected.decoded(type));
                CHECK(out.intact());
                if (!scheme.planes) continue;
                c_coded.residual = nullptr;
                expected.view.residual = nullptr;
                REQUIRE(bitmill_decode(&c_scheme, &c_coded, &matrix, out.data(), nullptr, nullptr) ==
                        BITMILL_OK);
                CHECK(out.text() == expected.decoded(type));
            }
        }
}
