// The registry: names and messages byte for byte, records that are put right, and work that is not done twice.
#include <bitmill/model/registry.hpp>

#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bitmill/mill/manifest.hpp>
#include <bitmill/mill/variants.hpp>
#include <bitmill/model/model_loader.hpp>

#include <level_models.hpp>
#include <registries.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::model_registry;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

using names = std::vector<std::string>;

constexpr const char* fresh_metadata = R"text({
  "model_name": "roberta-base",
  "model_type": "roberta",
  "version": "hf_20240305_060708",
  "created_at": "2024-03-05T06:07:08.009010+00:00",
  "is_quantized": false,
  "source": "HuggingFace (downloaded)",
  "dimensions": 768
}
)text";

names names_in(const bitmill::model_list& list) {
    names out;
    for (const auto& one : list.models) out.push_back(one.metadata.model_name);
    return out;
}

// In place: the size stays, and so does the inode.
void flip_byte(const std::string& path, std::uint64_t at) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    char byte = 0;
    REQUIRE(::pread(fd, &byte, 1, static_cast<off_t>(at)) == 1);
    byte = static_cast<char>(byte ^ 1);
    REQUIRE(::pwrite(fd, &byte, 1, static_cast<off_t>(at)) == 1);
    ::close(fd);
}

}  // namespace

TEST_CASE("registry: quantize says what was agreed, byte for byte") {
    registry_folder f;
    f.add();
    auto registry = f.open();
    const auto first = registry.quantize("roberta");
    CHECK(first.message == "Successfully quantized roberta-base model");
    CHECK(first.did_work);
    CHECK(first.level == "int8");
    CHECK(first.job_id.size() == 16);
    REQUIRE(first.report);
    CHECK(first.report->format == "bitmill");
    const auto said = json::parse(first.json());
    CHECK(said.at("status") == "success");
    CHECK(said.at("message") == "Successfully quantized roberta-base model");
    CHECK(said.at("model_name") == "roberta-base");
    CHECK(said.at("is_quantized") == true);
    CHECK(said.at("already_quantized") == false);
    CHECK(said.at("quantization").at("level") == "int8");
    CHECK(said.at("quantization").at("bytes") == first.report->bytes);
    CHECK(said.at("quantization").at("snr_db").get<double>() > 30);

    const auto again = registry.quantize("roberta-base");  // by its name
    CHECK(again.message == "Model roberta-base is already quantized");
    CHECK(again.status == "success");
    CHECK(again.is_quantized);
    CHECK(again.already_quantized);
    CHECK_FALSE(again.did_work);
    CHECK(again.job_id == first.job_id);
    CHECK(json::parse(again.json()).at("already_quantized") == true);

    // A type whose model is not there, a type and a name that nobody knows.
    for (const auto& [asked, name] :
         std::vector<std::pair<std::string, std::string>>{{"distilbert", "distilbert-base-uncased"},
                                                          {"xlm-roberta", "xlm-roberta-base"},
                                                          {"gpt2", "gpt2"},
                                                          {"Roberta", "Roberta"}}) {
        const auto none = registry.quantize(asked);
        CHECK(none.message == "Model " + name + " not found or not supported for quantization");
        CHECK(none.status == "error");
        CHECK_FALSE(none.found);
        CHECK_FALSE(none.is_quantized);
        CHECK(json::parse(none.json()) ==
              json{{"status", "error"}, {"message", none.message}, {"model_name", name}});
    }
}

TEST_CASE("registry: the variant is what the mill makes, with two levels and the embeddings coded") {
    // EXACT
    registry_folder f;
    const std::string path = f.add();
    auto registry = f.open();
    const auto done = registry.quantize("roberta");
    REQUIRE(done.did_work);
    check_variant(path, "int8");
    CHECK(bitmill::verify(path, path + "/int8"));
    bool coded = false;
    for (const auto& row : done.report->tensors)
        coded = coded ||
                (row.name.find("word_embeddings") != std::string::npos && row.effective.starts_with("int8"));
    CHECK(coded);
    CHECK(registry.find("roberta").value().levels == names{"original", "int8", "int4"});
    // The loader finds both, too.
    put_encoder(f.in("small"), small_shape());
    put_file(f.in("small") + "/tokenizer.json", letter_tokenizer());
    REQUIRE(registry.quantize("small").did_work);
    auto loader = bitmill::model_loader::open(registry.path_of("small").value()).value();
    CHECK(loader.levels() == names{"original", "fp16", "int8", "int4"});
    CHECK(loader.use_level("int8").value().decision.effective == "int8");
    const auto record = loader.use_level("int4").value();
    CHECK(record.decision.effective == "int4");
    CHECK(record.planes);
    CHECK(vectors_of(loader) == alone(f.in("small") + "/int8", "int4"));
}

TEST_CASE("registry: each level lies in a folder of its own, and what is no level is refused") {
    registry_folder f;
    const std::string path = f.add();
    auto registry = f.open();
    for (const auto& [type, level] :
         {std::pair(scheme_type::nf4, "int4"), std::pair(scheme_type::bf16, "fp16"),
          std::pair(scheme_type::int2, "int2")}) {
        bitmill::mill_options options;
        options.to = type;
        const auto done = registry.quantize("roberta", options);
        CHECK_MESSAGE(done.did_work, done.message);
        CHECK(done.level == level);
        check_variant(path, level, options);
    }
    CHECK(registry.find("roberta").value().levels == names{"original", "fp16", "int4", "int2"});
    for (const auto type : {scheme_type::f32, scheme_type::q8_0}) {
        bitmill::mill_options options;
        options.to = type;
        CHECK(registry.quantize("roberta", options).message.starts_with("Error during quantization: "));
    }
    auto planned = model_registry::default_options();
    planned.dry_run = true;
    CHECK(registry.quantize("roberta", planned).code == error_code::invalid_argument);
    CHECK(entries_of(path) == names{"config.json", "fp16", "int2", "int4", "metadata.json",
                                    "model.safetensors", "tokenizer.json"});
}

TEST_CASE("registry: metadata.json is made where it is absent, by the clock that was given") {
    // EXACT
    registry_folder f;
    const std::string path = f.add();
    auto registry = f.open();
    CHECK_FALSE(fs::exists(path + "/metadata.json"));
    const auto found = registry.find("roberta").value();
    CHECK(get_file(path + "/metadata.json") == fresh_metadata);
    CHECK(found.metadata.model_name == "roberta-base");
    CHECK(found.metadata.model_type == "roberta");
    CHECK(found.metadata.version == "hf_20240305_060708");
    CHECK(found.metadata.created_at == "2024-03-05T06:07:08.009010+00:00");
    CHECK(found.metadata.source == "HuggingFace (downloaded)");
    CHECK(found.metadata.dimensions == 768u);
    CHECK_FALSE(found.metadata.is_quantized);
    const auto stays = inode_of(path + "/metadata.json");
    REQUIRE(registry.list());
    CHECK(inode_of(path + "/metadata.json") == stays);  // nothing was wrong in it
    REQUIRE(registry.quantize("roberta").did_work);
    auto expected = json::parse(fresh_metadata);
    expected["is_quantized"] = true;
    CHECK(json::parse(get_file(path + "/metadata.json")) == expected);
    CHECK(registry.warnings().empty());
    CHECK(entries_of(path) ==
          names{"config.json", "int8", "metadata.json", "model.safetensors", "tokenizer.json"});
}

TEST_CASE("registry: metadata.json is a cache, and what is wrong in it is put right") {
    registry_folder f;
    const std::string path = f.add(), file = path + "/metadata.json";
    const auto in_old = [](const char* key, json value) {
        auto record = json::parse(fresh_metadata);
        record["version"] = "hf_20200101_000000";
        record["created_at"] = "2020-01-01T00:00:00.000001";
        record[key] = std::move(value);
        return record.dump();
    };
    auto kept = json::parse(in_old("source", "a mirror"));
    struct row {
        std::string text;
        bool warns;
        json expected;
    };
    const auto fresh = json::parse(fresh_metadata);
    auto extra = kept;
    extra["source"] = "HuggingFace (downloaded)";
    const auto old = extra;
    extra["tags"] = {"a", "b"};
    auto new_time = old;
    new_time["created_at"] = fresh["created_at"];
    const row rows[] = {{in_old("source", "a mirror"), false, kept},
                        {in_old("is_quantized", true), false, old},  // no manifest says so
                        {in_old("is_quantized", "no"), false, old},
                        {in_old("dimensions", 5), false, old},
                        {in_old("model_name", "other"), false, old},
                        {in_old("model_type", nullptr), false, old},
                        {in_old("tags", {"a", "b"}), false, extra},
                        {in_old("created_at", "yesterday"), true, new_time},
                        {in_old("created_at", 5), true, new_time},
                        {"{\"version\": \"hf_20200101_000000\"}", true, {}},
                        {"", true, fresh},
                        {std::string(300, '\0'), true, fresh},
                        {std::string(fresh_metadata).substr(0, 100), true, fresh}};
    for (const auto& one : rows) {
        CAPTURE(one.text);
        put_file(file, one.text);
        f.logged.clear();
        auto registry = f.open();
        const auto found = registry.find("roberta").value();
        CHECK_FALSE(found.metadata.is_quantized);
        CHECK(registry.warnings().empty() != one.warns);
        CHECK(f.logged == registry.warnings());
        const auto now = json::parse(get_file(file));
        if (!one.expected.is_null()) CHECK(now == one.expected);
        CHECK(now.at("model_name") == "roberta-base");
        for (const auto& line : registry.warnings()) CHECK(line.find(f.root) == std::string::npos);
        REQUIRE(registry.find("roberta"));
        CHECK(json::parse(get_file(file)) == now);
    }
    // A manifest counts, whatever the record says.
    auto registry = f.open();
    REQUIRE(registry.quantize("roberta").did_work);
    put_file(file, in_old("is_quantized", false));
    CHECK(registry.find("roberta").value().metadata.is_quantized);
    CHECK(json::parse(get_file(file)).at("is_quantized") == true);
    CHECK(registry.quantize("roberta").already_quantized);
    // One that was damaged counts for nothing.
    flip_byte(path + "/int8/manifest.json", 100);
    CHECK_FALSE(registry.find("roberta").value().metadata.is_quantized);
    CHECK(json::parse(get_file(file)).at("is_quantized") == false);
    REQUIRE(registry.warnings().size() == 1);
    CHECK(registry.warnings()[0].starts_with("roberta-base: int8/manifest.json: was changed"));
    CHECK(registry.quantize("roberta").did_work);
    check_variant(path, "int8");
}

TEST_CASE("registry: another program's metadata.json stays, and so does a link out of the model") {
    registry_folder f;
    const std::string path = f.add(), file = path + "/metadata.json";
    put_file(f.place / "secret", fresh_metadata);
    for (const char* text : {"{\"mine\": 1}", "[1]", "5", "{\"version\": \"1.0\", \"is_quantized\": 1}",
                             "{\"a\": {\"b\": {\"c\": {\"d\": {\"e\": 1}}}}}"}) {
        CAPTURE(text);
        put_file(file, text);
        auto registry = f.open();
        REQUIRE(registry.list());
        CHECK(registry.find("roberta").value().metadata.dimensions == 768u);
        CHECK(get_file(file) == text);
        CHECK(registry.warnings().size() == 1);
    }
    fs::remove(file);
    fs::create_symlink(f.place / "secret", file);
    auto registry = f.open();
    REQUIRE(registry.quantize("roberta").did_work);
    CHECK(fs::is_symlink(file));
    CHECK(get_file(f.place / "secret") == fresh_metadata);
    CHECK(registry.warnings().size() == 1);
}

TEST_CASE("registry: a name is looked up, and never a path") {
    registry_folder f;
    f.add();
    put_model(f.place / "outside", bert_tensors(), roberta_config);
    put_model(f.root + "/.hidden", bert_tensors(), roberta_config);
    put_model(f.root + "/deep/inner", bert_tensors(), roberta_config);
    put_model(f.root + "/new\nline", bert_tensors(), roberta_config);
    put_model(f.root + "/m.bitmill-partial", bert_tensors(), roberta_config);
    put_file(f.root + "/file", "no folder");
    fs::create_directory(f.root + "/empty");
    fs::create_directory_symlink(f.place / "outside", f.root + "/out");
    fs::create_directory_symlink("../outside", f.root + "/out2");
    fs::create_directory_symlink("..", f.root + "/up");
    fs::create_directory_symlink(".", f.root + "/self");
    fs::create_directory_symlink("nowhere", f.root + "/dangling");
    fs::create_directory_symlink("roberta-base", f.root + "/alias");  // this one may be
    auto registry = f.open();
    const auto before = read_folder(f.place.path());
    for (const auto& name : {std::string("../outside"),
                             std::string(".."),
                             std::string("."),
                             std::string(""),
                             std::string("/"),
                             f.place / "outside",
                             f.in("roberta-base"),
                             std::string("roberta-base/"),
                             std::string("./roberta-base"),
                             std::string("roberta-base\0", 13),
                             std::string("roberta-base\n"),
                             std::string("deep/inner"),
                             std::string(".hidden"),
                             std::string("m.bitmill-partial"),
                             std::string("new\nline"),
                             std::string("file"),
                             std::string("empty"),
                             std::string("out"),
                             std::string("out2"),
                             std::string("up"),
                             std::string("self"),
                             std::string("dangling"),
                             std::string("\xff"),
                             std::string(256, 'x'),
                             std::string(1'000'000, '.'),
                             std::string("xx") + std::string(300, '\xc3')}) {
        CAPTURE(name);
        const auto outcome = registry.quantize(name);
        CHECK_FALSE(outcome.found);
        CHECK(outcome.message ==
              "Model " + outcome.model_name + " not found or not supported for quantization");
        CHECK(outcome.message.size() < 300);
        CHECK(bitmill::is_utf8(outcome.message));
        CHECK(registry.path_of(name).error().code == error_code::invalid_argument);
        CHECK(registry.find(name).error().code == error_code::invalid_argument);
        if (!name.starts_with('/'))
            CHECK(registry.path_of(name).error().text().find(f.root) == std::string::npos);
    }
    CHECK(read_folder(f.place.path()) == before);
    CHECK(names_in(registry.list().value()) == names{"alias", "roberta-base"});
    CHECK(registry.warnings().size() == 5);  // the links that were passed over
    CHECK(registry.path_of("alias").value() == f.in("roberta-base"));
    const auto stays = inode_of(f.in("roberta-base") + "/metadata.json");
    REQUIRE(registry.list());
    CHECK(inode_of(f.in("roberta-base") + "/metadata.json") == stays);
    REQUIRE(registry.quantize("alias").did_work);
    CHECK(registry.quantize("roberta-base").already_quantized);
}

TEST_CASE("registry: types lead to models, also to some that come later") {
    registry_folder f;
    auto registry = f.open();
    CHECK(registry.quantize("embeddings").message ==
          "Model embeddings not found or not supported for quantization");
    REQUIRE(registry.register_model("embeddings", "e5"));
    REQUIRE(registry.register_model("roberta", "e5"));
    CHECK(registry.quantize("roberta").message == "Model e5 not found or not supported for quantization");
    f.add("e5");
    CHECK(registry.quantize("embeddings").message == "Successfully quantized e5 model");
    CHECK(registry.quantize("roberta").message == "Model e5 is already quantized");
    CHECK(registry.find("e5").value().types == names{"embeddings", "roberta"});
    for (const char* bad : {"", "a/b", "..", ".x", "a\tb"}) {
        CHECK(registry.register_model(bad, "e5").error().code == error_code::invalid_argument);
        CHECK(registry.register_model("t", bad).error().code == error_code::invalid_argument);
    }
    CHECK(model_registry::open(f.root + "/none").error().code == error_code::io);
    put_file(f.place / "file", "");
    CHECK(model_registry::open(f.place / "file").error().code == error_code::io);
}

TEST_CASE("registry: list tells of every model, and one that is damaged hides no other") {
    registry_folder f;
    f.add("a");
    f.add("b");
    put_file(f.in("b") + "/model.safetensors", "short");
    f.add("c");
    put_file(f.in("c") + "/config.json", "{");
    f.add("d", "{}");
    auto registry = f.open();
    REQUIRE(registry.register_model("slot", "a"));
    REQUIRE(registry.set_active("slot", true));
    const auto list = registry.list().value();
    CHECK(names_in(list) == names{"a", "b", "c", "d"});
    CHECK(list.models[0].levels == names{"original"});
    CHECK(list.models[0].active);
    CHECK(list.models[0].problem.empty());
    CHECK(list.models[1].problem.starts_with("model.safetensors: "));
    CHECK(list.models[2].problem.starts_with("config.json: "));
    CHECK_FALSE(fs::exists(f.in("c") + "/metadata.json"));
    CHECK_FALSE(list.models[3].metadata.dimensions);
    const auto said = json::parse(list.json(-1)).at("models");
    REQUIRE(said.size() == 4);
    CHECK(said[0] == json{{"model_name", "a"},
                          {"model_type", "roberta"},
                          {"version", "hf_20240305_060708"},
                          {"created_at", "2024-03-05T06:07:08.009010+00:00"},
                          {"is_quantized", false},
                          {"source", "HuggingFace (downloaded)"},
                          {"dimensions", 768},
                          {"types", {"slot"}},
                          {"levels", {"original"}},
                          {"active", true},
                          {"problem", nullptr}});
    CHECK(said[3].at("dimensions").is_null());
    CHECK(list.json().find(f.root) == std::string::npos);
    const auto failed = registry.quantize("b");
    CHECK(failed.found);
    CHECK(failed.message.starts_with("Error during quantization: model.safetensors: "));
}

TEST_CASE("registry: what is active, as clients ask for it") {
    registry_folder f;
    f.add("roberta-base");
    f.add("xlm-roberta-base");
    auto registry = f.open();
    CHECK(registry.active().json(-1) == "{}");
    REQUIRE(registry.quantize("roberta").did_work);
    REQUIRE(registry.set_active("roberta", true));
    REQUIRE(registry.set_active("xlm-roberta", true));
    CHECK(registry.active().json(-1) ==
          R"({"roberta":{"status":"active","metadata":{"model_name":"roberta-base","is_quantized":true},)"
          R"("quantization":{"level":"int8"}},"xlm-roberta":{"status":"active","metadata":)"
          R"({"model_name":"xlm-roberta-base","is_quantized":false},"quantization":{"level":"original"}}})");
    REQUIRE(registry.set_active("roberta", true, "int4"));
    CHECK(registry.active().models.at("roberta").level == "int4");
    REQUIRE(registry.set_active("xlm-roberta", false));
    CHECK(registry.active().models.size() == 1);
    CHECK(registry.set_active("none", true).error().code == error_code::invalid_argument);
    CHECK(registry.set_active("roberta", true, "int7").error().code == error_code::invalid_argument);
    REQUIRE(registry.set_active("distilbert", true));  // its model is not there
    CHECK_FALSE(registry.active().models.at("distilbert").is_quantized);
}

TEST_CASE("registry: what is there is not milled again, by any registry; what changed is") {
    registry_folder f;
    const std::string path = f.add(), weights = path + "/model.safetensors",
                      variant = path + "/int8/model.safetensors";
    auto registry = f.open();
    const auto first = registry.quantize("roberta");
    REQUIRE(first.did_work);
    const auto stays = inode_of(variant);
    for (int i = 0; i < 3; ++i) CHECK(registry.quantize("roberta").already_quantized);
    auto other = f.open();
    const auto seen = other.quantize("roberta");
    CHECK(seen.already_quantized);
    CHECK(seen.job_id == first.job_id);
    CHECK(inode_of(variant) == stays);
    const auto end = fs::file_size(weights) - 100;
    const auto milled_again = [&](const char* what) {
        CAPTURE(what);
        const auto done = registry.quantize("roberta");
        CHECK_MESSAGE(done.did_work, done.message);
        CHECK(done.message == "Successfully quantized roberta-base model");
        check_variant(path, "int8");
        CHECK(registry.quantize("roberta").already_quantized);
        CHECK(entries_of(path) ==
              names{"config.json", "int8", "metadata.json", "model.safetensors", "tokenizer.json"});
    };
    flip_byte(weights, end);
    milled_again("the source, of the same size");
    put_file(path + "/config.json", std::string(roberta_config) + " ");
    milled_again("its configuration");
    put_file(path + "/tokenizer.json", "{\"version\": \"2.0\"}");
    milled_again("a file beside it");
    flip_byte(variant, fs::file_size(variant) - 7);
    milled_again("the variant");
    fs::remove(path + "/int8/model.int8.safetensors");
    milled_again("a plane is gone");
    fs::remove_all(path + "/int8");
    milled_again("the variant is gone");
    // Another request for the same level takes its place.
    bitmill::mill_options packed;
    const auto replaced = registry.quantize("roberta", packed);
    CHECK(replaced.did_work);
    CHECK(replaced.job_id != first.job_id);
    check_variant(path, "int8", packed);
    CHECK(registry.quantize("roberta", packed).already_quantized);
    milled_again("the request");
    auto force = model_registry::default_options();
    force.force = true;
    CHECK(registry.quantize("roberta", force).did_work);
    // What the command wrote counts as well.
    fs::remove_all(path + "/int8");
    fs::remove(path + "/metadata.json");
    REQUIRE(bitmill::quantize_both(path, "", model_registry::default_options()));
    CHECK(registry.quantize("roberta").already_quantized);
}

TEST_CASE("registry: a folder that is quantized itself is already") {
    registry_folder f;
    f.add("plain");
    (void)bitmill::quantize(f.in("plain"), f.in("roberta-base"), model_registry::default_options()).value();
    auto registry = f.open();
    const auto before = entries_of(f.in("roberta-base"));
    const auto outcome = registry.quantize("roberta");
    CHECK(outcome.message == "Model roberta-base is already quantized");
    CHECK(outcome.json().find("\"level\": \"int8\"") != std::string::npos);
    CHECK(entries_of(f.in("roberta-base")) == before);
    CHECK(registry.find("roberta").value().metadata.is_quantized);
}

TEST_CASE("registry: what bitmill did not write is not replaced, but by force; a link never is") {
    registry_folder f;
    const std::string path = f.add();
    put_model(path + "/int8", bert_tensors());
    put_model(f.place / "outside", bert_tensors());
    auto registry = f.open();
    const auto before = read_folder(path);
    auto outcome = registry.quantize("roberta");
    CHECK(outcome.message ==
          "Error during quantization: int8: holds no manifest.json, so bitmill did not write it; move it "
          "away or "
          "replace it with force");
    CHECK(outcome.found);
    CHECK(outcome.code == error_code::invalid_argument);
    CHECK(read_folder(path) == before);
    auto force = model_registry::default_options();
    force.force = true;
    CHECK(registry.quantize("roberta", force).did_work);
    check_variant(path, "int8");
    fs::remove_all(path + "/int8");
    for (const auto& options : {model_registry::default_options(), force}) {
        fs::create_directory_symlink(f.place / "outside", path + "/int8");
        outcome = registry.quantize("roberta", options);
        CHECK(
            outcome.message.starts_with("Error during quantization: int8: leads outside the model's folder"));
        CHECK(fs::is_symlink(path + "/int8"));
        CHECK(entries_of(f.place / "outside") == names{"config.json", "model.safetensors", "tokenizer.json"});
        // Nor does it count as a level.
        CHECK(registry.find("roberta").value().levels == names{"original"});
        CHECK_FALSE(registry.warnings().empty());
        fs::remove(path + "/int8");
    }
}

TEST_CASE("registry: an error names files relative to the model") {
    registry_folder f;
    auto tensors = bert_tensors();
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(tensors[1].bytes.data() + 40, &nan, sizeof nan);
    put_model(f.in("roberta-base"), tensors, roberta_config);
    auto registry = f.open();
    const auto before = read_folder(f.in("roberta-base"));
    for (int i = 0; i < 2; ++i) {  // and it is tried again
        const auto outcome = registry.quantize("roberta");
        CHECK(
            outcome.message.starts_with("Error during quantization: model.safetensors: tensor "
                                        "'encoder.layer.0.attention.self.query.weight'"));
        CHECK(outcome.message.find(f.place.path()) == std::string::npos);
        CHECK(outcome.code == error_code::bad_input);
        CHECK(json::parse(outcome.json()) ==
              json{{"status", "error"}, {"message", outcome.message}, {"model_name", "roberta-base"}});
        CHECK(read_folder(f.in("roberta-base")) == before);
    }
    auto wrong = model_registry::default_options();
    wrong.include = {"("};
    CHECK(registry.quantize("roberta", wrong).message.starts_with("Error during quantization: "));
}
