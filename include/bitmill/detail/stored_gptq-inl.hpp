// GPTQ and AWQ (and AutoRound in either layout): qweight, qzeros, scales and g_idx of one module.
#pragma once

#include <bitmill/detail/stored_collector-inl.hpp>

namespace bitmill::detail {

class gptq_reader {
public:
    using location = checkpoint::location;

    explicit gptq_reader(stored_collector& found) : found_(found) {}

    // Errors: unsupported for a layout that is not read.
    result<void> read_config(const json& config) {
        const auto text = [&](const char* key) {
            const auto found = config.find(key);
            return found != config.end() && found->is_string() ? found->get<std::string>() : std::string();
        };
        const auto refuse = [&](const std::string& what) {
            return error{.code = error_code::unsupported,
                         .message = what +
                                    " is not read by this version; it reads GPTQ of 8, 4 and 2 bits "
                                    "and AWQ of 4 bits in the layout 'gemm'",
                         .file = found_.config_path};
        };
        const std::string method = text("quant_method"), packing = text("packing_format");
        awq_ = method == "awq" || packing.ends_with("auto_awq");
        if (method == "auto-round" && !awq_ && !packing.ends_with("auto_gptq"))
            return refuse("AutoRound's packing_format '" + packing + "'");
        if (const std::string version = text("version");
            awq_ && !version.empty() && version != "gemm" && version != "GEMM")
            return refuse("AWQ's version '" + version + "'");
        const std::string layout = text("checkpoint_format");
        if (!awq_ && !layout.empty() && layout != "gptq" && layout != "gptq_v2")
            return refuse("GPTQ's checkpoint_format '" + layout + "'");
        v2_ = layout == "gptq_v2";
        const auto symmetric = config.find("sym");
        symmetric_ = !awq_ && symmetric != config.end() && symmetric->is_boolean() && symmetric->get<bool>();
        // Some say other bits for some modules; what their tensors say holds for all.
        const auto own = [&](const char* key) {
            const auto found = config.find(key);
            return found != config.end() && !found->is_null() && !found->empty();
        };
        for (const char* key : {"w_bit", "bits"})
            if (const auto bits = config.find(key);
                bits != config.end() && !bits->is_null() && !own("dynamic") && !own("extra_config")) {
                if (!bits->is_number_integer() || *bits < 1 || *bits > 32)
                    return error{.code = error_code::bad_input,
                                 .message = std::string(key) + " must be a whole number of 1 to 32",
                                 .file = found_.config_path};
                bits_ = bits->get<std::uint64_t>();
            }
        for (const char* key : {"q_group_size", "group_size"})
            if (const auto size = config.find(key); size != config.end() && size->is_number_integer())
                group_size_ = size->is_number_unsigned() ? size->get<std::uint64_t>() : 0;
        return {};
    }

    result<void> read(const tensor_info& tensor, location at) {
        const std::string name(tensor.name);
        constexpr std::string_view tail = ".qweight";
        if (!name.ends_with(tail)) return {};
        const std::string module = name.substr(0, name.size() - tail.size());
        const std::string weight = module + ".weight";
        auto scales = found_.scales_of(tensor, at, weight, module + ".scales");
        if (!scales) return scales.error();
        auto zeros = found_.partner(tensor, at, weight, module + ".qzeros");
        if (!zeros) return zeros.error();
        const tensor_info scale = found_.info(*scales), zero = found_.info(*zeros);
        for (const auto* one : {&tensor, &scale, &zero})
            if (one->shape.size() != 2 || one->elements == 0)
                return found_.bad(*one,
                                  one == &tensor  ? at
                                  : one == &scale ? *scales
                                                  : *zeros,
                                  "must be a matrix that holds something");
        if (tensor.type != dtype::i32 || zero.type != dtype::i32)
            return found_.bad(tensor, at, "qweight and qzeros must be I32");
        const std::uint64_t out = scale.shape[1];
        // How many bits a code has is not said module by module; the zero points of a group tell it.
        const maybe_u64 bits_of_row = checked_mul(zero.shape[1], 32);
        const std::uint64_t bits = bits_of_row && *bits_of_row % out == 0 ? *bits_of_row / out : 0;
        if (zero.shape[0] != scale.shape[0] || bits == 0)
            return found_.bad(zero, *zeros,
                              "must be [groups, out x bits / 32] with the groups and out of scales");
        if (awq_ ? bits != 4 : bits != 8 && bits != 4 && bits != 2)
            return found_.bad(tensor, at, std::to_string(bits) + " bits are not read by this version",
                              error_code::unsupported);
        if (bits_ && *bits_ != bits)
            return found_.bad(
                zero, *zeros,
                "says " + std::to_string(bits) + " bits a code, and the config " + std::to_string(*bits_));
        const std::uint64_t pack = 32 / bits;
        const maybe_u64 in = awq_ ? maybe_u64(tensor.shape[0]) : checked_mul(tensor.shape[0], pack);
        if (!in || *in > std::uint64_t{1} << 40 || tensor.shape[1] != (awq_ ? zero.shape[1] : out))
            return found_.bad(tensor, at,
                              awq_ ? "must be [in, out / 8] with the out of scales"
                                   : "must be [in x bits / 32, out] with the out of scales");
        foreign_codes codes;
        codes.codes = awq_ ? foreign_codes::order::awq : foreign_codes::order::gptq;
        codes.zeros = awq_  ? foreign_codes::zero_points::awq
                      : v2_ ? foreign_codes::zero_points::gptq_v2
                            : foreign_codes::zero_points::gptq_v1;
        codes.bits = static_cast<unsigned>(bits);
        codes.by_group = true;
        if (auto done = set_groups(codes, tensor, at, weight, module, *in, scale.shape[0]); !done)
            return done;
        if (auto done =
                found_.add_foreign(tensor, at, weight, {out, *in}, scale.type, std::move(codes), *scales);
            !done)
            return done;
        found_.out.tensors.back().zero_points = *zeros;
        return {};
    }

private:
    // Which group a column belongs to: as g_idx says, else one group after the other.
    result<void> set_groups(foreign_codes& codes, const tensor_info& tensor, location at,
                            const std::string& weight, const std::string& module, std::uint64_t in,
                            std::uint64_t groups) {
        codes.col_block = group_size_.value_or(ceil_div(in, groups));
        if (codes.col_block == 0) codes.col_block = in;
        if (awq_ && in % codes.col_block != 0)
            return found_.bad(tensor, at,
                              std::to_string(in) + " rows are no multiple of the group of " +
                                  std::to_string(codes.col_block));
        bool in_order = true;
        if (const auto order = awq_ ? std::nullopt : found_.optional_partner(weight, module + ".g_idx")) {
            auto plain = is_in_order(*order, in, groups, codes.col_block);
            if (!plain) return plain.error();
            in_order = *plain;
            if (!in_order) {
                codes.g_idx = *order;
                codes.g_idx_groups = groups;
            }
        }
        if (in_order && ceil_div(in, codes.col_block) != groups)
            return found_.bad(tensor, at,
                              "scales has " + std::to_string(groups) + " groups, a row of " +
                                  std::to_string(in) + " in groups of " + std::to_string(codes.col_block) +
                                  " has " + std::to_string(ceil_div(in, codes.col_block)));
        codes.text =
            "int" + std::to_string(codes.bits) +
            (groups == 1 ? std::string(" per_channel") : " group " + std::to_string(codes.col_block)) +
            (symmetric_ ? "" : " asymmetric") + (codes.g_idx ? " act-order" : "");
        return {};
    }

    // Is it 0, 0 ... 1, 1 ..., `size` of each? Errors: a group that is not there.
    result<bool> is_in_order(location at, std::uint64_t in, std::uint64_t groups, std::uint64_t size) const {
        const tensor_info order = found_.info(at);
        if (order.type != dtype::i32 || order.shape.size() != 1 || order.shape[0] != in)
            return found_.bad(order, at, "must be I32 of [" + std::to_string(in) + "]");
        bool plain = true;
        std::vector<std::int32_t> part(4096);
        for (std::uint64_t first = 0; first < in; first += part.size()) {
            const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(part.size(), in - first));
            auto done = found_.model.shard(at.shard).read(
                order, first * 4, std::as_writable_bytes(std::span(part.data(), count)));
            if (!done) return done.error();
            for (std::size_t i = 0; i < count; ++i) {
                if (part[i] < 0 || static_cast<std::uint64_t>(part[i]) >= groups)
                    return found_.bad(
                        order, at,
                        "names group " + std::to_string(part[i]) + " of " + std::to_string(groups));
                plain = plain && static_cast<std::uint64_t>(part[i]) == (first + i) / size;
            }
        }
        return plain;
    }

    stored_collector& found_;
    bool awq_ = false;
    bool v2_ = false;
    bool symmetric_ = false;
    std::optional<std::uint64_t> bits_;
    std::optional<std::uint64_t> group_size_;  // 0: one group
};

}  // namespace bitmill::detail
