// Blocks of GGUF: vectors that libggml made, what each type costs, and what is refused.
#include <bitmill/codec/codec.hpp>

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <coded.hpp>
#include <weights.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::error_code;
using bitmill::ggml_scheme;
using bitmill::method;
using bitmill::scheme_type;

namespace {

// x[i] = ((37 i mod 101) - 50) / 50, coded by libggml (llama.cpp of October 2026).
std::vector<float> vector_source(std::size_t count) {
    std::vector<float> out(count);
    for (std::size_t i = 0; i < count; ++i) out[i] = (static_cast<float>(i * 37 % 101) - 50) / 50;
    return out;
}

struct vector_of_libggml {
    scheme_type type;
    const char* hex;
    double rmse;                    // of the decoded values against the source
    std::array<double, 6> decoded;  // at 0, 1, 2, 33, 100, 255; of blocks of 256
};

const vector_of_libggml vectors[] = {
    {scheme_type::q8_0, "082081df3d9af856b41270cd2b89e745a2005ebb1977d53390ee4caa0866c3217fdc", 0.0025, {}},
    {scheme_type::q4_0, "0030e046acf258bd1379df358be046acf268", 0.045, {}},
    {scheme_type::q4_1, "443000bcd0369bf157ad1369ce258ad0469cf257", 0.045, {}},
    {scheme_type::q5_0, "002ca4a52d6dc07c38f3bf6b26e2ae5a15d18d49f4c0", 0.02, {}},
    {scheme_type::q5_1, "212c00bca4a52d6db07b37e3af6a26d29d5905c18c48f4b0", 0.02, {}},
    {scheme_type::iq4_nl, "0e20e035acf147ce1269df249bf036bdf158", 0.06, {}},
    {scheme_type::mxfp4, "7d5eca246db035ec9146db035eca246da0", 0.09, {}},
    {scheme_type::q4_k,
     "6518e623fefffffcfffdfefecfdcfffea0156bc1278cd3489e045ab0167bc2378de349ae056ab1267cd2389de459af15268ce24"
     "8ad"
     "0459b0157bd1379ce348ae046ac0267bd2379df359be156ac1268c9df359be157ac1268ce248ad0459b0157bd1379ce348ae046"
     "ac0"
     "267bd2379df3156ac1268cd2489df459b0157bc1378ce348ae046ab0267bd2379de359ae156a",
     0.0348,
     {-0.97187805, -0.30669022, 0.49153519, -0.80584145, 0.33100891, -0.17365265}},
    {scheme_type::q5_k,
     "32140c24fffdfdfdfffcfeffdfeffdcf326c9936cc9366c9b36499324c9926cc9366c9336c99364c9b66cd9366d9336c702be7a"
     "35f"
     "1ad6824d09c5813cf8b46f2be7935e1ad6824d09c5703cf8a36f2b5e1ad5914d09c4803cf8b36f2be6a25e1ad5914d09c4703cf"
     "7a3"
     "6f2be6a25e1a3be8b36e2be6925e19c5814c08b4703cf7a36f2ad6925d19c5814cf8b4703be71bd7824e0ab5713de9a4602cd89"
     "35f"
     "1bc6824e0ab5713de9a4601cd7935f1ac6",
     0.0172,
     {-0.99591064, -0.28610802, 0.48822212, -0.82352829, 0.25366974, -0.17415619}},
    {scheme_type::q6_k,
     "d158bf37be25ad048b047bf37ad159d0c941ea63eb74fb741d951ea72fc841c9bf35ad169b048df26be069d147cf38bd1a922c8"
     "40d"
     "85ed77ff57d038b04aa22b67df58c139b22aa22b931c85fd76ee57ce5ad137b31a902c830f86ec78ff55d1c841da62eb63fc840"
     "d95"
     "1ea63fb840c9d129b30b931c74fe86de67ff47d129b118b1c66cb11b6c861b71c61cb1c76cb22453f9248ef9138ef4538d2452f"
     "924"
     "8ed4a209d47e09a37e14a349d4ae09d77ec863be1463c9147ec923bec463bd1463807f897a867a84877f737d7a81877c89228c",
     0.0083,
     {-1.0009155, -0.25830078, 0.48431396, -0.81046915, 0.28150749, -0.15008688}},
    {scheme_type::q2_k,
     "dedecddffedeffcedebcdeeedcefbeef68b1d66cb11b6c861bb1c66cb1d66cb21b6d861b71c628b1d76cb61b6d861bb11b7d862"
     "b71"
     "c62cb1db6c861b718628b1db6cb51b6c861ba1c66cb1db6cb61b6c1f293c2c",
     0.18,
     {-0.86010742, -0.29998779, 0.26013184, -0.79394531, 0.20782471, -0.32614136}},
    {scheme_type::q3_k,
     "86dc2bc6fd23d67923dc3986fc2bd6fda451fe045bae05fbae51fba459fe045b4827e28d7823de897722dd8877e29d785df2b79"
     "c2d"
     "b68b5de2f7485d22b7882dfd6297c82d528bf8225688fd2e578b3de2c7787dd29bbc2d968b7de2d7787dd2b69ab69a653aa6003"
     "03f"
     "f03309a1",
     0.09,
     {-1.0227661, -0.25569153, 0.51138306, -0.76707458, 0.25569153, -0.31469727}},
};

std::vector<std::byte> from_hex(const char* hex) {
    std::vector<std::byte> out;
    const auto digit = [](char c) { return static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10); };
    for (; *hex != '\0'; hex += 2) out.push_back(static_cast<std::byte>(digit(hex[0]) << 4 | digit(hex[1])));
    return out;
}

std::vector<float> decoded(scheme_type type, std::vector<std::byte> codes, std::size_t cols) {
    std::vector<float> out(cols);
    bitmill::encoded_view view;
    view.codes = codes.data();
    bitmill::decode(ggml_scheme(type), view, 1, cols, dtype::f32, out.data()).value();
    return out;
}

bitmill::result<bitmill::error_metrics> encode(scheme_type type, const std::vector<float>& floats,
                                               std::vector<std::byte>& codes, method how = method::absmax) {
    const auto sizes = bitmill::encode_bound(ggml_scheme(type), 1, floats.size()).value();
    CHECK(sizes.total() == sizes.codes);
    codes.assign(static_cast<std::size_t>(sizes.codes), std::byte{0});
    bitmill::encoded_view view;
    view.codes = codes.data();
    bitmill::encode_options options;
    options.method = how;
    return bitmill::encode(ggml_scheme(type), {dtype::f32, floats.data(), 1, floats.size()}, view, options);
}

bool writes(scheme_type type) { return bitmill::facts(type).encodes; }

std::vector<scheme_type> ggml_types() {
    std::vector<scheme_type> out;
    for (const auto& row : bitmill::scheme_table)
        if (row.ggml != nullptr) out.push_back(row.type);
    return out;
}

}  // namespace

TEST_CASE("ggml: what libggml coded is decoded to its values") {
    for (const auto& one : vectors) {
        CAPTURE(bitmill::facts(one.type).name);
        const std::size_t block = bitmill::facts(one.type).ggml->block_elements;
        const auto codes = from_hex(one.hex);
        REQUIRE(codes.size() == bitmill::facts(one.type).ggml->block_bytes);
        const auto source = vector_source(block);
        const auto got = decoded(one.type, codes, block);
        double squares = 0;
        for (std::size_t i = 0; i < block; ++i)
            squares += std::pow(static_cast<double>(got[i]) - static_cast<double>(source[i]), 2);
        CHECK(std::sqrt(squares / static_cast<double>(block)) < one.rmse);
        if (block == 32) continue;
        constexpr std::size_t at[] = {0, 1, 2, 33, 100, 255};
        for (std::size_t i = 0; i < 6; ++i)
            CHECK(static_cast<double>(got[at[i]]) == doctest::Approx(one.decoded[i]).epsilon(1e-7));
    }
}

TEST_CASE("ggml: absmax gives the bytes of libggml") {
    for (const auto& one : vectors) {
        if (bitmill::facts(one.type).ggml->block_elements != 32 || !writes(one.type)) continue;
        CAPTURE(bitmill::facts(one.type).name);
        std::vector<std::byte> codes;
        REQUIRE(encode(one.type, vector_source(32), codes));
        CHECK(codes == from_hex(one.hex));
    }
}

TEST_CASE("ggml: iq4_xs is iq4_nl with a scale for each 32") {
    const auto small = from_hex(vectors[5].hex);
    std::vector<std::byte> codes(136);
    std::copy_n(small.begin(), 2, codes.begin());
    // Scales 33 - 32 = 1: low nibbles 1, high pairs 2; that of sub-block 1 is 31 - 32 = -1: 15 and 1.
    std::fill_n(codes.begin() + 2, 2, std::byte{0xaa});
    codes[2] = std::byte{0xa6};
    std::fill_n(codes.begin() + 4, 4, std::byte{0x11});
    codes[4] = std::byte{0xf1};
    for (std::size_t j = 0; j < 8; ++j)
        std::copy_n(small.begin() + 2, 16, codes.begin() + 8 + 16 * static_cast<std::ptrdiff_t>(j));
    const auto one = decoded(scheme_type::iq4_nl, small, 32);
    const auto all = decoded(scheme_type::iq4_xs, codes, 256);
    for (std::size_t i = 0; i < 256; ++i) CHECK(all[i] == (i / 32 == 1 ? -one[i % 32] : one[i % 32]));
}

TEST_CASE("ggml: floors on Gaussian weights, and mse above absmax") {
    struct floor {
        scheme_type type;
        double absmax;
        double mse;
    };
    const auto floats = make_weights(64 * 256, 21);
    for (const auto& [type, absmax, mse] : {floor{scheme_type::q8_0, 45.3, 46.0},
                                            {scheme_type::q4_0, 21.2, 21.7},
                                            {scheme_type::q4_1, 22.0, 23.0},
                                            {scheme_type::q5_0, 27.3, 27.8},
                                            {scheme_type::q5_1, 28.3, 29.3},
                                            {scheme_type::q2_k, 9.5, 11.3},
                                            {scheme_type::q3_k, 16.0, 16.4},
                                            {scheme_type::q4_k, 22.0, 22.9},
                                            {scheme_type::q5_k, 28.3, 29.1},
                                            {scheme_type::q6_k, 34.4, 35.1}}) {
        CAPTURE(bitmill::facts(type).name);
        std::vector<std::byte> codes;
        const double plain = encode(type, floats, codes, method::absmax).value().snr_db();
        const double searched = encode(type, floats, codes, method::mse).value().snr_db();
        CHECK(plain > absmax);
        CHECK(searched > mse);
        CHECK(searched > plain + 0.2);
        CHECK(searched < mse + 1);
    }
}

TEST_CASE("ggml: zeros stay zeros, equal weights stay nearly equal, huge ones are clipped") {
    for (const auto type : ggml_types()) {
        if (!writes(type)) continue;
        for (const auto how : {method::absmax, method::mse}) {
            CAPTURE(bitmill::facts(type).name);
            CAPTURE(static_cast<int>(how));
            const auto back = [&](const std::vector<float>& floats,
                                  bitmill::error_metrics* metrics = nullptr) {
                std::vector<std::byte> codes;
                const auto done = encode(type, floats, codes, how).value();
                if (metrics != nullptr) *metrics = done;
                return decoded(type, codes, floats.size());
            };
            for (const float x : back(std::vector<float>(256, 0.0f))) CHECK(x == 0);
            for (const float x : back(std::vector<float>(256, -0.75f)))
                CHECK(static_cast<double>(x) == doctest::Approx(-0.75).epsilon(0.08));
            for (const float x : back(std::vector<float>(256, 1e-42f))) CHECK(std::fabs(x) <= 1e-7f);
            // The scale ends at 65504: no infinity is written, and the metrics tell.
            bitmill::error_metrics metrics;
            std::vector<float> huge(256, 1.0f);
            huge[100] = -3e38f;
            for (const float x : back(huge, &metrics)) CHECK(std::isfinite(x));
            CHECK(metrics.max_abs() > 2e38);
            CHECK(metrics.snr_db() < 1);
        }
    }
}

TEST_CASE("ggml: q8_0 rounds half away from zero") {
    std::vector<float> floats(32, 0.0f);
    const float halves[] = {127.0f, 0.5f, -0.5f, 1.5f, -1.5f, 2.5f, 0.49999997f, -0.49999997f};
    std::copy(std::begin(halves), std::end(halves), floats.begin());
    std::vector<std::byte> codes;
    REQUIRE(encode(scheme_type::q8_0, floats, codes));
    const int wanted[] = {127, 1, -1, 2, -2, 3, 0, 0};
    for (std::size_t i = 0; i < 8; ++i)
        CHECK(static_cast<int>(static_cast<std::int8_t>(codes[2 + i])) == wanted[i]);
}

TEST_CASE("ggml: what a scheme cannot hold is refused, with what can") {
    const auto says = [](const auto& outcome, const char* text) {
        REQUIRE_FALSE(outcome);
        CHECK(outcome.error().code == error_code::invalid_argument);
        CHECK(outcome.error().message.find(text) != std::string::npos);
    };
    const auto check = [](scheme_type type, std::size_t cols) {
        return bitmill::check_scheme(ggml_scheme(type), dtype::f32, 2, cols);
    };
    CHECK(check(scheme_type::q4_k, 512));
    says(check(scheme_type::q4_k, 384), "q5_0 fits");
    says(check(scheme_type::q2_k, 96), "q4_0 fits");
    says(check(scheme_type::q5_k, 96), "q5_1 fits");
    says(check(scheme_type::q6_k, 96), "q8_0 fits");
    says(check(scheme_type::iq4_xs, 96), "iq4_nl fits");
    says(check(scheme_type::q4_k, 100), "fp16 fits");
    says(check(scheme_type::q8_0, 33), "fp16 fits");
    auto other = ggml_scheme(scheme_type::q4_0);
    other.group_size = 64;
    says(bitmill::check_scheme(other, dtype::f32, 1, 64), "groups of 32");
    other = ggml_scheme(scheme_type::q4_0);
    other.granularity = bitmill::granularity::per_channel;
    says(bitmill::check_scheme(other, dtype::f32, 1, 32), "groups of 32");
    for (const auto type : ggml_types()) {
        if (writes(type)) continue;
        std::vector<std::byte> codes;
        const auto done = encode(type, std::vector<float>(256), codes);
        REQUIRE_FALSE(done);
        CHECK(done.error().code == error_code::unsupported);
    }
}

TEST_CASE("ggml: the element that is not finite is named") {
    for (const auto type : {scheme_type::q4_0, scheme_type::q6_k}) {
        auto floats = make_weights(8192, 3);
        std::vector<std::byte> codes;
        floats[7000] = std::numeric_limits<float>::infinity();
        floats[5001] = std::numeric_limits<float>::quiet_NaN();
        const auto done = encode(type, floats, codes);
        REQUIRE_FALSE(done);
        CHECK(done.error().code == error_code::bad_input);
        CHECK(done.error().offset == 5001);
        CHECK(done.error().message == "NaN at element 5001");
    }
}
