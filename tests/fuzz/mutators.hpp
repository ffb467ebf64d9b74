// Structure-aware mutation of JSON: parse, change a thing or two, write it out again, so that an input passes the
// parser often enough to reach what lies behind it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <fuzz.hpp>
#include <random.hpp>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace fuzz {

using json = nlohmann::ordered_json;
using test::random;
using vocabulary = std::span<const std::string_view>;  // strings that mean something to a target

template <class Items>
auto& pick(Items& items, random& rng) {
    auto found = std::begin(items);
    std::advance(found, rng.below(static_cast<std::uint32_t>(std::size(items))));
    return *found;
}

// Where counts, sizes and their products wrap, lose their sign or their exactness.
inline json boundary_number(random& rng) {
    static const json numbers[] = {0,           1,          2,          3,
                                   7,           8,          9,          64,
                                   255,         256,        4096,       65535,
                                   65536,       -1,         -2,         2147483647,
                                   2147483648u, 4294967295, 4294967296, std::uint64_t{1} << 40,
                                   INT64_MAX,   INT64_MIN,  UINT64_MAX, std::uint64_t{1} << 62,
                                   0.5,         -0.0,       1e308,      std::uint64_t{1} << 63,
                                   1e-320,      3.5e38,     1e10,       UINT64_MAX / 4 + 2};
    return pick(numbers, rng);
}

inline std::string odd_string(random& rng, vocabulary words) {
    static const std::string odd[] = {"",
                                      std::string(1024, 'n'),
                                      std::string(1025, 'n'),
                                      "line\nbreak\x7f\x01\"\\",
                                      "\xc3\xa9\xf0\x9f\x98\x80",
                                      std::string("nul\0nul", 7),
                                      "0",
                                      "1"};
    return rng.below(4) == 0 ? pick(odd, rng) : std::string(pick(words, rng));
}

inline json odd_value(random& rng, vocabulary words) {
    switch (rng.below(10)) {
        case 0: return nullptr;
        case 1: return rng.below(2) == 0;
        case 2: return json::array();
        case 3: return json::object();
        case 4: return json::array({odd_string(rng, words), boundary_number(rng)});
        case 5: return json::object({{odd_string(rng, words), boundary_number(rng)}});
        case 6: {
            json deep = boundary_number(rng);
            for (std::uint32_t i = rng.below(80); i > 0; --i) deep = json::array({std::move(deep)});
            return deep;
        }
        case 7:
        case 8: return odd_string(rng, words);
        default: return boundary_number(rng);
    }
}

inline json& random_node(json& root, random& rng) {
    json* at = &root;
    while (at->is_structured() && !at->empty() && rng.below(4) != 0) at = &pick(*at, rng);
    return *at;
}

inline void rename_member(json& object, random& rng, vocabulary words) {
    if (!object.is_object() || object.empty()) return;
    auto member = object.begin();
    std::advance(member, rng.below(static_cast<std::uint32_t>(object.size())));
    const std::string old = member.key();
    json value = std::move(member.value());
    object.erase(old);
    object[odd_string(rng, words)] = std::move(value);
}

inline void erase_child(json& node, random& rng) {
    if (!node.is_structured() || node.empty()) return;
    auto child = node.begin();
    std::advance(child, rng.below(static_cast<std::uint32_t>(node.size())));
    node.erase(child);
}

// One change anywhere.
inline void mutate_json(json& root, random& rng, vocabulary words) {
    json& node = random_node(root, rng);
    switch (rng.below(7)) {
        case 0: node = odd_value(rng, words); return;
        case 1:
            if (node.is_number_unsigned())
                node = node.get<std::uint64_t>() - 1 + rng.below(3);
            else
                node = boundary_number(rng);
            return;
        case 2: rename_member(node, rng, words); return;
        case 3: erase_child(node, rng); return;
        case 4: node = json(random_node(root, rng)); return;  // a copy of another part
        default:
            if (node.is_object())
                node[odd_string(rng, words)] = odd_value(rng, words);
            else if (node.is_array())
                node.push_back(odd_value(rng, words));
            else
                node = odd_string(rng, words);
    }
}

// nullopt also for what is nested so deep that nlohmann's recursion (dump, copy) would overflow the stack.
inline std::optional<json> parse(std::string_view text) {
    int depth = 0;
    for (const char c : text) {
        if ((c == '[' || c == '{') && ++depth > 200) return std::nullopt;
        if (c == ']' || c == '}') --depth;
    }
    json tree = json::parse(text, nullptr, false);
    if (tree.is_discarded()) return std::nullopt;
    return tree;
}

// The tree as text, at times with what a tree does not hold: a member twice, escapes, padding.
inline std::string print(const json& tree, random& rng) {
    constexpr auto replace = json::error_handler_t::replace;
    const bool spread_out = rng.below(8) == 0;
    std::string text = tree.dump(spread_out ? 1 : -1, ' ', spread_out, replace);
    if (rng.below(12) == 0 && tree.is_object() && !tree.empty())
        text.back() = ',', text += tree.dump(-1, ' ', true, replace).substr(1);
    if (rng.below(12) == 0) text.insert(0, rng.below(300), ' ');
    if (rng.below(6) == 0) text.append(rng.below(20), ' ');
    return text;
}

// libFuzzer's own mutations, of a part of the input.
inline void mutate_bytes(std::string& text, std::size_t growth = 64) {
    const std::size_t size = text.size();
    text.resize(size + growth);
    text.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(text.data()), size, text.size()));
}

// A JSON text with some changes; bytes are changed where it is none, and at times anyway.
inline std::string mutated_json(std::string text, random& rng, vocabulary words) {
    auto tree = parse(text);
    if (!tree || rng.below(10) == 0) {
        mutate_bytes(text);
        return text;
    }
    for (std::uint32_t changes = 1 + rng.below(3); changes > 0; --changes) mutate_json(*tree, rng, words);
    return print(*tree, rng);
}

inline std::size_t hand_back(std::string_view text, std::uint8_t* data, std::size_t max_size) {
    const std::size_t size = std::min(text.size(), max_size);
    if (size != 0) std::memcpy(data, text.data(), size);
    return size;
}

}  // namespace fuzz
