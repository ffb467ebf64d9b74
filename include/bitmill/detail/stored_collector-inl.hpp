// The logical tensors of a folder as they are found: coded ones first, whatever belongs to none is plain.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include <bitmill/codec/codec.hpp>
#include <bitmill/core/checked.hpp>
#include <bitmill/detail/model_facts-inl.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill::detail {

class stored_collector {
public:
    using location = checkpoint::location;

    explicit stored_collector(const checkpoint& checked) : model(checked) {}

    const checkpoint& model;
    stored_model out;
    std::string config_path;  // the file that says how the model is quantized
    // Dtypes of codes that lie under their weight's own name, and modules that are not coded whatever they hold.
    std::set<dtype> code_types;
    std::set<std::string> ignored;

    template <class Body>
    result<void> each(const Body& body) const {
        for (std::size_t shard = 0; shard < model.shard_count(); ++shard)
            for (std::size_t i = 0; i < model.shard(shard).size(); ++i)
                if (auto done = body(model.shard(shard)[i], {shard, i}); !done) return done;
        return {};
    }
    [[nodiscard]] tensor_info info(location at) const { return model.shard(at.shard)[at.tensor]; }

    [[nodiscard]] error bad(const tensor_info& tensor, location at, std::string message,
                            error_code code = error_code::bad_input) const {
        return {.code = code,
                .message = std::move(message),
                .file = model.shard(at.shard).file().path(),
                .tensor = std::string(tensor.name),
                .offset = tensor.offset};
    }

    result<std::string> bytes(location at, std::uint64_t limit) const {
        const tensor_info tensor = info(at);
        if (tensor.bytes > limit)
            return bad(tensor, at, "is longer than the " + std::to_string(limit) + " bytes it may have");
        std::string text(static_cast<std::size_t>(tensor.bytes), '\0');
        auto done = model.shard(at.shard).read(tensor, 0,
                                               std::as_writable_bytes(std::span(text.data(), text.size())));
        if (!done) return done.error();
        return text;
    }

    // A tensor that `weight` cannot be read without.
    result<location> partner(const tensor_info& tensor, location at, const std::string& weight,
                             const std::string& name) {
        const auto found = optional_partner(weight, name);
        if (!found) return bad(tensor, at, "'" + name + "', which belongs to it, is missing");
        return *found;
    }
    std::optional<location> optional_partner(const std::string& weight, const std::string& name) {
        const auto found = model.find(name);
        if (found) owner_[name] = weight;
        return found;
    }

    // Scales of 32 or 16 bits.
    result<location> scales_of(const tensor_info& tensor, location at, const std::string& weight,
                               const std::string& name) {
        auto found = partner(tensor, at, weight, name);
        if (!found) return found;
        const tensor_info scale = info(*found);
        if (scale.type != dtype::f32 && scale.type != dtype::f16 && scale.type != dtype::bf16)
            return bad(scale, *found, "scales must be F32, F16 or BF16");
        return found;
    }

    // How many columns share a scale, told from [1], [out, 1] or [out, groups].
    result<scheme> granularity_of(location scales, const std::vector<std::uint64_t>& shape) const {
        const tensor_info scale = info(scales);
        scheme s;
        s.scale_dtype = scale.type;
        const bool by_row = scale.shape.size() == 2 && scale.shape[0] == shape[0] && scale.shape[1] != 0;
        if (scale.elements == 1 && !(by_row && shape[0] == 1)) {
            s.granularity = granularity::per_tensor;
        } else if (by_row && scale.shape[1] == 1) {
            s.granularity = granularity::per_channel;
        } else if (by_row && shape[1] != 0 && shape[1] % scale.shape[1] == 0) {
            s.granularity = granularity::group;
            s.group_size = static_cast<std::size_t>(shape[1] / scale.shape[1]);
        } else {
            return bad(scale, scales,
                       "scales must be [1], [out, 1] or [out, groups] with groups that divide a row");
        }
        return s;
    }

    // The dtype that config.json gives for the model as a whole.
    [[nodiscard]] dtype model_dtype() const {
        const std::string name = config_dtype(parse_config(model.config_text()));
        for (const auto type : {dtype::f16, dtype::bf16})
            if (name == facts(type).torch) return type;
        return dtype::f32;
    }

    // Codes that the codec reads: sizes must be those that the scheme gives this shape.
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
        stored_tensor& stored = push(tensor, at, weight, std::move(shape), type, scales);
        stored.scheme = s;
        return {};
    }

    // Codes in another order; the caller has checked every size. Errors: a weight of nothing or of more than memory has.
    result<void> add_foreign(const tensor_info& tensor, location at, const std::string& weight,
                             std::vector<std::uint64_t> shape, dtype type, foreign_codes codes,
                             location scales) {
        const auto elements = checked_mul(shape[0], shape[1]);
        if (!elements || *elements == 0 || *elements > std::numeric_limits<std::size_t>::max() / 16)
            return bad(tensor, at,
                       "a weight of [" + std::to_string(shape[0]) + ", " + std::to_string(shape[1]) +
                           "] cannot be coded");
        stored_tensor& stored = push(tensor, at, weight, std::move(shape), type, scales);
        stored.foreign = std::move(codes);
        return {};
    }

    // In a quantized model whatever is left over must be plain: codes that are passed on without their scales
    // would be other weights.
    [[nodiscard]] bool is_orphan(const tensor_info& tensor) const {
        const std::string_view name = tensor.name;
        for (const std::string_view tail : {".weight_packed",
                                            ".weight_scale",
                                            ".weight_shape",
                                            ".weight_zero_point",
                                            ".weight_g_idx",
                                            ".absmax",
                                            ".nested_absmax",
                                            ".quant_map",
                                            ".nested_quant_map",
                                            ".SCB",
                                            ".weight_format",
                                            ".weight_global_scale",
                                            ".weight_residual",
                                            ".weight_scale_inv",
                                            ".qweight",
                                            ".qzeros",
                                            ".g_idx",
                                            "._weight_qdata",
                                            "._weight_scale",
                                            "._weight_zero_point"})
            if (name.ends_with(tail)) return true;
        return name.find(".quant_state.") != std::string_view::npos || is_bare_code(tensor);
    }

    // bitsandbytes lays codes of 4 bits out as one column.
    [[nodiscard]] bool is_bare_code(const tensor_info& tensor) const {
        constexpr std::string_view tail = ".weight";
        if (!tensor.name.ends_with(tail) || !code_types.contains(tensor.type)) return false;
        if (tensor.shape.size() != 2 || (tensor.type == dtype::u8 && tensor.shape[1] != 1)) return false;
        const std::string module(tensor.name.substr(0, tensor.name.size() - tail.size()));
        return !ignored.contains(module) && !ignored.contains(module_pattern(module));
    }

    result<void> read_plain(const tensor_info& tensor, location at) {
        const std::string name(tensor.name);
        if (const auto owner = owner_.find(name); owner != owner_.end()) {
            out.tensors[index_.at(owner->second)].bytes += tensor.bytes;
            return {};
        }
        if (index_.contains(name))
            return bad(tensor, at,
                       "is stored coded, too, and nothing says which of the two holds: keep one of them in "
                       "the folder");
        if (!out.quant_method.empty() && is_orphan(tensor))
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
        out.tensors.push_back(std::move(stored));
        return {};
    }

private:
    stored_tensor& push(const tensor_info& tensor, location at, const std::string& weight,
                        std::vector<std::uint64_t> shape, dtype type, location scales) {
        stored_tensor stored;
        stored.name = weight;
        stored.elements = shape[0] * shape[1];
        stored.shape = std::move(shape);
        stored.type = type;
        stored.codes = at;
        stored.scales = scales;
        owner_[std::string(tensor.name)] = weight;
        index_[weight] = out.tensors.size();
        return out.tensors.emplace_back(std::move(stored));
    }

    std::map<std::string, std::string> owner_;  // stored tensor -> the weight that it belongs to
    std::map<std::string, std::size_t> index_;  // weight -> place in out.tensors
};

}  // namespace bitmill::detail
