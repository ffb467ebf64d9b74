// compressed-tensors (pack-, int-, naive- and float-quantized), format bitmill, which lays its planes out alike, and the
// FP8 of transformers.
#pragma once

#include <array>
#include <set>

#include <bitmill/detail/stored_native-inl.hpp>

namespace bitmill::detail {

class integer_reader {
public:
    using location = checkpoint::location;

    // `levels`: of format bitmill, else nullptr.
    integer_reader(stored_collector& found, native_levels* levels) : found_(found), levels_(levels) {}

    // The widths and blocks that a compressed-tensors config speaks of.
    result<void> read_config(const json& config) {
        const auto refuse = [&](const std::string& what) {
            return error{.code = error_code::unsupported,
                         .message = "compressed-tensors " + what +
                                    " is not read by this version; it reads integers of 8, 4 and 2 bits and "
                                    "e4m3 as pack-, int-, naive- and float-quantized",
                         .file = found_.model.root() + "/config.json"};
        };
        const auto text = [](const json& object, const char* key) {
            const auto found = object.find(key);
            return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
        };
        found_.code_types = {dtype::i8, dtype::f8_e4m3};
        if (const auto ignore = config.find("ignore"); ignore != config.end() && ignore->is_array())
            for (const auto& one : *ignore)
                if (one.is_string()) found_.ignored.insert(one.get<std::string>());
        const auto groups = config.find("config_groups");
        if (groups == config.end() || !groups->is_object()) return {};
        std::vector<std::string> layouts{text(config, "format")};
        for (const auto& group : *groups) {
            if (!group.is_object()) continue;
            layouts.push_back(text(group, "format"));
            const auto weights = group.find("weights");
            if (weights == group.end() || !weights->is_object()) continue;
            const auto bits = weights->find("num_bits");
            const bool has_bits = bits != weights->end() && bits->is_number_unsigned();
            const std::string type = text(*weights, "type");
            if (type != "int" && !(type == "float" && has_bits && *bits == 8))
                return refuse("type '" + type + "'");
            if (type == "int" && has_bits) bits_.insert(bits->get<unsigned>());
            if (const auto blocks = weights->find("block_structure"); blocks != weights->end())
                read_blocks(*blocks);
        }
        static constexpr std::array<std::string_view, 6> known{
            "", "pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mixed-precision"};
        for (const auto& layout : layouts)
            if (std::find(known.begin(), known.end(), layout) == known.end())
                return refuse("format '" + layout + "'");
        std::erase(layouts, "");
        const auto packed = std::count(layouts.begin(), layouts.end(), "pack-quantized");
        if (packed != 0 && static_cast<std::size_t>(packed) == layouts.size()) found_.code_types.clear();
        return {};
    }
    // "weight_block_size" of transformers' FP8.
    void read_blocks(const json& blocks) {
        if (!blocks.is_array() || blocks.size() != 2) return;
        for (std::size_t i = 0; i < 2; ++i)
            block_[i] = blocks[i].is_number_unsigned() ? blocks[i].get<std::uint64_t>() : 0;
    }

    result<void> read(const tensor_info& tensor, location at) {
        const std::string name(tensor.name);
        constexpr std::string_view packed = "_packed";
        if (name.ends_with(".weight_packed"))
            return read_packed(tensor, at, name.substr(0, name.size() - packed.size()));
        if (!name.ends_with(".weight")) return {};
        if (tensor.type == dtype::i8 && found_.model.find(name + "_scale"))
            return read_bytes(tensor, at, name);
        if (tensor.type == dtype::f8_e4m3)
            for (const char* tail : {"_scale", "_scale_inv"})
                if (found_.model.find(name + tail)) return read_e4m3(tensor, at, name, name + tail);
        return {};
    }

private:
    result<std::array<std::uint64_t, 2>> shape_of(const tensor_info& tensor, location at,
                                                  const std::string& weight) {
        auto shape_at = found_.partner(tensor, at, weight, weight + "_shape");
        if (!shape_at) return shape_at.error();
        const tensor_info info = found_.info(*shape_at);
        auto raw = found_.bytes(*shape_at, 16);
        if (!raw) return raw.error();
        std::array<std::uint64_t, 2> shape{};
        if (info.type == dtype::i64 && raw->size() == 16) {
            std::memcpy(shape.data(), raw->data(), 16);
            return shape;
        }
        if (info.type != dtype::i32 || raw->size() != 8)
            return found_.bad(info, *shape_at, "must be two I64 or I32 numbers");
        std::uint32_t narrow[2];
        std::memcpy(narrow, raw->data(), 8);
        return std::array<std::uint64_t, 2>{narrow[0], narrow[1]};
    }

    result<void> read_packed(const tensor_info& tensor, location at, const std::string& weight) {
        const auto shape = shape_of(tensor, at, weight);
        if (!shape) return shape.error();
        const auto [rows, cols] = *shape;
        if (tensor.type != dtype::i32 || tensor.shape.size() != 2 || tensor.shape[0] != rows ||
            cols > std::uint64_t{1} << 40)
            return found_.bad(tensor, at,
                              "packed codes must be I32 of [out, words] with the out of weight_shape");
        unsigned bits = 0;
        for (const unsigned width : {8u, 4u, 2u}) {
            // Of 2 bits a config must speak: 16 codes of 4 bits and 32 of 2 take as many words.
            if (width == 2 && levels_ == nullptr && !bits_.contains(2)) continue;
            const bool fits = ceil_div(cols * width, 32) == tensor.shape[1];
            if (!fits || (!bits_.empty() && !bits_.contains(width))) continue;
            if (bits != 0)
                return found_.bad(tensor, at, "two widths fit its shape, and config.json allows both");
            bits = width;
        }
        if (bits == 0)
            return found_.bad(
                tensor, at,
                "its words do not hold the bits a weight that weight_shape and config.json say; "
                "other widths are not read by this version",
                error_code::unsupported);
        return add_integers(tensor, at, weight, {rows, cols}, bits, true);
    }

    result<void> read_bytes(const tensor_info& tensor, location at, const std::string& weight) {
        if (tensor.shape.size() != 2) return found_.bad(tensor, at, "int-quantized codes must be a matrix");
        return add_integers(tensor, at, weight, {tensor.shape[0], tensor.shape[1]}, 8, false);
    }

    result<void> add_integers(const tensor_info& tensor, location at, const std::string& weight,
                              std::vector<std::uint64_t> shape, unsigned bits, bool packed) {
        if (found_.model.find(weight + "_g_idx"))
            return found_.bad(tensor, at, "weight_g_idx is not read by this version",
                              error_code::unsupported);
        auto scales = found_.scales_of(tensor, at, weight, weight + "_scale");
        if (!scales) return scales.error();
        const auto chosen = found_.granularity_of(*scales, shape);
        if (!chosen) return chosen.error();
        scheme s = *chosen;
        s.type = type_of_bits(bits);
        s.offset_binary = packed;
        s.row_alignment = packed ? 4 : 1;
        const auto zeros = found_.optional_partner(weight, weight + "_zero_point");
        s.symmetric = !zeros;
        drop_activation_scales(weight);
        if (zeros && levels_ == nullptr)
            return add_asymmetric(tensor, at, weight, std::move(shape), s, packed, *scales, *zeros);
        const std::uint64_t scale_count = found_.info(*scales).elements;
        // Ours keeps scales of 16 bits whatever the weight's dtype was, and says nothing of that.
        const dtype was = levels_ != nullptr ? found_.model_dtype() : s.scale_dtype;
        if (auto done = found_.add(tensor, at, weight, std::move(shape), was, s, *scales); !done) return done;
        stored_tensor& stored = found_.out.tensors.back();
        if (zeros) {
            if (found_.info(*zeros).type != dtype::i8 || found_.info(*zeros).elements != scale_count)
                return found_.bad(found_.info(*zeros), *zeros, "zero points must be I8, one a scale");
            stored.zero_points = *zeros;
        }
        return levels_ != nullptr ? levels_->add_plane(stored, weight) : result<void>{};
    }

    result<void> add_asymmetric(const tensor_info& tensor, location at, const std::string& weight,
                                std::vector<std::uint64_t> shape, const scheme& s, bool packed,
                                location scales, location zeros) {
        const tensor_info zero = found_.info(zeros), scale = found_.info(scales);
        foreign_codes codes;
        codes.codes = packed ? foreign_codes::order::packed_rows : foreign_codes::order::bytes;
        codes.zeros = packed ? foreign_codes::zero_points::packed_out : foreign_codes::zero_points::bytes;
        codes.bits = packed ? facts(s.type).bits : 8;
        codes.text = to_text(s);
        set_blocks(codes, s, shape);
        const std::uint64_t groups = codes.groups(shape[1]);
        const std::uint64_t words = ceil_div(shape[0], 32 / codes.bits);
        const bool fits = packed ? zero.type == dtype::i32 && s.granularity != granularity::per_tensor &&
                                       zero.shape.size() == 2 && zero.shape[0] == words &&
                                       zero.shape[1] == groups
                                 : zero.type == dtype::i8 && zero.elements == scale.elements;
        if (!fits)
            return found_.bad(zero, zeros,
                              packed ? "packed zero points must be I32 of [words along out, groups]"
                                     : "zero points must be I8, one a scale");
        if (auto done = found_.add_foreign(tensor, at, weight, std::move(shape), s.scale_dtype,
                                           std::move(codes), scales);
            !done)
            return done;
        found_.out.tensors.back().zero_points = zeros;
        return {};
    }

    // e4m3 with a scale for the tensor, a row, a group of a row, or a block of rows and columns.
    result<void> read_e4m3(const tensor_info& tensor, location at, const std::string& weight,
                           const std::string& scale_name) {
        if (tensor.shape.size() != 2) return found_.bad(tensor, at, "e4m3 codes must be a matrix");
        auto scales = found_.scales_of(tensor, at, weight, scale_name);
        if (!scales) return scales.error();
        const tensor_info scale = found_.info(*scales);
        std::vector<std::uint64_t> shape{tensor.shape[0], tensor.shape[1]};
        foreign_codes codes;
        codes.e4m3 = true;
        const bool blocks = block_[0] != 0 && block_[1] != 0 && scale.shape.size() == 2 &&
                            scale.shape[0] == ceil_div(shape[0], block_[0]) &&
                            scale.shape[1] == ceil_div(shape[1], block_[1]);
        if (blocks) {
            codes.row_block = block_[0];
            codes.col_block = block_[1];
            codes.text = "fp8 block " + std::to_string(block_[0]) + " x " + std::to_string(block_[1]);
        } else {
            const auto s = found_.granularity_of(*scales, shape);
            if (!s) return s.error();
            set_blocks(codes, *s, shape);
            codes.text = "fp8" + to_text(*s).substr(std::string_view("int8").size());
        }
        drop_activation_scales(weight);
        const dtype was = scale.type == dtype::f32 ? found_.model_dtype() : scale.type;
        return found_.add_foreign(tensor, at, weight, std::move(shape), was, std::move(codes), *scales);
    }

    // They serve the arithmetic of layers, not the weights.
    void drop_activation_scales(const std::string& weight) {
        const std::string module = weight.substr(0, weight.rfind('.'));
        for (const char* tail : {".input_scale", ".input_zero_point"})
            (void)found_.optional_partner(weight, module + tail);
    }

    static scheme_type type_of_bits(unsigned bits) {
        return bits == 8 ? scheme_type::int8 : bits == 4 ? scheme_type::int4 : scheme_type::int2;
    }
    static void set_blocks(foreign_codes& codes, const scheme& s, const std::vector<std::uint64_t>& shape) {
        codes.row_block = s.granularity == granularity::per_tensor ? std::max<std::uint64_t>(shape[0], 1) : 1;
        codes.col_block =
            s.granularity == granularity::group ? s.group_size : std::max<std::uint64_t>(shape[1], 1);
    }

    stored_collector& found_;
    native_levels* levels_;
    std::set<unsigned> bits_;
    std::array<std::uint64_t, 2> block_{};
};

}  // namespace bitmill::detail
