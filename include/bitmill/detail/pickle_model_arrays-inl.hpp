// How arrays stand in a pickled model: numpy's _reconstruct with a state (protocol 2 to 4), numpy's _frombuffer
// (protocol 5), and joblib's wrapper with the elements behind it.
#pragma once

#include <bitmill/io/pickle_model.hpp>

#include <bitmill/detail/pickle_model_scan-inl.hpp>

namespace bitmill {
namespace detail {

// ---- dtypes

BITMILL_INLINE result<pickle_scanner::value> pickle_scanner::made_dtype(value arguments) {
    if (count_of(arguments) == 0 || !item(arguments, 0).is(kind::text)) return value();
    const auto text = text_of(item(arguments, 0).number());
    if (!text) return text.error();
    std::string_view rest = *text;
    type_of_array made;
    if (!rest.empty() && std::string_view("<>=|").find(rest.front()) != std::string_view::npos) {
        made.order = rest.front();
        rest.remove_prefix(1);
    }
    if (rest.size() < 2 || rest.size() > 10) return value();
    made.letter = rest.front();
    const auto [end, failed] = std::from_chars(rest.data() + 1, rest.data() + rest.size(), made.width);
    if (failed != std::errc() || end != rest.data() + rest.size()) return value();
    if (made.letter == 'U') made.width *= 4;
    made.objects = made.letter == 'O';
    if (auto paid = spend(sizeof(made) + 1); !paid) return paid.error();
    types_.push_back(made);
    return value(kind::dtype, types_.size() - 1);
}

// (version, byte order, subarray, names, fields, width, alignment, flags); with fields it holds a dict.
BITMILL_INLINE result<void> pickle_scanner::build_dtype(std::size_t index, value state) {
    auto& type = types_[index];
    if (!state.is(kind::tuple) || count_of(state) < 8 || !item(state, 1).is(kind::text)) {
        type.letter = 'V';
        return {};
    }
    const auto order = text_of(item(state, 1).number());
    if (!order) return order.error();
    if (order->size() == 1) type.order = order->front();
    if (!item(state, 2).is(kind::opaque) || !item(state, 3).is(kind::opaque)) type.letter = '?';
    if (item(state, 5).is(kind::integer)) type.width = item(state, 5).number();
    if (item(state, 7).is(kind::integer) && (item(state, 7).number() & 1) != 0) type.objects = true;
    return {};
}

BITMILL_INLINE std::optional<dtype> pickle_scanner::plain_dtype(const type_of_array& type) {
    static constexpr struct {
        char letter;
        std::uint64_t width;
        dtype type;
    } rows[] = {{'f', 8, dtype::f64},    {'f', 4, dtype::f32}, {'f', 2, dtype::f16}, {'c', 8, dtype::c64},
                {'i', 8, dtype::i64},    {'i', 4, dtype::i32}, {'i', 2, dtype::i16}, {'i', 1, dtype::i8},
                {'u', 8, dtype::u64},    {'u', 4, dtype::u32}, {'u', 2, dtype::u16}, {'u', 1, dtype::u8},
                {'b', 1, dtype::boolean}};
    for (const auto& row : rows)
        if (row.letter == type.letter && row.width == type.width) return row.type;
    return {};
}

// ---- scalars

BITMILL_INLINE result<void> pickle_scanner::note_single(value arguments, std::uint64_t node_index) {
    if (count_of(arguments) != 2 || !item(arguments, 0).is(kind::dtype)) return {};
    const value bytes = item(arguments, 1);
    const auto& type = types_[item(arguments, 0).index()];
    if (plain_dtype(type) != dtype::f64 || type.order == '>') return {};
    if (!bytes.is(kind::bytes) && !bytes.is(kind::encoded)) return {};
    const blob of = place_of(bytes);
    pickle_array whole;  // of one element, as far as it is read
    whole.stored = of.stored;
    whole.data = of.data;
    whole.data_end = of.end;
    double number = 0;
    if (auto read = pickle_array_reader(model_, whole).next(std::as_writable_bytes(std::span(&number, 1)));
        !read)
        return read;
    nodes_[static_cast<std::size_t>(node_index)].count =
        std::bit_cast<std::uint32_t>(static_cast<float>(number));
    flags_[static_cast<std::size_t>(node_index)] |= is_single;
    return {};
}

BITMILL_INLINE result<void> pickle_scanner::name_singles() {
    static constexpr std::string_view wanted = "intercept_";
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
        const node& one = nodes_[i];
        const bool named = (one.key & key_is_text) != 0 && (one.key & 0xff) == wanted.size();
        if (!named || (flags_[i] & is_single) == 0) continue;
        const auto text = text_of(one.key & ~key_is_text);
        if (!text) return text.error();
        if (*text != wanted) continue;
        auto name = path_of(i);
        if (!name) return name.error();
        if (auto paid = spend(sizeof(pickle_single) + name->size()); !paid) return paid;
        model_.singles_.push_back({std::move(*name), std::bit_cast<float>(one.count)});
    }
    return {};
}

// ---- where the parts of an array stand

// A latin-1 text that _codecs.encode makes bytes of: protocol 2 has no bytes.
BITMILL_INLINE result<pickle_scanner::value> pickle_scanner::encoded(value arguments) {
    if (count_of(arguments) != 2 || !item(arguments, 1).is(kind::text)) return value();
    const auto encoding = text_of(item(arguments, 1).number());
    if (!encoding) return encoding.error();
    const value text = item(arguments, 0);
    if (*encoding != "latin1") return value();
    if (text.is(kind::blob) && blobs_[text.index()].stored == pickle_array::storage::latin1)
        return value(kind::encoded, text.number());
    if (!text.is(kind::text)) return value();
    const std::uint64_t op = text.number() >> 8, count = text.number() & 0xff;
    char first = 0;
    if (auto read = file_.read_at(op, std::as_writable_bytes(std::span(&first, 1))); !read)
        return read.error();
    const std::uint64_t data = op + (first == 'X' ? 5 : 2);
    if (auto paid = spend(sizeof(blob) + 1); !paid) return paid.error();
    blobs_.push_back({op, data, data + count, pickle_array::storage::latin1});
    return value(kind::encoded, blobs_.size() - 1);
}

// Where the values above the mark are the state of an array, or the arguments of _frombuffer, they become that.
BITMILL_INLINE bool pickle_scanner::make_draft(std::size_t count) {
    const auto at = [&](std::size_t i) -> const slot& { return stack_[stack_.size() - count + i]; };
    const auto is_shape = [&](value v) {
        if (!v.is(kind::tuple)) return false;
        for (std::size_t i = 0; i < count_of(v); ++i)
            if (!item(v, i).is(kind::integer)) return false;
        return true;
    };
    const auto is_bytes = [&](value v) {
        return v.is(kind::encoded) || v.is(kind::bytes) ||
               (v.is(kind::blob) && blobs_[v.index()].stored != pickle_array::storage::latin1);
    };
    draft made;
    kind what = kind::state;
    if (count == 5 && at(0).what.is(kind::integer) && is_shape(at(1).what) && at(2).what.is(kind::dtype) &&
        at(3).what.is(kind::boolean) && is_bytes(at(4).what)) {
        made.shape = at(1).what;
        made.type = at(2).what;
        made.content = at(4).what;
        made.column_major = at(3).what.number() != 0;
        made.dtype_end = at(3).begin;
        made.stacked = op_at_;
    } else if (count == 4 && is_bytes(at(0).what) && at(1).what.is(kind::dtype) && is_shape(at(2).what) &&
               at(3).what.is(kind::text)) {
        const auto order = text_of(at(3).what.number());
        if (!order || (*order != "C" && *order != "F")) return false;
        what = kind::arguments;
        made.shape = at(2).what;
        made.type = at(1).what;
        made.content = at(0).what;
        made.column_major = *order == "F";
        made.dtype_end = at(2).begin;
        made.stacked = at(1).begin;
    } else {
        return false;
    }
    made.serial = ++serial_;
    draft_ = made;
    const std::uint64_t begin = stack_[stack_.size() - count - 1].begin;
    drop(count + 1);
    stack_.push_back({value(what, serial_), begin});
    return true;
}

// `end`: where the instructions of the item are over.
BITMILL_INLINE result<void> pickle_scanner::note_wrapper_item(const slot& key, const slot& item,
                                                              std::uint64_t end) {
    if (!key.what.is(kind::text)) return {};
    const auto name = text_of(key.what.number());
    if (!name) return name.error();
    if (*name == "shape") wrapper_.shape = item.what;
    if (*name == "subclass")
        wrapper_.plain = item.what.is(kind::name) && names_[item.what.index()].what == pickle_name::ndarray;
    if (*name == "numpy_array_alignment_bytes" && item.what.is(kind::integer))
        wrapper_.alignment = item.what.number();
    if (*name == "order" && item.what.is(kind::text)) {
        const auto order = text_of(item.what.number());
        if (!order) return order.error();
        wrapper_.column_major = *order == "F";
    }
    if (*name == "dtype") {
        wrapper_.type = item.what;
        wrapper_.dtype_end = end;
    }
    return {};
}

// ---- arrays

BITMILL_INLINE result<std::uint64_t> pickle_scanner::elements_of(value shape,
                                                                 std::vector<std::uint64_t>* lengths) {
    maybe_u64 product = 1;
    for (std::size_t i = 0; i < count_of(shape); ++i) {
        const value length = item(shape, i);
        if (!length.is(kind::integer)) return fail("an array has a length that is no number");
        product = product ? checked_mul(*product, length.number()) : product;
        if (lengths != nullptr) lengths->push_back(length.number());
    }
    if (!product) return fail("an array has more elements than 64 bits can count");
    return *product;
}

BITMILL_INLINE result<void> pickle_scanner::build_wrapper() {
    const slot wrapper = top();
    if (outer_ || wrapper_.serial != wrapper.what.number() || !wrapper_.type ||
        !wrapper_.type->is(kind::dtype) || !wrapper_.shape || !wrapper_.shape->is(kind::tuple))
        return unsupported("joblib's wrapper of an array is not as joblib 0.10 and later write it");
    const draft made = std::exchange(wrapper_, {});
    const auto& type = types_[made.type->index()];
    if (type.objects) return enter_inner(wrapper);
    if (frame_end_ != 0 && at_ != frame_end_)
        return fail("an array of joblib begins within a frame; the file is damaged");
    frame_end_ = 0;
    if (made.alignment != 0) {
        const std::uint64_t at = at_;
        const auto count = number(1);
        if (!count) return count.error();
        if (auto skipped = skip(*count); !skipped) return skipped;
        if (auto paid = spend(sizeof(pickle_model::padding) + 1); !paid) return paid;
        model_.paddings_.push_back({at, *count + 1, made.alignment});
    }
    const auto elements = elements_of(*made.shape, nullptr);
    if (!elements) return elements.error();
    const maybe_u64 bytes = checked_mul(*elements, type.width);
    if (!bytes || *bytes > file_.size() - at_)
        return fail("an array of joblib is longer than the file; fetch or save it again");
    if (made.plain)
        if (auto added = add_array(made, wrapper.what.number(), wrapper.begin); !added) return added;
    at_ += *bytes;
    const bool added = nodes_[wrapper.what.index()].count != 0;
    if (added) model_.arrays_.back().end = at_;
    top().what = value(added ? kind::array : kind::node, wrapper.what.number());
    return {};
}

BITMILL_INLINE result<void> pickle_scanner::add_array(const draft& made, std::uint64_t node_index,
                                                      std::uint64_t begin) {
    const auto& type = types_[made.type->index()];
    const auto plain = plain_dtype(type);
    if (!plain) return {};
    if (auto paid = spend(sizeof(pickle_array) + 8 * (count_of(*made.shape) + 6)); !paid) return paid;
    pickle_array out;
    out.type = *plain;
    const auto elements = elements_of(*made.shape, &out.shape);
    if (!elements) return elements.error();
    out.elements = *elements;
    const maybe_u64 bytes = checked_mul(*elements, type.width);
    if (!bytes) return fail("an array has more bytes than 64 bits can count");
    out.bytes = *bytes;
    out.column_major = made.column_major && out.shape.size() > 1;
    out.begin = begin;
    out.dtype_end = made.dtype_end;
    if (type.order == '>' && type.width > 1) out.fixed = "big-endian";
    if (auto placed = place_content(made, out); !placed) return placed;
    node& own = nodes_[static_cast<std::size_t>(node_index)];
    if ((own.key & key_is_odd) != 0) out.fixed = "it is used before it is complete";
    if ((own.key & key_is_memo) != 0) {
        const std::uint64_t place = own.key & key_number;
        const bool still = place < memo_.size() && memo_[static_cast<std::size_t>(place)].is(kind::array) &&
                           memo_[static_cast<std::size_t>(place)].number() == node_index;
        if (still) out.memo = static_cast<std::uint32_t>(place);
        own.key = 0;
    }
    model_.arrays_.push_back(std::move(out));
    own.count = static_cast<std::uint32_t>(model_.arrays_.size());
    fetched_.push_back(false);
    array_node_.push_back(node_index);
    array_blob_.push_back(made.content && !made.content->is(kind::bytes) ? made.content->index() : SIZE_MAX);
    return {};
}

BITMILL_INLINE pickle_scanner::blob pickle_scanner::place_of(value bytes) const {
    if (!bytes.is(kind::bytes)) return blobs_[bytes.index()];
    const std::uint64_t op = bytes.number() >> 8;
    return {op, op + 2, op + 2 + (bytes.number() & 0xff), pickle_array::storage::bytes};
}

BITMILL_INLINE result<void> pickle_scanner::place_content(const draft& made, pickle_array& out) {
    if (!made.content) {
        out.stored = pickle_array::storage::raw;
        out.op = out.data = at_;
        out.data_end = at_ + out.bytes;
        return {};
    }
    blob single = place_of(*made.content);
    blob& of = made.content->is(kind::bytes) ? single : blobs_[made.content->index()];
    if (of.used) of.shared = true;
    of.used = true;
    out.stored = of.stored;
    out.op = of.op;
    out.data = of.data;
    out.data_end = of.end;
    out.stacked = made.stacked;
    maybe_u64 bytes = of.end - of.data;
    if (of.stored == pickle_array::storage::latin1) {
        // Once: a file may name the same text in every few of its bytes.
        if (!of.characters) {
            const auto counted = latin1_bytes(of.data, of.end);
            if (!counted) return counted.error();
            of.characters = *counted;
        }
        bytes = of.characters;
    }
    if (*bytes != out.bytes)
        return fail("an array of " + std::to_string(out.bytes) + " bytes has " + std::to_string(*bytes) +
                    " in the file; fetch or save it again");
    return {};
}

BITMILL_INLINE result<std::uint64_t> pickle_scanner::latin1_bytes(std::uint64_t from, std::uint64_t to) {
    std::uint64_t count = 0;
    bool open = false;                   // a lead byte waits for its second one
    std::array<std::byte, 4096> buffer;  // the window is to stay where the instructions are
    while (from < to) {
        const auto part = std::span(buffer).first(
            static_cast<std::size_t>(std::min<std::uint64_t>(to - from, buffer.size())));
        if (auto read = file_.read_at(from, part); !read) return read.error();
        for (const std::byte c : part) {
            const auto byte = std::to_integer<unsigned>(c);
            const bool second = byte >= 0x80 && byte < 0xc0;
            if (open != second || (!second && byte >= 0x80 && byte != 0xc2 && byte != 0xc3))
                return fail("the bytes of an array are no latin-1 text; the file is damaged");
            open = byte >= 0xc0;
            if (!second) ++count;
        }
        from += part.size();
    }
    if (open) return fail("the bytes of an array are no latin-1 text; the file is damaged");
    return count;
}

BITMILL_INLINE result<std::string> pickle_scanner::path_of(std::uint64_t node_index) {
    constexpr std::size_t deepest = 64, longest = 400;
    std::string path;
    std::uint64_t at = node_index;
    for (std::size_t steps = 0;; ++steps) {
        const node& one = nodes_[static_cast<std::size_t>(at)];
        if (one.parent == 0) break;
        std::string key;
        if ((one.key & key_is_text) != 0) {
            auto text = text_of(one.key & ~key_is_text);
            if (!text) return text;
            key = std::move(*text);
        } else if ((one.key & key_is_index) != 0) {
            key = std::to_string(one.key & key_number);
        }
        if (!key.empty()) path = path.empty() ? key : key + "." + path;
        if (steps == deepest || path.size() > longest) break;
        at = one.parent - 1;
    }
    if (path.empty()) path = "array";
    if (auto paid = spend(2 * path.size()); !paid) return paid.error();
    return path;
}

}  // namespace detail

// ---- reading

BITMILL_INLINE result<void> pickle_array_reader::next(std::span<std::byte> dst) {
    if (array_.stored == pickle_array::storage::latin1) return next_latin1(dst);
    if (dst.size() > array_.data_end - at_)
        return detail::make_error(error_code::bad_input, "the array ends here", file_.path(), array_.name,
                                  at_);
    if (auto read = file_.read_at(at_, dst); !read) return read;
    at_ += dst.size();
    return {};
}

BITMILL_INLINE result<void> pickle_array_reader::next_latin1(std::span<std::byte> dst) {
    std::array<std::byte, 4096> packed;
    while (!dst.empty()) {
        const auto count = static_cast<std::size_t>(
            std::min<std::uint64_t>({packed.size(), array_.data_end - at_, 2 * std::uint64_t{dst.size()}}));
        if (auto read = file_.read_at(at_, std::span(packed).first(count)); !read) return read;
        std::size_t used = 0;
        for (; used < count && !dst.empty(); dst = dst.subspan(1)) {
            const auto first = std::to_integer<unsigned>(packed[used]);
            const std::size_t length = first < 0x80 ? 1 : 2;
            if (length > count - used) break;
            const unsigned second = length == 2 ? std::to_integer<unsigned>(packed[used + 1]) & 0x3f : 0;
            dst.front() = static_cast<std::byte>(length == 1 ? first : (first & 3) << 6 | second);
            used += length;
        }
        if (used == 0)
            return detail::make_error(error_code::bad_input, "the array ends here", file_.path(), array_.name,
                                      at_);
        at_ += used;
    }
    return {};
}

}  // namespace bitmill
