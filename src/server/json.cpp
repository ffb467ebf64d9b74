#include "json.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace server {

namespace {

using nlohmann::json;

// Reads the text, and tells how far it has come.
class counting_iterator {
public:
    using iterator_category = std::input_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char*;
    using reference = char;

    counting_iterator(const char* at, const char** reached) noexcept : at_(at), reached_(reached) {}
    char operator*() const noexcept { return *at_; }
    counting_iterator& operator++() noexcept {
        *reached_ = ++at_;
        return *this;
    }
    counting_iterator operator++(int) noexcept {
        const auto before = *this;
        ++*this;
        return before;
    }
    friend bool operator==(const counting_iterator& a, const counting_iterator& b) noexcept {
        return a.at_ == b.at_;
    }
    friend bool operator!=(const counting_iterator& a, const counting_iterator& b) noexcept {
        return !(a == b);
    }

private:
    const char* at_;
    const char** reached_;
};

// Builds the tree as nlohmann's own handler does, under the limits.
class builder {
public:
    using string_t = json::string_t;

    builder(const json_limits& limits, const char* begin, const char* const& reached)
        : limits_(limits), begin_(begin), reached_(reached) {}

    bool null() { return add(nullptr); }
    bool boolean(bool value) { return add(value); }
    bool number_integer(json::number_integer_t value) { return add(value); }
    bool number_unsigned(json::number_unsigned_t value) { return add(value); }
    bool number_float(json::number_float_t value, const string_t&) { return add(value); }
    bool string(string_t& value) { return add(std::move(value)); }
    bool binary(json::binary_t&) { return fail("binary data"); }
    bool start_object(std::size_t) { return open(json::object()); }
    bool start_array(std::size_t) { return open(json::array()); }
    bool end_object() { return close(); }
    bool end_array() { return close(); }
    bool key(string_t& name) {
        auto& object = open_.back()->get_ref<json::object_t&>();
        const auto [at, added] = object.try_emplace(name, nullptr);
        if (!added) return fail("the key '" + name.substr(0, 64) + "' stands twice in one object");
        member_ = &at->second;
        return true;
    }
    // nlohmann's words hold the whole last token, which may be megabytes.
    bool parse_error(std::size_t, const std::string&, const json::exception& what) {
        constexpr int out_of_range = 406;
        if (what.id == out_of_range) return fail("a number is too large for a double");
        std::string_view reason = what.what();
        reason.remove_prefix(std::min(reason.find("syntax error"), reason.size()));
        reason = reason.substr(0, std::min<std::size_t>(reason.find("; last read"), 200));
        return fail(std::string(reason));
    }

    bool fail(const std::string& reason) {
        const auto offset = static_cast<std::uint64_t>(reached_ - begin_);
        failure = bitmill::error{.code = bitmill::error_code::bad_input,
                                 .message = "the body is no JSON that is taken here: at byte " +
                                            std::to_string(offset) + ": " + bitmill::printable(reason),
                                 .offset = offset};
        return false;
    }

    std::optional<bitmill::error> failure = std::nullopt;
    json root = nullptr;

private:
    template <class Value>
    bool add(Value&& value) {
        if (++values_ > limits_.values)
            return fail("more than " + std::to_string(limits_.values) + " values");
        if (open_.empty())
            last_ = &(root = std::forward<Value>(value));
        else if (open_.back()->is_array())
            last_ = &open_.back()->get_ref<json::array_t&>().emplace_back(std::forward<Value>(value));
        else
            last_ = &(*member_ = std::forward<Value>(value));
        return true;
    }
    bool open(json empty) {
        if (open_.size() == limits_.depth)
            return fail("nested deeper than " + std::to_string(limits_.depth) + " levels");
        if (!add(std::move(empty))) return false;
        open_.push_back(last_);
        return true;
    }
    bool close() {
        open_.pop_back();
        return true;
    }

    const json_limits& limits_;
    const char* begin_;
    const char* const& reached_;
    std::vector<json*> open_;  // a parent does not grow while its child is open
    json* member_ = nullptr;
    json* last_ = nullptr;
    std::size_t values_ = 0;
};

}  // namespace

bitmill::result<nlohmann::json> parse_json(std::string_view text, const json_limits& limits) {
    const char* reached = text.data();
    builder tree(limits, text.data(), reached);
    // nlohmann takes a NUL for the end, and skips a byte order mark.
    if (const auto nul = text.find('\0'); nul != std::string_view::npos) {
        reached += nul;
        tree.fail("a NUL byte");
    } else if (text.substr(0, 3) == "\xef\xbb\xbf") {
        tree.fail("a byte order mark");
    } else {
        const counting_iterator begin(text.data(), &reached);
        const counting_iterator end(text.data() + text.size(), &reached);
        if (!json::sax_parse(begin, end, &tree) && !tree.failure) tree.fail("syntax error");
    }
    if (tree.failure) return *std::move(tree.failure);
    return std::move(tree.root);
}

}  // namespace server
