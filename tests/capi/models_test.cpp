// Paths, texts, lists and reports that are wrong, and what the caller is told.
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <bitmill/core/error.hpp>
#include <bitmill/mill/inspect.hpp>
#include <bitmill/mill/mill.hpp>

#include "host.hpp"

using namespace bitmill_test;

namespace {

bool says(const bitmill_error& error, const std::string& part) {
    return std::string(error.message).find(part) != std::string::npos;
}

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const std::size_t length = bitmill::detail::utf8_length(text);
        if (length == 0) return false;
        text.remove_prefix(length);
    }
    return true;
}

std::string json_of(const bitmill_report* report) {
    std::size_t bytes = 0;
    REQUIRE(bitmill_report_json(report, nullptr, 0, &bytes, nullptr) == BITMILL_OK);
    std::string text(bytes, 'x');
    REQUIRE(bitmill_report_json(report, text.data(), bytes, nullptr, nullptr) == BITMILL_OK);
    text.pop_back();
    return text;
}

}  // namespace

TEST_CASE("models: NULL for any pointer that is needed is refused, and fine for any that is not") {
    host h;
    const char* model = h.model_path.c_str();
    bitmill_error* e = &h.error;
    const auto refused = [&](bitmill_status status) {
        CHECK(status == BITMILL_INVALID_ARGUMENT);
        CHECK(says(h.error, " is NULL"));
    };
    bitmill_report* report = nullptr;
    refused(bitmill_mill(nullptr, "", &h.mill_options, &report, e));
    refused(bitmill_mill(model, nullptr, &h.mill_options, &report, e));
    refused(bitmill_mill(model, "", nullptr, &report, e));
    refused(bitmill_dequantize(nullptr, "", &h.dequantize_options, &report, e));
    refused(bitmill_dequantize(model, nullptr, nullptr, &report, e));
    refused(bitmill_inspect(nullptr, nullptr, &report, e));
    refused(bitmill_validate(nullptr, nullptr, &report, e));
    refused(bitmill_verify(nullptr, h.milled.c_str(), nullptr, &report, e));
    refused(bitmill_verify(model, nullptr, nullptr, &report, e));
    CHECK(bitmill_validate(h.milled.c_str(), nullptr, nullptr, nullptr) == BITMILL_OK);
    CHECK(bitmill_verify(model, h.milled.c_str(), nullptr, nullptr, nullptr) == BITMILL_OK);
    refused(bitmill_set_isa(nullptr, e));
    std::size_t needed = 7;
    refused(bitmill_report_json(nullptr, nullptr, 0, &needed, e));
    CHECK(needed == 0);
    h.mill_options.to = nullptr;
    CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
    CHECK(says(h.error, "to is NULL"));
    h.mill_options.to = "int8";
    h.mill_options.hooks = nullptr;
    CHECK(bitmill_mill(model, "", &h.mill_options, nullptr, nullptr) == BITMILL_OK);
    CHECK(bitmill_inspect(model, nullptr, nullptr, nullptr) == BITMILL_OK);
    CHECK(bitmill_dequantize(model, (h.folder / "back").c_str(), nullptr, nullptr, nullptr) == BITMILL_OK);
    CHECK(bitmill_mill(nullptr, nullptr, nullptr, nullptr, nullptr) == BITMILL_INVALID_ARGUMENT);
    bitmill_report_destroy(nullptr);
}

TEST_CASE("models: a text that is none of the known ones is refused with all that are") {
    host h;
    struct text {
        const char** where;
        const char* known;
        call through;
    };
    const text texts[] = {{&h.mill_options.to, "int4", &host::mill},
                          {&h.mill_options.format, "compressed-tensors", &host::mill},
                          {&h.mill_options.granularity, "per_channel", &host::mill},
                          {&h.mill_options.method, "absmax", &host::mill},
                          {&h.mill_options.activation, "dynamic-int8", &host::mill},
                          {&h.mill_options.embeddings, "keep", &host::mill},
                          {&h.dequantize_options.level, "int8", &host::dequantize},
                          {&h.dequantize_options.dtype, "bf16", &host::dequantize}};
    const std::string endless(100000, 'n');
    for (const auto& one : texts) {
        const char* const right = *one.where;
        for (const char* wrong :
             {"", "Int8", "int8 ", "automatic", "\xff\xfe", "two\nlines", endless.c_str()}) {
            CAPTURE(one.known);
            *one.where = wrong;
            CHECK((h.*one.through)() == BITMILL_INVALID_ARGUMENT);
            if (wrong != endless.c_str()) CHECK(says(h.error, one.known));
            CHECK(is_utf8(h.error.message));
            CHECK_FALSE(says(h.error, "\n"));
        }
        *one.where = right;
        CHECK((h.*one.through)() == BITMILL_OK);
    }
    h.mill_options.format = "gguf";
    CHECK(h.mill() == BITMILL_UNSUPPORTED);
}

TEST_CASE("models: lists that are NULL, hold a NULL, or are no patterns") {
    host h;
    struct list {
        const char* const** items;
        std::uint64_t* count;
    };
    const list lists[] = {{&h.mill_options.include, &h.mill_options.include_count},
                          {&h.mill_options.exclude, &h.mill_options.exclude_count},
                          {&h.mill_options.overrides, &h.mill_options.overrides_count}};
    const char* const with_null[] = {"query=int8", nullptr};
    const char* const broken[] = {"([=int8"};
    const char* const fine[] = {"query=int8"};
    for (const auto& one : lists) {
        *one.count = 1;
        CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
        *one.count = ~std::uint64_t{0};
        CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
        *one.items = with_null;
        *one.count = 2;
        CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
        *one.items = broken;
        *one.count = 1;
        CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
        *one.items = fine;
        CHECK(h.mill() == BITMILL_OK);
        *one.count = 0;
        CHECK(h.mill() == BITMILL_OK);
        *one.items = nullptr;
    }
}

TEST_CASE("models: numbers that have no meaning are refused") {
    host h;
    h.mill_options.weight_threshold = -1;
    CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
    h.mill_options.weight_threshold = std::numeric_limits<float>::quiet_NaN();
    CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
    h.mill_options.weight_threshold = 0;
    for (double* share : {&h.mill_options.prune_relative, &h.mill_options.target_sparsity}) {
        for (const double value : {-0.1, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
            *share = value;
            CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
        }
        *share = 0.5;
        CHECK(h.mill() == BITMILL_OK);
        h.mill_options.weight_threshold = 0.001f;
        CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
        CHECK(std::string(h.error.message).find("choose one of weight_threshold") != std::string::npos);
        h.mill_options.weight_threshold = 0;
        *share = 0;
    }
    h.mill_options.to = "nf4";
    for (const std::uint64_t block :
         {std::uint64_t{1}, std::uint64_t{48}, std::uint64_t{8192}, ~std::uint64_t{0}}) {
        h.mill_options.block_size = block;
        CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
    }
    h.mill_options.block_size = 0;
    CHECK(h.mill() == BITMILL_OK);
    h.mill_options.memory_limit = 1;
    h.mill_options.dry_run = 0;
    h.out = h.folder / "tight";
    CHECK(h.mill() == BITMILL_OUT_OF_MEMORY);
    CHECK(entries_of(h.folder.path()) == std::vector<std::string>{"model"});
    h.mill_options.memory_limit = 0;
    h.mill_options.threads = std::numeric_limits<std::uint32_t>::max();
    CHECK(h.mill() == BITMILL_OK);
}

TEST_CASE("models: paths that lead nowhere, and what the message says of them") {
    host h;
    const std::string deep = h.folder / std::string(5000, 'd');
    const std::pair<std::string, bitmill_status> paths[] = {{"", BITMILL_INVALID_ARGUMENT},
                                                            {h.folder / "none", BITMILL_IO},
                                                            {h.folder / "\xff\xc3(", BITMILL_IO},
                                                            {h.folder / "line\nbreak", BITMILL_IO},
                                                            {deep, BITMILL_IO},
                                                            {h.folder.path(), BITMILL_BAD_INPUT}};
    for (const auto& [path, status] : paths) {
        CAPTURE(path);
        h.model_path = path;
        for (const auto through : {&host::mill, &host::dequantize, &host::inspect}) {
            const bitmill_status got = (h.*through)();
            CHECK(got != BITMILL_OK);
            if (!path.empty()) CHECK(got == status);
            CHECK(is_utf8(h.error.message));
            CHECK_FALSE(says(h.error, "\n"));
        }
    }
    h.model_path = h.folder / "\xff\xc3(";
    CHECK(h.inspect() == BITMILL_IO);
    CHECK(says(h.error, "\\xff\\xc3("));
}

TEST_CASE("models: a model whose path is not UTF-8 is milled all the same") {
    host h;
    const std::string odd = h.folder / "odd \xff\nname";
    std::filesystem::rename(h.model_path, odd);
    h.model_path = odd;
    h.out = h.folder / "out \xfe";
    h.mill_options.dry_run = 0;
    h.hooks.log = [](void*, bitmill_log_level, const char* line) {
        CHECK(is_utf8(line));
        CHECK(std::string(line).find('\n') == std::string::npos);
    };
    bitmill_report* report = nullptr;
    REQUIRE(bitmill_mill(odd.c_str(), h.out.c_str(), &h.mill_options, &report, &h.error) == BITMILL_OK);
    const std::string json = json_of(report);
    bitmill_report_destroy(report);
    CHECK(is_utf8(json));
    CHECK(json.find("odd \xef\xbf\xbd\\nname") != std::string::npos);  // U+FFFD for what JSON cannot hold
    CHECK(std::filesystem::exists(h.out + "/config.json"));
}

TEST_CASE("models: outputs that would be wrong are refused, and nothing is left") {
    host h;
    h.mill_options.dry_run = h.dequantize_options.dry_run = 0;
    h.mill_options.force = h.dequantize_options.force = 1;
    const auto before = read_folder(h.folder.path());
    const std::string outs[] = {"",
                                "/",
                                ".",
                                h.model_path,
                                h.folder / "model/../model",
                                h.folder.path(),
                                h.folder / "model.bitmill-partial",
                                h.folder / "none/out",
                                h.folder / std::string(300, 'l')};
    for (const auto& out : outs) {
        CAPTURE(out);
        h.out = out;
        for (const auto through : {&host::mill, &host::dequantize}) {
            const bitmill_status status = (h.*through)();
            CHECK((status == BITMILL_INVALID_ARGUMENT || status == BITMILL_IO));
        }
        CHECK(read_folder(h.folder.path()) == before);
        CHECK(entries_of(h.folder.path()) == std::vector<std::string>{"model"});
    }
}

TEST_CASE("models: a message that is too long is cut between two characters") {
    host h;
    for (std::size_t ascii = 0; ascii < 8; ++ascii) {
        std::string name(ascii, 'a');
        for (int i = 0; i < 400; ++i) name += "\xf0\x9f\x98\x80";
        CHECK(bitmill_set_isa(name.c_str(), &h.error) == BITMILL_INVALID_ARGUMENT);
        const std::size_t length = std::strlen(h.error.message);
        CHECK(length >= sizeof h.error.message - 4);
        CHECK(length < sizeof h.error.message);
        CHECK(is_utf8(h.error.message));
    }
}

TEST_CASE("models: a report is written whole or not at all") {
    host h;
    bitmill_report* report = nullptr;
    REQUIRE(bitmill_inspect(h.model_path.c_str(), nullptr, &report, &h.error) == BITMILL_OK);
    std::size_t needed = 0;
    REQUIRE(bitmill_report_json(report, nullptr, 0, &needed, &h.error) == BITMILL_OK);
    REQUIRE(needed > 10);
    for (const std::size_t room : {std::size_t{0}, std::size_t{1}, needed - 1, needed, needed + 1}) {
        CAPTURE(room);
        std::vector<char> text(needed + 1, 'x');
        std::size_t told = 7;
        const bool enough = room >= needed;
        CHECK(bitmill_report_json(report, text.data(), room, &told, &h.error) ==
              (enough ? BITMILL_OK : BITMILL_INVALID_ARGUMENT));
        CHECK(told == needed);
        CHECK(text[needed] == 'x');
        if (enough) CHECK(std::strlen(text.data()) + 1 == needed);
        if (!enough) {
            CHECK(text == std::vector<char>(needed + 1, 'x'));
            CHECK(says(h.error, "needed are " + std::to_string(needed)));
        }
    }
    CHECK(bitmill_report_json(report, nullptr, 100, nullptr, &h.error) == BITMILL_INVALID_ARGUMENT);
    bitmill_report_destroy(report);
}

TEST_CASE("models: the report is that of the library") {
    host h;
    bitmill_report* report = nullptr;
    REQUIRE(bitmill_inspect(h.model_path.c_str(), nullptr, &report, nullptr) == BITMILL_OK);
    CHECK(json_of(report) == bitmill::inspect(h.model_path).value().json());
    bitmill_report_destroy(report);

    h.mill_options.dry_run = 0;
    h.mill_options.to = "int4";
    REQUIRE(bitmill_mill(h.model_path.c_str(), (h.folder / "c").c_str(), &h.mill_options, nullptr, nullptr) ==
            BITMILL_OK);
    bitmill::mill_options options;
    options.to = bitmill::scheme_type::int4;
    (void)bitmill::quantize(h.model_path, h.folder / "cpp", options).value();
    CHECK(read_folder(h.folder / "c") == read_folder(h.folder / "cpp"));
}

TEST_CASE("models: what a killed program left is gone on with, or not") {
    host h;
    h.mill_options.dry_run = 0;
    h.mill_options.threads = 1;
    h.mill_options.journal_bytes = 1;
    h.out = h.folder / "out";
    const auto mill_after_kill = [&](std::int32_t no_resume) {
        const pid_t child = ::fork();
        if (child == 0) {
            h.hooks.progress = [](void*, std::uint64_t, std::uint64_t) -> std::int32_t {
                return ::kill(::getpid(), SIGKILL);
            };
            (void)h.mill();
            ::_exit(0);
        }
        int status = 0;
        REQUIRE(::waitpid(child, &status, 0) == child);
        REQUIRE(WIFSIGNALED(status));
        h.mill_options.no_resume = no_resume;
        bitmill_report* report = nullptr;
        REQUIRE(bitmill_mill(h.model_path.c_str(), h.out.c_str(), &h.mill_options, &report, &h.error) ==
                BITMILL_OK);
        const std::string json = json_of(report);
        bitmill_report_destroy(report);
        std::filesystem::remove_all(h.out);
        return json.find("\"resumed_bytes\": 0") == std::string::npos;
    };
    CHECK(mill_after_kill(0));
    CHECK_FALSE(mill_after_kill(1));
}

TEST_CASE("models: a host that loses or repeats tasks gets an error, not a torn model") {
    host h;
    h.mill_options.dry_run = 0;
    h.out = h.folder / "out";
    h.hooks.parallel_for = [](void*, std::size_t count, void (*task)(void*, std::size_t), void* context) {
        for (std::size_t i = 1; i < count; ++i) task(context, i);
    };
    CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
    h.hooks.parallel_for = [](void*, std::size_t, void (*)(void*, std::size_t), void*) {};
    CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
    CHECK(entries_of(h.folder.path()) == std::vector<std::string>{"model"});
    h.hooks.parallel_for = [](void*, std::size_t count, void (*task)(void*, std::size_t), void* context) {
        for (std::size_t i = 0; i < count + 3; ++i) task(context, i);
    };
    CHECK(h.mill() == BITMILL_OK);
}

TEST_CASE("models: both variants and the record of the model, and neither is milled twice") {
    host h;
    h.mill_options.to = "both";
    h.mill_options.dry_run = 0;
    h.out = h.folder / "repository";
    bitmill_report* report = nullptr;
    for (const bool again : {false, true}) {
        CAPTURE(again);
        REQUIRE(bitmill_mill(h.model_path.c_str(), h.out.c_str(), &h.mill_options, &report, &h.error) ==
                BITMILL_OK);
        const auto told = nlohmann::json::parse(json_of(report));
        bitmill_report_destroy(report);
        REQUIRE(told.at("variants").size() == 2);
        for (const auto& one : told.at("variants")) CHECK(one.at("already_milled") == again);
        CHECK(entries_of(h.out) == std::vector<std::string>{"int4", "int8", "metadata.json"});
    }
    for (const char* level : {"/int8", "/int4"})
        CHECK(bitmill_verify(h.model_path.c_str(), (h.out + level).c_str(), nullptr, nullptr, nullptr) ==
              BITMILL_OK);
    h.mill_options.levels = "int8,int4";
    CHECK(h.mill() == BITMILL_INVALID_ARGUMENT);
    CHECK(says(h.error, "levels"));
}

TEST_CASE("models: a level of planes, and only what is there") {
    host h;
    h.mill_options.format = "bitmill";
    h.mill_options.dry_run = 0;
    h.out = h.folder / "planes";
    REQUIRE(h.mill() == BITMILL_OK);
    h.model_path = h.out;
    h.out.clear();
    for (const char* level : {"int8", "int4"}) {
        h.dequantize_options.level = level;
        CHECK(h.dequantize() == BITMILL_OK);
    }
    h.dequantize_options.level = "nf4";
    CHECK(h.dequantize() != BITMILL_OK);
    h.model_path = h.source;
    h.out = h.folder / "one";
    h.mill_options.levels = "int4";
    h.mill_options.to = "int4";
    CHECK(h.mill() == BITMILL_OK);
    for (const auto& name : entries_of(h.out)) CHECK(name.find(".int8.") == std::string::npos);
}

TEST_CASE("models: a batch says of each model what became of it") {
    host h;
    put_file(h.folder / "broken/model.safetensors", "not one");
    h.out = h.other_folder / "batch";
    h.batch_options.dry_run = 0;
    bitmill_report* report = nullptr;
    REQUIRE(bitmill_batch(h.folder.path().c_str(), h.out.c_str(), &h.batch_options, &report, &h.error) ==
            BITMILL_OK);
    const auto told = nlohmann::json::parse(json_of(report));
    bitmill_report_destroy(report);
    CHECK(told.at("models").at("model").at("status") == "success");
    CHECK(told.at("models").at("broken").at("status") == "error");
    CHECK(told.at("summary").at("failed") == 1);
    CHECK(bitmill_validate((h.out + "/model").c_str(), nullptr, nullptr, nullptr) == BITMILL_OK);
    const char* const names[] = {"none"};
    h.batch_options.models = names;
    h.batch_options.models_count = 1;
    CHECK(h.batch() == BITMILL_INVALID_ARGUMENT);
    CHECK(says(h.error, "model"));
    h.batch_options.models_count = 0;
    h.batch_options.bit_depth = 12;
    CHECK(h.batch() == BITMILL_INVALID_ARGUMENT);
    CHECK(bitmill_batch(nullptr, "", nullptr, nullptr, &h.error) == BITMILL_INVALID_ARGUMENT);
    CHECK(bitmill_batch((h.folder / "gone").c_str(), "", nullptr, nullptr, &h.error) == BITMILL_IO);
}
