#include <bitmill/io/checkpoint.hpp>

#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <io_files.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::checkpoint;
using bitmill::error_code;
namespace fs = std::filesystem;

namespace {

const char* const index_name = "model.safetensors.index.json";

std::vector<std::string> side_names(const checkpoint& model) {
    std::vector<std::string> names;
    for (const auto& side : model.side_files()) names.push_back(side.name);
    return names;
}

// Two shards: a, b in the first; c in the second.
void put_sharded(const temp_folder& temp) {
    put_file(temp / "model-00001-of-00002.safetensors", small_safetensors({"a", "b"}));
    put_file(temp / "model-00002-of-00002.safetensors", small_safetensors({"c"}));
    put_file(temp / index_name, R"({"metadata": {"total_size": 6, "x": [1, {}]}, "weight_map": {
        "c": "model-00002-of-00002.safetensors", "a": "model-00001-of-00002.safetensors",
        "b": "model-00001-of-00002.safetensors"}})");
}

}  // namespace

TEST_CASE("checkpoint: a folder with one file, config and side files") {
    const temp_folder temp;
    put_file(temp / "model.safetensors", small_safetensors({"x", "y"}));
    put_file(temp / "config.json", R"({"hidden_size": 8})");
    put_file(temp / "tokenizer.json", "{}");
    const auto model = checkpoint::open(temp.path() + "/").value();
    CHECK(model.root() == temp.path());
    CHECK(model.config_text() == R"({"hidden_size": 8})");
    CHECK_FALSE(model.sharded());
    CHECK(model.shard_count() == 1);
    CHECK(model.shard_name(0) == "model.safetensors");
    CHECK(model.index_metadata_text() == "");
    const auto place = model.find("y");
    REQUIRE(place);
    CHECK(place->shard == 0);
    CHECK(model.shard(0)[place->tensor].name == "y");
    CHECK_FALSE(model.find("z"));
    REQUIRE(side_names(model) == std::vector<std::string>{"tokenizer.json"});
    CHECK(model.side_files()[0].bytes == 2);
    CHECK(bitmill::read_text(model.open_side("tokenizer.json").value(), 10).value() == "{}");
    CHECK_FALSE(model.open_side("../etc/passwd"));
}

TEST_CASE("checkpoint: a folder with shards") {
    const temp_folder temp;
    put_sharded(temp);
    const auto model = checkpoint::open(temp.path()).value();
    CHECK(model.sharded());
    REQUIRE(model.shard_count() == 2);
    CHECK(model.shard_name(0) == "model-00001-of-00002.safetensors");  // by name, not by mention
    CHECK(model.config_text() == "");
    CHECK(model.index_metadata_text() == R"({"total_size": 6, "x": [1, {}]})");
    for (const auto& [name, shard] : {std::pair{"a", 0u}, {"b", 0u}, {"c", 1u}}) {
        const auto place = model.find(name);
        REQUIRE(place);
        CHECK(place->shard == shard);
        CHECK(model.shard(place->shard)[place->tensor].name == name);
    }
    CHECK_FALSE(model.find("d"));
    CHECK(model.side_files().empty());
    // transformers takes the single file where both are there.
    put_file(temp / "model.safetensors", small_safetensors({"only"}));
    CHECK_FALSE(checkpoint::open(temp.path()).value().sharded());
}

TEST_CASE("checkpoint: one file by its path, or the only one in a folder") {
    const temp_folder temp;
    put_file(temp / "notes.txt", "mine");
    put_file(temp / "w.safetensors", small_safetensors({"x"}));
    const auto lone = checkpoint::open(temp / "w.safetensors").value();
    CHECK(lone.root() == temp.path());
    CHECK(lone.shard_name(0) == "w.safetensors");
    CHECK(lone.side_files().empty());  // without a config.json the folder is not a model's
    CHECK(side_names(checkpoint::open(temp.path()).value()) == std::vector<std::string>{"notes.txt"});
    put_file(temp / "config.json", "{}");
    const auto beside = checkpoint::open(temp / "w.safetensors").value();
    CHECK(beside.config_text() == "{}");
    CHECK(side_names(beside) == std::vector<std::string>{"notes.txt"});
    put_file(temp / "v.safetensors", small_safetensors({"x"}));
    const auto two = checkpoint::open(temp.path());
    REQUIRE_FALSE(two);
    CHECK(two.error().code == error_code::bad_input);
    CHECK(two.error().message.find("holds 2 *.safetensors") != std::string::npos);
    CHECK(checkpoint::open(temp / "v.safetensors"));
}

TEST_CASE("checkpoint: what cannot be a model says so") {
    const temp_folder temp;
    CHECK(checkpoint::open("").error().code == error_code::invalid_argument);
    CHECK(checkpoint::open(temp / "none").error().code == error_code::io);
    CHECK(checkpoint::open(temp.path()).error().code == error_code::bad_input);
    put_file(temp / "tf_model.h5", "x");
    CHECK(checkpoint::open(temp.path()).error().code == error_code::unsupported);
    CHECK(checkpoint::open(temp / "tf_model.h5").error().code == error_code::unsupported);
    put_file(temp / "training_args.bin", "x");
    CHECK(checkpoint::open(temp.path()).error().code == error_code::unsupported);
    put_file(temp / "pytorch_model.bin", "x");
    CHECK(checkpoint::open(temp.path()).error().code == error_code::bad_input);
    put_file(temp / index_name, "{}");
    CHECK(checkpoint::open(temp / index_name).error().message.find("give the folder") != std::string::npos);
    REQUIRE(::mkfifo((temp / "model.safetensors").c_str(), 0600) == 0);
    CHECK(checkpoint::open(temp.path()).error().code == error_code::bad_input);
}

TEST_CASE("checkpoint: config.json is checked") {
    const temp_folder temp;
    put_file(temp / "model.safetensors", small_safetensors({"x"}));
    const auto accepts = [&](const std::string& config) {
        put_file(temp / "config.json", config);
        const auto model = checkpoint::open(temp.path());
        if (!model) {
            CHECK(model.error().code == error_code::bad_input);
            CHECK(model.error().file == temp / "config.json");
        }
        return static_cast<bool>(model);
    };
    const auto nested = [](std::size_t depth) {
        return "{\"a\":" + std::string(depth - 1, '[') + std::string(depth - 1, ']') + "}";
    };
    CHECK(accepts("{}"));
    CHECK(accepts("\n{\"a\": [1, 2.5, -3, null, true, \"\\u00e9\"]}\n"));
    CHECK(accepts(nested(64)));
    CHECK(accepts("{\"big\":\"" + std::string(200'000, 'x') + "\"" + std::string(800'000, ' ') + "}"));
    CHECK_FALSE(accepts(nested(65)));
    for (const char* bad : {"", "[]", "null", "{", "{}}", "{\"a\":1,}", "{'a':1}", "{\"a\":NaN}",
                            "\xef\xbb\xbf{}", "{\"\xff\":1}"})
        CHECK_FALSE(accepts(bad));
    CHECK_FALSE(accepts(std::string("{}\0", 3)));
    CHECK_FALSE(accepts("{}" + std::string((16u << 20) - 1, ' ')));
}

TEST_CASE("checkpoint: index and shards must say the same") {
    struct row {
        const char* index;
        const char* says;
        const char* tensor;
    };
    const std::string s1 = "model-00001-of-00002.safetensors", s2 = "model-00002-of-00002.safetensors";
    const std::string all = R"("a":")" + s1 + R"(","b":")" + s1 + R"(","c":")" + s2 + "\"";
    const std::vector<std::pair<std::string, std::pair<const char*, const char*>>> rows{
        {"", {"broken", ""}},
        {"[]", {"must be a JSON object", ""}},
        {"{}", {"no weight_map", ""}},
        {R"({"weight_map":{}})", {"empty", ""}},
        {R"({"weight_map":null})", {"must be an object", ""}},
        {R"({"weight_map":[]})", {"must be an object", ""}},
        {R"({"weight_map":"x"})", {"must be an object", ""}},
        {R"({"weight_map":{"a":1}})", {"must be a file name", "a"}},
        {R"({"weight_map":{"a":null}})", {"must be a file name", "a"}},
        {R"({"weight_map":{"a":{}}})", {"must be a file name", "a"}},
        {R"({"weight_map":{"a":["x"]}})", {"must be a file name", "a"}},
        {R"({"metadata":null,"weight_map":{)" + all + "}}", {"must be an object", ""}},
        {R"({"metadata":[],"weight_map":{)" + all + "}}", {"must be an object", ""}},
        {R"({"metadata":"x","weight_map":{)" + all + "}}", {"must be an object", ""}},
        {R"({"metadata":{},"metadata":{},"weight_map":{)" + all + "}}", {"twice", ""}},
        {R"({"weight_map":{)" + all + R"(},"weight_map":{)" + all + "}}", {"twice", ""}},
        {R"({"weight_map":{)" + all + R"(,"a":")" + s1 + "\"}}", {"twice", "a"}},
        {R"({"weight_map":{"a":")" + s1 + R"(","c":")" + s2 + "\"}}", {"does not name it", "b"}},
        {R"({"weight_map":{)" + all + R"(,"d":")" + s2 + "\"}}", {"lies here, but it does not", "d"}},
        {R"({"weight_map":{"a":")" + s1 + R"(","b":")" + s2 + R"(","c":")" + s2 + "\"}}",
         {"lies here, but it does not", "b"}},
        {R"({"weight_map":{)" + all + R"(,"d":"model-3.safetensors"}})", {"names it as a shard", ""}},
        {R"({"weight_map":{)" + all + R"(,"d":"tf_model.h5"}})", {"neither a .safetensors", ""}},
        {R"({"weight_map":{)" + all + R"(}} {})", {"broken", ""}},
    };
    const temp_folder temp;
    put_sharded(temp);
    for (const auto& [index, expected] : rows) {
        CAPTURE(index);
        put_file(temp / index_name, index);
        const auto model = checkpoint::open(temp.path());
        REQUIRE_FALSE(model);
        CHECK(model.error().code == error_code::bad_input);
        CHECK_MESSAGE(model.error().message.find(expected.first) != std::string::npos, model.error().text());
        CHECK(model.error().tensor == expected.second);
        CHECK_FALSE(model.error().file.empty());
    }
    for (const char* rest :
         {"", R"("metadata":{},)", R"("other":{"weight_map":[1]},"flag":true,"n":null,)"}) {
        put_file(temp / index_name, std::string("{") + rest + R"("weight_map":{)" + all + "}}");
        const auto model = checkpoint::open(temp.path());
        CHECK_MESSAGE(model, model.error().text());
    }
    // One tensor in two shards, whichever the index names.
    put_file(temp / s2, small_safetensors({"c", "a"}));
    const auto doubled = checkpoint::open(temp.path());
    REQUIRE_FALSE(doubled);
    CHECK(doubled.error().tensor == "a");
    CHECK(doubled.error().message.find("in this shard and in") != std::string::npos);
    // A broken shard names itself.
    put_file(temp / s2, "short");
    CHECK(checkpoint::open(temp.path()).error().file == temp / s2);
}

TEST_CASE("checkpoint: side files are what a copy needs, and nothing else") {
    const temp_folder temp;
    for (const char* name : {"config.json", "manifest.json", "metadata.json"}) put_file(temp / name, "{}");
    for (const char* name : {"model.safetensors", "int8/model.safetensors", "2_Dense/model.safetensors"})
        put_file(temp / name, small_safetensors({"x"}));
    for (const char* name : {"pytorch_model.bin",
                             "tf_model.h5",
                             "flax_model.msgpack",
                             "rust_model.ot",
                             "m.GGUF",
                             "pytorch_model.bin.index.json",
                             "training_args.bin",
                             "onnx/model.onnx",
                             "onnx/note.txt",
                             "openvino/o.xml",
                             "coreml/c.mlmodel",
                             ".git/config",
                             ".gitattributes",
                             ".cache/x",
                             "original/consolidated.00.pth",
                             "int8/config.json",
                             "int8/tokenizer.json",
                             "half.bitmill-partial/tokenizer.json",
                             "int4/.bitmill-partial",
                             "int4/tokenizer.json",
                             "a/b/c/d/too_deep.txt"})
        put_file(temp / name, "x");
    put_file(temp / "modules.json",
             R"([{"idx":0,"path":""},{"idx":1,"path":"1_Pooling"},{"idx":2,"path":"2_Dense/"}])");
    for (const char* name :
         {"tokenizer.json", "README.md", "1_Pooling/config.json", "2_Dense/config.json",
          "2_Dense/pytorch_model.bin", "a/b/c/deep.txt", "original/params.json", "vocab.txt"})
        put_file(temp / name, "y");
    const std::vector<std::string> expected{"1_Pooling/config.json",
                                            "2_Dense/config.json",
                                            "2_Dense/model.safetensors",
                                            "2_Dense/pytorch_model.bin",
                                            "README.md",
                                            "a/b/c/deep.txt",
                                            "modules.json",
                                            "original/params.json",
                                            "tokenizer.json",
                                            "vocab.txt"};
    const auto model = checkpoint::open(temp.path()).value();
    CHECK(side_names(model) == expected);
    for (const auto& side : model.side_files()) {
        CAPTURE(side.name);
        CHECK(model.open_side(side.name)->size() == side.bytes);
    }
    fs::remove(temp / "modules.json");  // then 2_Dense is a variant like int8
    CHECK(side_names(checkpoint::open(temp.path()).value()) ==
          std::vector<std::string>{"1_Pooling/config.json", "README.md", "a/b/c/deep.txt",
                                   "original/params.json", "tokenizer.json", "vocab.txt"});
}

TEST_CASE("checkpoint: a side file that cannot be read is an error that names it") {
    const temp_folder temp;
    put_file(temp / "model.safetensors", small_safetensors({"x"}));
    const auto refused = [&](const char* name) {
        const auto model = checkpoint::open(temp.path());
        REQUIRE_FALSE(model);
        CHECK(model.error().file == temp / name);
        fs::remove_all(temp / name);
    };
    fs::create_symlink("gone", temp / "vocab.txt");
    refused("vocab.txt");
    fs::create_symlink("/etc/passwd", temp / "vocab.txt");
    refused("vocab.txt");
    put_file(temp / "d/real", "x");
    fs::create_symlink("d", temp / "linked");
    refused("linked");
    for (const char* modules : {"{}", "[", "[{\"path\":\"../x\"}]", "[{\"path\":\"/etc\"}]"}) {
        put_file(temp / "modules.json", modules);
        refused("modules.json");
    }
    if (::geteuid() != 0) {  // root reads everything
        put_file(temp / "vocab.txt", "x");
        fs::permissions(temp / "vocab.txt", fs::perms::none);
        refused("vocab.txt");
    }
    CHECK(checkpoint::open(temp.path()));
}

TEST_CASE("checkpoint: a Hugging Face hub cache is read through its links") {
    const temp_folder temp;
    const std::string model = "models--x--y/", revision = model + "snapshots/0123abc/";
    put_file(temp / (model + "blobs/h1"), small_safetensors({"w"}));
    put_file(temp / (model + "blobs/h2"), "{\"a\": 1}");
    put_file(temp / (model + "blobs/h3"), "vocabulary");
    put_file(temp / "outside.txt", "secret");
    fs::create_directories(temp / (revision + "1_Pooling"));
    fs::create_symlink("../../blobs/h1", temp / (revision + "model.safetensors"));
    fs::create_symlink("../../blobs/h2", temp / (revision + "config.json"));
    fs::create_symlink("../../blobs/h3", temp / (revision + "vocab.txt"));
    fs::create_symlink("../../../blobs/h2", temp / (revision + "1_Pooling/config.json"));
    for (const std::string& way : {temp / revision, temp / (model + "snapshots/0123abc")}) {
        const auto opened = checkpoint::open(way);
        REQUIRE_MESSAGE(opened, opened.error().text());
        CHECK(opened.value().find("w"));
        CHECK(opened.value().config_text() == "{\"a\": 1}");
        CHECK(side_names(opened.value()) == std::vector<std::string>{"1_Pooling/config.json", "vocab.txt"});
    }
    fs::create_directory_symlink(temp / revision, temp / "alias");
    CHECK(checkpoint::open(temp / "alias"));
    fs::create_symlink("../../../outside.txt", temp / (revision + "evil.txt"));
    const auto evil = checkpoint::open(temp / revision);
    REQUIRE_FALSE(evil);
    CHECK(evil.error().message.find("outside the model") != std::string::npos);
    fs::remove(temp / (revision + "evil.txt"));
    fs::rename(temp / (model + "blobs"), temp / (model + "bl0bs"));  // not a cache any more: no way up
    CHECK_FALSE(checkpoint::open(temp / revision));
}
