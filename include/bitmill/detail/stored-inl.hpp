#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/codec/codec.hpp>
#include <bitmill/core/checked.hpp>
#include <bitmill/detail/hf_config-inl.hpp>
#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/work-inl.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill {
namespace detail {

// Collects the tensors of one weight after the other; whatever belongs to none is plain.
class stored_reader {
public:
    stored_reader(const checkpoint& model, std::optional<scheme_type> level) : model_(model), level_(level) {}

    result<stored_model> read() {
        if (const gguf_file* gguf = model_.shard(0).gguf(); gguf != nullptr && !level_)
            return blocks_of(*gguf);
        if (!model_.config_text().empty()) {
            const auto config = json::parse(model_.config_text());
            if (const auto found = config.find("quantization_config");
                found != config.end() && !found->is_null()) {
                out_.quant_method = "unknown";
                if (found->is_object() && found->contains("quant_method") &&
                    (*found)["quant_method"].is_string())
                    out_.quant_method = (*found)["quant_method"].get<std::string>();
                if (out_.quant_method == "compressed-tensors")
                    if (auto read = read_groups(*found); !read) return read.error();
                if (native())
                    if (auto read = open_levels(*found); !read) return read.error();
            }
        }
        if (level_ && !native())
            return error{.code = error_code::invalid_argument,
                         .message = "a level can be chosen of a bitmill folder, which this is not",
                         .file = model_.root()};
        if (!out_.quant_method.empty() && out_.quant_method != "compressed-tensors" &&
            out_.quant_method != "bitsandbytes" && !native())
            return error{
                .code = error_code::unsupported,
                .message =
                    "quantization method '" + out_.quant_method +
                    "' is not read by this version; it reads compressed-tensors, bitsandbytes and bitmill",
                .file = model_.root() + "/config.json"};
        if (auto done =
                each([&](const tensor_info& info, checkpoint::location at) { return read_coded(info, at); });
            !done)
            return done.error();
        if (auto done =
                each([&](const tensor_info& info, checkpoint::location at) { return read_plain(info, at); });
            !done)
            return done.error();
        if (auto done = check_residuals(); !done) return done.error();
        return std::move(out_);
    }

private:
    using location = checkpoint::location;

    [[nodiscard]] bool native() const { return out_.quant_method == "bitmill"; }

    // A GGUF file says all of itself, whatever a config.json beside it says of other weights.
    result<stored_model> blocks_of(const gguf_file& file) {
        out_.quant_method = "gguf";
        for (std::size_t i = 0; i < file.size(); ++i) {
            const tensor_info tensor = file[i];
            stored_tensor stored;
            stored.name = tensor.name;
            stored.shape.assign(file.shape(i).begin(), file.shape(i).end());
            if (tensor.block) stored.scheme = ggml_scheme(*scheme_type_of(*tensor.block));
            stored.type = tensor.block ? dtype::f32 : tensor.type;
            stored.elements = tensor.elements;
            if (tensor.block)
                stored.elements =
                    tensor.bytes / facts(*tensor.block).block_bytes * facts(*tensor.block).block_elements;
            stored.bytes = tensor.bytes;
            stored.codes = {0, i};
            out_.tensors.push_back(std::move(stored));
        }
        return std::move(out_);
    }

    // What the folder says that it holds, and the residual planes that are there, unless a lower level is wanted.
    result<void> open_levels(const json& config) {
        const std::string path = model_.root() + "/config.json";
        if (const auto version = config.find("version"); version == config.end() || *version != 1)
            return error{.code = error_code::unsupported,
                         .message = "is of another version of format bitmill than 1; use a later bitmill",
                         .file = path};
        const auto levels = config.find("levels");
        const bool is_list = levels != config.end() && levels->is_array();
        if (level_ &&
            (!is_list || std::find(levels->begin(), levels->end(), facts(*level_).name) == levels->end()))
            return error{.code = error_code::invalid_argument,
                         .message = std::string("this folder has no level ") + facts(*level_).name +
                                    "; its levels: " + (is_list ? levels->dump() : "not said"),
                         .file = path};
        out_.residuals.resize(model_.shard_count());
        const bool two_levels = is_list && levels->size() > 1;
        if (const auto planes = config.find("residual_planes");
            planes != config.end() && planes->is_number_unsigned())
            residuals_expected_ = planes->get<std::size_t>();
        if (!two_levels || level_ == scheme_type::int4) return {};
        for (std::size_t shard = 0; shard < model_.shard_count(); ++shard) {
            const std::string name = residual_name(model_.shard_name(shard));
            const auto there = is_there(model_.root() + "/" + name);
            if (!there) return there.error();
            if (!*there) {
                if (missing_.empty()) missing_ = model_.root() + "/" + name;
                continue;
            }
            auto file = input_file::open_beneath(model_.root(), name);
            if (!file) return file.error();
            auto planes = weight_file::open(std::move(*file));
            if (!planes) return planes.error();
            out_.residuals[shard].emplace(std::move(*planes));
        }
        const bool any = std::any_of(out_.residuals.begin(), out_.residuals.end(),
                                     [](const auto& one) { return one.has_value(); });
        if (level_ == scheme_type::int8 && !any)
            return error{
                .code = error_code::bad_input,
                .message = "the residual plane of level int8 is not there; copy it back, or take int4",
                .file = model_.root() + "/" + residual_name(model_.shard_name(0))};
        return {};
    }

    // The residual plane of a base of 4 bits makes 8 of it.
    result<void> add_residual(stored_tensor& stored, const std::string& weight) {
        const std::size_t shard = stored.codes.shard;
        if (out_.residuals.empty() || !out_.residuals[shard]) return {};
        const auto& file = *out_.residuals[shard];
        const auto found = file.find(weight + "_residual");
        if (!found) return {};
        const tensor_info plane = file[*found];
        const std::uint64_t bytes = info(stored.codes).bytes;
        const bool fits = plane.type == dtype::u8 && plane.bytes == bytes && plane.shape.size() == 2 &&
                          plane.shape[0] == stored.shape[0];
        if (!fits || !stored.scheme->symmetric || stored.scheme->type != scheme_type::int4 ||
            stored.scheme->granularity == granularity::per_tensor || stored.scheme->scale_dtype == dtype::f32)
            return error{.code = error_code::bad_input,
                         .message = "is not the residual plane of " + to_text(*stored.scheme) + " codes of " +
                                    std::to_string(bytes) + " bytes",
                         .file = file.file().path(),
                         .tensor = weight + "_residual",
                         .offset = plane.offset};
        stored.scheme->type = scheme_type::int8;
        stored.scheme->planes = true;
        stored.scheme->offset_binary = false;
        stored.residual = {shard, *found};
        stored.bytes += plane.bytes;
        ++residuals_used_;
        return {};
    }

    // All planes or none: a plane that is left over belongs to other weights, and with one that is missing some
    // weights would be of another level than the rest.
    [[nodiscard]] result<void> check_residuals() const {
        std::size_t there = 0;
        for (const auto& file : out_.residuals) there += file ? file->size() : 0;
        if (there == residuals_used_ && (there == 0 || there == residuals_expected_)) return {};
        if (there == residuals_used_)
            return error{
                .code = error_code::bad_input,
                .message = std::to_string(there) + " of " + std::to_string(residuals_expected_) +
                           " residual planes are there: copy the others back, or delete all residual "
                           "files, which leaves level int4",
                .file = missing_.empty() ? model_.root() : missing_};
        return error{.code = error_code::bad_input,
                     .message = "holds " + std::to_string(there) + " residual planes, of which " +
                                std::to_string(residuals_used_) +
                                " belong to weights of the folder: it is of another model",
                     .file = model_.root()};
    }

    template <class Body>
    result<void> each(const Body& body) const {
        for (std::size_t shard = 0; shard < model_.shard_count(); ++shard)
            for (std::size_t i = 0; i < model_.shard(shard).size(); ++i)
                if (auto done = body(model_.shard(shard)[i], {shard, i}); !done) return done;
        return {};
    }
    [[nodiscard]] tensor_info info(location at) const { return model_.shard(at.shard)[at.tensor]; }

    [[nodiscard]] error bad(const tensor_info& tensor, location at, std::string message,
                            error_code code = error_code::bad_input) const {
        return {.code = code,
                .message = std::move(message),
                .file = model_.shard(at.shard).file().path(),
                .tensor = std::string(tensor.name),
                .offset = tensor.offset};
    }

    result<std::string> bytes(location at, std::uint64_t limit) const {
        const tensor_info tensor = info(at);
        if (tensor.bytes > limit)
            return bad(tensor, at, "is longer than the " + std::to_string(limit) + " bytes it may have");
        std::string text(static_cast<std::size_t>(tensor.bytes), '\0');
        auto done = model_.shard(at.shard).read(tensor, 0,
                                                std::as_writable_bytes(std::span(text.data(), text.size())));
        if (!done) return done.error();
        return text;
    }

    // The widths that the groups of a compressed-tensors config use; they must all be integers.
    result<void> read_groups(const json& config) {
        const auto refuse = [&](const std::string& what) {
            return error{.code = error_code::unsupported,
                         .message = "compressed-tensors " + what +
                                    " is not read by this version; it reads integer "
                                    "weights of 8 and 4 bits as pack-quantized and int-quantized",
                         .file = model_.root() + "/config.json"};
        };
        const auto text = [](const json& object, const char* key) {
            const auto found = object.find(key);
            return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
        };
        const auto groups = config.find("config_groups");
        if (groups == config.end() || !groups->is_object()) return {};
        std::vector<std::string> layouts{text(config, "format")};
        for (const auto& group : *groups) {
            if (!group.is_object()) continue;
            layouts.push_back(text(group, "format"));
            const auto weights = group.find("weights");
            if (weights == group.end() || !weights->is_object()) continue;
            if (text(*weights, "type") != "int") return refuse("type '" + text(*weights, "type") + "'");
            if (const auto bits = weights->find("num_bits");
                bits != weights->end() && bits->is_number_unsigned())
                bits_.insert(bits->get<unsigned>());
        }
        for (const auto& layout : layouts)
            if (!layout.empty() && layout != "pack-quantized" && layout != "int-quantized")
                return refuse("format '" + layout + "'");
        return {};
    }

    result<location> partner(const tensor_info& tensor, location at, const std::string& weight,
                             const std::string& tail) {
        const std::string name = weight + tail;
        const auto found = model_.find(name);
        if (!found) return bad(tensor, at, "'" + name + "', which belongs to it, is missing");
        owner_[name] = weight;
        return *found;
    }

    result<void> read_coded(const tensor_info& tensor, location at) {
        const std::string name(tensor.name);
        if (out_.quant_method == "compressed-tensors" || native()) {
            constexpr std::string_view packed = "_packed";
            if (name.ends_with(".weight_packed"))
                return read_packed(tensor, at, name.substr(0, name.size() - packed.size()));
            if (name.ends_with(".weight") && tensor.type == dtype::i8 && model_.find(name + "_scale"))
                return read_unpacked(tensor, at, name);
        }
        if (out_.quant_method == "bitsandbytes" && tensor.type == dtype::u8 && model_.find(name + ".absmax"))
            return read_blocks(tensor, at, name);
        return {};
    }

    result<void> read_packed(const tensor_info& tensor, location at, const std::string& weight) {
        auto shape_at = partner(tensor, at, weight, "_shape");
        if (!shape_at) return shape_at.error();
        const tensor_info shape_info = info(*shape_at);
        auto raw = bytes(*shape_at, 16);
        if (!raw) return raw.error();
        std::uint64_t shape[2];
        if (shape_info.type == dtype::i64 && raw->size() == 16) {
            std::memcpy(shape, raw->data(), 16);
        } else if (shape_info.type == dtype::i32 && raw->size() == 8) {
            std::uint32_t narrow[2];
            std::memcpy(narrow, raw->data(), 8);
            shape[0] = narrow[0];
            shape[1] = narrow[1];
        } else {
            return bad(shape_info, *shape_at, "must be two I64 or I32 numbers");
        }
        if (tensor.type != dtype::i32 || tensor.shape.size() != 2 || tensor.shape[0] != shape[0] ||
            shape[1] > std::uint64_t{1} << 40)
            return bad(tensor, at, "packed codes must be I32 of [out, words] with the out of weight_shape");
        unsigned bits = 0;
        for (const unsigned width : {8u, 4u, 2u}) {
            if (width == 2 && !native()) continue;
            const bool fits = ceil_div(shape[1] * width, 32) == tensor.shape[1];
            if (!fits || (!bits_.empty() && !bits_.contains(width))) continue;
            if (bits != 0) return bad(tensor, at, "two widths fit its shape, and config.json allows both");
            bits = width;
        }
        if (bits == 0)
            return bad(tensor, at,
                       "its words do not hold the bits a weight that weight_shape and config.json say; "
                       "other widths are not read by this version",
                       error_code::unsupported);
        return add_integers(tensor, at, weight, {shape[0], shape[1]},
                            bits == 8   ? scheme_type::int8
                            : bits == 4 ? scheme_type::int4
                                        : scheme_type::int2,
                            true);
    }

    result<void> read_unpacked(const tensor_info& tensor, location at, const std::string& weight) {
        if (tensor.shape.size() != 2) return bad(tensor, at, "int-quantized codes must be a matrix");
        return add_integers(tensor, at, weight, {tensor.shape[0], tensor.shape[1]}, scheme_type::int8, false);
    }

    result<void> add_integers(const tensor_info& tensor, location at, const std::string& weight,
                              std::vector<std::uint64_t> shape, scheme_type type, bool packed) {
        const bool asymmetric = native() && model_.find(weight + "_zero_point");
        for (const char* tail : {"_zero_point", "_g_idx"})
            if (!asymmetric && model_.find(weight + tail))
                return bad(tensor, at, std::string("weight") + tail + " is not read by this version",
                           error_code::unsupported);
        auto scales = partner(tensor, at, weight, "_scale");
        if (!scales) return scales.error();
        const tensor_info scale = info(*scales);
        scheme s;
        s.type = type;
        s.offset_binary = packed;
        s.row_alignment = packed ? 4 : 1;
        s.scale_dtype = scale.type;
        if (scale.type != dtype::f32 && scale.type != dtype::f16 && scale.type != dtype::bf16)
            return bad(scale, *scales, "scales must be F32, F16 or BF16");
        const bool by_row = scale.shape.size() == 2 && scale.shape[0] == shape[0] && scale.shape[1] != 0;
        if (scale.elements == 1 && !(by_row && shape[0] == 1)) {
            s.granularity = granularity::per_tensor;
        } else if (by_row && scale.shape[1] == 1) {
            s.granularity = granularity::per_channel;
        } else if (by_row && shape[1] % scale.shape[1] == 0) {
            s.granularity = granularity::group;
            s.group_size = static_cast<std::size_t>(shape[1] / scale.shape[1]);
        } else {
            return bad(scale, *scales,
                       "scales must be [1], [out, 1] or [out, groups] with groups that divide a row");
        }
        s.symmetric = !asymmetric;
        const std::uint64_t scale_count = scale.elements;
        // Ours keeps scales of 16 bits whatever the weight's dtype was, and says nothing of that.
        const dtype was = native() ? native_dtype() : scale.type;
        if (auto done = add(tensor, at, weight, std::move(shape), was, s, *scales); !done) return done;
        stored_tensor& stored = out_.tensors.back();
        if (asymmetric) {
            auto zeros = partner(tensor, at, weight, "_zero_point");
            if (!zeros) return zeros.error();
            if (info(*zeros).type != dtype::i8 || info(*zeros).elements != scale_count)
                return bad(info(*zeros), *zeros, "zero points must be I8, one a scale");
            stored.zero_points = *zeros;
        }
        return native() ? add_residual(stored, weight) : result<void>{};
    }

    // What config.json gives for the model as a whole.
    [[nodiscard]] dtype native_dtype() const {
        const std::string name = config_dtype(parse_config(model_.config_text()));
        for (const auto type : {dtype::f16, dtype::bf16})
            if (name == facts(type).torch) return type;
        return dtype::f32;
    }

    result<void> read_blocks(const tensor_info& tensor, location at, const std::string& weight) {
        scheme s;
        s.granularity = granularity::block;
        std::optional<location> state_at;
        for (const auto type : {scheme_type::nf4, scheme_type::fp4}) {
            const std::string name = weight + ".quant_state.bitsandbytes__" + facts(type).name;
            if (const auto found = model_.find(name)) {
                state_at = found;
                s.type = type;
                owner_[name] = weight;
            }
        }
        if (!state_at) return bad(tensor, at, "its quant_state.bitsandbytes__nf4 or __fp4 is missing");
        auto text = bytes(*state_at, 4096);
        if (!text) return text.error();
        const auto state = json::parse(*text, nullptr, false);
        const auto number = [&](const char* key) -> std::uint64_t {
            const auto found = state.is_object() ? state.find(key) : state.end();
            return state.is_object() && found != state.end() && found->is_number_unsigned()
                       ? found->get<std::uint64_t>()
                       : 0;
        };
        const auto shape = state.is_object() ? state.value("shape", json()) : json();
        if (!shape.is_array() || shape.size() != 2 || !shape[0].is_number_unsigned() ||
            !shape[1].is_number_unsigned())
            return bad(info(*state_at), *state_at, "must be JSON with a shape of two numbers");
        s.group_size = static_cast<std::size_t>(number("blocksize"));
        const auto type_name = state.value("dtype", json());
        dtype type = dtype::f32;
        for (const auto candidate : {dtype::f16, dtype::bf16})
            if (type_name == facts(candidate).torch) type = candidate;
        const auto blocks = partner(tensor, at, weight, ".absmax");
        if (!blocks) return blocks.error();
        s.double_quant = info(*blocks).type == dtype::u8;
        std::vector<std::uint64_t> dims{shape[0].get<std::uint64_t>(), shape[1].get<std::uint64_t>()};
        if (auto done = add(tensor, at, weight, std::move(dims), type, s, *blocks); !done || !s.double_quant)
            return done;
        stored_tensor& stored = out_.tensors.back();
        auto nested = partner(tensor, at, weight, ".nested_absmax");
        if (!nested) return nested.error();
        const auto offset = state.value("nested_offset", json());
        if (!offset.is_number() || !(std::fabs(offset.get<double>()) <= 1e38) ||
            number("nested_blocksize") != nested_block)
            return bad(info(*state_at), *state_at,
                       "double quantization needs nested_offset and a nested_blocksize of 256");
        stored.nested_scales = *nested;
        stored.nested_offset = static_cast<float>(offset.get<double>());
        const auto sizes = encode_bound(s, stored.shape[0], stored.shape[1]).value();
        if (info(*nested).bytes != sizes.nested_scales || info(*nested).type != dtype::f32)
            return bad(info(*nested), *nested, "must hold one F32 for 256 blocks");
        return check_map(tensor, at, weight, ".nested_quant_map", dynamic_map().data(), 256);
    }

    // Readers' kernels know one table each; another one in the file would decode to other weights.
    result<void> check_map(const tensor_info& tensor, location at, const std::string& weight,
                           const char* tail, const float* table, std::size_t count) {
        const auto found = partner(tensor, at, weight, tail);
        if (!found) return found.error();
        auto raw = bytes(*found, count * 4);
        if (!raw) return raw.error();
        bool same = raw->size() == count * 4;
        for (std::size_t i = 0; same && i < count; ++i) {
            float value;
            std::memcpy(&value, raw->data() + i * 4, 4);
            same = std::fabs(value - table[i]) <= 1e-6f * std::fabs(table[i]);
        }
        if (!same) return bad(info(*found), *found, "is not the standard table", error_code::unsupported);
        return {};
    }

    // Sizes must be those that the scheme gives this shape.
    result<void> add(const tensor_info& tensor, location at, const std::string& weight,
                     std::vector<std::uint64_t> shape, dtype type, const scheme& s, location scales) {
        auto sizes = encode_bound(s, shape[0], shape[1]);
        if (!sizes) return bad(tensor, at, sizes.error().message);
        const tensor_info scale = info(scales);
        if (tensor.bytes != sizes->codes || scale.bytes != sizes->scales)
            return bad(tensor, at,
                       "a weight of [" + std::to_string(shape[0]) + ", " + std::to_string(shape[1]) +
                           "] as " + to_text(s) + " has " + std::to_string(sizes->codes) +
                           " bytes of codes and " + std::to_string(sizes->scales) + " of scales, not " +
                           std::to_string(tensor.bytes) + " and " + std::to_string(scale.bytes));
        if (facts(s.type).code_book)
            if (auto known = check_map(tensor, at, weight, ".quant_map", book_of(s.type).value, 16); !known)
                return known;
        stored_tensor stored;
        stored.name = weight;
        stored.elements = shape[0] * shape[1];
        stored.shape = std::move(shape);
        stored.type = type;
        stored.scheme = s;
        stored.codes = at;
        stored.scales = scales;
        owner_[std::string(tensor.name)] = weight;
        index_[weight] = out_.tensors.size();
        out_.tensors.push_back(std::move(stored));
        return {};
    }

    // In a quantized model whatever is left over must be plain: codes that are passed on without their scales
    // would be other weights.
    [[nodiscard]] static bool is_orphan(const tensor_info& tensor) {
        const std::string_view name = tensor.name;
        for (const std::string_view tail :
             {".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx",
              ".absmax", ".nested_absmax", ".quant_map", ".nested_quant_map", ".SCB", ".weight_format",
              ".weight_global_scale", ".weight_residual"})
            if (name.ends_with(tail)) return true;
        return name.find(".quant_state.") != std::string_view::npos ||
               (name.ends_with(".weight") && !facts(tensor.type).weight);
    }

    result<void> read_plain(const tensor_info& tensor, location at) {
        const std::string name(tensor.name);
        if (const auto owner = owner_.find(name); owner != owner_.end()) {
            out_.tensors[index_.at(owner->second)].bytes += tensor.bytes;
            return {};
        }
        if (!out_.quant_method.empty() && is_orphan(tensor))
            return bad(
                tensor, at,
                "belongs to a coded weight whose other tensors are missing or not known to this version");
        stored_tensor stored;
        stored.name = name;
        stored.shape.assign(tensor.shape.begin(), tensor.shape.end());
        stored.type = tensor.type;
        stored.elements = tensor.elements;
        stored.bytes = tensor.bytes;
        stored.codes = at;
        out_.tensors.push_back(std::move(stored));
        return {};
    }

    const checkpoint& model_;
    std::optional<scheme_type> level_;
    std::size_t residuals_used_ = 0;
    std::size_t residuals_expected_ = 0;  // as config.json says
    std::string missing_;                 // the first residual file that is not there
    stored_model out_;
    std::set<unsigned> bits_;
    std::map<std::string, std::string> owner_;  // stored tensor -> the weight that it belongs to
    std::map<std::string, std::size_t> index_;  // weight -> place in out_.tensors
};

}  // namespace detail

BITMILL_INLINE result<stored_model> read_stored(const checkpoint& model, std::optional<scheme_type> level) {
    return detail::guard(
        model.root(), [&]() -> result<stored_model> { return detail::stored_reader(model, level).read(); });
}

}  // namespace bitmill
