// The zip container as torch.save uses it: entries that are stored, never compressed, so that a tensor's bytes lie
// in the file as they are. https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (version 6.3.10)
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/core/checked.hpp>
#include <bitmill/core/error.hpp>
#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/io/file.hpp>

namespace bitmill::detail {

struct zip_entry {
    std::string_view name;
    std::uint64_t offset;  // of its bytes, from the start of the file
    std::uint64_t bytes;
};

inline constexpr std::uint64_t max_directory_bytes = std::uint64_t{256} << 20;  // that of a million entries

// The directory of a zip file; entries by name. No two share a byte or a name, and all lie in the file.
class zip_directory {
public:
    static result<zip_directory> read(const input_file& file) {
        zip_directory made;
        if (auto done = made.parse(file); !done) return done.error();
        return made;
    }
    zip_directory(zip_directory&&) = default;
    zip_directory& operator=(zip_directory&&) = default;

    [[nodiscard]] const std::vector<zip_entry>& entries() const noexcept { return entries_; }
    [[nodiscard]] const zip_entry* find(std::string_view name) const noexcept {
        const auto found =
            std::lower_bound(entries_.begin(), entries_.end(), name,
                             [](const zip_entry& e, std::string_view n) { return e.name < n; });
        return found == entries_.end() || found->name != name ? nullptr : &*found;
    }

private:
    static constexpr std::uint64_t end_bytes = 22;
    static constexpr std::uint64_t end64_bytes = 56;
    static constexpr std::uint64_t locator_bytes = 20;
    static constexpr std::uint64_t central_bytes = 46;
    static constexpr std::uint64_t local_bytes = 30;
    static constexpr std::uint64_t max_comment = 65535;
    static constexpr std::size_t max_entries = std::size_t{1} << 20;

    zip_directory() = default;

    static std::uint64_t number(std::string_view bytes, std::size_t at, std::size_t width) {
        std::uint64_t value = 0;
        for (std::size_t i = width; i != 0; --i)
            value = value << 8 | static_cast<unsigned char>(bytes[at + i - 1]);
        return value;
    }
    static result<std::string> read_at(const input_file& file, std::uint64_t offset, std::uint64_t bytes) {
        std::string text(static_cast<std::size_t>(bytes), '\0');
        auto done = file.read_at(offset, std::as_writable_bytes(std::span(text.data(), text.size())));
        if (!done) return done.error();
        return text;
    }
    static error bad(const input_file& file, std::string message, std::uint64_t offset = error::no_offset,
                     error_code code = error_code::bad_input) {
        return make_error(code, std::move(message), file.path(), {}, offset);
    }

    struct where {
        std::uint64_t offset;  // of the central directory
        std::uint64_t bytes;
        std::uint64_t count;
    };

    // The record at the file's end, or the one for large files that it points to.
    static result<where> find_directory(const input_file& file) {
        const std::uint64_t size = file.size();
        if (size < end_bytes) return bad(file, "is too short for a zip file, which torch.save writes");
        const std::uint64_t tail = std::min(size, end_bytes + max_comment);
        auto text = read_at(file, size - tail, tail);
        if (!text) return text.error();
        std::optional<std::size_t> end;
        for (std::size_t left = static_cast<std::size_t>(tail - end_bytes) + 1; left != 0 && !end; --left)
            if (std::string_view(*text).substr(left - 1, 4) == "PK\5\6" &&
                number(*text, left + 19, 2) == tail - end_bytes - (left - 1))
                end = left - 1;
        if (!end)
            return bad(file,
                       "is no zip file, or was cut off: it has no directory at its end; files of torch.save "
                       "before torch 1.6 must be saved anew");
        const std::uint64_t at = size - tail + *end;
        where found{number(*text, *end + 16, 4), number(*text, *end + 12, 4), number(*text, *end + 10, 2)};
        const bool one_disk = number(*text, *end + 4, 2) == 0 && number(*text, *end + 6, 2) == 0 &&
                              number(*text, *end + 8, 2) == found.count;
        std::uint64_t limit = at;
        const bool large = found.offset == 0xffffffff || found.bytes == 0xffffffff || found.count == 0xffff;
        if (large ||
            (*end >= locator_bytes && std::string_view(*text).substr(*end - locator_bytes, 4) == "PK\6\7")) {
            if (*end < locator_bytes || std::string_view(*text).substr(*end - locator_bytes, 4) != "PK\6\7")
                return bad(file, "its zip directory lies past 4 GiB, but nothing says where", at);
            const std::uint64_t end64 = number(*text, *end - locator_bytes + 8, 8);
            const maybe_u64 past = checked_add(end64, end64_bytes);
            if (!past || *past > at - locator_bytes)
                return bad(file, "its zip directory is said to lie past the file's end", at);
            auto record = read_at(file, end64, end64_bytes);
            if (!record) return record.error();
            if (!record->starts_with("PK\6\6"))
                return bad(file, "there is no zip directory where it is said to lie", end64);
            found = {number(*record, 48, 8), number(*record, 40, 8), number(*record, 32, 8)};
            limit = end64;
        }
        const maybe_u64 past = checked_add(found.offset, found.bytes);
        if (!one_disk || !past || *past > limit)
            return bad(file, "its zip directory does not lie in the file", at);
        if (found.count > found.bytes / central_bytes || found.count > max_entries)
            return bad(file, "its zip directory cannot hold " + std::to_string(found.count) + " entries", at);
        return found;
    }

    // Sizes that do not fit 32 bits stand in the extra field, in this order.
    static bool widen(std::string_view extra, std::uint64_t& bytes, std::uint64_t& packed,
                      std::uint64_t& local) {
        const bool wide = bytes == 0xffffffff || packed == 0xffffffff || local == 0xffffffff;
        while (wide && extra.size() >= 4) {
            const std::size_t id = static_cast<std::size_t>(number(extra, 0, 2));
            const std::size_t length = static_cast<std::size_t>(number(extra, 2, 2));
            if (extra.size() - 4 < length) return false;
            std::string_view field = extra.substr(4, length);
            extra.remove_prefix(4 + length);
            if (id != 1) continue;
            for (std::uint64_t* value : {&bytes, &packed, &local}) {
                if (*value != 0xffffffff) continue;
                if (field.size() < 8) return false;
                *value = number(field, 0, 8);
                field.remove_prefix(8);
            }
            return true;
        }
        return !wide;
    }

    result<void> parse(const input_file& file) {
        const auto found = find_directory(file);
        if (!found) return found.error();
        if (found->bytes > max_directory_bytes)
            return bad(file, "its zip directory is over 256 MiB long", found->offset);
        text_.resize(static_cast<std::size_t>(found->bytes));
        if (auto got = file.read_at(found->offset, std::as_writable_bytes(std::span(text_))); !got)
            return got;
        const std::string_view all(text_.data(), text_.size());
        entries_.reserve(static_cast<std::size_t>(found->count));
        std::vector<std::uint64_t> begins;  // of the local headers, as entries_
        std::size_t at = 0;
        for (std::uint64_t i = 0; i < found->count; ++i) {
            const std::uint64_t here = found->offset + at;
            if (all.size() - at < central_bytes || all.substr(at, 4) != "PK\1\2")
                return bad(file, "its zip directory ends before its last entry", here);
            const std::size_t name_bytes = static_cast<std::size_t>(number(all, at + 28, 2));
            const std::size_t extra_bytes = static_cast<std::size_t>(number(all, at + 30, 2));
            const std::size_t comment_bytes = static_cast<std::size_t>(number(all, at + 32, 2));
            if (all.size() - at - central_bytes < name_bytes + extra_bytes + comment_bytes)
                return bad(file, "an entry of its zip directory is cut off", here);
            const std::string_view name = all.substr(at + central_bytes, name_bytes);
            std::uint64_t packed = number(all, at + 20, 4);
            std::uint64_t bytes = number(all, at + 24, 4);
            std::uint64_t local = number(all, at + 42, 4);
            const std::string shown = "its zip entry '" + printable(std::string(name.substr(0, 200))) + "' ";
            if (!widen(all.substr(at + central_bytes + name_bytes, extra_bytes), bytes, packed, local))
                return bad(file, shown + "does not say how large it is", here);
            if (number(all, at + 34, 2) != 0) return bad(file, shown + "lies in another file", here);
            // Bit 3: sizes behind the bytes, too; bit 11: the name is UTF-8. Others mean encryption or patches.
            if ((number(all, at + 8, 2) & ~std::uint64_t{0x0808}) != 0)
                return bad(file, shown + "is encrypted, or stored in a way that torch.save never uses", here);
            if (number(all, at + 10, 2) != 0 || packed != bytes)
                return bad(file,
                           shown + "is compressed, which torch.save never does" +
                               (name.find("/code/") == std::string_view::npos
                                    ? ""
                                    : ": a TorchScript archive, a program with its weights; read it with "
                                      "torch.jit.load, and save its state_dict() with torch.save"),
                           here);
            auto begin = data_begin(file, local, name, shown);
            if (!begin) return begin.error();
            const maybe_u64 end = checked_add(*begin, bytes);
            if (!end || *end > found->offset)
                return bad(file, shown + "does not lie before the zip directory", here);
            entries_.push_back({name, *begin, bytes});
            begins.push_back(local);
            at += central_bytes + name_bytes + extra_bytes + comment_bytes;
        }
        if (auto apart = check_apart(file, begins); !apart) return apart;
        std::sort(entries_.begin(), entries_.end(),
                  [](const zip_entry& a, const zip_entry& b) { return a.name < b.name; });
        const auto twice =
            std::adjacent_find(entries_.begin(), entries_.end(),
                               [](const zip_entry& a, const zip_entry& b) { return a.name == b.name; });
        if (twice != entries_.end())
            return bad(file,
                       "its zip entry '" + printable(std::string(twice->name.substr(0, 200))) +
                           "' stands there twice",
                       twice->offset);
        return {};
    }

    static result<std::uint64_t> data_begin(const input_file& file, std::uint64_t local,
                                            std::string_view name, const std::string& shown) {
        const maybe_u64 past = checked_add(local, local_bytes + name.size());
        if (!past || *past > file.size())
            return bad(file, shown + "is said to lie past the file's end", local);
        auto header = read_at(file, local, local_bytes + name.size());
        if (!header) return header.error();
        if (!header->starts_with("PK\3\4") || number(*header, 26, 2) != name.size() ||
            std::string_view(*header).substr(local_bytes) != name)
            return bad(file, shown + "is not where the zip directory says", local);
        return *past + number(*header, 28, 2);
    }

    result<void> check_apart(const input_file& file, const std::vector<std::uint64_t>& begins) const {
        std::vector<std::uint32_t> order(entries_.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(i);
        std::sort(order.begin(), order.end(), [&](auto a, auto b) { return begins[a] < begins[b]; });
        for (std::size_t i = 1; i < order.size(); ++i) {
            const zip_entry& before = entries_[order[i - 1]];
            if (before.offset + before.bytes > begins[order[i]])
                return bad(file,
                           "its zip entry '" + printable(std::string(before.name.substr(0, 200))) +
                               "' overlaps the next one",
                           before.offset);
        }
        return {};
    }

    std::vector<char> text_;  // of the directory, which the names lie in; moves without moving them
    std::vector<zip_entry> entries_;
};

}  // namespace bitmill::detail
