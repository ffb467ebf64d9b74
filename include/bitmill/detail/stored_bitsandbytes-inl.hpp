// bitsandbytes: nf4 and fp4 in blocks of the flattened matrix, int8 by rows.
#pragma once

#include <cmath>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/detail/stored_collector-inl.hpp>

namespace bitmill::detail {

class bitsandbytes_reader {
public:
    using location = checkpoint::location;

    explicit bitsandbytes_reader(stored_collector& found) : found_(found) {}

    void read_config(const json& config) {
        const auto eight = config.find("load_in_8bit");
        found_.code_types = {dtype::u8};
        if (eight != config.end() && *eight == true) found_.code_types.insert(dtype::i8);
    }

    result<void> read(const tensor_info& tensor, location at) {
        const std::string name(tensor.name);
        if (tensor.type == dtype::u8 && found_.model.find(name + ".absmax"))
            return read_blocks(tensor, at, name);
        constexpr std::string_view tail = ".weight";
        if (tensor.type != dtype::i8 || !name.ends_with(tail)) return {};
        const std::string module = name.substr(0, name.size() - tail.size());
        if (found_.code_types.contains(dtype::i8) || found_.model.find(module + ".SCB"))
            return read_rows(tensor, at, name, module);
        return {};
    }

private:
    // q * SCB / 127, with the reciprocal that bitsandbytes 0.50 multiplies by.
    result<void> read_rows(const tensor_info& tensor, location at, const std::string& weight,
                           const std::string& module) {
        auto scales = found_.partner(tensor, at, weight, module + ".SCB");
        if (!scales) return scales.error();
        const tensor_info scale = found_.info(*scales);
        if (tensor.shape.size() != 2) return found_.bad(tensor, at, "int8 codes must be a matrix");
        if (scale.type != dtype::f32 || scale.elements != tensor.shape[0])
            return found_.bad(scale, *scales, "must hold one F32 a row of codes");
        (void)found_.optional_partner(weight, module + ".weight_format");
        foreign_codes codes;
        codes.col_block = std::max<std::uint64_t>(tensor.shape[1], 1);
        codes.factor = 7.874015718698502e-3f;
        codes.text = to_text(scheme());
        return found_.add_foreign(tensor, at, weight, {tensor.shape[0], tensor.shape[1]},
                                  found_.model_dtype(), std::move(codes), *scales);
    }

    result<void> read_blocks(const tensor_info& tensor, location at, const std::string& weight) {
        scheme s;
        s.granularity = granularity::block;
        std::optional<location> state_at;
        for (const auto type : {scheme_type::nf4, scheme_type::fp4}) {
            const std::string name = weight + ".quant_state.bitsandbytes__" + facts(type).name;
            if (const auto found = found_.model.find(name)) {
                state_at = found;
                s.type = type;
                (void)found_.optional_partner(weight, name);
            }
        }
        if (!state_at) return found_.bad(tensor, at, "its quant_state.bitsandbytes__nf4 or __fp4 is missing");
        auto text = found_.bytes(*state_at, 4096);
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
            return found_.bad(found_.info(*state_at), *state_at, "must be JSON with a shape of two numbers");
        s.group_size = static_cast<std::size_t>(number("blocksize"));
        const auto type_name = state.value("dtype", json());
        dtype type = dtype::f32;
        for (const auto candidate : {dtype::f16, dtype::bf16})
            if (type_name == facts(candidate).torch) type = candidate;
        const auto blocks = found_.partner(tensor, at, weight, weight + ".absmax");
        if (!blocks) return blocks.error();
        s.double_quant = found_.info(*blocks).type == dtype::u8;
        std::vector<std::uint64_t> dims{shape[0].get<std::uint64_t>(), shape[1].get<std::uint64_t>()};
        if (auto done = found_.add(tensor, at, weight, std::move(dims), type, s, *blocks); !done) return done;
        if (auto known = check_map(tensor, at, weight, ".quant_map", book_of(s.type).value, 16);
            !known || !s.double_quant)
            return known;
        stored_tensor& stored = found_.out.tensors.back();
        auto nested = found_.partner(tensor, at, weight, weight + ".nested_absmax");
        if (!nested) return nested.error();
        const auto offset = state.value("nested_offset", json());
        if (!offset.is_number() || !(std::fabs(offset.get<double>()) <= 1e38) ||
            number("nested_blocksize") != nested_block)
            return found_.bad(found_.info(*state_at), *state_at,
                              "double quantization needs nested_offset and a nested_blocksize of 256");
        stored.nested_scales = *nested;
        stored.nested_offset = static_cast<float>(offset.get<double>());
        const auto sizes = encode_bound(s, stored.shape[0], stored.shape[1]).value();
        if (found_.info(*nested).bytes != sizes.nested_scales || found_.info(*nested).type != dtype::f32)
            return found_.bad(found_.info(*nested), *nested, "must hold one F32 for 256 blocks");
        return check_map(tensor, at, weight, ".nested_quant_map", dynamic_map().data(), 256);
    }

    // Readers' kernels know one table each; another one in the file would decode to other weights.
    result<void> check_map(const tensor_info& tensor, location at, const std::string& weight,
                           const char* tail, const float* table, std::size_t count) {
        const auto found = found_.partner(tensor, at, weight, weight + tail);
        if (!found) return found.error();
        auto raw = found_.bytes(*found, count * 4);
        if (!raw) return raw.error();
        bool same = raw->size() == count * 4;
        for (std::size_t i = 0; same && i < count; ++i) {
            float value;
            std::memcpy(&value, raw->data() + i * 4, 4);
            same = std::fabs(value - table[i]) <= 1e-6f * std::fabs(table[i]);
        }
        if (!same)
            return found_.bad(found_.info(*found), *found, "is not the standard table",
                              error_code::unsupported);
        return {};
    }

    stored_collector& found_;
};

}  // namespace bitmill::detail
