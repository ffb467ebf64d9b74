// Follows the instructions of a pickled model without running them.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/core/checked.hpp>
#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/detail/pickle_model_names-inl.hpp>
#include <bitmill/io/pickle_model.hpp>

namespace bitmill::detail {

class pickle_scanner {
public:
    explicit pickle_scanner(pickle_model& model)
        : model_(model), file_(model.file_), left_(4 * model.file_.size() + (std::uint64_t{512} << 10)) {}

    result<void> run() {
        auto head = view(0, 2);
        if (!head) return head.error();
        model_.protocol_ = static_cast<unsigned char>((*head)[1]);
        if (auto done = start(); !done) return done;
        while (!stopped_)
            if (auto done = step(); !done) return done;
        model_.end_ = at_;
        return finish();
    }

private:
    enum class kind : std::uint8_t {
        mark,
        opaque,   // nothing that arrays need
        integer,  // the number, if it is at least 0 and below 2^56
        boolean,  // 0 or 1
        text,     // offset of its instruction << 8 | bytes; longer ones are blobs
        bytes,  // the same, of bytes: too short for an array that is coded, so they may stand for many things
        blob,   // which one
        encoded,    // a blob that went through _codecs.encode
        tuple,      // index of its first item << 8 | items
        name,       // which one
        dtype,      // which one
        state,      // of an array; only the last one that was made counts
        arguments,  // of _frombuffer; the same
        node,       // anything that holds others: which one
        array,      // its node
        wrapper,    // joblib's, until its array is read: its node
    };
    class value {
    public:
        value() = default;
        value(kind what, std::uint64_t number = 0) : bits_(number << 8 | static_cast<std::uint64_t>(what)) {}
        [[nodiscard]] kind what() const { return static_cast<kind>(bits_ & 0xff); }
        [[nodiscard]] bool is(kind other) const { return what() == other; }
        [[nodiscard]] std::uint64_t number() const { return bits_ >> 8; }
        [[nodiscard]] std::size_t index() const { return static_cast<std::size_t>(number()); }

    private:
        std::uint64_t bits_ = static_cast<std::uint64_t>(kind::opaque);
    };
    struct slot {
        value what;
        std::uint64_t begin = 0;  // of the instructions that made it
    };
    // What holds arrays, or is one; each knows who holds it.
    struct node {
        std::uint32_t parent = 0;  // its number + 1
        std::uint32_t count =
            0;  // items so far; of an array: the array's number + 1; of a single: its value as float32
        std::uint64_t key = 0;  // in the parent; of an array without a parent: its place in the memo
    };
    // What an object does when it is called, appended to or given its state may lie in the state that it already has:
    // pickle.load looks for `append` and `__setstate__` in the object first, and so do constructors for `keys`.
    enum node_flags : std::uint8_t {
        is_list = 1,        // list, dict or set of the pickle itself, or a deque: what can be appended to
        is_object = 2,      // made by a call, of a class that keeps attributes
        has_state = 4,      // is given no other
        holds_list = 8,     // a tuple with one in it, however deep
        holds_object = 16,  // the same
        is_single = 32,     // a float scalar of numpy
    };
    static constexpr std::uint64_t key_is_text = std::uint64_t{1} << 63;
    static constexpr std::uint64_t key_is_index = std::uint64_t{1} << 62;
    static constexpr std::uint64_t key_is_memo = std::uint64_t{1} << 61;
    static constexpr std::uint64_t key_is_odd = std::uint64_t{1} << 60;
    static constexpr std::uint64_t key_number = (std::uint64_t{1} << 60) - 1;
    struct blob {
        std::uint64_t op, data, end;
        pickle_array::storage stored;
        bool used = false;
        bool shared = false;     // stands for more than one thing: its bytes must stay
        maybe_u64 characters{};  // of latin-1, once they are counted
    };
    struct type_of_array {
        char letter = 0;
        char order = '|';
        bool objects = false;
        std::uint64_t width = 0;
    };
    struct name_entry {
        std::string text;
        pickle_name what;
    };
    // An array in the making: joblib's wrapper, a state for BUILD or the arguments of _frombuffer.
    struct draft {
        std::uint64_t serial = 0;
        std::optional<value> shape, type, content;
        bool column_major = false;
        bool plain = true;  // of the class ndarray
        std::uint64_t alignment = 0;
        std::uint64_t dtype_end = 0, stacked = 0;
    };
    struct context {  // of a pickle within the pickle
        std::vector<slot> stack;
        std::deque<value> memo;
        slot wrapper;
    };

    static constexpr std::uint64_t window_bytes = std::uint64_t{64} << 10;
    static constexpr std::uint64_t max_inline = 255;
    static constexpr std::size_t max_tuple = 16;

    // ---- errors and memory
    error fail(std::string message, error_code code = error_code::bad_input) const {
        return make_error(code, std::move(message), file_.path(), {}, op_at_);
    }
    error unsupported(std::string message) const { return fail(std::move(message), error_code::unsupported); }
    error empty_stack() const { return fail("the pickle's stack is empty here; the file is damaged"); }
    error cut_off() const { return fail("the pickle is cut off; fetch or save it again"); }
    result<void> spend(std::uint64_t bytes) {
        if (bytes > left_)
            return unsupported("the pickle holds more small values than a file of its size may");
        left_ -= bytes;
        return {};
    }

    // ---- bytes
    result<std::string_view> view(std::uint64_t at, std::uint64_t count) {
        if (at < window_at_ || at - window_at_ > window_.size() ||
            window_.size() - (at - window_at_) < count) {
            if (at > file_.size() || count > file_.size() - at) return cut_off();
            window_at_ = at;
            window_.resize(static_cast<std::size_t>(std::min(window_bytes, file_.size() - at)));
            if (auto read = file_.read_at(at, std::as_writable_bytes(std::span(window_))); !read)
                return read.error();
        }
        return std::string_view(window_).substr(static_cast<std::size_t>(at - window_at_),
                                                static_cast<std::size_t>(count));
    }
    result<std::uint64_t> number(unsigned width) {
        const auto taken = view(at_, width);
        if (!taken) return taken.error();
        at_ += width;
        std::uint64_t out = 0;
        for (std::size_t i = width; i != 0; --i) out = out << 8 | static_cast<unsigned char>((*taken)[i - 1]);
        return out;
    }
    result<void> skip(std::uint64_t count) {
        if (count > file_.size() - at_) return cut_off();
        at_ += count;
        return {};
    }
    result<std::string> line() {
        constexpr std::uint64_t longest = 512;
        const auto taken = view(at_, std::min(longest, file_.size() - at_));
        if (!taken) return taken.error();
        const std::size_t end = taken->find('\n');
        if (end == std::string_view::npos)
            return taken->size() == longest ? fail("the pickle has a name of over 500 bytes") : cut_off();
        at_ += end + 1;
        return std::string(taken->substr(0, end));
    }
    // A text of up to max_inline bytes.
    result<std::string> text_of(std::uint64_t op_and_count) {
        const std::uint64_t op = op_and_count >> 8, count = op_and_count & 0xff;
        // Not by way of the window, which is to stay where the instructions are.
        std::string text(static_cast<std::size_t>(count) + 5, '\0');
        text.resize(static_cast<std::size_t>(std::min<std::uint64_t>(text.size(), file_.size() - op)));
        if (auto read = file_.read_at(op, std::as_writable_bytes(std::span(text))); !read)
            return read.error();
        return text.substr(text[0] == 'X' ? 5 : 2, static_cast<std::size_t>(count));
    }

    // ---- the stack
    result<void> push(value what, std::uint64_t begin) {
        if (stack_.size() == deepest_) {
            // A vector holds up to twice what it was asked for, and both while it grows.
            if (auto paid = spend(3 * sizeof(slot)); !paid) return paid;
            ++deepest_;
        }
        stack_.push_back({what, begin});
        return {};
    }
    result<void> push(value what) { return push(what, op_at_); }
    // Whether the top `count` slots are values.
    [[nodiscard]] bool has(std::size_t count) const {
        if (count > stack_.size()) return false;
        return std::none_of(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end(),
                            [](const slot& s) { return s.what.is(kind::mark); });
    }
    [[nodiscard]] slot& top(std::size_t below = 0) { return stack_[stack_.size() - 1 - below]; }
    void drop(std::size_t count) { stack_.resize(stack_.size() - count); }
    result<std::size_t> above_mark() const {
        for (std::size_t i = stack_.size(); i != 0; --i)
            if (stack_[i - 1].what.is(kind::mark)) return stack_.size() - i;
        return fail("the pickle has no mark here; the file is damaged");
    }

    // ---- what holds what
    [[nodiscard]] static bool has_node(value v) {
        return v.is(kind::node) || v.is(kind::array) || v.is(kind::wrapper);
    }
    result<std::uint64_t> new_node() {
        if (auto paid = spend(sizeof(node) + 2); !paid) return paid.error();
        if (nodes_.size() == UINT32_MAX - 1) return unsupported("the pickle holds over 4 billion objects");
        nodes_.emplace_back();
        flags_.push_back(0);
        return nodes_.size() - 1;
    }
    void adopt(value child, std::uint64_t parent, std::uint64_t key) {
        if (child.is(kind::tuple)) share_items(child);
        if (!has_node(child) || nodes_[child.index()].parent != 0 || child.number() == parent) return;
        nodes_[child.index()].parent = static_cast<std::uint32_t>(parent + 1);
        nodes_[child.index()].key = key;
    }
    [[nodiscard]] static std::uint64_t key_of(value key) {
        if (key.is(kind::text)) return key_is_text | key.number();
        return key.is(kind::integer) ? key_is_index | (key.number() & key_number) : 0;
    }
    [[nodiscard]] value item(value tuple, std::size_t index) const {
        return tuples_[static_cast<std::size_t>(tuple.number() >> 8) + index];
    }
    [[nodiscard]] static std::size_t count_of(value tuple) {
        return static_cast<std::size_t>(tuple.number() & 0xff);
    }
    // A tuple that stands for more than one thing, too, makes its blobs stay.
    void share_items(value tuple) {
        for (std::size_t i = 0; i < count_of(tuple); ++i) share(item(tuple, i));
    }
    void share(value v) {
        if (v.is(kind::blob) || v.is(kind::encoded)) blobs_[v.index()].shared = true;
    }

    // ---- the memo: picklers number it from 0 on
    result<void> remember(std::uint64_t index) {
        if (!has(1)) return empty_stack();
        if (index > memo_.size()) return fail("the pickle's memo has no place " + std::to_string(index));
        if (index == memo_.size()) {
            if (auto paid = spend(sizeof(value) + 1); !paid) return paid;
            memo_.emplace_back();
        }
        const value v = top().what;
        memo_[static_cast<std::size_t>(index)] = v;
        if (v.is(kind::array) && nodes_[v.index()].count == 0) {
            auto& place = nodes_[v.index()].key;
            place = place == 0 ? key_is_memo | index : place | key_is_odd;
        }
        return {};
    }
    result<void> recall(std::uint64_t index) {
        if (index >= memo_.size()) return fail("the pickle's memo has no value " + std::to_string(index));
        const value v = memo_[static_cast<std::size_t>(index)];
        share(v);
        if (v.is(kind::tuple)) share_items(v);
        if (v.is(kind::state) || v.is(kind::arguments) || v.is(kind::wrapper))
            return unsupported("the pickle uses the parts of an array twice; save it anew");
        if (v.is(kind::array)) {
            auto& of = nodes_[v.index()];
            if (of.count == 0)
                of.key |= key_is_odd;
            else
                fetched_[of.count - 1] = true;
        }
        return push(v);
    }

    result<void> start();
    result<void> step();
    result<void> follow(unsigned op);
    result<void> follow_value(unsigned op);
    result<void> unknown(unsigned op) const;
    result<void> check_frame();
    result<void> new_frame();
    result<void> push_integer(unsigned width, bool is_signed);
    result<void> push_long(unsigned count_bytes);
    result<void> push_text(unsigned width);
    result<void> push_blob(unsigned width, pickle_array::storage stored);
    result<void> push_name(const std::string& module, const std::string& name, std::uint64_t begin);
    result<void> stack_global();
    result<void> push_container() {
        const auto made = new_node();
        if (!made) return made.error();
        flags_.back() = is_list;
        return push(value(kind::node, *made));
    }
    result<void> make_tuple(std::size_t count, std::uint64_t begin);
    [[nodiscard]] bool make_draft(std::size_t count);
    result<void> append(std::size_t count, bool marked);
    result<void> set_items(std::size_t count, bool marked);
    result<void> note_wrapper_item(const slot& key, const slot& item, std::uint64_t end);
    [[nodiscard]] unsigned flags_in(value v) const;
    void set_flags(value v, unsigned set, unsigned cleared = 0) {
        flags_[v.index()] = static_cast<std::uint8_t>((flags_[v.index()] & ~cleared) | set);
    }
    result<void> check_call(const name_entry& function, std::size_t arguments);
    result<void> call(bool by_class, std::size_t arguments);
    result<value> called(pickle_name function, value arguments, std::uint64_t begin);
    result<value> made_dtype(value arguments);
    result<void> note_single(value arguments, std::uint64_t node_index);
    result<void> name_singles();
    result<value> encoded(value arguments);
    result<void> build();
    result<void> build_dtype(std::size_t index, value state);
    result<void> build_wrapper();
    result<void> enter_inner(slot wrapper);
    result<void> stop();
    result<void> add_array(const draft& made, std::uint64_t node_index, std::uint64_t begin);
    [[nodiscard]] blob place_of(value bytes) const;
    result<void> place_content(const draft& made, pickle_array& out);
    [[nodiscard]] static std::optional<dtype> plain_dtype(const type_of_array& type);
    result<std::uint64_t> elements_of(value shape, std::vector<std::uint64_t>* lengths);
    result<std::uint64_t> latin1_bytes(std::uint64_t from, std::uint64_t to);
    result<std::string> path_of(std::uint64_t node_index);
    result<void> finish();

    pickle_model& model_;
    const input_file& file_;
    std::uint64_t left_;
    std::string window_;
    std::uint64_t window_at_ = 0;
    std::uint64_t at_ = 0;
    std::uint64_t op_at_ = 0;
    std::uint64_t frame_end_ = 0;  // 0: not in a frame
    bool stopped_ = false;
    std::vector<slot> stack_;
    std::size_t deepest_ = 0;
    std::deque<value> memo_;
    std::deque<value> tuples_;
    std::deque<node> nodes_;
    std::deque<std::uint8_t> flags_;  // of each node
    std::deque<blob> blobs_;
    std::deque<type_of_array> types_;
    std::deque<name_entry> names_;
    std::map<std::string, std::size_t, std::less<>> name_index_;
    std::deque<bool> fetched_;              // of each array
    std::deque<std::uint64_t> array_node_;  // of each array
    std::deque<std::size_t> array_blob_;    // of each array; none: raw
    draft draft_;                           // the last one
    draft wrapper_;                         // of the last joblib wrapper; serial: its node
    std::uint64_t serial_ = 0;
    std::optional<context> outer_;
    std::deque<std::uint64_t> trees_;  // nodes of search trees, ascending
};

}  // namespace bitmill::detail
