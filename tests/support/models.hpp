// Small models written byte by byte, and folders read back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <bitmill/core/dtype.hpp>
#include <bitmill/io/checkpoint.hpp>

#include <io_files.hpp>
#include <weights.hpp>

namespace bitmill_test {

struct made_tensor {
    std::string name;
    bitmill::dtype type;
    std::vector<std::uint64_t> shape;
    std::string bytes;
};

inline std::string shape_text(const std::vector<std::uint64_t>& shape) {
    std::string text = "[";
    for (const auto dimension : shape) text += (text.size() > 1 ? "," : "") + std::to_string(dimension);
    return text + "]";
}

inline made_tensor make_tensor(const std::string& name, bitmill::dtype type, std::vector<std::uint64_t> shape,
                               std::uint64_t seed, spread kind = spread::gaussian) {
    std::uint64_t count = 1;
    for (const auto dimension : shape) count *= dimension;
    made_tensor out{name, type, std::move(shape), {}};
    if (bitmill::facts(type).weight) {
        out.bytes = bytes_as(type, make_weights(static_cast<std::size_t>(count), seed, kind));
    } else {
        for (std::uint64_t i = 0; i < count * bitmill::element_bytes(type); ++i)
            out.bytes.push_back(static_cast<char>((i * 31 + seed) % 251));
    }
    return out;
}

inline std::string safetensors_of(const std::vector<made_tensor>& tensors) {
    std::string header = "{\"__metadata__\":{\"format\":\"pt\"}", data;
    for (const auto& t : tensors) {
        header += ",\"" + t.name + "\":{\"dtype\":\"" + std::string(bitmill::facts(t.type).name) +
                  "\",\"shape\":" + shape_text(t.shape) + ",\"data_offsets\":[" +
                  std::to_string(data.size()) + "," + std::to_string(data.size() + t.bytes.size()) + "]}";
        data += t.bytes;
    }
    header += "}";
    header.append((8 - header.size() % 8) % 8, ' ');
    return raw_safetensors(header, data);
}

inline constexpr const char* bert_config =
    R"({"model_type": "bert", "architectures": ["BertModel"], "dtype": "float32"})";

inline void put_model(const std::string& folder, const std::vector<made_tensor>& tensors,
                      const std::string& config = bert_config) {
    put_file(folder + "/model.safetensors", safetensors_of(tensors));
    put_file(folder + "/config.json", config);
    put_file(folder + "/tokenizer.json", "{\"version\": \"1.0\"}");
}

// The first half of the tensors in one shard, the rest in another.
inline void put_sharded_model(const std::string& folder, const std::vector<made_tensor>& tensors) {
    const auto middle = tensors.begin() + static_cast<std::ptrdiff_t>(tensors.size() / 2);
    const std::string names[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
    put_file(folder + "/" + names[0], safetensors_of({tensors.begin(), middle}));
    put_file(folder + "/" + names[1], safetensors_of({middle, tensors.end()}));
    std::string map;
    for (std::size_t i = 0; i < tensors.size(); ++i)
        map += (i != 0 ? ", \"" : "\"") + tensors[i].name + "\": \"" + names[i < tensors.size() / 2 ? 0 : 1] +
               "\"";
    put_file(folder + "/model.safetensors.index.json",
             "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {" + map + "}}");
    put_file(folder + "/config.json", bert_config);
}

// Every float type, ranks 0 to 3, tensors that no level touches, and one of several tiles.
inline std::vector<made_tensor> bert_tensors() {
    using bitmill::dtype;
    return {make_tensor("embeddings.word_embeddings.weight", dtype::f32, {60, 128}, 1),
            make_tensor("encoder.layer.0.attention.self.query.weight", dtype::f32, {128, 128}, 2),
            make_tensor("encoder.layer.0.attention.self.query.bias", dtype::f32, {128}, 3),
            make_tensor("encoder.layer.0.attention.self.key.weight", dtype::f16, {256, 96}, 4),
            make_tensor("encoder.layer.0.attention.self.value.weight", dtype::bf16, {64, 256}, 5,
                        spread::heavy_tails),
            make_tensor("encoder.layer.0.attention.output.dense.weight", dtype::f64, {96, 256}, 6),
            make_tensor("encoder.layer.0.intermediate.dense.weight", dtype::f32, {700, 512}, 7),
            make_tensor("encoder.layer.0.output.dense.weight", dtype::f16, {2100, 384}, 8),
            make_tensor("encoder.layer.0.output.LayerNorm.weight", dtype::f32, {128}, 9, spread::one_sided),
            make_tensor("pooler.dense.weight", dtype::f32, {2, 3}, 10),
            make_tensor("conv.weight", dtype::f32, {4, 3, 5}, 11),
            make_tensor("scalar", dtype::f32, {}, 12),
            make_tensor("empty.weight", dtype::f32, {0, 64}, 13),
            make_tensor("position_ids", dtype::i64, {1, 16}, 14),
            make_tensor("mask", dtype::boolean, {7}, 15)};
}

// Every file below a folder, by its relative name.
inline std::map<std::string, std::string> read_folder(const std::string& folder) {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
        if (entry.is_regular_file())
            files[std::filesystem::relative(entry.path(), folder).string()] = get_file(entry.path().string());
    return files;
}

// The names of everything directly in a folder, hidden or not.
inline std::vector<std::string> entries_of(const std::string& folder) {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
        names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
}

// A model's tensors by name, read whole.
inline std::map<std::string, made_tensor> read_tensors(const std::string& path) {
    const auto model = bitmill::checkpoint::open(path).value();
    std::map<std::string, made_tensor> out;
    for (std::size_t shard = 0; shard < model.shard_count(); ++shard) {
        const auto& file = model.shard(shard);
        for (std::size_t i = 0; i < file.size(); ++i) {
            const auto info = file[i];
            made_tensor t{std::string(info.name), info.type, {info.shape.begin(), info.shape.end()}, {}};
            t.bytes.resize(static_cast<std::size_t>(info.bytes));
            file.file()
                .read_at(info.offset, std::as_writable_bytes(std::span(t.bytes.data(), t.bytes.size())))
                .value();
            out[t.name] = std::move(t);
        }
    }
    return out;
}

}  // namespace bitmill_test
