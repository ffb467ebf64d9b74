// Text on its way through a tokenizer: UTF-8, and for each of its bytes the characters of the original that it came
// from. The rules of which character keeps which place are those of the tokenizers package (tokenizer/normalizer.rs).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/detail/unicode-inl.hpp>
#include <bitmill/text/tokenizer.hpp>

namespace bitmill::detail {

// A character, and how it stands to those that it replaces: 0 takes the place of one, 1 is added behind it, -n takes
// the place of one and n more that are gone.
struct edited {
    char32_t c;
    std::int32_t change;
};

class aligned_text {
public:
    std::string bytes;
    std::vector<token_span> places;  // one a byte

    void clear() {
        bytes.clear();
        places.clear();
    }
    [[nodiscard]] std::size_t size() const noexcept { return bytes.size(); }
    [[nodiscard]] bool empty() const noexcept { return bytes.empty(); }
    [[nodiscard]] std::string_view view(std::size_t begin, std::size_t end) const noexcept {
        return std::string_view(bytes).substr(begin, end - begin);
    }

    void append(char32_t c, token_span place) {
        if (c < 0x80) {
            bytes.push_back(static_cast<char>(c));
            places.push_back(place);
            return;
        }
        const utf8_bytes made(c);
        bytes.append(made.view());
        places.insert(places.end(), made.size, place);
    }
    void append(std::string_view text, token_span place) {
        bytes.append(text);
        places.insert(places.end(), text.size(), place);
    }
    void append(const aligned_text& from, std::size_t begin, std::size_t end) {
        bytes.append(from.view(begin, end));
        const auto first = from.places.begin();
        places.insert(places.end(), first + static_cast<std::ptrdiff_t>(begin),
                      first + static_cast<std::ptrdiff_t>(end));
    }
    // The whole of valid UTF-8, its first character being number `begin` of the original.
    void append_original(std::string_view text, std::uint32_t begin) {
        bytes.append(text);
        const std::size_t before = places.size();
        places.resize(before + text.size());
        token_span* place = places.data() + before;
        for (const char byte : text) {
            begin += (static_cast<unsigned char>(byte) & 0xc0) != 0x80;
            *place++ = {begin - 1, begin};
        }
    }
    // What became of [begin, end) of `from`, of which `skipped` characters at the front are gone.
    void append_edited(const aligned_text& from, std::size_t begin, const std::vector<edited>& edits,
                       std::size_t skipped = 0) {
        std::size_t at = begin;
        const auto step = [&] { at += at < from.size() ? utf8_step(from.bytes[at]) : 0; };
        for (std::size_t i = 0; i < skipped; ++i) step();
        for (const edited& one : edits) {
            const std::size_t source = one.change > 0 ? at - 1 : at;
            append(one.c, at == begin && one.change > 0 ? token_span{} : from.places[source]);
            if (one.change > 0) continue;
            step();
            for (std::int32_t i = 0; i > one.change; --i) step();
        }
    }
};

}  // namespace bitmill::detail
