// Input: model.safetensors.index.json of a folder that also holds what an index should not reach. What opens names
// every tensor of every shard once, and no shard lies outside the folder.
#include <filesystem>
#include <string>

#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <bitmill/io/checkpoint.hpp>

#include <heap_meter.hpp>
#include <io_files.hpp>
#include <mutators.hpp>

using bitmill::checkpoint;
using fuzz::require;

namespace {

struct model_folder {
    bitmill_test::temp_folder temp;
    std::string root = temp / "model";
    std::string index = root + "/model.safetensors.index.json";
    std::size_t shard_bytes = 0;

    model_folder() {
        using bitmill_test::small_safetensors;
        put("model/1.safetensors", small_safetensors({"a", "b"}));
        put("model/2.safetensors", small_safetensors({"c"}));
        put("model/sub/3.safetensors", small_safetensors({"d", ""}));
        put("model/empty.safetensors", small_safetensors({}));
        put("model/broken.safetensors", "not a shard");
        put("outside.safetensors", small_safetensors({"a", "b", "c", "d"}));
        std::filesystem::create_symlink("1.safetensors", root + "/link.safetensors");
        std::filesystem::create_symlink("../outside.safetensors", root + "/out.safetensors");
        std::filesystem::create_symlink(temp.path(), root + "/up");
        std::filesystem::create_directory(root + "/folder.safetensors");
        require(::mkfifo((root + "/fifo.safetensors").c_str(), 0600) == 0, "mkfifo");
    }
    void put(const std::string& name, const std::string& bytes) {
        bitmill_test::put_file(temp / name, bytes);
        shard_bytes += bytes.size();
    }
};

void check_model(const checkpoint& model, const model_folder& folder) {
    require(model.sharded() && model.shard_count() > 0, "an index has shards");
    for (std::size_t shard = 0; shard < model.shard_count(); ++shard) {
        const auto& file = model.shard(shard);
        // The temporary folder's own path is canonical.
        const auto real = std::filesystem::canonical(file.file().path()).string();
        require(real.starts_with(folder.root + "/"), "a shard lies in the folder");
        require(shard == 0 || model.shard_name(shard - 1) < model.shard_name(shard),
                "shards are in the order of their names");
        for (std::size_t i = 0; i < file.size(); ++i) {
            const auto found = model.find(file[i].name);
            require(found && found->shard == shard && found->tensor == i, "a tensor is found where it lies");
        }
    }
    const std::string& metadata = model.index_metadata_text();
    require(metadata.empty() || nlohmann::json::parse(metadata).is_object(),
            "the index's metadata is an object");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const model_folder folder;
    fuzz::rewrite(folder.index, fuzz::as_text(data, size));
    const bitmill_test::heap_meter meter;
    const auto model = checkpoint::open(folder.root);
    require(meter.peak_bytes() <= 4 * (size + folder.shard_bytes) + (1u << 20),
            "opening takes at most 4 x files + 1 MiB");
    if (model)
        check_model(*model, folder);
    else
        fuzz::check_error(model.error());
    return 0;
}

// ---- mutation --------------------------------------------------------------------------------------------
namespace {

constexpr std::string_view words[] = {"weight_map",
                                      "metadata",
                                      "total_size",
                                      "a",
                                      "b",
                                      "c",
                                      "d",
                                      "",
                                      "1.safetensors",
                                      "2.safetensors",
                                      "sub/3.safetensors",
                                      "empty.safetensors",
                                      "broken.safetensors",
                                      "link.safetensors",
                                      "out.safetensors",
                                      "up/outside.safetensors",
                                      "up/model/1.safetensors",
                                      "folder.safetensors",
                                      "fifo.safetensors",
                                      "../outside.safetensors",
                                      "sub/../1.safetensors",
                                      "./1.safetensors",
                                      "sub//3.safetensors",
                                      "/etc/passwd",
                                      "gone.safetensors",
                                      "1.safetensors/",
                                      "model.safetensors.index.json"};

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    fuzz::random rng(seed);
    if (rng.below(5) == 0) return LLVMFuzzerMutate(data, size, max_size);
    std::string text(fuzz::as_text(data, size));
    auto tree = fuzz::parse(text);
    if (!tree || !tree->is_object() || rng.below(2) == 0)
        return fuzz::hand_back(fuzz::mutated_json(std::move(text), rng, words), data, max_size);
    // Another shard for a tensor, or another tensor.
    auto& map = (*tree)["weight_map"];
    if (map.is_object() || map.is_null())
        map[fuzz::odd_string(rng, std::span(words).subspan(3, 5))] =
            fuzz::odd_string(rng, std::span(words).subspan(8));
    return fuzz::hand_back(fuzz::print(*tree, rng), data, max_size);
}
