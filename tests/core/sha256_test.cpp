// SHA-256 against the published vectors, and each way of computing it against the other.
#include <bitmill/core/sha256.hpp>
#include <bitmill/detail/sha256-inl.hpp>

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <random.hpp>

using bitmill::hex_text;
using bitmill::sha256;

TEST_CASE("sha256: the vectors of FIPS 180-4") {
    CHECK(hex_text(sha256::of("")) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(hex_text(sha256::of("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(hex_text(sha256::of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK(hex_text(sha256::of(std::string(1000000, 'a'))) ==
          "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("sha256: pieces of any length give the digest of the whole") {
    test::random rng(1);
    std::string text;
    for (int i = 0; i < 1000; ++i) text.push_back(static_cast<char>(rng.below(256)));
    for (std::size_t length = 0; length < text.size(); length += 7) {
        const std::string_view part(text.data(), length);
        sha256 pieces;
        for (std::size_t at = 0; at < length;) {
            const std::size_t step = std::min<std::size_t>(1 + rng.below(130), length - at);
            pieces.update(part.substr(at, step));
            at += step;
        }
        CHECK(pieces.finish() == sha256::of(part));
        CHECK(pieces.finish() == sha256::of(""));  // starts anew
    }
}

TEST_CASE("sha256: the CPU's instructions and plain C++ agree") {
    if (!bitmill::detail::sha256_is_native()) return;
    test::random rng(2);
    for (std::size_t blocks = 0; blocks < 40; ++blocks) {
        std::vector<std::byte> bytes(blocks * 64);
        for (auto& byte : bytes) byte = static_cast<std::byte>(rng.below(256));
        std::uint32_t plain[8], native[8];
        for (std::size_t i = 0; i < 8; ++i)
            plain[i] = native[i] = static_cast<std::uint32_t>(rng.below(1u << 31));
        bitmill::detail::sha256_blocks_scalar(plain, bytes.data(), blocks);
        bitmill::detail::sha256_blocks_native(native, bytes.data(), blocks);
        CHECK(std::equal(plain, plain + 8, native));
    }
}
