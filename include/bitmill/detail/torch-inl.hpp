#pragma once

#include <bitmill/io/torch.hpp>

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <bitmill/detail/arena-inl.hpp>
#include <bitmill/detail/pickle-inl.hpp>
#include <bitmill/detail/safetensors_table-inl.hpp>
#include <bitmill/detail/zip-inl.hpp>

namespace bitmill {
namespace detail {

class torch_table {
public:
    struct row {
        std::uint64_t offset;
        std::uint64_t elements;
        std::uint32_t name;
        std::uint32_t shape;  // behind it, where `strided`, as many strides
        std::uint16_t name_bytes;
        dtype type;
        std::uint8_t rank;
        bool strided;
    };
    [[nodiscard]] std::string_view name(const row& r) const noexcept {
        return {names.at(r.name), r.name_bytes};
    }
    [[nodiscard]] std::span<const std::uint64_t> shape(const row& r) const noexcept {
        return {shapes.at(r.shape), r.rank};
    }
    [[nodiscard]] std::span<const std::uint64_t> strides(const row& r) const noexcept {
        if (!r.strided) return {};
        return {shapes.at(r.shape) + r.rank, r.rank};
    }

    std::deque<row> rows;                // by offset, then by name
    std::vector<std::uint32_t> by_name;  // rows' indices
    arena<char, 64 * 1024> names;
    arena<std::uint64_t, 8 * 1024> shapes;
    std::uint64_t pickle_offset = 0;
    std::uint64_t pickle_bytes = 0;
};

// The names that a state dict needs, and what they stand for.
enum class torch_name : std::uint8_t {
    ordered_dict,
    rebuild_tensor_v2,
    rebuild_tensor_v3,
    rebuild_parameter,
    storage,  // with the dtype of its elements; untyped: bytes
    element_type,
    size,
    set,
    harmless,  // a call of it gives nothing that matters here
};

struct torch_name_row {
    std::string_view module;
    std::string_view name;
    torch_name what;
    dtype type = dtype::u8;
};

inline constexpr torch_name_row torch_names[] = {
    {"collections", "OrderedDict", torch_name::ordered_dict},
    {"torch._utils", "_rebuild_tensor_v2", torch_name::rebuild_tensor_v2},
    {"torch._utils", "_rebuild_tensor_v3", torch_name::rebuild_tensor_v3},
    {"torch._utils", "_rebuild_parameter", torch_name::rebuild_parameter},
    {"torch._utils", "_rebuild_parameter_with_state", torch_name::rebuild_parameter},
    {"builtins", "set", torch_name::set},
    {"__builtin__", "set", torch_name::set},
    {"torch", "FloatStorage", torch_name::storage, dtype::f32},
    {"torch", "DoubleStorage", torch_name::storage, dtype::f64},
    {"torch", "HalfStorage", torch_name::storage, dtype::f16},
    {"torch", "BFloat16Storage", torch_name::storage, dtype::bf16},
    {"torch", "CharStorage", torch_name::storage, dtype::i8},
    {"torch", "ByteStorage", torch_name::storage, dtype::u8},
    {"torch", "ShortStorage", torch_name::storage, dtype::i16},
    {"torch", "IntStorage", torch_name::storage, dtype::i32},
    {"torch", "LongStorage", torch_name::storage, dtype::i64},
    {"torch", "BoolStorage", torch_name::storage, dtype::boolean},
    {"torch", "ComplexFloatStorage", torch_name::storage, dtype::c64},
    {"torch.storage", "UntypedStorage", torch_name::storage, dtype::u8},
    {"torch", "UntypedStorage", torch_name::storage, dtype::u8},
    {"torch", "float32", torch_name::element_type, dtype::f32},
    {"torch", "float64", torch_name::element_type, dtype::f64},
    {"torch", "float16", torch_name::element_type, dtype::f16},
    {"torch", "bfloat16", torch_name::element_type, dtype::bf16},
    {"torch", "float8_e4m3fn", torch_name::element_type, dtype::f8_e4m3},
    {"torch", "float8_e5m2", torch_name::element_type, dtype::f8_e5m2},
    {"torch", "float8_e4m3fnuz", torch_name::element_type, dtype::f8_e4m3fnuz},
    {"torch", "float8_e5m2fnuz", torch_name::element_type, dtype::f8_e5m2fnuz},
    {"torch", "float8_e8m0fnu", torch_name::element_type, dtype::f8_e8m0},
    {"torch", "int8", torch_name::element_type, dtype::i8},
    {"torch", "uint8", torch_name::element_type, dtype::u8},
    {"torch", "int16", torch_name::element_type, dtype::i16},
    {"torch", "uint16", torch_name::element_type, dtype::u16},
    {"torch", "int32", torch_name::element_type, dtype::i32},
    {"torch", "uint32", torch_name::element_type, dtype::u32},
    {"torch", "int64", torch_name::element_type, dtype::i64},
    {"torch", "uint64", torch_name::element_type, dtype::u64},
    {"torch", "bool", torch_name::element_type, dtype::boolean},
    {"torch", "complex64", torch_name::element_type, dtype::c64},
    {"torch", "Size", torch_name::size},
    {"torch", "device", torch_name::harmless},
    {"torch.serialization", "_get_layout", torch_name::harmless},
};

// Makes storages and tensors of what the pickle calls.
class torch_policy {
public:
    using kind = pickle_value::kind;

    struct storage {
        std::uint64_t offset;  // in the file
        std::uint64_t bytes;
        dtype type;
        bool untyped;
    };
    struct tensor {
        std::uint64_t offset;
        std::uint64_t elements;
        std::uint32_t shape;  // in the table's shapes
        dtype type;
        std::uint8_t rank;
        bool strided;
    };

    torch_policy(const zip_directory& zip, std::string folder, torch_table& table)
        : zip_(zip), folder_(std::move(folder)), table_(table) {}

    result<pickle_value> name(std::string_view module, std::string_view name) const {
        for (std::size_t i = 0; i < std::size(torch_names); ++i)
            if (torch_names[i].module == module && torch_names[i].name == name)
                return pickle_value{kind::name, 0, i};
        const std::string full =
            printable(std::string(module.substr(0, 100)) + "." + std::string(name.substr(0, 100)));
        if (module.starts_with("torch") &&
            (name.find("sparse") != name.npos || name.find("qtensor") != name.npos))
            return problem("holds a tensor that is not dense (" + full + "), which this version cannot read",
                           error_code::unsupported);
        return problem("the pickle names " + full +
                       ", which no checkpoint of weights needs: refused, nothing was run");
    }

    // ("storage", class, key, location, count of elements)
    result<pickle_value> persistent(pickle_store& store, const pickle_value& id) {
        const bool sound = id.is(kind::tuple) && id.count == 5 && store.item(id, 0).is(kind::text) &&
                           store.text(store.item(id, 0)) == "storage" &&
                           is(store.item(id, 1), torch_name::storage) && store.item(id, 2).is(kind::text) &&
                           store.item(id, 3).is(kind::text) && store.item(id, 4).is(kind::integer) &&
                           store.item(id, 4).integer() >= 0;
        if (!sound) return problem("the pickle refers to what is no storage of a tensor");
        const auto& row = torch_names[static_cast<std::size_t>(store.item(id, 1).at)];
        const std::string key(store.text(store.item(id, 2)).substr(0, 200));
        const zip_entry* entry = zip_.find(folder_ + "data/" + key);
        if (entry == nullptr) return problem("the zip file has no storage '" + printable(key) + "'");
        const maybe_u64 bytes = checked_mul(store.item(id, 4).at, element_bytes(row.type));
        if (!bytes || *bytes != entry->bytes)
            return problem("storage '" + printable(key) + "' has " + std::to_string(entry->bytes) +
                           " bytes, but the pickle says " + std::to_string(store.item(id, 4).at) +
                           " elements of " + std::string(facts(row.type).name));
        if (!store.spend(sizeof(storage))) return too_large();
        storages_.push_back({entry->offset, entry->bytes, row.type,
                             row.module == "torch.storage" || row.name == "UntypedStorage"});
        return pickle_value{kind::object, 0, 2 * (storages_.size() - 1)};
    }

    result<pickle_value> call(pickle_store& store, const pickle_value& function,
                              const pickle_value& arguments) {
        switch (torch_names[static_cast<std::size_t>(function.at)].what) {
            case torch_name::ordered_dict:
                if (arguments.count != 0) return problem("the pickle makes an OrderedDict of something");
                return pickle_value{kind::dict};
            case torch_name::rebuild_tensor_v2: return rebuild(store, arguments, false);
            case torch_name::rebuild_tensor_v3: return rebuild(store, arguments, true);
            case torch_name::rebuild_parameter:
                if (arguments.count < 1 || !is_tensor(store.item(arguments, 0)))
                    return problem("the pickle makes a parameter of what is no tensor");
                return store.item(arguments, 0);
            case torch_name::size:
                if (arguments.count == 1 && store.item(arguments, 0).is(kind::tuple))
                    return store.item(arguments, 0);
                return problem("the pickle makes a size of what is no tuple");
            case torch_name::set:  // read as the list that it is made of
                if (arguments.count == 1 && store.item(arguments, 0).is(kind::list))
                    return store.item(arguments, 0);
                return problem("the pickle makes a set of what is no list");
            case torch_name::harmless: return pickle_value{};
            default: return problem("the pickle calls what is no function");
        }
    }

    [[nodiscard]] static bool is_tensor(const pickle_value& v) { return v.is(kind::object) && v.at % 2 == 1; }
    [[nodiscard]] const tensor& tensor_of(const pickle_value& v) const {
        return tensors_[static_cast<std::size_t>(v.at / 2)];
    }

private:
    static constexpr std::uint64_t max_unfolded = std::uint64_t{1} << 20;

    static error problem(std::string message, error_code code = error_code::bad_input) {
        return {.code = code, .message = std::move(message)};
    }
    static error too_large() {
        return problem("the pickle asks for more memory than a file of this size may");
    }
    static bool is(const pickle_value& v, torch_name what) {
        return v.is(kind::name) && torch_names[static_cast<std::size_t>(v.at)].what == what;
    }

    // (storage, offset in elements, size, stride, requires_grad, hooks, [dtype in v3], [metadata])
    result<pickle_value> rebuild(pickle_store& store, const pickle_value& a, bool v3) {
        const std::uint32_t needed = v3 ? 7 : 6;
        const bool sound = a.count >= needed && a.count <= needed + 1 && store.item(a, 0).is(kind::object) &&
                           store.item(a, 0).at % 2 == 0 && store.item(a, 1).is(kind::integer) &&
                           store.item(a, 2).is(kind::tuple) && store.item(a, 3).is(kind::tuple) &&
                           (!v3 || is(store.item(a, 6), torch_name::element_type));
        if (!sound) return problem("the pickle rebuilds a tensor of what is none");
        const storage& from = storages_[static_cast<std::size_t>(store.item(a, 0).at / 2)];
        if (a.count > needed)
            if (auto plain = check_metadata(store, store.item(a, needed)); !plain) return plain.error();
        if (tensors_.size() == safetensors_max_tensors)
            return problem("holds more than " + std::to_string(safetensors_max_tensors) + " tensors");
        if (from.untyped != v3) return problem("the pickle rebuilds a tensor without saying its dtype");
        tensor made{};
        made.type = v3 ? torch_names[static_cast<std::size_t>(store.item(a, 6).at)].type : from.type;
        const std::uint64_t width = element_bytes(made.type);
        const pickle_value& sizes = store.item(a, 2);
        const pickle_value& steps = store.item(a, 3);
        if (sizes.count != steps.count) return problem("a tensor has as many strides as dimensions");
        if (sizes.count > safetensors_max_rank) return problem("a tensor has more than 8 dimensions");
        made.rank = static_cast<std::uint8_t>(sizes.count);
        std::uint64_t shape[2 * safetensors_max_rank];
        std::uint64_t* const strides = shape + made.rank;
        for (std::size_t i = 0; i < made.rank; ++i) {
            const pickle_value& size = store.item(sizes, i);
            const pickle_value& step = store.item(steps, i);
            if (!size.is(kind::integer) || !step.is(kind::integer) || size.integer() < 0 ||
                step.integer() < 0)
                return problem("sizes and strides of a tensor are whole numbers from 0");
            shape[i] = size.at;
            strides[i] = step.at;
        }
        const tensor_size size = measure_tensor(made.type, {shape, made.rank});
        if (!size.problem.empty()) return problem(size.problem);
        made.elements = size.elements;
        const auto reached =
            end_of(store.item(a, 1), {shape, made.rank}, {strides, made.rank}, made.elements);
        const maybe_u64 end = reached ? checked_mul(*reached, width) : std::nullopt;
        if (!end || *end > from.bytes)
            return problem("a tensor of shape " + shape_text({shape, made.rank}) + " and strides " +
                           shape_text({strides, made.rank}) + " from element " +
                           std::to_string(store.item(a, 1).integer()) + " on reaches past its storage of " +
                           std::to_string(from.bytes) + " bytes");
        // expand() makes any size of one element; a weight has its bytes.
        if (size.bytes > std::max<std::uint64_t>(from.bytes, max_unfolded))
            return problem("a tensor of " + std::to_string(size.bytes) + " bytes unfolds from a storage of " +
                           std::to_string(from.bytes) + "; save it with contiguous()");
        made.offset = from.offset + store.item(a, 1).at * width;
        made.strided = !is_row_major({shape, made.rank}, {strides, made.rank}, made.elements);
        if (!store.spend(sizeof(tensor) + 8u * (made.strided ? 2u : 1u) * made.rank)) return too_large();
        made.shape =
            table_.shapes.store(std::span<const std::uint64_t>(shape, (made.strided ? 2u : 1u) * made.rank));
        tensors_.push_back(made);
        return pickle_value{kind::object, 0, 2 * (tensors_.size() - 1) + 1};
    }

    // What torch leaves undone until a tensor is used: the sign, the conjugate. Without it the bytes are other weights.
    static result<void> check_metadata(const pickle_store& store, const pickle_value& given) {
        if (given.is(kind::none)) return {};
        if (!given.is(kind::dict)) return problem("the metadata of a tensor is no dict");
        const auto& items = store.items(given);
        for (std::size_t i = 0; i < items.size(); i += 2) {
            const auto key = items[i].is(kind::text) ? store.text(items[i]) : std::string_view();
            if (key != "neg" && key != "conj") return problem("a tensor has metadata that no weight needs");
            if (!items[i + 1].is(kind::boolean) || items[i + 1].at != 0)
                return problem(
                    "a tensor is to be negated or conjugated when it is used; save it with resolve_neg() or "
                    "resolve_conj()",
                    error_code::unsupported);
        }
        return {};
    }

    // The element behind the last one that the tensor reaches.
    static maybe_u64 end_of(const pickle_value& first, std::span<const std::uint64_t> shape,
                            std::span<const std::uint64_t> strides, std::uint64_t elements) {
        if (first.integer() < 0) return std::nullopt;
        maybe_u64 last = first.at;
        if (elements == 0) return last;
        for (std::size_t i = 0; i < shape.size() && last; ++i) {
            const maybe_u64 far = checked_mul(shape[i] - 1, strides[i]);
            last = far ? checked_add(*last, *far) : std::nullopt;
        }
        return last ? checked_add(*last, 1) : std::nullopt;
    }
    static bool is_row_major(std::span<const std::uint64_t> shape, std::span<const std::uint64_t> strides,
                             std::uint64_t elements) {
        std::uint64_t expected = 1;
        for (std::size_t i = shape.size(); i != 0 && elements != 0; --i) {
            if (shape[i - 1] != 1 && strides[i - 1] != expected) return false;
            expected *= shape[i - 1];
        }
        return true;
    }

    const zip_directory& zip_;
    std::string folder_;
    torch_table& table_;
    std::deque<storage> storages_;
    std::deque<tensor> tensors_;
};

// Reads the pickle and makes the table of what it says.
class torch_reader {
public:
    using kind = pickle_value::kind;

    torch_reader(const input_file& file, torch_table& table) : file_(file), table_(table) {}

    result<void> read() {
        const auto zip = zip_directory::read(file_);
        if (!zip) return zip.error();
        const zip_entry* pickle = nullptr;
        for (const auto& entry : zip->entries()) {
            const std::size_t slash = entry.name.find('/');
            if (slash == entry.name.npos || entry.name.substr(slash + 1) != "data.pkl") continue;
            if (pickle != nullptr) return bad("holds two pickles of torch.save", entry.offset);
            pickle = &entry;
        }
        if (pickle == nullptr) return bad("is a zip file, but not one of torch.save: it holds no data.pkl");
        const std::string folder(
            pickle->name.substr(0, pickle->name.size() - std::string_view("data.pkl").size()));
        if (zip->find(folder + "constants.pkl") != nullptr)
            return bad(
                "is a TorchScript archive, a program with its weights; read it with torch.jit.load, and save "
                "its state_dict() with torch.save",
                pickle->offset, error_code::unsupported);
        if (auto order = check_order(*zip, folder); !order) return order;
        if (pickle->bytes > max_directory_bytes)
            return bad("its pickle is over 256 MiB long", pickle->offset);
        std::string text(static_cast<std::size_t>(pickle->bytes), '\0');
        if (auto got =
                file_.read_at(pickle->offset, std::as_writable_bytes(std::span(text.data(), text.size())));
            !got)
            return got;
        table_.pickle_offset = pickle->offset;
        table_.pickle_bytes = pickle->bytes;
        // With the pickle itself this stays below 4 x file + 1 MiB. A state dict of scalars, the smallest tensors there
        // are, takes a little more than its file; a vocabulary beside a small model three times its part.
        pickle_store store(text, 3 * file_.size() + (std::uint64_t{512} << 10));
        torch_policy policy(*zip, folder, table_);
        pickle_machine machine(text, file_.path(), pickle->offset, store, policy);
        const auto made = machine.run();
        if (!made) return made.error();
        return collect(store, policy, *made);
    }

private:
    [[nodiscard]] error bad(std::string message, std::uint64_t offset = error::no_offset,
                            error_code code = error_code::bad_input, std::string tensor = {}) const {
        return make_error(code, std::move(message), file_.path(), std::move(tensor), offset);
    }

    result<void> check_order(const zip_directory& zip, const std::string& folder) const {
        const zip_entry* order = zip.find(folder + "byteorder");
        if (order == nullptr) return {};  // before torch 2.1
        char text[8] = {};
        if (order->bytes > sizeof text) return bad("its byteorder is neither little nor big", order->offset);
        const std::size_t bytes = static_cast<std::size_t>(order->bytes);
        if (auto got = file_.read_at(order->offset, std::as_writable_bytes(std::span(text, bytes))); !got)
            return got;
        if (std::string_view(text, bytes) == "little") return {};
        return bad("its numbers are not little-endian; save it on a usual machine", order->offset,
                   error_code::unsupported);
    }

    [[nodiscard]] static bool holds_tensor(const pickle_store& store, const pickle_value& dict) {
        const auto& items = store.items(dict);
        for (std::size_t i = 1; i < items.size(); i += 2)
            if (torch_policy::is_tensor(items[i])) return true;
        return false;
    }

    // Is there a tensor in what these values hold, however deep? Each container is looked at once: they may be shared,
    // and hold each other.
    [[nodiscard]] static bool hides_tensor(const pickle_store& store, std::vector<pickle_value> left) {
        std::set<std::pair<bool, std::uint64_t>> seen;
        while (!left.empty()) {
            const pickle_value one = left.back();
            left.pop_back();
            if (torch_policy::is_tensor(one)) return true;
            const bool is_tuple = one.is(kind::tuple);
            if (!is_tuple && !one.is(kind::list) && !one.is(kind::dict)) continue;
            if ((is_tuple && one.count == 0) || !seen.insert({is_tuple, one.at}).second) continue;
            for (std::uint32_t i = 0; is_tuple && i < one.count; ++i) left.push_back(store.item(one, i));
            if (!is_tuple) left.insert(left.end(), store.items(one).begin(), store.items(one).end());
        }
        return false;
    }

    // The state dict: below one of the names that training scripts give it, else the top itself.
    result<pickle_value> find_state(const pickle_store& store, const pickle_value& whole) const {
        if (!whole.is(kind::dict)) return bad("holds no state dict, that is no names with their tensors");
        const auto& items = store.items(whole);
        std::map<std::uint64_t, bool> below;  // which of the dicts hold tensors
        pickle_value found = whole;
        for (std::size_t i = 0; i < items.size(); i += 2) {
            if (!items[i].is(kind::text) || !items[i + 1].is(kind::dict)) continue;
            const auto name = store.text(items[i]);
            if (name != "state_dict" && name != "model" && name != "module") continue;
            if (below.contains(items[i + 1].at)) continue;
            below[items[i + 1].at] = holds_tensor(store, items[i + 1]);
            if (below[items[i + 1].at]) found = items[i + 1];
        }
        const auto count =
            std::count_if(below.begin(), below.end(), [](const auto& one) { return one.second; });
        if (count > 1)
            return bad("holds several state dicts, and nothing says which is the model: save the one alone");
        if (count == 1) return found;
        if (!holds_tensor(store, whole))
            return bad("holds no tensors, neither at its top nor below state_dict, model or module");
        std::vector<pickle_value> others;
        for (const auto& one : items)
            if (!torch_policy::is_tensor(one)) others.push_back(one);
        if (hides_tensor(store, std::move(others)))
            return bad("holds tensors beside and below each other: save the state dict alone");
        return whole;
    }

    result<void> collect(const pickle_store& store, const torch_policy& policy, const pickle_value& whole) {
        const auto from = find_state(store, whole);
        if (!from) return from.error();
        const auto& items = store.items(*from);
        for (std::size_t i = 0; i < items.size(); i += 2) {
            if (!torch_policy::is_tensor(items[i + 1])) continue;
            if (!items[i].is(kind::text)) return bad("a tensor's name is no text", table_.pickle_offset);
            if (auto added = add(store.text(items[i]), policy.tensor_of(items[i + 1])); !added) return added;
        }
        return sort();
    }

    result<void> add(std::string_view name, const torch_policy::tensor& t) {
        const std::string shown = printable(std::string(name.substr(0, 200)));
        if (name.empty() || name.size() > safetensors_max_name_bytes || !is_utf8(name))
            return bad("a tensor's name must be UTF-8 of 1 to " + std::to_string(safetensors_max_name_bytes) +
                           " bytes",
                       table_.pickle_offset, error_code::bad_input, shown);
        if (table_.rows.size() == safetensors_max_tensors)
            return bad("holds more than " + std::to_string(safetensors_max_tensors) + " tensors");
        table_.rows.push_back({t.offset, t.elements, table_.names.store(name), t.shape,
                               static_cast<std::uint16_t>(name.size()), t.type, t.rank, t.strided});
        return {};
    }

    result<void> sort() {
        auto& rows = table_.rows;
        std::sort(rows.begin(), rows.end(), [&](const auto& a, const auto& b) {
            return a.offset != b.offset ? a.offset < b.offset : table_.name(a) < table_.name(b);
        });
        auto& order = table_.by_name;
        order.resize(rows.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(i);
        std::sort(order.begin(), order.end(),
                  [&](auto a, auto b) { return table_.name(rows[a]) < table_.name(rows[b]); });
        const auto twice = std::adjacent_find(order.begin(), order.end(), [&](auto a, auto b) {
            return table_.name(rows[a]) == table_.name(rows[b]);
        });
        if (twice != order.end())
            return bad("stands there twice", table_.pickle_offset, error_code::bad_input,
                       std::string(table_.name(rows[*twice])));
        return {};
    }

    const input_file& file_;
    torch_table& table_;
};

}  // namespace detail

BITMILL_INLINE torch_file::torch_file(input_file file,
                                      std::shared_ptr<const detail::torch_table> table) noexcept
    : file_(std::move(file)), table_(std::move(table)) {}

BITMILL_INLINE result<torch_file> torch_file::open(input_file file) {
    auto table = std::make_shared<detail::torch_table>();
    if (auto read = detail::torch_reader(file, *table).read(); !read) return read.error();
    return torch_file(std::move(file), std::move(table));
}

BITMILL_INLINE std::size_t torch_file::size() const noexcept { return table_->rows.size(); }

BITMILL_INLINE tensor_info torch_file::operator[](std::size_t index) const noexcept {
    const auto& row = table_->rows[index];
    return {table_->name(row),
            row.type,
            table_->shape(row),
            row.offset,
            row.elements * element_bytes(row.type),
            row.elements,
            table_->strides(row)};
}

BITMILL_INLINE std::optional<std::size_t> torch_file::find(std::string_view name) const noexcept {
    const auto& order = table_->by_name;
    const auto found = std::lower_bound(
        order.begin(), order.end(), name,
        [&](auto index, std::string_view n) { return table_->name(table_->rows[index]) < n; });
    if (found == order.end() || table_->name(table_->rows[*found]) != name) return std::nullopt;
    return *found;
}

BITMILL_INLINE std::uint64_t torch_file::pickle_offset() const noexcept { return table_->pickle_offset; }
BITMILL_INLINE std::uint64_t torch_file::pickle_bytes() const noexcept { return table_->pickle_bytes; }

}  // namespace bitmill
