#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/core/checked.hpp>
#include <bitmill/core/dtype.hpp>
#include <bitmill/core/error.hpp>
#include <bitmill/core/fp_environment.hpp>
#include <bitmill/core/parallel.hpp>

using bitmill::error;
using bitmill::error_code;
using bitmill::result;

namespace {

constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();

}  // namespace

TEST_CASE("checked: sums and products say where they no longer fit") {
    using bitmill::checked_add;
    using bitmill::checked_mul;
    CHECK(checked_add(most, 0) == most);
    CHECK(checked_add(most - 1, 1) == most);
    CHECK_FALSE(checked_add(most, 1));
    CHECK_FALSE(checked_add(1, most));
    CHECK_FALSE(checked_add(most, most));
    CHECK(checked_mul(most, 1) == most);
    CHECK(checked_mul(most, 0) == 0u);
    CHECK(checked_mul(0, most) == 0u);
    CHECK(checked_mul(0xffffffffu, 0x100000001u) == most);
    CHECK_FALSE(checked_mul(0x100000000u, 0x100000000u));
    CHECK_FALSE(checked_mul(most, 2));
    CHECK_FALSE(checked_mul(2, most / 2 + 1));
    CHECK(checked_mul(2, most / 2) == most - 1);
}

TEST_CASE("checked: ceil_div and narrowing") {
    using bitmill::ceil_div;
    CHECK(ceil_div(0, 7) == 0);
    CHECK(ceil_div(1, 7) == 1);
    CHECK(ceil_div(7, 7) == 1);
    CHECK(ceil_div(8, 7) == 2);
    CHECK(ceil_div(most, 1) == most);
    CHECK(ceil_div(most, 2) == most / 2 + 1);  // the usual (value + unit - 1) / unit would wrap
    CHECK(ceil_div(most, most) == 1);
    CHECK(bitmill::checked_cast<std::uint8_t>(255) == 255);
    CHECK_FALSE(bitmill::checked_cast<std::uint8_t>(256));
    CHECK(bitmill::checked_cast<std::int8_t>(127) == 127);
    CHECK_FALSE(bitmill::checked_cast<std::int8_t>(128));
    CHECK_FALSE(bitmill::checked_cast<std::int64_t>(most));
    CHECK(bitmill::checked_cast<std::uint64_t>(most) == most);
}

TEST_CASE("dtype: the 22 of the specification, in the reference writer's order") {
    const std::vector<std::string> names{"BOOL",    "F4",      "F6_E2M3", "F6_E3M2",     "U8",          "I8",
                                         "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16",
                                         "U16",     "F16",     "BF16",    "I32",         "U32",         "F32",
                                         "C64",     "F64",     "I64",     "U64"};
    const std::vector<unsigned> bits{8,  4,  6,  6,  8,  8,  8,  8,  8,  8,  8,
                                     16, 16, 16, 16, 32, 32, 32, 64, 64, 64, 64};
    REQUIRE(bitmill::dtype_table.size() == 22);
    for (std::size_t i = 0; i < 22; ++i) {
        CAPTURE(names[i]);
        const auto type = static_cast<bitmill::dtype>(i);
        CHECK(bitmill::dtype_table[i].type == type);
        CHECK(bitmill::facts(type).name == names[i]);
        CHECK(bitmill::facts(type).bits == bits[i]);
        CHECK(bitmill::element_bytes(type) == bits[i] / 8);
        CHECK(bitmill::dtype_from_name(names[i]) == type);
        const std::set<std::string> weights{"F16", "BF16", "F32", "F64"};
        CHECK(bitmill::facts(type).weight == (weights.count(names[i]) == 1));
    }
    for (const char* wrong : {"", "f32", "F32 ", "float32", "F128", "I4"}) {
        CAPTURE(wrong);
        CHECK_FALSE(bitmill::dtype_from_name(wrong));
    }
}

TEST_CASE("error: text names each known part and stays one line") {
    error what{.code = error_code::bad_input,
               .message = "too short",
               .file = "/m/a.safetensors",
               .tensor = "x.weight",
               .offset = 12};
    CHECK(what.text() == "/m/a.safetensors: tensor 'x.weight': at byte 12: too short");
    what.offset = 0;
    CHECK(what.text() == "/m/a.safetensors: tensor 'x.weight': at byte 0: too short");
    CHECK(error{.code = error_code::io, .message = "full"}.text() == "full");
    for (int c = 0; c < 256; ++c) {
        const std::string hostile = std::string("a") + static_cast<char>(c) + "b";
        const error bad{.message = hostile, .file = hostile, .tensor = hostile};
        const std::string text = bad.text();
        CAPTURE(c);
        bool printable = true;
        for (const char one : text)
            printable = printable && static_cast<unsigned char>(one) >= 0x20 && one != 0x7f;
        CHECK(printable);
        if (c == '\n') CHECK(text == "a\\x0ab: tensor 'a\\x0ab': a\\x0ab");
        if (c == 0x7f) CHECK(text == "a\\x7fb: tensor 'a\\x7fb': a\\x7fb");
        if (c == 0xc3) CHECK(text == "a\\xc3b: tensor 'a\\xc3b': a\\xc3b");
    }
    CHECK(error{.message = "NaN at element 7", .offset = 7}.text() == "NaN at element 7");
}

TEST_CASE("error: UTF-8 stays, every other byte is written as its number") {
    // The first and last characters of each length, and those around the surrogates.
    for (const char* good :
         {"\x7e", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf",
          "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80"})
        CHECK(bitmill::printable(good) == good);
    const std::pair<const char*, const char*> bad[] = {
        {"\x80", "\\x80"},
        {"\xff", "\\xff"},
        {"\xc3", "\\xc3"},
        {"\xc1\xbf", "\\xc1\\xbf"},                            // overlong
        {"\xe0\x9f\xbf", "\\xe0\\x9f\\xbf"},                   // overlong
        {"\xf0\x8f\xbf\xbf", "\\xf0\\x8f\\xbf\\xbf"},          // overlong
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"},                   // a surrogate
        {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"},          // above U+10FFFF
        {"\xf5\x80\x80\x80", "\\xf5\\x80\\x80\\x80"},          // above U+10FFFF
        {"\xe4\xb8", "\\xe4\\xb8"},                            // cut off
        {"\xe4\xb8z", "\\xe4\\xb8z"},                          // cut off
        {"\xf0\x9f\x98\xc3\xa9", "\\xf0\\x9f\\x98\xc3\xa9"}};  // cut off, then a good one
    for (const auto& [text, shown] : bad) CHECK(bitmill::printable(text) == shown);
}

TEST_CASE("error: the codes that the C ABI pins") {
    CHECK(static_cast<int>(error_code::ok) == 0);
    CHECK(static_cast<int>(error_code::invalid_argument) == 1);
    CHECK(static_cast<int>(error_code::bad_input) == 2);
    CHECK(static_cast<int>(error_code::io) == 3);
    CHECK(static_cast<int>(error_code::out_of_memory) == 4);
    CHECK(static_cast<int>(error_code::refused) == 5);
    CHECK(static_cast<int>(error_code::cancelled) == 6);
    CHECK(static_cast<int>(error_code::unsupported) == 7);
}

TEST_CASE("result: a value or an error") {
    result<std::unique_ptr<int>> good(std::make_unique<int>(7));
    REQUIRE(good);
    CHECK(**good == 7);
    CHECK(*std::move(good).value() == 7);
    const result<int> bad(error{.code = error_code::refused, .message = "no", .tensor = "t"});
    CHECK_FALSE(bad);
    CHECK(bad.error().code == error_code::refused);
    CHECK_THROWS_AS((void)bad.value(), bitmill::exception);
    try {
        (void)bad.value();
    } catch (const bitmill::exception& thrown) {
        CHECK(std::string(thrown.what()) == "tensor 't': no");
        CHECK(thrown.error().code == error_code::refused);
    }
    const result<void> done;
    CHECK(done);
    CHECK_NOTHROW(done.value());
    const result<void> failed(error{.code = error_code::io, .message = "full"});
    CHECK_FALSE(failed);
    CHECK_THROWS_AS(failed.value(), bitmill::exception);
}

TEST_CASE("parallel: every index once") {
    for (const unsigned threads : {0u, 1u, 2u, 3u, 7u}) {
        for (const std::size_t count :
             {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{6}, std::size_t{1000}}) {
            CAPTURE(threads);
            CAPTURE(count);
            std::vector<std::atomic<int>> seen(count);
            bitmill::run_parallel(threads, count, [&](std::size_t i) { seen[i].fetch_add(1); });
            std::size_t once = 0;
            for (const auto& times : seen) once += times == 1;
            CHECK(once == count);
        }
    }
    CHECK(bitmill::default_threads() >= 1);
}

TEST_CASE("parallel: what the tasks wrote is there when it returns") {
    std::vector<std::uint64_t> squares(5000);  // no atomics: returning must order the writes
    bitmill::run_parallel(7, squares.size(), [&](std::size_t i) { squares[i] = i * i; });
    std::uint64_t wrong = 0;
    for (std::size_t i = 0; i < squares.size(); ++i) wrong += squares[i] != i * i;
    CHECK(wrong == 0);
}

#if defined(__x86_64__)
TEST_CASE("fp_environment: default inside, the host's afterwards") {
    const unsigned before = _mm_getcsr();
    const unsigned hostile =
        0x1f80u | 0x8000u | 0x4000u | 0x0040u;  // flush to zero, round up, denormals are zero
    _mm_setcsr(hostile);
    unsigned inside = 0, nested = 0;
    {
        const bitmill::fp_environment outer;
        inside = _mm_getcsr();
        {
            const bitmill::fp_environment inner;
            nested = _mm_getcsr();
        }
    }
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    CHECK((inside & 0xffc0u) == 0x1f80u);
    CHECK((nested & 0xffc0u) == 0x1f80u);
    CHECK((after & 0xffc0u) == (hostile & 0xffc0u));
}
#endif
