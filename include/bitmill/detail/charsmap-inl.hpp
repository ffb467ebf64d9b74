// SentencePiece's precompiled character map (normalizer Precompiled): a double-array trie of what is replaced, and the
// replacements. Source: sentencepiece/src/normalizer.cc; its use by grapheme, with its oddities, is that of the
// tokenizers package (normalizers/precompiled.rs and the crate spm_precompiled).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/detail/aligned_text-inl.hpp>
#include <bitmill/detail/io_error-inl.hpp>

namespace bitmill::detail {

// RFC 4648. Empty: not base64.
inline std::optional<std::string> bytes_from_base64(std::string_view text) {
    std::string out;
    out.reserve(text.size() / 4 * 3);
    if (text.size() % 4 != 0) return std::nullopt;
    for (int i = 0; i < 2 && text.ends_with('='); ++i) text.remove_suffix(1);
    std::uint32_t bits = 0;
    unsigned count = 0;
    for (const char c : text) {
        std::uint32_t value = 0;
        if (c >= 'A' && c <= 'Z')
            value = static_cast<std::uint32_t>(c - 'A');
        else if (c >= 'a' && c <= 'z')
            value = static_cast<std::uint32_t>(c - 'a') + 26;
        else if (c >= '0' && c <= '9')
            value = static_cast<std::uint32_t>(c - '0') + 52;
        else if (c == '+' || c == '/')
            value = c == '+' ? 62 : 63;
        else
            return std::nullopt;
        bits = bits << 6 | value;
        count += 6;
        if (count >= 8) out.push_back(static_cast<char>(bits >> (count -= 8) & 0xff));
    }
    return out;
}

// Extended grapheme clusters (UAX 29); without GB9c, the conjuncts of Indic scripts, whose clusters are too long to
// matter here.
class grapheme_reader {
public:
    // End of the cluster that begins at i.
    static std::size_t next(std::string_view text, std::size_t i) noexcept {
        const class_table& classes = character_classes();
        std::uint32_t before = classes[utf8_character(text.data() + i)];
        bool pictograph = (before & character::joins) != 0;  // and only Extend or ZWJ since
        bool flag = grapheme_break(before) == regional;      // an odd number of them so far
        for (i += utf8_step(text[i]); i < text.size(); i += utf8_step(text[i])) {
            const std::uint32_t now = classes[utf8_character(text.data() + i)];
            if (breaks(before, now, pictograph, flag)) break;
            const unsigned kind = grapheme_break(now);
            flag = kind == regional && !flag;
            pictograph = (now & character::joins) != 0 || (pictograph && (kind == extend || kind == joiner));
            before = now;
        }
        return i;
    }

private:
    enum kinds : unsigned {
        other,
        cr,
        lf,
        control,
        extend,
        joiner,
        regional,
        prepend,
        spacing,
        hangul_l,
        hangul_v,
        hangul_t,
        hangul_lv,
        hangul_lvt,
    };
    static bool breaks(std::uint32_t before, std::uint32_t now, bool pictograph, bool flag) noexcept {
        const unsigned a = grapheme_break(before);
        const unsigned b = grapheme_break(now);
        if (a == cr && b == lf) return false;
        if ((a >= cr && a <= control) || (b >= cr && b <= control)) return true;
        if (a == hangul_l && (b == hangul_l || b == hangul_v || b == hangul_lv || b == hangul_lvt))
            return false;
        if ((a == hangul_lv || a == hangul_v) && (b == hangul_v || b == hangul_t)) return false;
        if ((a == hangul_lvt || a == hangul_t) && b == hangul_t) return false;
        if (b == extend || b == joiner || b == spacing || a == prepend) return false;
        if (a == joiner && pictograph && (now & character::joins) != 0) return false;
        return !(a == regional && b == regional && flag);
    }
};

class charsmap {
public:
    static result<charsmap> parse(std::string_view base64, const std::string& file) {
        const auto bytes = bytes_from_base64(base64);
        const auto bad = [&](const char* what) {
            return bad_file(std::string("normalizer Precompiled: ") + what + "; fetch the file again", file);
        };
        if (!bytes) return bad("precompiled_charsmap is not base64");
        std::uint32_t size = 0;
        if (bytes->size() < sizeof size) return bad("precompiled_charsmap is too short");
        for (std::size_t i = 0; i < 4; ++i)
            size |= static_cast<std::uint32_t>(static_cast<unsigned char>((*bytes)[i])) << (8 * i);
        if (size > bytes->size() - 4 || size % 4 != 0)
            return bad("precompiled_charsmap ends inside its trie");
        charsmap made;
        for (std::size_t i = 4; i < 4 + std::size_t{size}; i += 4) {
            std::uint32_t unit = 0;
            for (std::size_t j = 0; j < 4; ++j)
                unit |= static_cast<std::uint32_t>(static_cast<unsigned char>((*bytes)[i + j])) << (8 * j);
            made.units_.push_back(unit);
        }
        made.texts_ = bytes->substr(4 + std::size_t{size});
        if (!is_utf8(made.texts_)) return bad("a replacement is not UTF-8");
        for (std::size_t begin = 0, end = 0; begin < made.texts_.size(); begin = end + 1) {
            end = std::min(made.texts_.find('\0', begin), made.texts_.size());
            if (end - begin > max_text_bytes) return bad("a replacement of more than 64 bytes");
        }
        if (made.units_.empty()) return bad("precompiled_charsmap has no trie");
        for (char c = 1; c > 0 && c < 0x7f; ++c)
            made.ascii_[static_cast<std::size_t>(c)] = made.find({&c, 1}).has_value();
        return made;
    }

    // What the whole of `text` becomes: that of its shortest beginning that is in the map.
    [[nodiscard]] std::optional<std::string_view> find(std::string_view text) const noexcept {
        std::size_t node = offset(units_[0]);
        for (const char c : text) {
            const auto byte = static_cast<unsigned char>(c);
            if (byte == 0) break;
            node ^= byte;
            if (node >= units_.size()) return std::nullopt;
            const std::uint32_t unit = units_[node];
            if ((unit & (1u << 31 | 0xff)) != byte) return std::nullopt;
            node ^= offset(unit);
            if (node >= units_.size()) return std::nullopt;
            if ((unit >> 8 & 1) == 0) continue;
            const std::size_t begin = units_[node] & ~(1u << 31);
            // A place inside of a character is none.
            if (begin > texts_.size() || (begin < texts_.size() && (texts_[begin] & '\xc0') == '\x80'))
                return std::nullopt;
            const std::string_view rest = std::string_view(texts_).substr(begin);
            return rest.substr(0, rest.find('\0'));
        }
        return std::nullopt;
    }

    // False: nothing changes, and edits mean nothing.
    bool edit(std::string_view text, std::vector<edited>& edits) const {
        edits.clear();
        bool changed = false;
        for (std::size_t i = 0; i < text.size();) {
            if (plain(text, i)) {
                edits.push_back({static_cast<unsigned char>(text[i++]), 0});
                continue;
            }
            const std::size_t end = grapheme_reader::next(text, i);
            const std::string_view cluster = text.substr(i, end - i);
            i = end;
            if (cluster.size() < 6)
                if (const auto to = find(cluster)) {
                    replace(cluster, *to, edits);
                    changed = true;
                    continue;
                }
            changed = edit_each(cluster, edits) || changed;
        }
        return changed;
    }

private:
    static constexpr std::size_t max_text_bytes = 64;  // the longest of NFKC has 33
    static std::size_t offset(std::uint32_t unit) noexcept {
        return std::size_t{unit >> 10} << ((unit & (1u << 9)) >> 6);
    }

    // ASCII that is not in the map, with ASCII behind it; CR LF is one cluster.
    [[nodiscard]] bool plain(std::string_view text, std::size_t i) const noexcept {
        const auto byte = static_cast<unsigned char>(text[i]);
        const auto behind = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
        return byte != 0 && byte < 0x7f && byte != '\r' && behind < 0x80 && !ascii_[byte];
    }
    bool edit_each(std::string_view cluster, std::vector<edited>& edits) const {
        bool changed = false;
        for (std::size_t i = 0; i < cluster.size();) {
            const std::string_view one = cluster.substr(i, utf8_step(cluster[i]));
            i += one.size();
            if (const auto to = find(one)) {
                replace(one, *to, edits);
                changed = true;
            } else {
                edits.push_back({utf8_character(one.data()), 0});
            }
        }
        return changed;
    }
    static std::int32_t count(std::string_view text) noexcept {
        std::int32_t out = 0;
        for (const char c : text) out += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
        return out;
    }
    static void replace(std::string_view from, std::string_view to, std::vector<edited>& edits) {
        const std::int32_t more = count(to) - count(from);
        for (std::size_t i = 0; i < to.size(); i += utf8_step(to[i]))
            edits.push_back({utf8_character(to.data() + i), 0});
        for (std::int32_t i = 0; i < more; ++i)
            edits[edits.size() - 1 - static_cast<std::size_t>(i)].change = 1;
        // At the very front nothing can note that something is gone: so it is in the package, too.
        if (more < 0 && !edits.empty()) edits.back().change += more;
    }

    std::vector<std::uint32_t> units_;
    std::string texts_;
    bool ascii_[128] = {};
};

}  // namespace bitmill::detail
