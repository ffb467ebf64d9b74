// An interpreter for the part of Python's pickle that checkpoints use. It builds values of its own and runs nothing: a
// name that the policy does not know ends the reading. https://docs.python.org/3/library/pickletools.html
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/core/checked.hpp>
#include <bitmill/core/error.hpp>
#include <bitmill/detail/io_error-inl.hpp>

namespace bitmill::detail {

// One value; what is larger than a number lies elsewhere.
struct pickle_value {
    enum class kind : std::uint8_t {
        none,
        boolean,
        integer,
        real,
        text,    // `at` in the pickle, `count` bytes
        tuple,   // `at` in the tuples' store, `count` values
        list,    // `at`: which one
        dict,    // `at`: which one; keys and values in turn
        name,    // what the policy made of a GLOBAL
        object,  // what the policy made of a call or of a persistent id
        mark
    };
    kind what = kind::none;
    std::uint32_t count = 0;
    std::uint64_t at = 0;  // of a boolean, integer, real: its bits

    [[nodiscard]] std::int64_t integer() const noexcept { return static_cast<std::int64_t>(at); }
    [[nodiscard]] bool is(kind other) const noexcept { return what == other; }
};

// Everything that a pickle made, for the policy and for who reads the result. Its memory is bounded by `limit` bytes,
// since a pickle can ask for more than a hundred times its own size.
class pickle_store {
public:
    using kind = pickle_value::kind;

    pickle_store(std::string_view bytes, std::uint64_t limit) : bytes_(bytes), left_(limit) {}

    [[nodiscard]] std::string_view text(const pickle_value& v) const noexcept {
        return bytes_.substr(static_cast<std::size_t>(v.at), v.count);
    }
    [[nodiscard]] const pickle_value& item(const pickle_value& tuple, std::size_t index) const noexcept {
        return tuples_[static_cast<std::size_t>(tuple.at) + index];
    }
    [[nodiscard]] const std::vector<pickle_value>& items(const pickle_value& list_or_dict) const noexcept {
        return containers_[static_cast<std::size_t>(list_or_dict.at)];
    }

    // False where the limit is reached; then the reading ends.
    [[nodiscard]] bool spend(std::uint64_t bytes) noexcept {
        if (bytes > left_) return false;
        left_ -= bytes;
        return true;
    }

private:
    template <class Policy>
    friend class pickle_machine;

    std::string_view bytes_;
    std::uint64_t left_;
    std::deque<pickle_value> tuples_;
    std::deque<std::vector<pickle_value>> containers_;
};

// Policy: name(module, name) -> result<pickle_value>, persistent(store, id) and
// call(store, function, arguments tuple) -> result<pickle_value>.
// Errors come back with the offset in the file; the policy's own only need a message.
template <class Policy>
class pickle_machine {
public:
    using kind = pickle_value::kind;

    // `bytes` lie in the file `path` from `file_offset` on.
    pickle_machine(std::string_view bytes, const std::string& path, std::uint64_t file_offset,
                   pickle_store& store, Policy& policy)
        : bytes_(bytes), path_(path), file_offset_(file_offset), store_(store), policy_(policy) {}

    // The value that STOP leaves.
    result<pickle_value> run() {
        while (!stopped_) {
            op_at_ = at_;
            if (at_ == bytes_.size()) return fail("the pickle ends before its STOP");
            const auto op = static_cast<unsigned char>(bytes_[at_++]);
            if (auto done = step(op); !done) return done.error();
        }
        if (stack_.size() != 1 || stack_[0].is(kind::mark))
            return fail("the pickle leaves more than one value");
        return stack_[0];
    }

private:
    static constexpr std::uint64_t value_bytes = sizeof(pickle_value);

    error fail(std::string message, error_code code = error_code::bad_input) const {
        return make_error(code, std::move(message), path_, {}, file_offset_ + op_at_);
    }
    error too_large() const { return fail("the pickle asks for more memory than a file of this size may"); }
    error with_place(error what) const {
        what.file = path_;
        if (what.offset == error::no_offset) what.offset = file_offset_ + op_at_;
        return what;
    }

    // ---- bytes
    result<std::string_view> take(std::uint64_t count) {
        if (count > bytes_.size() - at_) return fail("the pickle is cut off");
        const auto taken = bytes_.substr(at_, static_cast<std::size_t>(count));
        at_ += static_cast<std::size_t>(count);
        return taken;
    }
    result<std::uint64_t> number(std::size_t width) {
        const auto taken = take(width);
        if (!taken) return taken.error();
        std::uint64_t value = 0;
        for (std::size_t i = width; i != 0; --i)
            value = value << 8 | static_cast<unsigned char>((*taken)[i - 1]);
        return value;
    }
    result<std::string_view> line() {
        const std::size_t end = bytes_.find('\n', at_);
        if (end == std::string_view::npos) return fail("the pickle is cut off");
        const auto taken = bytes_.substr(at_, end - at_);
        at_ = end + 1;
        return taken;
    }

    // ---- the stack
    result<void> push(pickle_value value) {
        // A vector holds up to twice what it was asked for, and both while it grows.
        if (stack_.size() == deepest_) {
            if (!store_.spend(3 * value_bytes)) return too_large();
            ++deepest_;
        }
        stack_.push_back(value);
        return {};
    }
    result<void> push(kind what, std::uint64_t at = 0, std::uint32_t count = 0) {
        return push({what, count, at});
    }
    // The topmost value; a mark is none.
    result<pickle_value> pop() {
        if (stack_.empty() || stack_.back().is(kind::mark)) return fail("the pickle's stack is empty here");
        const pickle_value top = stack_.back();
        stack_.pop_back();
        return top;
    }
    // How many values stand above the last mark.
    result<std::size_t> above_mark() const {
        for (std::size_t i = stack_.size(); i != 0; --i)
            if (stack_[i - 1].is(kind::mark)) return stack_.size() - i;
        return fail("the pickle has no mark here");
    }

    // ---- containers
    result<void> new_container(kind what) {
        if (!store_.spend(sizeof(std::vector<pickle_value>) + 8)) return too_large();
        store_.containers_.emplace_back();
        return push(what, store_.containers_.size() - 1);
    }
    // The top `count` values become one tuple.
    result<void> make_tuple(std::size_t count) {
        if (count > stack_.size()) return fail("the pickle's stack is empty here");
        const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
        if (std::any_of(first, stack_.end(), [](const auto& v) { return v.is(kind::mark); }))
            return fail("the pickle's stack is empty here");
        if (!store_.spend(count * value_bytes)) return too_large();
        const std::uint64_t at = store_.tuples_.size();
        store_.tuples_.insert(store_.tuples_.end(), first, stack_.end());
        stack_.erase(first, stack_.end());
        return push(kind::tuple, at, static_cast<std::uint32_t>(count));
    }
    // Moves the top `count` values to the container below them (and below a mark between).
    result<void> fill(kind what, std::size_t count, bool marked) {
        const std::size_t needed = count + (marked ? 1 : 0) + 1;
        if (stack_.size() < needed || !stack_[stack_.size() - needed].is(what))
            return fail(what == kind::dict ? "the pickle sets an item of what is no dict"
                                           : "the pickle appends to what is no list");
        if (what == kind::dict && count % 2 != 0) return fail("the pickle sets a key without a value");
        const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
        if (std::any_of(first, stack_.end(), [](const auto& v) { return v.is(kind::mark); }))
            return fail("the pickle's stack is empty here");
        // Growing by half, at most two and a half times as much is held at once.
        if (!store_.spend(count * value_bytes * 5 / 2)) return too_large();
        auto& items = store_.containers_[static_cast<std::size_t>(stack_[stack_.size() - needed].at)];
        if (items.capacity() < items.size() + count)
            items.reserve(std::max(items.size() + count, items.size() + items.size() / 2));
        items.insert(items.end(), first, stack_.end());
        stack_.resize(stack_.size() - needed + 1);
        return {};
    }

    // ---- the memo: picklers number it from 0 on
    result<void> remember(std::uint64_t index) {
        if (stack_.empty() || stack_.back().is(kind::mark)) return fail("the pickle's stack is empty here");
        if (index > memo_.size()) return fail("the pickle's memo has no place " + std::to_string(index));
        if (index == memo_.size()) {
            if (!store_.spend(value_bytes)) return too_large();
            memo_.emplace_back();
        }
        memo_[static_cast<std::size_t>(index)] = stack_.back();
        return {};
    }
    result<void> recall(std::uint64_t index) {
        if (index >= memo_.size()) return fail("the pickle's memo has no value " + std::to_string(index));
        return push(memo_[static_cast<std::size_t>(index)]);
    }

    // ---- what only the policy understands
    result<void> push(result<pickle_value> made) {
        if (!made) return with_place(made.error());
        return push(*made);
    }
    result<void> call() {
        const auto arguments = pop();
        if (!arguments) return arguments.error();
        const auto function = pop();
        if (!function) return function.error();
        if (!function->is(kind::name)) return fail("the pickle calls what is no function");
        if (!arguments->is(kind::tuple)) return fail("the pickle calls a function with what is no tuple");
        auto made = policy_.call(store_, *function, *arguments);
        if (made && made->is(kind::dict)) return new_container(kind::dict);
        return push(std::move(made));
    }
    // The state of an object. Only an OrderedDict has one in a checkpoint (_metadata), and that says nothing of weights.
    result<void> build() {
        if (const auto state = pop(); !state) return state.error();
        if (stack_.empty() || !stack_.back().is(kind::dict))
            return fail("the pickle sets the state of what is no dict");
        return {};
    }

    result<void> step(unsigned op) {
        const auto sized_text = [&](std::size_t width) -> result<void> {
            const auto count = number(width);
            if (!count) return count.error();
            const std::size_t begin = at_;
            if (const auto text = take(*count); !text) return text.error();
            if (*count > UINT32_MAX) return fail("a text of the pickle is over 4 GiB long");
            return push(kind::text, begin, static_cast<std::uint32_t>(*count));
        };
        const auto whole = [&](std::size_t width, bool is_signed) -> result<void> {
            auto value = number(width);
            if (!value) return value.error();
            if (is_signed && width == 4)
                *value = static_cast<std::uint64_t>(static_cast<std::int32_t>(*value));
            return push(kind::integer, *value);
        };
        const auto with_number = [&](std::size_t width, auto use) -> result<void> {
            const auto value = number(width);
            if (!value) return value.error();
            return (this->*use)(*value);
        };
        switch (op) {
            case 0x80: {  // PROTO
                const auto version = number(1);
                if (!version) return version.error();
                if (*version < 2 || *version > 5)
                    return fail("pickle protocol " + std::to_string(*version) + " is not one of 2 to 5",
                                error_code::unsupported);
                return {};
            }
            case 0x95: {  // FRAME
                const auto length = number(8);
                if (!length) return length.error();
                if (*length > bytes_.size() - at_) return fail("the pickle is cut off");
                return {};
            }
            case '.': stopped_ = true; return {};
            case '(': return push(kind::mark);
            case 'N': return push(kind::none);
            case 0x88: return push(kind::boolean, 1);
            case 0x89: return push(kind::boolean, 0);
            case 'J': return whole(4, true);
            case 'K': return whole(1, false);
            case 'M': return whole(2, false);
            case 0x8a: return long_integer();
            case 'G': {  // BINFLOAT, the only number with its high byte first
                const auto value = number(8);
                if (!value) return value.error();
                std::uint64_t bits = 0;
                for (unsigned i = 0; i < 8; ++i) bits = bits << 8 | (*value >> (8 * i) & 0xff);
                return push(kind::real, bits);
            }
            case 'X': return sized_text(4);
            case 0x8c:
            case 'U': return sized_text(1);
            case ')': return make_tuple(0);
            case 0x85: return make_tuple(1);
            case 0x86: return make_tuple(2);
            case 0x87: return make_tuple(3);
            case 't': {
                const auto count = above_mark();
                if (!count) return count.error();
                stack_.erase(stack_.end() - static_cast<std::ptrdiff_t>(*count) - 1);
                return make_tuple(*count);
            }
            case ']': return new_container(kind::list);
            case '}': return new_container(kind::dict);
            case 0x8f: return new_container(kind::list);  // EMPTY_SET: a set is read as a list
            case 'a': return fill(kind::list, 1, false);
            case 's': return fill(kind::dict, 2, false);
            case 'e':
            case 'u':
            case 0x90: {  // ADDITEMS
                const auto count = above_mark();
                if (!count) return count.error();
                return fill(op == 'u' ? kind::dict : kind::list, *count, true);
            }
            case 'q': return with_number(1, &pickle_machine::remember);
            case 'r': return with_number(4, &pickle_machine::remember);
            case 0x94: return remember(memo_.size());
            case 'h': return with_number(1, &pickle_machine::recall);
            case 'j': return with_number(4, &pickle_machine::recall);
            case 'c': {
                const auto module = line();
                if (!module) return module.error();
                const auto name = line();
                if (!name) return name.error();
                return push(policy_.name(*module, *name));
            }
            case 0x93: {  // STACK_GLOBAL
                const auto name = pop();
                if (!name) return name.error();
                const auto module = pop();
                if (!module) return module.error();
                if (!name->is(kind::text) || !module->is(kind::text))
                    return fail("the pickle names what is no text");
                return push(policy_.name(store_.text(*module), store_.text(*name)));
            }
            case 'Q': {  // BINPERSID
                const auto id = pop();
                if (!id) return id.error();
                return push(policy_.persistent(store_, *id));
            }
            case 'R':
            case 0x81: return call();
            case 'b': return build();
            default: {
                static constexpr char digits[] = "0123456789abcdef";
                return fail(std::string("the pickle has the instruction 0x") + digits[op >> 4] +
                            digits[op & 15] +
                            ", which no checkpoint of weights needs: refused, nothing was run");
            }
        }
    }

    result<void> long_integer() {
        const auto width = number(1);
        if (!width) return width.error();
        if (*width > 8) return fail("the pickle holds a whole number of more than 64 bits");
        auto value = number(static_cast<std::size_t>(*width));
        if (!value) return value.error();
        if (*width != 0 && *width < 8 && (*value >> (8 * *width - 1) & 1) != 0)
            *value |= ~std::uint64_t{0} << (8 * *width);
        return push(kind::integer, *value);
    }

    std::string_view bytes_;
    const std::string& path_;
    std::uint64_t file_offset_;
    pickle_store& store_;
    Policy& policy_;
    std::size_t at_ = 0;
    std::size_t op_at_ = 0;
    bool stopped_ = false;
    std::vector<pickle_value> stack_;
    std::size_t deepest_ = 0;
    std::deque<pickle_value> memo_;
};

}  // namespace bitmill::detail
