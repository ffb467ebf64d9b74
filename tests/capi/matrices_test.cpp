// Matrices that no memory holds, buffers that are too small, pointers that are NULL or not aligned.
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "host.hpp"

using namespace bitmill_test;

namespace {

bool says(const host& h, const std::string& part) {
    return std::string(h.error.message).find(part) != std::string::npos;
}

void use_scheme(host& h, bitmill_scheme_type type, bool with_all_parts = true) {
    const bitmill_scheme fresh = BITMILL_SCHEME_INIT;
    h.scheme = fresh;
    h.scheme.type = type;
    if (type == BITMILL_SCHEME_NF4 || type == BITMILL_SCHEME_FP4) {
        h.scheme.granularity = BITMILL_BLOCK;
        h.scheme.group_size = 64;
        h.scheme.double_quant = with_all_parts;
    } else if (type == BITMILL_SCHEME_INT8 || type == BITMILL_SCHEME_INT4 || type == BITMILL_SCHEME_INT2) {
        h.scheme.asymmetric = with_all_parts;
    }
    h.give_room();
}

constexpr bitmill_scheme_type scheme_types[] = {BITMILL_SCHEME_FP32, BITMILL_SCHEME_FP16, BITMILL_SCHEME_BF16,
                                                BITMILL_SCHEME_INT8, BITMILL_SCHEME_INT4, BITMILL_SCHEME_NF4,
                                                BITMILL_SCHEME_FP4,  BITMILL_SCHEME_INT2};

}  // namespace

TEST_CASE("matrices: NULL for any pointer that is needed is refused, and fine for any that is not") {
    host h;
    bitmill_error* e = &h.error;
    void* data = h.values.data();
    const auto refused = [&](bitmill_status status) {
        CHECK(status == BITMILL_INVALID_ARGUMENT);
        CHECK(says(h, " is NULL"));
    };
    refused(bitmill_encode_bound(nullptr, 1, 1, &h.sizes, e));
    CHECK(h.sizes.codes_bytes == 0);
    refused(bitmill_encode_bound(&h.scheme, 1, 1, nullptr, e));
    refused(bitmill_encode(nullptr, &h.matrix, data, &h.coded, nullptr, nullptr, e));
    refused(bitmill_encode(&h.scheme, nullptr, data, &h.coded, nullptr, nullptr, e));
    refused(bitmill_encode(&h.scheme, &h.matrix, nullptr, &h.coded, nullptr, nullptr, e));
    refused(bitmill_encode(&h.scheme, &h.matrix, data, nullptr, nullptr, nullptr, e));
    refused(bitmill_decode(nullptr, &h.coded, &h.matrix, data, nullptr, e));
    refused(bitmill_decode(&h.scheme, nullptr, &h.matrix, data, nullptr, e));
    refused(bitmill_decode(&h.scheme, &h.coded, nullptr, data, nullptr, e));
    refused(bitmill_decode(&h.scheme, &h.coded, &h.matrix, nullptr, nullptr, e));
    CHECK(bitmill_encode_bound(&h.scheme, 1, 1, &h.sizes, nullptr) == BITMILL_OK);
    CHECK(bitmill_encode(&h.scheme, &h.matrix, data, &h.coded, nullptr, nullptr, nullptr) == BITMILL_OK);
    CHECK(bitmill_decode(&h.scheme, &h.coded, &h.matrix, data, nullptr, nullptr) == BITMILL_OK);
    CHECK(bitmill_encode(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr) ==
          BITMILL_INVALID_ARGUMENT);
    CHECK(bitmill_decode(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr) == BITMILL_INVALID_ARGUMENT);
}

TEST_CASE("matrices: a part that is NULL or a byte too small is refused by name, and nothing is written") {
    host h;
    for (const auto type : scheme_types) {
        use_scheme(h, type);
        struct part {
            const char* name;
            void** data;
            std::uint64_t* bytes;
        };
        const part parts[] = {{"codes", &h.coded.codes, &h.coded.codes_bytes},
                              {"scales", &h.coded.scales, &h.coded.scales_bytes},
                              {"zero_points", &h.coded.zero_points, &h.coded.zero_points_bytes},
                              {"nested_scales", &h.coded.nested_scales, &h.coded.nested_scales_bytes}};
        for (const auto& one : parts) {
            CAPTURE(type);
            CAPTURE(one.name);
            void* const data = *one.data;
            const std::uint64_t bytes = *one.bytes;
            const bool needed = bytes != 0;
            for (const auto through : {&host::encode, &host::decode}) {
                *one.data = nullptr;
                CHECK((h.*through)() == (needed ? BITMILL_INVALID_ARGUMENT : BITMILL_OK));
                if (needed) CHECK(says(h, std::string(one.name) + " is NULL"));
                *one.data = data;
                if (!needed) continue;
                for (const std::uint64_t fewer : {bytes - 1, std::uint64_t{0}}) {
                    *one.bytes = fewer;
                    h.codes.assign(h.codes.size(), 'x');
                    CHECK((h.*through)() == BITMILL_INVALID_ARGUMENT);
                    CHECK(says(h, std::string(one.name) + " has " + std::to_string(fewer) +
                                      " bytes, needed are " + std::to_string(bytes)));
                    CHECK(h.codes == std::vector<char>(h.codes.size(), 'x'));
                }
                *one.bytes = bytes;
            }
        }
        CHECK(h.encode() == BITMILL_OK);
        CHECK(h.decode() == BITMILL_OK);
    }
}

TEST_CASE("matrices: data that is not aligned to its element is refused") {
    host h;
    use_scheme(h, BITMILL_SCHEME_INT8);
    const std::pair<bitmill_dtype, std::size_t> types[] = {
        {BITMILL_F32, 4}, {BITMILL_F16, 2}, {BITMILL_BF16, 2}, {BITMILL_F64, 8}};
    std::vector<double> room(4 * 32 + 1);
    for (const auto& [type, width] : types)
        for (std::size_t shift = 0; shift < width; ++shift) {
            h.matrix.dtype = type;
            char* data = reinterpret_cast<char*>(room.data()) + shift;
            const auto wanted = shift == 0 ? BITMILL_OK : BITMILL_INVALID_ARGUMENT;
            CHECK(bitmill_encode(&h.scheme, &h.matrix, data, &h.coded, nullptr, nullptr, &h.error) == wanted);
            CHECK(bitmill_decode(&h.scheme, &h.coded, &h.matrix, data, nullptr, &h.error) == wanted);
        }
}

TEST_CASE("matrices: parts may stand at any address, but for the elements of a plain float scheme") {
    host h;
    h.matrix.dtype = BITMILL_F32;
    for (const auto type : scheme_types) {
        CAPTURE(type);
        use_scheme(h, type);
        const bool plain = type <= BITMILL_SCHEME_BF16;
        std::vector<std::uint64_t> room(4 * 32);
        for (std::size_t shift = 1; shift < 4; ++shift) {
            const bool aligned = shift % (type == BITMILL_SCHEME_FP32 ? 4 : 2) == 0;
            h.coded.codes = reinterpret_cast<char*>(room.data()) + shift;
            const auto wanted = plain && !aligned ? BITMILL_INVALID_ARGUMENT : BITMILL_OK;
            CHECK(h.encode() == wanted);
            CHECK(h.decode() == wanted);
        }
        h.coded.codes = h.codes.data();
        std::vector<char> scales(h.scales.size() + 1), nested(h.nested_scales.size() + 1);
        h.coded.scales = scales.data() + 1;
        h.coded.nested_scales = nested.data() + 1;
        CHECK(h.encode() == BITMILL_OK);
        CHECK(h.decode() == BITMILL_OK);
    }
}

TEST_CASE("matrices: counts whose product or whose bytes overflow are refused") {
    host h;
    constexpr std::uint64_t most = ~std::uint64_t{0};
    constexpr std::uint64_t bit = 1;
    const std::pair<std::uint64_t, std::uint64_t> shapes[] = {{bit << 40, bit << 40},
                                                              {bit << 32, bit << 32},
                                                              {bit << 63, 1},
                                                              {1, bit << 63},
                                                              {most, most},
                                                              {most, 1},
                                                              {1, most},
                                                              {most, 2},
                                                              {bit << 60, 64},
                                                              {1, bit << 60}};
    for (const auto type : scheme_types) {
        use_scheme(h, type);
        for (const auto& [rows, cols] : shapes) {
            CAPTURE(type);
            CAPTURE(rows);
            CAPTURE(cols);
            h.matrix.rows = rows;
            h.matrix.cols = cols;
            h.sizes.codes_bytes = h.sizes.scales_bytes = 7;
            CHECK(h.bound() == BITMILL_INVALID_ARGUMENT);
            CHECK(h.sizes.codes_bytes + h.sizes.scales_bytes == 0);
            CHECK(h.encode() == BITMILL_INVALID_ARGUMENT);
            CHECK(h.decode() == BITMILL_INVALID_ARGUMENT);
        }
        h.matrix.rows = 4;
        h.matrix.cols = 32;
    }
    use_scheme(h, BITMILL_SCHEME_INT8);
    h.scheme.row_alignment = bit << 63;
    h.matrix.rows = 2;
    CHECK(h.bound() == BITMILL_INVALID_ARGUMENT);
    h.scheme.granularity = BITMILL_GROUP;
    for (const std::uint64_t group :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{12}, bit << 63, most}) {
        h.scheme.group_size = group;
        CHECK(h.bound() == BITMILL_INVALID_ARGUMENT);
    }
}

TEST_CASE("matrices: a large bound that fits is not refused") {
    host h;
    use_scheme(h, BITMILL_SCHEME_FP32);
    constexpr std::uint64_t rows = std::uint64_t{1} << 40;
    CHECK(bitmill_encode_bound(&h.scheme, rows, 1000, &h.sizes, &h.error) == BITMILL_OK);
    CHECK(h.sizes.codes_bytes == rows * 4000);
}

TEST_CASE("matrices: without rows or columns there is nothing to do, whatever the other count") {
    host h;
    for (const auto type : scheme_types)
        for (const auto& [rows, cols] :
             {std::pair<std::uint64_t, std::uint64_t>{0, 0}, {0, 32}, {4, 0}, {0, std::uint64_t{1} << 58}}) {
            CAPTURE(type);
            CAPTURE(rows);
            CAPTURE(cols);
            use_scheme(h, type, false);
            h.matrix.rows = rows;
            h.matrix.cols = cols;
            h.matrix.row_stride = std::numeric_limits<std::int64_t>::min();
            CHECK(h.bound() == BITMILL_OK);
            CHECK(bitmill_encode(&h.scheme, &h.matrix, nullptr, &h.coded, nullptr, &h.metrics, &h.error) ==
                  BITMILL_OK);
            CHECK(h.metrics.elements == 0);
            CHECK(h.metrics.snr_db == 0);
            CHECK(bitmill_decode(&h.scheme, &h.coded, &h.matrix, nullptr, nullptr, &h.error) == BITMILL_OK);
            h.matrix.rows = 4;
            h.matrix.cols = 32;
            h.matrix.row_stride = 0;
        }
}

TEST_CASE(
    "matrices: strides that reach farther than memory are refused; of one row or column they say nothing") {
    host h;
    constexpr auto low = std::numeric_limits<std::int64_t>::min();
    constexpr auto high = std::numeric_limits<std::int64_t>::max();
    for (const auto type : scheme_types) {
        use_scheme(h, type);
        for (const auto stride : {low, low + 1, low / 4, high, high / 4, high / 8}) {
            CAPTURE(type);
            CAPTURE(stride);
            for (std::int64_t* which : {&h.matrix.row_stride, &h.matrix.col_stride}) {
                *which = stride;
                CHECK(h.encode() == BITMILL_INVALID_ARGUMENT);
                CHECK(says(h, "strides"));
                CHECK(h.decode() == BITMILL_INVALID_ARGUMENT);
                *which = 0;
            }
            h.matrix.row_stride = h.matrix.col_stride = stride;
            CHECK(h.decode() == BITMILL_INVALID_ARGUMENT);
            h.matrix.rows = 1;
            h.matrix.col_stride = -1;
            const auto last = h.values.data() + 31;
            CHECK(bitmill_encode(&h.scheme, &h.matrix, last, &h.coded, nullptr, nullptr, &h.error) ==
                  BITMILL_OK);
            CHECK(bitmill_decode(&h.scheme, &h.coded, &h.matrix, last, nullptr, &h.error) == BITMILL_OK);
            h.matrix.cols = 1;
            h.matrix.col_stride = stride;
            CHECK(h.encode() == BITMILL_OK);
            h.matrix.rows = 4;
            h.matrix.cols = 32;
            h.matrix.row_stride = h.matrix.col_stride = 0;
        }
    }
}

TEST_CASE("matrices: NaN and infinity are bad input at their element, and metrics stay 0") {
    host h;
    for (const auto type : scheme_types)
        for (const float bad :
             {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
              -std::numeric_limits<float>::infinity()}) {
            CAPTURE(type);
            use_scheme(h, type);
            h.values[70] = bad;
            h.metrics.mse = 7;
            h.coded.nested_offset = 7;
            CHECK(h.encode() == BITMILL_BAD_INPUT);
            CHECK(h.error.offset == 70);
            CHECK(says(h, "at element 70"));
            CHECK_FALSE(says(h, "byte"));
            CHECK(h.metrics.mse == 0);
            CHECK(h.coded.nested_offset == 0);
            h.values[70] = 0.5f;
        }
}

TEST_CASE("matrices: options that have no meaning are refused") {
    host h;
    for (const float threshold : {-1.0f, std::numeric_limits<float>::quiet_NaN()}) {
        h.encode_options.weight_threshold = threshold;
        CHECK(h.encode() == BITMILL_INVALID_ARGUMENT);
    }
    h.encode_options.weight_threshold = 0;
    h.encode_options.method = BITMILL_MSE;
    CHECK(h.encode() == BITMILL_INVALID_ARGUMENT);  // nf4 has no such search
    use_scheme(h, BITMILL_SCHEME_INT8);
    CHECK(h.encode() == BITMILL_OK);
    h.scheme.scale_dtype = BITMILL_F64;
    CHECK(h.encode() == BITMILL_INVALID_ARGUMENT);
}
