// Folders as others' quantizers write them: written here element by element.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <bitmill/core/half.hpp>

#include <models.hpp>
#include <random.hpp>

namespace bitmill_test {

template <class T>
std::string raw(const std::vector<T>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// out x in codes with a scale and a zero point for each group of a row.
struct codes {
    std::size_t out, in, group, groups, bits;
    std::vector<std::uint32_t> q;        // [out][in], unsigned
    std::vector<std::uint32_t> z;        // [out][groups], unsigned, never 0
    std::vector<float> s;                // [out][groups], values of f16
    std::vector<std::int32_t> group_of;  // [in]
    bitmill::dtype type = bitmill::dtype::f16;

    codes(std::size_t out_, std::size_t in_, std::size_t group_, std::size_t bits_, bool shuffled = false)
        : out(out_), in(in_), group(group_), groups((in_ + group_ - 1) / group_), bits(bits_) {
        test::random rng(out * 1000 + in + bits);
        const std::uint32_t levels = 1u << bits;
        for (std::size_t i = 0; i < out * in; ++i) q.push_back(static_cast<std::uint32_t>(rng.below(levels)));
        for (std::size_t i = 0; i < out * groups; ++i) {
            z.push_back(static_cast<std::uint32_t>(1 + rng.below(levels - 1)));
            const float scale = 0.001f * static_cast<float>(1 + rng.below(90));
            s.push_back(bitmill::f32_from_f16(bitmill::f16_from_f32(scale)));
        }
        for (std::size_t c = 0; c < in; ++c) group_of.push_back(static_cast<std::int32_t>(c / group));
        for (std::size_t c = in - 1; shuffled && c > 0; --c)
            std::swap(group_of[c], group_of[rng.below(static_cast<std::uint32_t>(c + 1))]);
    }
    [[nodiscard]] float value(std::size_t r, std::size_t c) const {
        const std::size_t g = r * groups + static_cast<std::size_t>(group_of[c]);
        return (static_cast<float>(q[r * in + c]) - static_cast<float>(z[g])) * s[g];
    }
    [[nodiscard]] std::vector<float> values() const {
        std::vector<float> all;
        for (std::size_t r = 0; r < out; ++r)
            for (std::size_t c = 0; c < in; ++c) all.push_back(value(r, c));
        return all;
    }
    // [groups, out], as GPTQ and AWQ have them.
    [[nodiscard]] made_tensor scales_by_group() const {
        std::vector<std::uint16_t> halves;
        for (std::size_t g = 0; g < groups; ++g)
            for (std::size_t r = 0; r < out; ++r) halves.push_back(bitmill::f16_from_f32(s[r * groups + g]));
        return {"a.scales", bitmill::dtype::f16, {groups, out}, raw(halves)};
    }
};

struct folder {
    std::vector<made_tensor> parts;
    std::string config;
    [[nodiscard]] made_tensor& part(const std::string& name) {
        return *std::find_if(parts.begin(), parts.end(), [&](const auto& t) { return t.name == name; });
    }
};

inline std::string config_of(const std::string& block) {
    return R"({"model_type": "llama", "dtype": "float16", "quantization_config": )" + block + "}";
}

inline folder gptq(const codes& c, bool v2, bool with_order = true) {
    const std::size_t pack = 32 / c.bits;
    std::vector<std::uint32_t> words(c.in / pack * c.out), zeros(c.groups * c.out / pack);
    for (std::size_t r = 0; r < c.out; ++r)
        for (std::size_t i = 0; i < c.in; ++i)
            words[i / pack * c.out + r] |= c.q[r * c.in + i] << (i % pack * c.bits);
    for (std::size_t g = 0; g < c.groups; ++g)
        for (std::size_t r = 0; r < c.out; ++r)
            zeros[g * (c.out / pack) + r / pack] |= (c.z[r * c.groups + g] - (v2 ? 0 : 1))
                                                    << (r % pack * c.bits);
    folder f{{{"a.qweight", bitmill::dtype::i32, {c.in / pack, c.out}, raw(words)},
              {"a.qzeros", bitmill::dtype::i32, {c.groups, c.out / pack}, raw(zeros)},
              c.scales_by_group(),
              make_tensor("a.bias", bitmill::dtype::f16, {c.out}, 3)},
             config_of(R"({"quant_method": "gptq", "bits": )" + std::to_string(c.bits) +
                       R"(, "group_size": )" + std::to_string(c.group) +
                       R"(, "sym": false, "checkpoint_format": ")" + (v2 ? "gptq_v2" : "gptq") + "\"}")};
    if (with_order) f.parts.push_back({"a.g_idx", bitmill::dtype::i32, {c.in}, raw(c.group_of)});
    return f;
}

inline folder awq(const codes& c) {
    static constexpr std::size_t nibble[] = {0, 4, 1, 5, 2, 6, 3, 7};  // of column k of eight
    std::vector<std::uint32_t> words(c.in * c.out / 8), zeros(c.groups * c.out / 8);
    for (std::size_t r = 0; r < c.out; ++r) {
        for (std::size_t i = 0; i < c.in; ++i)
            words[i * (c.out / 8) + r / 8] |= c.q[r * c.in + i] << (4 * nibble[r % 8]);
        for (std::size_t g = 0; g < c.groups; ++g)
            zeros[g * (c.out / 8) + r / 8] |= c.z[r * c.groups + g] << (4 * nibble[r % 8]);
    }
    return {
        {{"a.qweight", bitmill::dtype::i32, {c.in, c.out / 8}, raw(words)},
         {"a.qzeros", bitmill::dtype::i32, {c.groups, c.out / 8}, raw(zeros)},
         c.scales_by_group(),
         make_tensor("a.bias", bitmill::dtype::f16, {c.out}, 3)},
        config_of(
            R"({"quant_method": "awq", "bits": 4, "zero_point": true, "version": "gemm", "group_size": )" +
            std::to_string(c.group) + "}")};
}

// compressed-tensors with zero points, packed or one in a byte; codes and zero points are stored less 2^(bits - 1).
inline folder asymmetric(const codes& c, bool packed) {
    const std::size_t pack = 32 / c.bits, row = (c.in + pack - 1) / pack;
    std::vector<std::uint32_t> words(c.out * row), zeros((c.out + pack - 1) / pack * c.groups);
    std::string bytes, zero_bytes;
    std::vector<std::uint16_t> halves;
    for (std::size_t r = 0; r < c.out; ++r) {
        for (std::size_t i = 0; i < c.in; ++i) {
            words[r * row + i / pack] |= c.q[r * c.in + i] << (i % pack * c.bits);
            bytes.push_back(static_cast<char>(static_cast<int>(c.q[r * c.in + i]) - (1 << (c.bits - 1))));
        }
        for (std::size_t g = 0; g < c.groups; ++g) {
            const std::uint32_t zero = c.z[r * c.groups + g];
            zeros[r / pack * c.groups + g] |= zero << (r % pack * c.bits);
            zero_bytes.push_back(static_cast<char>(static_cast<int>(zero) - (1 << (c.bits - 1))));
            halves.push_back(bitmill::f16_from_f32(c.s[r * c.groups + g]));
        }
    }
    const std::int64_t shape[] = {static_cast<std::int64_t>(c.out), static_cast<std::int64_t>(c.in)};
    folder f;
    f.parts = {{"a.weight_scale", bitmill::dtype::f16, {c.out, c.groups}, raw(halves)},
               make_tensor("a.bias", bitmill::dtype::f16, {c.out}, 3)};
    if (packed) {
        f.parts.push_back({"a.weight_packed", bitmill::dtype::i32, {c.out, row}, raw(words)});
        f.parts.push_back(
            {"a.weight_shape", bitmill::dtype::i64, {2}, {reinterpret_cast<const char*>(shape), 16}});
        f.parts.push_back(
            {"a.weight_zero_point", bitmill::dtype::i32, {zeros.size() / c.groups, c.groups}, raw(zeros)});
    } else {
        f.parts.push_back({"a.weight", bitmill::dtype::i8, {c.out, c.in}, bytes});
        f.parts.push_back({"a.weight_zero_point", bitmill::dtype::i8, {c.out, c.groups}, zero_bytes});
    }
    const std::string format = packed ? "pack-quantized" : "int-quantized";
    f.config = config_of(R"({"quant_method": "compressed-tensors", "format": ")" + format +
                         R"(", "config_groups": {"group_0": {"targets": ["Linear"], "format": ")" + format +
                         R"(", "weights": {"type": "int", "symmetric": false, "num_bits": )" +
                         std::to_string(packed ? c.bits : 8) + "}}}}");
    return f;
}

// compressed-tensors of codes whose zero points are all in the middle, which it then does not store.
inline folder symmetric(const codes& c) {
    folder f = asymmetric(c, true);
    std::erase_if(f.parts, [](const auto& t) { return t.name == "a.weight_zero_point"; });
    f.config.replace(f.config.find("false"), 5, "true");
    return f;
}

// torchao's Int8Tensor of the same codes.
inline folder torchao(const codes& c) {
    folder f = asymmetric(c, false);
    std::vector<float> scales(c.s.begin(), c.s.end());
    f.part("a.weight_scale") = {"a._weight_scale", bitmill::dtype::f32, {c.out, c.groups}, raw(scales)};
    f.part("a.weight").name = "a._weight_qdata";
    f.part("a.weight_zero_point").name = "a._weight_zero_point";
    f.config = config_of(
        R"({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}})");
    return f;
}

}  // namespace bitmill_test
