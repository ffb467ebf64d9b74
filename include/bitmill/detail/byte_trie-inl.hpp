// Keys by their bytes: finds all beginnings of a text that are keys in one walk, without a hash. A double array
// (J. Aoe, 1989): the child of node n by byte b lies at base[n] + b and names n as its parent.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace bitmill::detail {

class byte_trie {
public:
    static constexpr std::uint32_t no_node = ~std::uint32_t{0};
    static constexpr std::int32_t no_value = -1;
    using entry = std::pair<std::string_view, std::int32_t>;

    byte_trie() { grow(1); }
    // Of equal keys the first in `entries` counts; their order is changed. Empty keys are left out.
    explicit byte_trie(std::vector<entry> entries) : byte_trie() {
        std::erase_if(entries, [](const entry& e) { return e.first.empty(); });
        std::stable_sort(entries.begin(), entries.end(),
                         [](const entry& a, const entry& b) { return a.first < b.first; });
        std::vector<job> todo;
        if (!entries.empty()) todo.push_back({0, 0, entries.size(), 0});
        while (!todo.empty()) {
            const job now = todo.back();
            todo.pop_back();
            place(now, entries, todo);
        }
        for (const entry& e : entries) longest_ = std::max(longest_, e.first.size());
        free_ = {};
    }

    [[nodiscard]] static constexpr std::uint32_t root() noexcept { return 0; }
    [[nodiscard]] std::uint32_t child(std::uint32_t node, char byte) const noexcept {
        const std::uint32_t at = units_[node].base + static_cast<unsigned char>(byte);
        return at < units_.size() && units_[at].parent == node ? at : no_node;
    }
    [[nodiscard]] std::int32_t value(std::uint32_t node) const noexcept { return units_[node].value; }
    [[nodiscard]] std::size_t longest() const noexcept { return longest_; }

    // no_node where no key begins like that.
    [[nodiscard]] std::uint32_t walk(std::string_view text, std::uint32_t node = root()) const noexcept {
        for (const char c : text)
            if ((node = child(node, c)) == no_node) break;
        return node;
    }

private:
    struct unit {
        std::uint32_t base = 0;
        std::uint32_t parent = no_node;  // of a free one: no_node
        std::int32_t value = no_value;
    };
    struct job {
        std::uint32_t node;
        std::size_t begin;  // of the entries below the node
        std::size_t end;
        std::size_t depth;
    };

    // Free units are in a ring, by number; while it is built only. 0, the root, is its beginning and its end.
    struct link {
        std::uint32_t next;
        std::uint32_t before;
    };
    void grow(std::size_t size) {
        while (units_.size() < size) {
            const auto at = static_cast<std::uint32_t>(units_.size());
            units_.emplace_back();
            free_.push_back({0, at == 0 ? 0 : free_[0].before});
            free_[free_[at].before].next = at;
            free_[0].before = at;
        }
    }
    // Out of the ring, if it is in it.
    void take(std::uint32_t at) {
        const link one = free_[at];
        free_[one.before].next = one.next;
        free_[one.next].before = one.before;
        free_[at] = {at, at};
    }

    // All entries of the job are longer than its depth.
    void place(const job& now, const std::vector<entry>& entries, std::vector<job>& todo) {
        const auto label = [&](std::size_t i) {
            return static_cast<unsigned char>(entries[i].first[now.depth]);
        };
        labels_.clear();
        for (std::size_t i = now.begin; i < now.end; ++i)
            if (labels_.empty() || labels_.back().first != label(i)) labels_.emplace_back(label(i), i);
        const std::uint32_t base = find_base();
        grow(base + std::size_t{256});
        units_[now.node].base = base;
        for (std::size_t k = 0; k < labels_.size(); ++k) {
            const std::uint32_t at = base + labels_[k].first;
            const std::size_t end = k + 1 < labels_.size() ? labels_[k + 1].second : now.end;
            std::size_t begin = labels_[k].second;
            take(at);
            units_[at].parent = now.node;
            if (entries[begin].first.size() == now.depth + 1) units_[at].value = entries[begin].second;
            while (begin < end && entries[begin].first.size() == now.depth + 1) ++begin;
            if (begin < end) todo.push_back({at, begin, end, now.depth + 1});
        }
    }

    // Where all labels fall on free units. A few are tried; where none of them is of use the array grows, and half of them
    // are not tried again: linear whatever the keys.
    std::uint32_t find_base() {
        constexpr unsigned most_tries = 64;
        const unsigned lowest = labels_.front().first;
        unsigned tries = 0;
        for (std::uint32_t at = free_[0].next; at != 0 && tries < most_tries; at = free_[at].next, ++tries) {
            if (at <= lowest) continue;
            const std::uint32_t base = at - lowest;
            const bool fits = std::all_of(labels_.begin(), labels_.end(), [&](const auto& l) {
                const std::size_t place = std::size_t{base} + l.first;
                return place >= units_.size() || units_[place].parent == no_node;
            });
            if (fits) return base;
        }
        for (unsigned i = 0; tries == most_tries && i < most_tries / 2; ++i) take(free_[0].next);
        return static_cast<std::uint32_t>(
            std::max<std::size_t>(units_.size() - std::min<std::size_t>(units_.size(), lowest), 1));
    }

    std::vector<unit> units_;
    std::vector<link> free_;
    std::vector<std::pair<unsigned char, std::size_t>> labels_;
    std::size_t longest_ = 0;
};

}  // namespace bitmill::detail
