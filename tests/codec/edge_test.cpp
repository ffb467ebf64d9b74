// Requests and weights that make no sense, weights that ordinary code trips over, and what must not matter: the
// instruction set and the caller's floating-point mode.
#include <bitmill/codec/codec.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/kernels/dispatch.hpp>

#include <coded.hpp>
#include <weights.hpp>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::error_code;
using bitmill::granularity;
using bitmill::method;
using bitmill::scheme;
using bitmill::scheme_type;

namespace {

constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
constexpr float infinite = std::numeric_limits<float>::infinity();
constexpr float largest = std::numeric_limits<float>::max();

struct encoded {
    std::string bytes;
    std::string decoded;
    bitmill::error_metrics metrics;
};

encoded run(const coding& how, dtype type, const std::string& source, std::size_t rows, std::size_t cols) {
    const aligned_bytes data(source);
    coded_matrix m(how.scheme, rows, cols, bitmill::encode_bound(how.scheme, rows, cols).value());
    bitmill::encode_options options;
    options.method = how.method;
    encoded out;
    out.metrics = bitmill::encode(how.scheme, view_of(type, data, rows, cols), m.view, options).value();
    out.decoded = m.decoded(dtype::f32);
    out.bytes = m.all_bytes() + std::to_string(std::bit_cast<std::uint32_t>(m.view.nested_offset));
    return out;
}

class isa_guard {
public:
    ~isa_guard() { (void)bitmill::set_isa(before_); }

private:
    std::string before_ = bitmill::isa();
};

}  // namespace

TEST_CASE("codec: a weight that is not finite is named by its index") {
    for (const std::size_t bad :
         {std::size_t{0}, std::size_t{31}, std::size_t{64}, std::size_t{4096}, std::size_t{5119}}) {
        for (const float value : {nan_value, infinite, -infinite}) {
            for (const dtype type : {dtype::f32, dtype::f16, dtype::bf16, dtype::f64}) {
                auto floats = make_weights(20 * 256, 2);
                floats[bad] = value;
                const aligned_bytes data(bytes_as(type, floats));
                for (const auto& how : codings_for(256)) {
                    CAPTURE(bitmill::to_text(how.scheme));
                    CAPTURE(bitmill::facts(type).name);
                    CAPTURE(value);
                    CAPTURE(bad);
                    coded_matrix m(how.scheme, 20, 256, bitmill::encode_bound(how.scheme, 20, 256).value());
                    bitmill::encode_options options;
                    options.method = how.method;
                    const auto outcome =
                        bitmill::encode(how.scheme, view_of(type, data, 20, 256), m.view, options);
                    REQUIRE_FALSE(outcome);
                    CHECK(outcome.error().code == error_code::bad_input);
                    CHECK(outcome.error().offset == bad);
                    CHECK(outcome.error().message.find("element " + std::to_string(bad)) !=
                          std::string::npos);
                    CHECK(m.intact());
                }
                const auto view = view_of(type, data, 20, 256);
                CHECK(bitmill::find_range(view).error().offset == bad);
                CHECK(bitmill::sum_absmax(view, 64).error().code == error_code::bad_input);
                const auto obstacle = bitmill::find_cast_obstacle(view, dtype::f16);
                REQUIRE(obstacle);
                CHECK(obstacle->index == bad);
                CHECK(obstacle->not_finite);
            }
        }
    }
}

TEST_CASE("codec: NaN is found also where the range of a tensor is given") {
    auto floats = make_weights(4 * 64, 2);
    floats[70] = nan_value;
    bitmill::encode_options options;
    options.range = bitmill::value_range{-1.0f, 1.0f};
    const scheme s{.type = scheme_type::int8, .granularity = granularity::per_tensor};
    coded_matrix m(s, 4, 64, bitmill::encode_bound(s, 4, 64).value());
    const auto outcome = bitmill::encode(s, {dtype::f32, floats.data(), 4, 64}, m.view, options);
    REQUIRE_FALSE(outcome);
    CHECK(outcome.error().code == error_code::bad_input);
    CHECK(outcome.error().offset == 70);
}

TEST_CASE("codec: casts that overflow are errors, the rest of the range is not") {
    struct overflow {
        scheme_type to;
        double fits;
        double not_any_more;
    };
    for (const auto& one :
         {overflow{scheme_type::f16, 65519.99, 65520.0}, overflow{scheme_type::bf16, 3.3895e38, 0x1.ffp127},
          overflow{scheme_type::f32, 0x1.fffffefp127, 0x1.ffffffp127}}) {
        CAPTURE(bitmill::facts(one.to).name);
        const scheme s{.type = one.to};
        for (const double sign : {1.0, -1.0}) {
            std::vector<double> doubles{0.5, sign * one.fits, 1.0};
            coded_matrix m(s, 1, 3, bitmill::encode_bound(s, 1, 3).value());
            REQUIRE(bitmill::encode(s, {dtype::f64, doubles.data(), 1, 3}, m.view));
            const std::string back = m.decoded(dtype::f32);
            CHECK(std::isfinite(values_of(dtype::f32, back.data(), 3)[1]));
            doubles[1] = sign * one.not_any_more;
            const auto outcome = bitmill::encode(s, {dtype::f64, doubles.data(), 1, 3}, m.view);
            REQUIRE_FALSE(outcome);
            CHECK(outcome.error().code == error_code::bad_input);
            CHECK(outcome.error().offset == 1);
            CHECK(outcome.error().message.find("overflow") != std::string::npos);
        }
    }
}

TEST_CASE("codec: schemes that have no meaning are refused") {
    std::vector<float> floats(256, 1.0f);
    const auto code_of = [&](const scheme& s, bitmill::encode_options options = {}, dtype type = dtype::f32,
                             std::size_t cols = 128) {
        guarded big(65536);
        bitmill::encoded_view view{big.data(), big.data() + 4096, big.data() + 8192, big.data() + 12288, 0};
        const auto outcome = bitmill::encode(s, {type, floats.data(), 256 / cols, cols}, view, options);
        return outcome ? error_code::ok : outcome.error().code;
    };
    const auto grouped = [](scheme_type type, granularity how, std::size_t size) {
        return scheme{.type = type, .granularity = how, .group_size = size};
    };
    constexpr auto invalid = error_code::invalid_argument;
    CHECK(code_of(grouped(scheme_type::int4, granularity::group, 32)) == error_code::ok);
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{12}, std::size_t{48}, std::size_t{256}, std::size_t{1} << 40}) {
        CAPTURE(size);
        CHECK(code_of(grouped(scheme_type::int4, granularity::group, size)) == invalid);
    }
    for (const std::size_t size : {std::size_t{0}, std::size_t{16}, std::size_t{33}, std::size_t{96},
                                   std::size_t{8192}, std::size_t{1} << 40}) {
        CAPTURE(size);
        CHECK(code_of(grouped(scheme_type::nf4, granularity::block, size)) == invalid);
        CHECK_FALSE(bitmill::encode_bound(grouped(scheme_type::fp4, granularity::block, size), 2, 128));
    }
    CHECK(code_of(grouped(scheme_type::nf4, granularity::group, 64)) == invalid);
    CHECK(code_of(grouped(scheme_type::int8, granularity::block, 64)) == invalid);
    scheme s;
    s.scale_dtype = dtype::f64;
    CHECK(code_of(s) == invalid);
    s.scale_dtype = dtype::f32;
    s.row_alignment = 0;
    CHECK(code_of(s) == invalid);
    CHECK(code_of({.planes = true}) == invalid);
    CHECK(code_of({.type = scheme_type::int4, .scale_dtype = dtype::f16, .planes = true}) == invalid);
    CHECK(code_of({.type = scheme_type::nf4, .scale_dtype = dtype::f16, .planes = true}) == invalid);
    CHECK(code_of({.symmetric = false, .scale_dtype = dtype::f16, .planes = true}) == invalid);
    CHECK(code_of({.granularity = granularity::per_tensor, .scale_dtype = dtype::f16, .planes = true}) ==
          invalid);
    for (const dtype type : {dtype::i8, dtype::u8, dtype::f8_e4m3, dtype::i64, dtype::f4})
        CHECK(code_of({}, {}, type) == invalid);
    bitmill::encode_options options;
    options.method = method::mse;
    CHECK(code_of({.granularity = granularity::per_tensor}, options) == invalid);
    CHECK(code_of(grouped(scheme_type::nf4, granularity::block, 64), options) == invalid);
    CHECK(code_of({.type = scheme_type::f16}, options) == invalid);
    options.method = method::absmax;
    options.weight_threshold = -1;
    CHECK(code_of({}, options) == invalid);
    options.weight_threshold = nan_value;
    CHECK(code_of({}, options) == invalid);
    const scheme one_scale{
        .type = scheme_type::int4, .granularity = granularity::per_tensor, .symmetric = false};
    for (const auto& [low, high] : {std::pair{nan_value, 1.0f},
                                    {-1.0f, nan_value},
                                    {-infinite, 1.0f},
                                    {-1.0f, infinite},
                                    {0.5f, 1.0f},
                                    {-1.0f, -0.5f}}) {
        options = {};
        options.range = bitmill::value_range{low, high};
        CHECK(code_of(one_scale, options) == invalid);
    }
    scheme nested = grouped(scheme_type::nf4, granularity::block, 64);
    nested.double_quant = true;
    for (const float offset : {nan_value, infinite, -1.0f}) {
        options = {};
        options.nested_offset = offset;
        CHECK(code_of(nested, options) == invalid);
    }
    const std::uint64_t huge = std::uint64_t{1} << 40;
    CHECK_FALSE(bitmill::encode_bound({}, huge, huge));
    CHECK_FALSE(bitmill::encode_bound({.type = scheme_type::f16}, ~std::uint64_t{0}, 1));
    bitmill::encoded_view nothing;
    CHECK_FALSE(bitmill::decode({}, nothing, 1, 1, dtype::i8, floats.data()));
}

namespace {

const std::vector<std::vector<float>>& hostile_weights() {
    static const std::vector<std::vector<float>> list{{1e-45f},
                                                      {-1e-40f, 1e-42f},
                                                      {-0.0f},
                                                      {0.0f, -0.0f},
                                                      {0.75f},
                                                      {-1e-38f},
                                                      {1e38f, -1e38f},
                                                      {1e38f},
                                                      {largest, -largest},
                                                      {largest},
                                                      {-largest},
                                                      {3.4e38f, 1e-45f},
                                                      {largest, 0.0f, 1.0f},
                                                      {-largest, 1e-38f, 3e38f},
                                                      {1.1754944e-38f},
                                                      {1e-38f, largest},
                                                      {65504.0f, 65520.0f},
                                                      {1e30f, 1e-30f, 0.0f, -1e10f}};
    return list;
}

bool overflows(const scheme& s, const std::vector<float>& floats) {
    const double limit = s.type == scheme_type::f16 ? 65519 : s.type == scheme_type::bf16 ? 3.38e38 : 1e300;
    return std::any_of(floats.begin(), floats.end(),
                       [&](float x) { return std::fabs(static_cast<double>(x)) > limit; });
}

// Every scheme that `wanted` picks, on all of the above.
template <class Wanted>
void check_finite(const Wanted& wanted) {
    for (std::size_t which = 0; which < hostile_weights().size(); ++which) {
        const auto& pattern = hostile_weights()[which];
        std::vector<float> floats(3 * 128);
        for (std::size_t i = 0; i < floats.size(); ++i) floats[i] = pattern[i % pattern.size()];
        // The first row holds something else, so that scales differ.
        if (which % 2 == 1) std::fill_n(floats.begin(), 128, 0.5f);
        for (const auto& how : codings_for(128)) {
            for (const dtype scale : {dtype::f32, dtype::f16, dtype::bf16}) {
                coding one = how;
                one.scheme.scale_dtype = scale;
                if (!bitmill::facts(how.scheme.type).integer && scale != dtype::f32) continue;
                if (how.scheme.planes && scale == dtype::f32) continue;
                if (overflows(one.scheme, floats) || !wanted(one.scheme)) continue;
                CAPTURE(which);
                CAPTURE(bitmill::to_text(one.scheme));
                CAPTURE(static_cast<int>(one.method));
                CAPTURE(bitmill::facts(scale).name);
                const auto out = run(one, dtype::f32, bytes_as(dtype::f32, floats), 3, 128);
                std::size_t bad = 0;
                for (const double x : values_of(dtype::f32, out.decoded.data(), floats.size()))
                    bad += !std::isfinite(x);
                CHECK(bad == 0);
                CHECK(std::isfinite(out.metrics.mse()));
                CHECK_FALSE(std::isnan(out.metrics.snr_db()));
                CHECK_FALSE(std::isnan(out.metrics.cosine()));
            }
        }
    }
}

bool has_bf16_scales(const scheme& s) {
    return bitmill::facts(s.type).integer && s.scale_dtype == dtype::bf16;
}

}  // namespace

TEST_CASE("codec: no finite weight decodes to NaN or infinity") {
    check_finite([](const scheme& s) { return !has_bf16_scales(s) && !s.double_quant; });
}

TEST_CASE("codec: no finite weight decodes to infinity with bf16 scales") { check_finite(has_bf16_scales); }

TEST_CASE("codec: no finite weight decodes to infinity with double quantization") {
    check_finite([](const scheme& s) { return s.double_quant; });
}

TEST_CASE("codec: huge and tiny weights keep the precision that they can") {
    // With f32 scales, weights of any ordinary size code as well as weights of size 1.
    for (const auto& how : codings_for(128)) {
        if (how.scheme.scale_dtype != dtype::f32 || how.scheme.double_quant) continue;
        if (!bitmill::facts(how.scheme.type).integer && !bitmill::facts(how.scheme.type).code_book) continue;
        CAPTURE(bitmill::to_text(how.scheme));
        CAPTURE(static_cast<int>(how.method));
        const auto snr = [&](float size) {
            const auto floats = make_weights(4 * 128, 3, spread::gaussian, size);
            return run(how, dtype::f32, bytes_as(dtype::f32, floats), 4, 128).metrics.snr_db();
        };
        const double ordinary = snr(1);
        for (const float size : {0x1p-100f, 0x1p-60f, 0x1p60f, 0x1p100f}) {
            CAPTURE(size);
            CHECK(snr(size) == doctest::Approx(ordinary).epsilon(1e-3));
        }
    }
}

TEST_CASE("codec: every instruction set gives the same bytes") {
    const isa_guard restore;
    const auto available = bitmill::isa_available();
    REQUIRE_FALSE(available.empty());
    for (const spread kind : {spread::gaussian, spread::heavy_tails, spread::one_sided}) {
        for (const std::size_t cols : {std::size_t{17}, std::size_t{160}, std::size_t{4224}}) {
            const auto floats = make_weights(5 * cols, cols, kind);
            for (const dtype type : {dtype::f32, dtype::bf16, dtype::f16, dtype::f64}) {
                const std::string source = bytes_as(type, floats);
                for (const auto& how : codings_for(cols)) {
                    if (cols == 4224 && type != dtype::f32) continue;
                    REQUIRE(bitmill::set_isa(available.front()));
                    const auto first = run(how, type, source, 5, cols);
                    for (const auto& name : available) {
                        CAPTURE(name);
                        CAPTURE(bitmill::to_text(how.scheme));
                        CAPTURE(bitmill::facts(type).name);
                        CAPTURE(cols);
                        REQUIRE(bitmill::set_isa(name));
                        REQUIRE(bitmill::isa() == name);
                        const auto other = run(how, type, source, 5, cols);
                        CHECK(other.bytes == first.bytes);
                        CHECK(other.decoded == first.decoded);
                        CHECK(other.metrics.sums().err2 == first.metrics.sums().err2);
                        CHECK(other.metrics.sums().src2 == first.metrics.sums().src2);
                        CHECK(other.metrics.max_abs() == first.metrics.max_abs());
                    }
                }
            }
        }
    }
}

TEST_CASE("codec: an instruction set that is not there is refused") {
    CHECK(bitmill::set_isa("no-such-isa").error().code == error_code::invalid_argument);
    const std::string before = bitmill::isa();
    CHECK_FALSE(bitmill::set_isa(""));
    CHECK(bitmill::isa() == before);
}

#if defined(__x86_64__)
TEST_CASE("codec: the caller's floating-point mode changes no byte and comes back") {
    auto floats = make_weights(4 * 256, 13);
    for (std::size_t i = 0; i < 256; ++i) floats[i] *= 1e-37f;  // scales and weights that are denormal
    for (const dtype type : {dtype::f32, dtype::f16, dtype::f64}) {
        const std::string source = bytes_as(type, floats);
        for (const auto& how : codings_for(256)) {
            CAPTURE(bitmill::to_text(how.scheme));
            CAPTURE(bitmill::facts(type).name);
            const auto plain = run(how, type, source, 4, 256);
            const unsigned before = _mm_getcsr();
            const unsigned hostile = 0x1f80u | 0x8000u | 0x4000u | 0x0040u;  // flush to zero, round up, DAZ
            _mm_setcsr(hostile);
            const auto odd = run(how, type, source, 4, 256);
            const unsigned after = _mm_getcsr();
            _mm_setcsr(before);
            CHECK((after & 0xffc0u) == (hostile & 0xffc0u));
            CHECK(odd.bytes == plain.bytes);
            CHECK(odd.decoded == plain.decoded);
            CHECK(odd.metrics.sums().err2 == plain.metrics.sums().err2);
        }
    }
}
#endif
