// The manifest, validate and verify: what was written is proven, and one changed byte is refused.
#include <bitmill/mill/manifest.hpp>

#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <bitmill/core/sha256.hpp>
#include <bitmill/mill/mill.hpp>

#include <models.hpp>
#include <random.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::error_code;
using bitmill::mill_options;
using bitmill::scheme_type;

namespace {

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::vector<mill_options> requests() {
    std::vector<mill_options> out(11);
    out[0].to = scheme_type::int4;
    out[1].to = scheme_type::int8;
    out[1].granularity = bitmill::granularity::per_tensor;
    out[1].dynamic_range = false;
    out[1].weight_threshold = 0.001f;
    out[2].to = scheme_type::int8;
    out[2].activation = bitmill::activation::dynamic_int8;
    out[2].exclude = {"pooler", "layer\\.0\\.output"};
    out[3].to = scheme_type::nf4;
    out[3].double_quant = true;
    out[3].block_size = 128;
    out[4].to = scheme_type::f16;
    out[5].to = scheme_type::f32;
    out[5].keep_non_finite = true;
    out[6].to = scheme_type::int4;
    out[6].granularity = bitmill::granularity::group;
    out[6].group_size = 32;
    out[6].method = bitmill::method::absmax;
    out[6].override = {"key=int8:per_channel"};
    out[7].to = scheme_type::int8;
    out[7].format = bitmill::format::bitmill;
    out[8].to = scheme_type::int2;
    out[9].to = scheme_type::nf4;
    out[9].double_quant = true;
    out[9].target_sparsity = 0.3;
    out[10].to = scheme_type::f32;
    out[10].prune_relative = 0.1;
    return out;
}

// A folder of one request, made of a sharded model or of a single file.
struct milled_folder {
    temp_folder temp;
    std::string source = temp / "model";
    std::string out = temp / "out";

    explicit milled_folder(const mill_options& options = {}, bool sharded = false) {
        sharded ? put_sharded_model(source, bert_tensors()) : put_model(source, bert_tensors());
        (void)bitmill::quantize(source, out, options).value();
    }
    [[nodiscard]] std::string manifest() const { return get_file(out + "/manifest.json"); }
};

// Writes over a byte, so that everything else of the file stays.
void flip(const std::string& path, std::uint64_t offset, unsigned char mask) {
    std::string bytes = get_file(path);
    bytes[static_cast<std::size_t>(offset)] ^= static_cast<char>(mask);
    put_file(path, bytes);
}

}  // namespace

TEST_CASE("manifest: every request validates and verifies, whatever the threads and the memory") {
    for (const bool sharded : {false, true})
        for (const auto& options : requests()) {
            CAPTURE(sharded);
            CAPTURE(bitmill::facts(options.to).name);
            const milled_folder made(options, sharded);
            bitmill::work_options work;
            work.threads = 3;
            work.memory_limit = 8 << 20;
            const auto valid = bitmill::validate(made.out, work);
            REQUIRE_MESSAGE(valid, valid.error().text());
            const auto verified = bitmill::verify(made.source, made.out, work);
            REQUIRE_MESSAGE(verified, verified.error().text());
            CHECK(verified->files == read_folder(made.out).size() - 1);
            CHECK(verified->tensors == bert_tensors().size());
            CHECK(verified->manifest_sha256 == valid->manifest_sha256);
            CHECK(entries_of(made.temp.path()) == std::vector<std::string>{"model", "out"});
        }
}

TEST_CASE("manifest: its hashes are those of the bytes, recomputed here") {
    const milled_folder made;
    const std::string text = made.manifest();
    const std::string config = get_file(made.out + "/config.json");
    CHECK(holds(text, "\"sha256\":\"" + bitmill::hex_text(bitmill::sha256::of(config)) + "\""));
    const auto tensors = read_tensors(made.out);
    std::size_t parts = 0;
    std::size_t pieces = 0;
    const auto json = nlohmann::json::parse(text);
    for (const auto& tensor : json.at("tensors"))
        for (const auto& part : tensor.at("parts")) {
            CAPTURE(part.dump());
            const std::string& bytes = tensors.at(part.at("name").get<std::string>()).bytes;
            const auto piece = part.at("piece").get<std::size_t>();
            bitmill::sha256 sum;
            for (std::size_t at = 0; at < bytes.size(); at += piece, ++pieces) {
                const auto one = bitmill::sha256::of(std::string_view(bytes).substr(at, piece));
                sum.update(std::as_bytes(std::span(one)));
            }
            CHECK(part.at("sha256") == bitmill::hex_text(sum.finish()));
            ++parts;
        }
    CHECK(parts == tensors.size());
    CHECK(pieces > parts);
    const std::size_t tail = text.find(",\n \"manifest_sha256\"");
    REQUIRE(tail != std::string::npos);
    CHECK(holds(text, bitmill::hex_text(bitmill::sha256::of(text.substr(0, tail)))));
}

TEST_CASE("manifest: 1000 flipped bits in any listed file are refused") {
    mill_options planes;
    planes.format = bitmill::format::bitmill;
    const milled_folder made(planes, true);
    const auto files = read_folder(made.out);
    CHECK(files.contains("model-00001-of-00002.int8.safetensors"));
    test::random rng(7);
    std::vector<std::string> names;
    for (const auto& [name, bytes] : files) names.push_back(name);
    for (int i = 0; i < 1000; ++i) {
        const std::string& name = names[rng.below(static_cast<std::uint32_t>(names.size()))];
        const std::string& bytes = files.at(name);
        // Half of them in the first 2000 bytes: headers.
        const auto limit =
            static_cast<std::uint32_t>(i % 2 == 0 ? bytes.size() : std::min<std::size_t>(bytes.size(), 2000));
        const std::uint32_t at = rng.below(limit);
        const auto mask = static_cast<unsigned char>(1u << rng.below(8));
        flip(made.out + "/" + name, at, mask);
        const auto valid = bitmill::validate(made.out);
        CAPTURE(name);
        CAPTURE(at);
        REQUIRE(!valid);
        CHECK(valid.error().code == error_code::refused);
        CHECK(!valid.error().file.empty());
        put_file(made.out + "/" + name, bytes);
    }
    CHECK(bitmill::validate(made.out));
}

TEST_CASE("manifest: a lost, longer or shorter file is refused, one beside it is not looked at") {
    const milled_folder made;
    const auto files = read_folder(made.out);
    for (const auto& [name, bytes] : files) {
        CAPTURE(name);
        const std::string path = made.out + "/" + name;
        for (const std::string& changed : {bytes + "x", bytes.substr(0, bytes.size() - 1), std::string()}) {
            put_file(path, changed);
            CHECK(!bitmill::validate(made.out));
        }
        std::filesystem::remove(path);
        CHECK(!bitmill::validate(made.out));
        put_file(path, bytes);
    }
    put_file(made.out + "/notes.txt", "mine");
    CHECK(bitmill::validate(made.out));
}

TEST_CASE("manifest: another source, even one that gives the same codes, is refused and named") {
    const milled_folder made;
    const std::string path = made.source + "/model.safetensors";
    const std::string bytes = get_file(path);
    // The lowest bit of the last weight of the last tensor: far below half a step.
    flip(path, bytes.size() - 8, 1);
    const auto verified = bitmill::verify(made.source, made.out);
    REQUIRE(!verified);
    CHECK(verified.error().code == error_code::refused);
    CHECK(!verified.error().tensor.empty());
    put_file(path, bytes);
    CHECK(bitmill::verify(made.source, made.out));

    put_file(made.source + "/tokenizer.json", "{\"version\": \"1.1\"}");
    CHECK(!bitmill::verify(made.source, made.out));
    put_file(made.source + "/tokenizer.json", "{\"version\": \"1.0\"}");
    CHECK(bitmill::verify(made.source, made.out));
    CHECK(!bitmill::verify(made.temp / "nowhere", made.out));
}

TEST_CASE("manifest: a forged manifest with a right hash of its own does not verify") {
    const milled_folder made;
    std::string text = made.manifest();
    const std::size_t at = text.find("\"group_size\":0");
    REQUIRE(at != std::string::npos);
    const auto forge = [&](std::string body) {
        body.resize(body.find(",\n \"manifest_sha256\""));
        put_file(made.out + "/manifest.json", body + ",\n \"manifest_sha256\": \"" +
                                                  bitmill::hex_text(bitmill::sha256::of(body)) + "\"}\n");
    };
    std::string other = text;
    other.replace(other.find("\"tensors\": ["), 12, "\"tensors\": [ ");
    forge(other);
    CHECK(bitmill::validate(made.out));  // its hashes are right
    CHECK(!bitmill::verify(made.source, made.out));

    for (const std::string& body :
         {std::string("{}"), std::string("{\"bitmill_manifest\": 2,\"version\":\"9.9.9\""),
          std::string("{\"bitmill_manifest\": 1"), std::string("[]"), std::string("not JSON")}) {
        CAPTURE(body);
        forge(body + ",\n \"manifest_sha256\"");
        const auto valid = bitmill::validate(made.out);
        REQUIRE(!valid);
        CHECK(!bitmill::verify(made.source, made.out));
        if (holds(body, "9.9.9")) CHECK(holds(valid.error().text(), "9.9.9"));
    }
    std::filesystem::remove(made.out + "/manifest.json");
    CHECK(!bitmill::validate(made.out));
    put_file(made.out + "/manifest.json", text);
    CHECK(bitmill::validate(made.out));
}

TEST_CASE("manifest: a name that leads out of the folder is refused") {
    const milled_folder made;
    std::string body = made.manifest();
    body.resize(body.find(",\n \"manifest_sha256\""));
    const std::string entry = "\"name\":\"config.json\"";
    body.replace(body.rfind(entry), entry.size(), "\"name\":\"../model/config.json\"");
    put_file(made.out + "/manifest.json",
             body + ",\n \"manifest_sha256\": \"" + bitmill::hex_text(bitmill::sha256::of(body)) + "\"}\n");
    const auto valid = bitmill::validate(made.out);
    REQUIRE(!valid);
    CHECK(holds(valid.error().text(), ".."));
}

TEST_CASE("manifest: validate and verify can be cancelled, and say what memory they lack") {
    const milled_folder made;
    bitmill::work_options work;
    work.on_progress = [](const bitmill::progress&) { return false; };
    CHECK(bitmill::validate(made.out, work).error().code == error_code::cancelled);
    CHECK(bitmill::verify(made.source, made.out, work).error().code == error_code::cancelled);
    work.on_progress = nullptr;
    work.memory_limit = 1000;
    CHECK(bitmill::validate(made.out, work).error().code == error_code::out_of_memory);
}

TEST_CASE("manifest: weights put beside the listed ones, which a reader would load, are refused") {
    const milled_folder made({}, true);
    put_file(made.out + "/model.safetensors",
             safetensors_of({make_tensor("evil.weight", dtype::f32, {2, 2}, 1)}));
    CHECK(bitmill::validate(made.out).error().code == error_code::refused);
    CHECK(bitmill::verify(made.source, made.out).error().code == error_code::refused);
}

TEST_CASE("manifest: pieces of a byte are refused before they cost memory") {
    const milled_folder made;
    std::string body = made.manifest();
    body.resize(body.find(",\n \"manifest_sha256\""));
    const std::string key = "\"piece\":";
    for (std::size_t at = body.find(key); at != std::string::npos; at = body.find(key, at + 1)) {
        const std::size_t begin = at + key.size();
        body.replace(begin, body.find(',', begin) - begin, "1");
    }
    put_file(made.out + "/manifest.json",
             body + ",\n \"manifest_sha256\": \"" + bitmill::hex_text(bitmill::sha256::of(body)) + "\"}\n");
    const auto valid = bitmill::validate(made.out);
    REQUIRE(!valid);
    CHECK(holds(valid.error().message, "pieces"));
}

TEST_CASE(
    "manifest: a side file whose name is not UTF-8 comes along, with a warning, and nothing else suffers") {
    const temp_folder temp;
    put_model(temp / "model", bert_tensors());
    put_file(temp / "model/vocab\xff.txt", "words");
    const auto report = bitmill::quantize(temp / "model", temp / "out", {}).value();
    REQUIRE(report.warnings.size() == 1);
    CHECK(holds(report.warnings[0], "UTF-8"));
    CHECK(get_file(temp / "out/vocab\xff.txt") == "words");
    CHECK(bitmill::validate(temp / "out"));
    CHECK(bitmill::verify(temp / "model", temp / "out"));
}

TEST_CASE("manifest: what is milled already is not milled twice, and what differs in a byte is not that") {
    const milled_folder made;
    bitmill::mill_options options;
    options.to = scheme_type::int8;
    const auto again = [&] { return bitmill::quantize(made.source, made.out, options); };
    const auto stamp = [&] {
        return bitmill::input_file::open(made.out + "/manifest.json").value().stamp().value().inode;
    };
    const auto first = stamp();
    const auto report = again();
    REQUIRE(report);
    CHECK(report->already_milled);
    CHECK(report->bytes == std::filesystem::file_size(made.out + "/model.safetensors"));
    CHECK(stamp() == first);
    options.force = true;
    REQUIRE(again());
    CHECK_FALSE(again()->already_milled);
    CHECK(stamp() != first);
    options.force = false;
    REQUIRE(again()->already_milled);
    // Another request, side file, config, weight; a file that was changed, and one that is gone.
    const auto exists_already = [&] {
        const auto got = again();
        return !got && got.error().code == error_code::invalid_argument &&
               holds(got.error().message, "exists");
    };
    options.weight_threshold = 0.5f;
    CHECK(exists_already());
    options.weight_threshold = 0;
    options.target_sparsity = 0.5;
    CHECK(exists_already());
    options.target_sparsity = 0;
    for (const std::string& path :
         {made.source + "/config.json", made.source + "/model.safetensors", made.source + "/tokenizer.json",
          made.out + "/config.json", made.out + "/model.safetensors", made.out + "/manifest.json"}) {
        CAPTURE(path);
        const std::string before = get_file(path);
        std::string text = before;
        text[text.size() - 2] =
            text[text.size() - 2] == ' ' ? '\n' : static_cast<char>(text[text.size() - 2] ^ 1);
        put_file(path, text);
        const auto got = again();
        REQUIRE(!got);
        put_file(path, before);
        CHECK(again()->already_milled);
    }
    put_file(made.source + "/vocab.txt", "a");
    CHECK(exists_already());
    std::filesystem::remove(made.source + "/vocab.txt");
    CHECK(again()->already_milled);
}

TEST_CASE("manifest: another index, and a manifest that lies, are not what would be written") {
    const milled_folder made({}, true);
    const auto milled = [&] {
        const auto report = bitmill::quantize(made.source, made.out, {});
        return report && report->already_milled;
    };
    REQUIRE(milled());
    const std::string index = made.source + "/model.safetensors.index.json";
    const std::string before = get_file(index);
    auto json = nlohmann::ordered_json::parse(before);
    json["metadata"]["note"] = "another";
    put_file(index, json.dump());
    CHECK_FALSE(milled());
    put_file(index, before);
    REQUIRE(milled());
    std::string body = made.manifest();
    body.resize(body.find(",\n \"manifest_sha256\""));
    const std::string algorithm = "\"algorithm\":\"int8-absmax/1\"";
    body.replace(body.find(algorithm), algorithm.size(), "\"algorithm\":\"int8-absmax/0\"");
    put_file(made.out + "/manifest.json",
             body + ",\n \"manifest_sha256\": \"" + bitmill::hex_text(bitmill::sha256::of(body)) + "\"}\n");
    CHECK(bitmill::validate(made.out));
    CHECK_FALSE(milled());
}

TEST_CASE("manifest: what a kill after the swap left goes when the folder is found whole") {
    const milled_folder made;
    put_file(made.out + "/.bitmill-partial", "");
    put_file(made.out + ".bitmill-partial/.bitmill-partial", "");
    put_file(made.out + ".bitmill-partial/model.safetensors", "half");
    const auto report = bitmill::quantize(made.source, made.out, {});
    REQUIRE_MESSAGE(report, report.error().text());
    CHECK(report->already_milled);
    CHECK_FALSE(std::filesystem::exists(made.out + "/.bitmill-partial"));
    CHECK(entries_of(made.temp.path()) == std::vector<std::string>{"model", "out"});
}

TEST_CASE("manifest: without all residual planes a folder is valid, of level int4, and with some it is not") {
    mill_options planes;
    planes.format = bitmill::format::bitmill;
    const milled_folder made(planes, true);
    const std::string first = made.out + "/model-00001-of-00002.int8.safetensors";
    const std::string second = made.out + "/model-00002-of-00002.int8.safetensors";
    REQUIRE(bitmill::validate(made.out).value().residuals_missing == 0);
    const std::string bytes = get_file(first);
    std::filesystem::remove(first);
    const auto some = bitmill::validate(made.out);
    REQUIRE(!some);
    CHECK(some.error().code == error_code::refused);
    CHECK(some.error().file == first);
    for (const auto level : {std::optional<scheme_type>(), std::optional(scheme_type::int8)}) {
        const auto mixed = bitmill::dequantize(made.out, made.temp / "back", std::nullopt, {}, level);
        REQUIRE(!mixed);
        CHECK(mixed.error().code == error_code::bad_input);
        CHECK(mixed.error().file == first);
    }
    CHECK(bitmill::dequantize(made.out, made.temp / "back", std::nullopt, {}, scheme_type::int4));
    std::filesystem::remove(second);
    const auto none = bitmill::validate(made.out);
    REQUIRE_MESSAGE(none, none.error().text());
    CHECK(none->residuals_missing == 2);
    CHECK(bitmill::verify(made.source, made.out).value().residuals_missing == 2);
    put_file(first, bytes);
    put_file(second, bytes);
    CHECK_FALSE(bitmill::validate(made.out));
}

TEST_CASE("manifest: two tensors, or two files, of one name are refused before anything is written") {
    const temp_folder temp;
    mill_options planes;
    planes.format = bitmill::format::bitmill;
    auto tensors = bert_tensors();
    const std::string taken = "encoder.layer.0.attention.self.query.weight_residual";
    tensors.push_back(make_tensor(taken, dtype::u8, {4}, 20));
    put_model(temp / "a", tensors);
    const auto twice = bitmill::quantize(temp / "a", temp / "out", planes);
    REQUIRE(!twice);
    CHECK(twice.error().code == error_code::bad_input);
    CHECK(twice.error().tensor == taken);
    CHECK(entries_of(temp.path()) == std::vector<std::string>{"a"});
}

TEST_CASE("manifest: hostile manifests with a right hash of their own cost little") {
    const milled_folder made;
    const std::string good = made.manifest();
    const auto validated = [&](std::string body) {
        put_file(made.out + "/manifest.json", body + ",\n \"manifest_sha256\": \"" +
                                                  bitmill::hex_text(bitmill::sha256::of(body)) + "\"}\n");
        return bitmill::validate(made.out);
    };
    std::string body = good.substr(0, good.find(",\n \"manifest_sha256\""));
    std::string zeros = ",\n \"q\": [0";
    for (int i = 0; i < 200000; ++i) zeros += ",0";
    CHECK(validated(body + zeros + "]").error().code == error_code::refused);
    const std::string entry = body.substr(body.rfind("{\"name\":\"config.json\""));
    const std::string one = entry.substr(0, entry.find('}') + 1);
    body.insert(body.rfind(one), one + ",");
    const auto twice = validated(body);
    REQUIRE(!twice);
    CHECK(holds(twice.error().text(), "twice"));
    for (const auto& [from, to] :
         std::vector<std::pair<std::string, std::string>>{{"\"bytes\":", "\"bytes\":\"x\",\"b\":"},
                                                          {"\"files\":", "\"f\":"},
                                                          {"\"hash\":\"plain\"", "\"hash\":5"}}) {
        std::string odd = good.substr(0, good.find(",\n \"manifest_sha256\""));
        odd.replace(odd.rfind(from), from.size(), to);
        const auto bad = validated(odd);
        if (!bad) CHECK(bad.error().text().find("json.exception") == std::string::npos);
        CHECK(!bad);
    }
}
