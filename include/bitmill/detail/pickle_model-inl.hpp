#pragma once

#include <bitmill/io/pickle_model.hpp>

#include <bitmill/detail/pickle_model_arrays-inl.hpp>
#include <bitmill/detail/pickle_model_scan-inl.hpp>

namespace bitmill {
namespace detail {

// ---- instructions that move values about

BITMILL_INLINE result<void> pickle_scanner::step() {
    if (at_ == frame_end_) frame_end_ = 0;
    op_at_ = at_;
    const auto op = view(at_, 1);
    if (!op) return op.error();
    ++at_;
    if (auto done = follow(static_cast<unsigned char>((*op)[0])); !done) return done;
    return check_frame();
}

BITMILL_INLINE result<void> pickle_scanner::check_frame() {
    if (frame_end_ != 0 && at_ > frame_end_)
        return fail("an instruction of the pickle crosses the end of its frame; the file is damaged");
    return {};
}

BITMILL_INLINE result<void> pickle_scanner::new_frame() {
    if (frame_end_ != 0) return fail("a frame of the pickle begins within another; the file is damaged");
    const auto length = number(8);
    if (!length) return length.error();
    if (*length > file_.size() - at_) return cut_off();
    if (auto paid = spend(sizeof(pickle_model::frame) + 1); !paid) return paid;
    frame_end_ = at_ + *length;
    model_.frames_.push_back({at_, frame_end_});
    return {};
}

BITMILL_INLINE result<void> pickle_scanner::follow(unsigned op) {
    const auto with_number = [&](unsigned width, auto use) -> result<void> {
        const auto read = number(width);
        if (!read) return read.error();
        return (this->*use)(*read);
    };
    const auto with_marked = [&](auto use) -> result<void> {
        const auto count = above_mark();
        if (!count) return count.error();
        return (this->*use)(*count, true);
    };
    switch (op) {
        case 0x95: return new_frame();
        case '.': return stop();
        case '0':
            if (stack_.empty()) return empty_stack();
            drop(1);
            return {};
        case '1': {
            const auto count = above_mark();
            if (!count) return count.error();
            drop(*count + 1);
            return {};
        }
        case 'q': return with_number(1, &pickle_scanner::remember);
        case 'r': return with_number(4, &pickle_scanner::remember);
        case 0x94: return remember(memo_.size());
        case 'h': return with_number(1, &pickle_scanner::recall);
        case 'j': return with_number(4, &pickle_scanner::recall);
        case 'a': return append(1, false);
        case 'e':
        case 0x90: return with_marked(&pickle_scanner::append);  // APPENDS, ADDITEMS
        case 's': return set_items(2, false);
        case 'u': return with_marked(&pickle_scanner::set_items);
        case 'R': return call(false, 1);
        case 0x81: return call(true, 1);
        case 0x92: return call(true, 2);  // NEWOBJ_EX
        case 'b': return build();
        case 't':
        case 0x91: {  // FROZENSET
            const auto count = above_mark();
            if (!count) return count.error();
            const std::uint64_t begin = stack_[stack_.size() - *count - 1].begin;
            if (op == 't' && make_draft(*count)) return {};
            return make_tuple(*count, begin);
        }
        default: return follow_value(op);
    }
}

BITMILL_INLINE result<void> pickle_scanner::follow_value(unsigned op) {
    using storage = pickle_array::storage;
    const auto tuple = [&](std::size_t count) -> result<void> {
        if (!has(count)) return empty_stack();
        return make_tuple(count, count == 0 ? op_at_ : top(count - 1).begin);
    };
    switch (op) {
        case '(': return push(kind::mark);
        case 'N': return push(kind::opaque);
        case 0x88: return push(value(kind::boolean, 1));
        case 0x89: return push(value(kind::boolean, 0));
        case 'J': return push_integer(4, true);
        case 'K': return push_integer(1, false);
        case 'M': return push_integer(2, false);
        case 0x8a: return push_long(1);
        case 0x8b: return push_long(4);
        case 'G': {
            if (auto skipped = skip(8); !skipped) return skipped;
            return push(kind::opaque);
        }
        case 'X': return push_text(4);
        case 0x8c: return push_text(1);
        case 'U': return push_text(1);
        case 0x8d: return push_text(8);
        case 'C': return push_blob(1, storage::bytes);
        case 'B': return push_blob(4, storage::bytes);
        case 0x8e: return push_blob(8, storage::bytes);
        case 0x96: return push_blob(8, storage::byte_array);
        case ')': return tuple(0);
        case 0x85: return tuple(1);
        case 0x86: return tuple(2);
        case 0x87: return tuple(3);
        case ']':
        case '}':
        case 0x8f: return push_container();  // list, dict, set
        case 'c': {
            auto module = line();
            if (!module) return module.error();
            auto name = line();
            if (!name) return name.error();
            return push_name(*module, *name, op_at_);
        }
        case 0x93: return stack_global();
        default: return unknown(op);
    }
}

BITMILL_INLINE result<void> pickle_scanner::unknown(unsigned op) const {
    static constexpr char digits[] = "0123456789abcdef";
    const std::string what =
        std::string("the pickle has the instruction 0x") + digits[op >> 4 & 15] + digits[op & 15];
    if (op == 'Q' || op == 'P')
        return unsupported(what +
                           " (a persistent id): part of the model lies elsewhere; save it with pickle.dump");
    if (op == 0x97 || op == 0x98)
        return unsupported(what + " (a buffer outside the pickle); save it without buffer_callback");
    return unsupported(
        what + ", which picklers of protocol 2 to 5 do not write for a model: refused, nothing was run");
}

BITMILL_INLINE result<void> pickle_scanner::push_integer(unsigned width, bool is_signed) {
    const auto read = number(width);
    if (!read) return read.error();
    if (is_signed && *read > INT32_MAX) return push(kind::opaque);
    return push(value(kind::integer, *read));
}

BITMILL_INLINE result<void> pickle_scanner::push_long(unsigned count_bytes) {
    const auto width = number(count_bytes);
    if (!width) return width.error();
    if (*width > 8) {
        if (auto skipped = skip(*width); !skipped) return skipped;
        return push(kind::opaque);
    }
    const auto read = number(static_cast<unsigned>(*width));
    if (!read) return read.error();
    const bool negative = *width != 0 && (*read >> (8 * *width - 1) & 1) != 0;
    return negative || *read >> 56 != 0 ? push(kind::opaque) : push(value(kind::integer, *read));
}

BITMILL_INLINE result<void> pickle_scanner::push_text(unsigned width) {
    const auto count = number(width);
    if (!count) return count.error();
    const std::uint64_t data = at_;
    if (auto skipped = skip(*count); !skipped) return skipped;
    if (*count <= max_inline && width <= 4) return push(value(kind::text, op_at_ << 8 | *count));
    if (auto paid = spend(sizeof(blob) + 1); !paid) return paid;
    blobs_.push_back({op_at_, data, at_, pickle_array::storage::latin1});
    return push(value(kind::blob, blobs_.size() - 1));
}

BITMILL_INLINE result<void> pickle_scanner::push_blob(unsigned width, pickle_array::storage stored) {
    const auto count = number(width);
    if (!count) return count.error();
    const std::uint64_t data = at_;
    if (auto skipped = skip(*count); !skipped) return skipped;
    if (width == 1) return push(value(kind::bytes, op_at_ << 8 | *count));
    if (auto paid = spend(sizeof(blob) + 1); !paid) return paid;
    blobs_.push_back({op_at_, data, at_, stored});
    return push(value(kind::blob, blobs_.size() - 1));
}

BITMILL_INLINE result<void> pickle_scanner::push_name(const std::string& module, const std::string& name,
                                                      std::uint64_t begin) {
    const auto what = pickle_name_of(module, name);
    const std::string whole = module + "." + name;
    if (!what)
        return unsupported(
            "the pickle names " + whole +
            ", which is not among the classes of numpy, scipy.sparse, scikit-learn and Python that models "
            "are made of: refused, nothing was run; save the model without it");
    const auto known = name_index_.find(whole);
    if (known != name_index_.end()) return push(value(kind::name, known->second), begin);
    if (auto paid = spend(2 * whole.size() + 256); !paid) return paid;
    name_index_.emplace(whole, names_.size());
    names_.push_back({whole, *what});
    return push(value(kind::name, names_.size() - 1), begin);
}

BITMILL_INLINE result<void> pickle_scanner::stack_global() {
    if (!has(2)) return empty_stack();
    if (!top(0).what.is(kind::text) || !top(1).what.is(kind::text))
        return fail("the pickle names what is no text");
    const auto module = text_of(top(1).what.number());
    if (!module) return module.error();
    const auto name = text_of(top(0).what.number());
    if (!name) return name.error();
    const std::uint64_t begin = top(1).begin;
    drop(2);
    return push_name(*module, *name, begin);
}

// The top `count` values (and a mark below them, where they do not begin at `begin`) become one tuple.
BITMILL_INLINE result<void> pickle_scanner::make_tuple(std::size_t count, std::uint64_t begin) {
    const bool marked = count < stack_.size() && stack_[stack_.size() - count - 1].what.is(kind::mark) &&
                        stack_[stack_.size() - count - 1].begin == begin;
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
    const bool holds = std::any_of(first, stack_.end(), [](const slot& s) { return has_node(s.what); });
    value made;
    if (holds || count > max_tuple) {
        const auto created = new_node();
        if (!created) return created.error();
        made = value(kind::node, *created);
        for (std::size_t i = 0; i < count; ++i) {
            const value one = stack_[stack_.size() - count + i].what;
            set_flags(made, flags_in(one));
            adopt(one, *created, key_is_index | i);
        }
    } else {
        if (auto paid = spend(count * (sizeof(value) + 1)); !paid) return paid;
        made = value(kind::tuple, std::uint64_t{tuples_.size()} << 8 | count);
        for (auto one = first; one != stack_.end(); ++one) {
            if (one->what.is(kind::tuple)) share_items(one->what);
            tuples_.push_back(one->what);
        }
    }
    drop(count + (marked ? 1 : 0));
    return push(made, begin);
}

BITMILL_INLINE result<void> pickle_scanner::append(std::size_t count, bool marked) {
    const std::size_t needed = count + (marked ? 2 : 1);
    if (!has(count) || stack_.size() < needed) return empty_stack();
    const value target = stack_[stack_.size() - needed].what;
    if (!target.is(kind::node) || (flags_[target.index()] & is_list) == 0)
        return fail("the pickle appends to what is no list; the file is damaged or hostile");
    for (std::size_t i = 0; i < count; ++i) {
        adopt(top(count - 1 - i).what, target.number(), key_is_index | nodes_[target.index()].count);
        if (nodes_[target.index()].count != UINT32_MAX) ++nodes_[target.index()].count;
    }
    drop(needed - 1);
    return {};
}

BITMILL_INLINE result<void> pickle_scanner::set_items(std::size_t count, bool marked) {
    const std::size_t needed = count + (marked ? 2 : 1);
    if (!has(count) || stack_.size() < needed) return empty_stack();
    if (count % 2 != 0) return fail("the pickle sets a key without a value; the file is damaged");
    const value target = stack_[stack_.size() - needed].what;
    if (!target.is(kind::node) || (flags_[target.index()] & has_state) != 0)
        return fail("the pickle sets an item of what is no dict; the file is damaged or hostile");
    const bool of_wrapper =
        stack_.size() > needed && stack_[stack_.size() - needed - 1].what.is(kind::wrapper);
    for (std::size_t i = 0; i < count; i += 2) {
        const slot key = top(count - 1 - i);
        const slot item = top(count - 2 - i);
        if (of_wrapper)
            if (auto noted = note_wrapper_item(key, item, i + 2 < count ? top(count - 3 - i).begin : op_at_);
                !noted)
                return noted;
        adopt(key.what, target.number(), 0);
        adopt(item.what, target.number(), key_of(key.what));
    }
    drop(needed - 1);
    return {};
}

// ---- calls

// What a tuple that holds this one holds.
BITMILL_INLINE unsigned pickle_scanner::flags_in(value v) const {
    if (!v.is(kind::node)) return 0;
    const unsigned own = flags_[v.index()];
    unsigned out = own & (holds_list | holds_object);
    if ((own & is_list) != 0) out |= holds_list;
    if ((own & is_object) != 0) out |= holds_object;
    return out;
}

BITMILL_INLINE result<void> pickle_scanner::check_call(const name_entry& function, std::size_t arguments) {
    if (function.what == pickle_name::passive)
        return unsupported("the pickle calls " + function.text +
                           ", which no model needs in order to load: refused, nothing was run");
    if (function.what == pickle_name::named_tuple && arguments == 1 && top().what.is(kind::node)) return {};
    // numpy asks what it is given, and what lies in a list of it, how to become an array.
    const bool looks_deep = function.text.starts_with("numpy.") && function.what == pickle_name::callable;
    for (std::size_t i = 0; i < arguments; ++i) {
        const value given = top(i).what;
        if (!given.is(kind::tuple) && !given.is(kind::node) && !given.is(kind::arguments) &&
            !given.is(kind::state))
            return fail("the pickle calls a function with what is no tuple; the file is damaged");
        const unsigned held = flags_in(given);
        const bool keywords = i == 0 && arguments == 2;  // of NEWOBJ_EX, a dict
        if ((held & holds_object) != 0 || (looks_deep && !keywords && (held & holds_list) != 0))
            return unsupported(
                "the pickle calls " + function.text +
                " with an object, which no model needs in order to load: refused, nothing was run");
    }
    return {};
}

BITMILL_INLINE result<void> pickle_scanner::call(bool by_class, std::size_t arguments) {
    if (!has(arguments + 1)) return empty_stack();
    const slot function = top(arguments);
    if (!function.what.is(kind::name)) return fail("the pickle calls what is no name; the file is damaged");
    const auto& entry = names_[function.what.index()];
    if (auto sound = check_call(entry, arguments); !sound) return sound;
    const bool understood = arguments == 1 && by_class == (entry.what == pickle_name::joblib_array);
    auto made = called(understood ? entry.what : pickle_name::callable, top().what, function.begin);
    if (!made) return made.error();
    if (made->is(kind::node)) {
        for (std::size_t i = 0; i < arguments; ++i) adopt(top(i).what, made->number(), 0);
        // numpy's own objects keep no attributes.
        if (entry.text == "collections.deque")
            set_flags(*made, is_list | is_object);
        else if (!entry.text.starts_with("numpy.") && !entry.text.starts_with("datetime."))
            set_flags(*made, is_object);
    }
    drop(arguments + 1);
    if (auto pushed = push(*made, function.begin); !pushed) return pushed;
    // The array's instructions end here, which only now is known to fit.
    if (made->is(kind::array) && nodes_[made->index()].count != 0) model_.arrays_.back().end = at_;
    return {};
}

BITMILL_INLINE result<pickle_scanner::value> pickle_scanner::called(pickle_name function, value arguments,
                                                                    std::uint64_t begin) {
    if (function == pickle_name::dtype && arguments.is(kind::tuple)) {
        const auto type = made_dtype(arguments);
        if (!type || !type->is(kind::opaque)) return type;
    }
    if (function == pickle_name::encode && arguments.is(kind::tuple)) return encoded(arguments);
    const auto made = new_node();
    if (!made) return made.error();
    const bool first_is_ndarray = arguments.is(kind::tuple) && count_of(arguments) == 3 &&
                                  item(arguments, 0).is(kind::name) &&
                                  names_[item(arguments, 0).index()].what == pickle_name::ndarray;
    if (function == pickle_name::reconstruct && first_is_ndarray) return value(kind::array, *made);
    if (function == pickle_name::from_buffer && arguments.is(kind::arguments) &&
        arguments.number() == draft_.serial) {
        const draft used = std::exchange(draft_, {});
        if (auto added = add_array(used, *made, begin); !added) return added.error();
        return value(nodes_[static_cast<std::size_t>(*made)].count != 0 ? kind::array : kind::node, *made);
    }
    if (function == pickle_name::joblib_array) {
        wrapper_ = {};
        wrapper_.serial = *made;
        return value(kind::wrapper, *made);
    }
    if (function == pickle_name::scalar && arguments.is(kind::tuple))
        if (auto noted = note_single(arguments, *made); !noted) return noted.error();
    if (function == pickle_name::search_tree) {
        if (auto paid = spend(sizeof(std::uint64_t) + 1); !paid) return paid.error();
        trees_.push_back(*made);
    }
    return value(kind::node, *made);
}

BITMILL_INLINE result<void> pickle_scanner::build() {
    if (!has(2)) return empty_stack();
    const value state = top(0).what;
    const slot object = top(1);
    drop(1);
    if (object.what.is(kind::dtype)) return build_dtype(object.what.index(), state);
    if (object.what.is(kind::wrapper)) return build_wrapper();
    if (object.what.is(kind::array)) {
        const std::uint64_t index = object.what.number();
        if (nodes_[object.what.index()].count != 0) {
            model_.arrays_[nodes_[object.what.index()].count - 1].fixed = "its state is set twice";
        } else if (state.is(kind::state) && state.number() == draft_.serial) {
            const draft used = std::exchange(draft_, {});
            if (auto added = add_array(used, index, object.begin); !added) return added;
            if (nodes_[object.what.index()].count != 0) model_.arrays_.back().end = at_;
        } else {
            adopt(state, index, 0);
        }
        return {};
    }
    if (!object.what.is(kind::node) || (flags_[object.what.index()] & has_state) != 0)
        return fail("the pickle sets the state of what has none, or twice; the file is damaged or hostile");
    // Its class may take the state apart by calls of the state's own.
    if (state.is(kind::node) && (flags_[state.index()] & is_object) != 0)
        return fail("the pickle gives an object as the state of another; the file is damaged or hostile");
    set_flags(object.what, has_state, is_list);
    adopt(state, object.what.number(), 0);
    return {};
}

// ---- begin and end

BITMILL_INLINE result<void> pickle_scanner::start() {
    static constexpr struct {
        std::string_view magic, name;
    } packers[] = {{"\x1f\x8b", "gzip"},
                   {"\x78\x01", "zlib"},
                   {"\x78\x5e", "zlib"},
                   {"\x78\x9c", "zlib"},
                   {"\x78\xda", "zlib"},
                   {"BZ", "bzip2"},
                   {"\xfd"
                    "7",
                    "xz"},
                   {"\x04\x22", "lz4"}};
    const auto head = view(0, 2);
    if (!head) return head.error();
    for (const auto& packer : packers)
        if (*head == packer.magic)
            return unsupported(
                "is compressed with " + std::string(packer.name) +
                "; save it uncompressed (joblib.dump with compress=0, pickle.dump into a plain file)");
    if (*head == "PK")
        return unsupported(
            "is a zip file, as torch.save writes it, not a pickle; give it its ending .bin or .pt");
    if ((*head)[0] != '\x80')
        return unsupported(
            "is no pickle of protocol 2 to 5; save it anew with pickle.dump(model, file, protocol=4)");
    at_ = 2;
    if (model_.protocol_ < 2 || model_.protocol_ > 5)
        return unsupported("pickle protocol " + std::to_string(model_.protocol_) +
                           " is not one of 2 to 5; save it anew with pickle.dump(model, file, protocol=4)");
    return {};
}

// joblib writes an array of objects as a pickle of its own behind its wrapper.
BITMILL_INLINE result<void> pickle_scanner::enter_inner(slot wrapper) {
    if (outer_) return unsupported("the pickle holds a pickle that holds another; save it with pickle.dump");
    if (frame_end_ != 0 && at_ != frame_end_)
        return fail("an array of joblib begins within a frame; the file is damaged");
    frame_end_ = 0;
    op_at_ = at_;
    const auto head = view(at_, 2);
    if (!head) return head.error();
    const auto version = static_cast<unsigned char>((*head)[1]);
    if ((*head)[0] != '\x80' || version < 2 || version > 5)
        return fail("no pickle of protocol 2 to 5 stands behind an array of objects");
    at_ += 2;
    drop(1);
    outer_.emplace(context{std::exchange(stack_, {}), std::exchange(memo_, {}), wrapper});
    deepest_ = 0;
    return {};
}

BITMILL_INLINE result<void> pickle_scanner::stop() {
    if (stack_.size() != 1 || !has(1))
        return fail("the pickle does not end with one value; the file is damaged");
    if (frame_end_ != 0 && at_ != frame_end_)
        return fail("the pickle ends within a frame; the file is damaged");
    if (!outer_) {
        stopped_ = true;
        return {};
    }
    const value made = top().what;
    context outer = std::move(*outer_);
    outer_.reset();
    stack_ = std::move(outer.stack);
    deepest_ = stack_.size();
    memo_ = std::move(outer.memo);
    frame_end_ = 0;
    adopt(made, outer.wrapper.what.number(), 0);
    return push(value(kind::node, outer.wrapper.what.number()), outer.wrapper.begin);
}

BITMILL_INLINE result<void> pickle_scanner::finish() {
    for (std::size_t i = 0; i < model_.arrays_.size(); ++i) {
        pickle_array& one = model_.arrays_[i];
        auto name = path_of(array_node_[i]);
        if (!name) return name.error();
        one.name = std::move(*name);
        for (std::uint64_t at = array_node_[i] + 1, steps = 0; at != 0 && steps < 64; ++steps) {
            if (std::binary_search(trees_.begin(), trees_.end(), at - 1)) one.search_tree = true;
            at = nodes_[static_cast<std::size_t>(at - 1)].parent;
        }
        if (!fetched_[i]) one.memo.reset();
        if (array_blob_[i] != SIZE_MAX && blobs_[array_blob_[i]].shared && one.fixed.empty())
            one.fixed = "its bytes stand for something else, too";
    }
    return name_singles();
}

}  // namespace detail

BITMILL_INLINE result<pickle_model> pickle_model::open(input_file file) {
    pickle_model made(std::move(file));
    detail::pickle_scanner scanner(made);
    if (auto done = scanner.run(); !done) return done.error();
    return made;
}

BITMILL_INLINE bool is_pickle_file_name(std::string_view name) noexcept {
    return name.ends_with(".pkl") || name.ends_with(".pickle") || name.ends_with(".joblib");
}

}  // namespace bitmill
