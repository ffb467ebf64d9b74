// quantize() and dequantize() from folder to folder.
#include <bitmill/mill/mill.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/codec/codec.hpp>

#include <coded.hpp>
#include <models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::error_code;
using bitmill::mill_options;
using bitmill::scheme_type;
using tensors_by_name = std::map<std::string, made_tensor>;

namespace {

std::string hex(const std::string& bytes) { return std::to_string(std::hash<std::string>{}(bytes)); }

mill_options level(scheme_type to, bool double_quant = false) {
    mill_options options;
    options.to = to;
    options.double_quant = double_quant;
    options.threads = 2;
    return options;
}

const bitmill::tensor_report& row_of(const bitmill::mill_report& report, const std::string& name) {
    const auto found = std::find_if(report.tensors.begin(), report.tensors.end(),
                                    [&](const auto& t) { return t.name == name; });
    REQUIRE(found != report.tensors.end());
    return *found;
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void set_float(made_tensor& t, std::size_t index, float value) {
    std::memcpy(t.bytes.data() + index * 4, &value, 4);
}

std::uint64_t weight_bytes(const std::string& folder) {
    std::uint64_t sum = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
        if (entry.path().extension() == ".safetensors") sum += entry.file_size();
    return sum;
}

const std::string query = "encoder.layer.0.attention.self.query.weight";
const std::string dense = "encoder.layer.0.intermediate.dense.weight";  // 1.4 MB: several tiles

struct variant {
    const char* name;
    mill_options options;
};
std::vector<variant> variants() {
    std::vector<variant> out{
        {"int8", level(scheme_type::int8)},         {"int8 per_tensor", level(scheme_type::int8)},
        {"int8 dynamic", level(scheme_type::int8)}, {"int4", level(scheme_type::int4)},
        {"nf4", level(scheme_type::nf4)},           {"nf4 double", level(scheme_type::nf4, true)},
        {"fp4", level(scheme_type::fp4)},           {"fp16", level(scheme_type::f16)},
        {"bf16", level(scheme_type::bf16)},         {"fp32", level(scheme_type::f32)}};
    out[1].options.granularity = bitmill::granularity::per_tensor;
    out[2].options.activation = bitmill::activation::dynamic_int8;
    return out;
}

}  // namespace

TEST_CASE("mill: the same bytes for every thread count, memory limit and host pool") {
    const temp_folder temp;
    put_model(temp / "model", bert_tensors());
    for (const auto& [name, options] : variants()) {
        CAPTURE(std::string(name));
        std::map<std::string, std::string> first;
        std::string first_errors;
        int run = 0;
        const auto check = [&](const mill_options& how) {
            const std::string out = temp / (std::string(name) + std::to_string(run++));
            const auto report = bitmill::quantize(temp / "model", out, how);
            REQUIRE_MESSAGE(report, report.error().text());
            auto files = read_folder(out);
            std::string errors;
            for (const auto& t : report->tensors)
                errors += std::to_string(t.error.mse()) + " " + std::to_string(t.error.cosine()) + ",";
            if (first.empty()) {
                first = files;
                first_errors = errors;
            }
            REQUIRE(files.size() == first.size());
            for (const auto& [file, bytes] : files) {
                CAPTURE(file);
                CHECK(hex(bytes) == hex(first[file]));
            }
            CHECK(errors == first_errors);
        };
        for (const unsigned threads : {1u, 2u, 3u, 7u}) {
            for (const unsigned mebibytes : {8u, 1024u}) {
                mill_options how = options;
                how.threads = threads;
                how.memory_limit = std::uint64_t{mebibytes} << 20;
                check(how);
            }
        }
        mill_options hosted = options;
        hosted.run = [](std::size_t count, const bitmill::task_fn& task) {
            std::atomic<std::size_t> next{0};
            std::vector<std::jthread> pool;
            for (int i = 0; i < 5; ++i)
                pool.emplace_back([&] {
                    for (std::size_t k = next++; k < count; k = next++) task(count - 1 - k);  // backwards
                });
        };
        check(hosted);
    }
}

TEST_CASE("mill: what is coded comes back as decode(encode(x)), the rest as it was") {
    const temp_folder temp;
    const auto tensors = bert_tensors();
    put_model(temp / "model", tensors);
    for (const auto& [name, options] : variants()) {
        CAPTURE(std::string(name));
        const std::string out = temp / std::string(name), back = out + " back";
        const auto report = bitmill::quantize(temp / "model", out, options);
        REQUIRE_MESSAGE(report, report.error().text());
        bitmill::work_options work;
        work.threads = 2;
        const auto returned = bitmill::dequantize(out, back, std::nullopt, work);
        REQUIRE_MESSAGE(returned, returned.error().text());
        const auto milled = read_tensors(back);
        REQUIRE(milled.size() == tensors.size());
        std::size_t coded = 0;
        for (const auto& t : tensors) {
            CAPTURE(t.name);
            const auto& row = row_of(*report, t.name);
            const auto& got = milled.at(t.name);
            CHECK(got.shape == t.shape);
            if (row.effective == "keep") {
                CHECK(got.type == t.type);
                CHECK(hex(got.bytes) == hex(t.bytes));
                continue;
            }
            ++coded;
            CAPTURE(row.effective);
            bitmill::scheme s{.type = options.to};
            if (bitmill::facts(s.type).integer) {
                s.granularity = options.granularity.value_or(s.type == scheme_type::int4
                                                                 ? bitmill::granularity::group
                                                                 : bitmill::granularity::per_channel);
                s.group_size = s.granularity != bitmill::granularity::group ? 0
                               : t.shape[1] % 128 == 0                      ? 128
                                                                            : 32;
                s.scale_dtype = t.type == dtype::f64 ? dtype::f32 : t.type;
            }
            if (bitmill::facts(s.type).code_book) {
                s.granularity = bitmill::granularity::block;
                s.group_size = t.shape[1] % 64 == 0 ? 64 : 32;
                s.double_quant = options.double_quant;
            }
            const bool flat = t.shape.size() != 2;
            std::size_t count = 1;
            for (const auto n : t.shape) count *= static_cast<std::size_t>(n);
            const std::size_t rows = flat ? 1 : static_cast<std::size_t>(t.shape[0]);
            const std::size_t cols = flat ? count : static_cast<std::size_t>(t.shape[1]);
            CHECK(row.effective == bitmill::to_text(s));
            coded_matrix m(s, rows, cols, bitmill::encode_bound(s, rows, cols).value());
            const aligned_bytes data(t.bytes);
            bitmill::encode_options how;
            how.method = s.type == scheme_type::int4 ? bitmill::method::mse : bitmill::method::absmax;
            const auto metrics = bitmill::encode(s, view_of(t.type, data, rows, cols), m.view, how).value();
            CHECK(row.measured);
            CHECK(row.error.mse() == doctest::Approx(metrics.mse()).epsilon(1e-6));
            CHECK(row.elements == count);
            // An f64 tensor leaves as f32; a plain scheme as what it is.
            const dtype type = got.type;
            const auto plain = bitmill::facts(s.type).plain;
            const bool is_plain = !bitmill::facts(s.type).integer && !bitmill::facts(s.type).code_book;
            CHECK(type == (is_plain ? plain : t.type == dtype::f64 ? dtype::f32 : t.type));
            CHECK(hex(got.bytes) == hex(m.decoded(type)));
        }
        CHECK(coded >= (options.to == scheme_type::f32 ? 0u : 6u));
        // And in a dtype of the caller's choice.
        const auto narrow = bitmill::dequantize(out, back + " f16", dtype::f16, work);
        REQUIRE_MESSAGE(narrow, narrow.error().text());
        for (const auto& [tensor, t] : read_tensors(back + " f16")) {
            CAPTURE(tensor);
            if (bitmill::facts(milled.at(tensor).type).weight)
                CHECK(t.type == dtype::f16);
            else
                CHECK(t.type == milled.at(tensor).type);
        }
    }
}

TEST_CASE("mill: a folder, a sharded folder and a lone file hold the same tensors afterwards") {
    const temp_folder temp;
    const auto tensors = bert_tensors();
    put_model(temp / "single", tensors);
    put_sharded_model(temp / "sharded", tensors);
    put_file(temp / "lone/weights.safetensors", safetensors_of(tensors));
    put_file(temp / "lone/config.json", bert_config);
    for (const auto to : {scheme_type::int8, scheme_type::nf4}) {
        const std::string tag = std::to_string(static_cast<int>(to));
        REQUIRE(bitmill::quantize(temp / "single", temp / ("a" + tag), level(to)));
        const auto sharded = bitmill::quantize(temp / "sharded", temp / ("b" + tag), level(to));
        REQUIRE_MESSAGE(sharded, sharded.error().text());
        const auto lone = bitmill::quantize(temp / "lone/weights.safetensors", temp / ("c" + tag), level(to));
        REQUIRE_MESSAGE(lone, lone.error().text());
        const auto a = read_tensors(temp / ("a" + tag)), b = read_tensors(temp / ("b" + tag)),
                   c = read_tensors(temp / ("c" + tag));
        CHECK(a.size() > tensors.size());
        REQUIRE(b.size() == a.size());
        REQUIRE(c.size() == a.size());
        for (const auto& [name, t] : a) {
            CAPTURE(std::string(name));
            CHECK(hex(b.at(name).bytes) == hex(t.bytes));
            CHECK(hex(c.at(name).bytes) == hex(t.bytes));
            CHECK(b.at(name).shape == t.shape);
        }
        CHECK(get_file(temp / ("a" + tag) + "/tokenizer.json") == get_file(temp / "single/tokenizer.json"));
        CHECK(std::filesystem::exists(temp / ("b" + tag) + "/model.safetensors.index.json"));
        CHECK(std::filesystem::exists(temp / ("b" + tag) + "/model-00002-of-00002.safetensors"));
        CHECK(std::filesystem::exists(temp / ("c" + tag) + "/model.safetensors"));
        CHECK_FALSE(std::filesystem::exists(temp / ("c" + tag) + "/weights.safetensors"));
        CHECK(sharded->bytes == weight_bytes(temp / ("b" + tag)));
        const auto back = bitmill::dequantize(temp / ("b" + tag), temp / ("d" + tag), std::nullopt, {});
        REQUIRE_MESSAGE(back, back.error().text());
        CHECK(read_tensors(temp / ("d" + tag)).size() == tensors.size());
    }
}

TEST_CASE("mill: a dry run writes nothing and gives the sizes of the real one") {
    const temp_folder temp;
    put_sharded_model(temp / "model", bert_tensors());
    for (auto [name, options] : variants()) {
        CAPTURE(std::string(name));
        options.dry_run = true;
        const auto planned = bitmill::quantize(temp / "model", temp / "out", options);
        REQUIRE_MESSAGE(planned, planned.error().text());
        CHECK(entries_of(temp.path()) == std::vector<std::string>{"model"});
        options.dry_run = false;
        const auto real = bitmill::quantize(temp / "model", temp / "out", options);
        REQUIRE_MESSAGE(real, real.error().text());
        CHECK(planned->bytes == real->bytes);
        CHECK(real->bytes == weight_bytes(temp / "out"));
        CHECK(real->source_bytes == weight_bytes(temp / "model"));
        for (std::size_t i = 0; i < real->tensors.size(); ++i) {
            CHECK(planned->tensors[i].bytes == real->tensors[i].bytes);
            CHECK(planned->tensors[i].effective == real->tensors[i].effective);
            CHECK_FALSE(planned->tensors[i].measured);
        }
        bitmill::work_options work;
        work.dry_run = true;
        const auto back = bitmill::dequantize(temp / "out", temp / "back", std::nullopt, work);
        REQUIRE_MESSAGE(back, back.error().text());
        CHECK_FALSE(std::filesystem::exists(temp / "back"));
        work.dry_run = false;
        REQUIRE(bitmill::dequantize(temp / "out", temp / "back", std::nullopt, work));
        CHECK(back->bytes == weight_bytes(temp / "back"));
        std::filesystem::remove_all(temp / "out");
        std::filesystem::remove_all(temp / "back");
    }
}

TEST_CASE("mill: progress adds up, and cancelling leaves nothing") {
    const temp_folder temp;
    put_model(temp / "model", bert_tensors());
    for (auto [name, options] : variants()) {
        CAPTURE(std::string(name));
        bitmill::progress last;
        std::uint64_t calls = 0;
        bool forward = true;
        options.on_progress = [&](const bitmill::progress& now) {
            forward = forward && now.done_bytes >= last.done_bytes && now.done_bytes <= now.total_bytes;
            last = now;
            ++calls;
            return true;
        };
        REQUIRE(bitmill::quantize(temp / "model", temp / "out", options));
        CHECK(forward);
        CHECK(calls > 15);
        CHECK(last.done_bytes == last.total_bytes);
        std::filesystem::remove_all(temp / "out");
        for (const std::uint64_t at : {std::uint64_t{1}, calls / 2, calls}) {
            CAPTURE(at);
            std::uint64_t seen = 0;
            options.on_progress = [&](const bitmill::progress&) { return ++seen != at; };
            const auto outcome = bitmill::quantize(temp / "model", temp / "out", options);
            REQUIRE_FALSE(outcome);
            CHECK(outcome.error().code == error_code::cancelled);
            CHECK(seen == at);  // not asked again
            CHECK(entries_of(temp.path()) == std::vector<std::string>{"model"});
        }
    }
    REQUIRE(bitmill::quantize(temp / "model", temp / "out", level(scheme_type::int8)));
    bitmill::work_options work;
    work.on_progress = [](const bitmill::progress&) { return false; };
    CHECK(bitmill::dequantize(temp / "out", temp / "back", std::nullopt, work).error().code ==
          error_code::cancelled);
    CHECK(entries_of(temp.path()) == std::vector<std::string>{"model", "out"});
}

TEST_CASE("mill: progress of dequantize adds up") {
    const temp_folder temp;
    put_model(temp / "model", bert_tensors());
    for (const auto to : {scheme_type::int8, scheme_type::nf4}) {
        CAPTURE(static_cast<int>(to));
        const std::string out = temp / ("out" + std::to_string(static_cast<int>(to)));
        REQUIRE(bitmill::quantize(temp / "model", out, level(to)));
        bitmill::work_options work;
        bitmill::progress last;
        work.on_progress = [&](const bitmill::progress& now) {
            last = now;
            return true;
        };
        REQUIRE(bitmill::dequantize(out, out + " back", std::nullopt, work));
        CHECK(last.done_bytes == last.total_bytes);
    }
}

TEST_CASE("mill: NaN names file, tensor, element and byte, and leaves nothing") {
    for (const std::size_t element : {std::size_t{0}, std::size_t{5000}, std::size_t{700 * 512 - 1}}) {
        for (const float value :
             {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
            const temp_folder temp;
            auto tensors = bert_tensors();
            auto& t = tensors[6];
            REQUIRE(t.name == dense);
            set_float(t, element, value);
            put_model(temp / "model", tensors);
            const auto model = bitmill::checkpoint::open(temp / "model").value();
            const std::uint64_t byte = model.shard(0)[*model.shard(0).find(dense)].offset + element * 4;
            for (auto [name, options] : variants()) {
                if (options.to == scheme_type::f32) continue;  // copies
                CAPTURE(std::string(name));
                CAPTURE(element);
                const auto outcome = bitmill::quantize(temp / "model", temp / "out", options);
                REQUIRE_FALSE(outcome);
                CHECK(outcome.error().code == error_code::bad_input);
                CHECK(outcome.error().tensor == dense);
                CHECK(outcome.error().offset == byte);
                CHECK(holds(outcome.error().message, "element " + std::to_string(element)));
                CHECK(holds(outcome.error().file, "model.safetensors"));
                CHECK(entries_of(temp.path()) == std::vector<std::string>{"model"});
                options.keep_non_finite = true;
                const auto kept = bitmill::quantize(temp / "model", temp / "out", options);
                REQUIRE_MESSAGE(kept, kept.error().text());
                CHECK(row_of(*kept, dense).effective == "keep");
                CHECK(holds(row_of(*kept, dense).reason, "element " + std::to_string(element)));
                CHECK(row_of(*kept, query).effective != "keep");
                CHECK(hex(read_tensors(temp / "out").at(dense).bytes) == hex(t.bytes));
                options.strict = true;
                options.force = true;
                CHECK_FALSE(bitmill::quantize(temp / "model", temp / "out", options));
                std::filesystem::remove_all(temp / "out");
            }
        }
    }
}

TEST_CASE("mill: a tensor that overflows fp16 is kept, and the reason says so") {
    const temp_folder temp;
    auto tensors = bert_tensors();
    set_float(tensors[6], 300000, -70000.0f);
    put_model(temp / "model", tensors);
    const auto report = bitmill::quantize(temp / "model", temp / "out", level(scheme_type::f16));
    REQUIRE_MESSAGE(report, report.error().text());
    CHECK(row_of(*report, dense).effective == "keep");
    CHECK(row_of(*report, dense).requested == "fp16");
    CHECK(holds(row_of(*report, dense).reason, "overflow"));
    CHECK(holds(row_of(*report, dense).reason, "element 300000"));
    const auto out = read_tensors(temp / "out");
    CHECK(hex(out.at(dense).bytes) == hex(tensors[6].bytes));
    CHECK(out.at(query).type == dtype::f16);
    auto strict = level(scheme_type::f16);
    strict.strict = true;
    CHECK(bitmill::quantize(temp / "model", temp / "strict", strict).error().tensor == dense);
    CHECK(bitmill::quantize(temp / "model", temp / "b", level(scheme_type::bf16)).value().tensors.size() ==
          tensors.size());
}

TEST_CASE("mill: bit depths, one range for the whole model, thresholds") {
    const temp_folder temp;
    const auto tensors = bert_tensors();
    put_model(temp / "model", tensors);
    const auto scales = [&](bool dynamic) {
        const std::string out = temp / (dynamic ? "own" : "one");
        const auto report = bitmill::quantize(temp / "model", out,
                                              bitmill::options_from_bit_depth(8, 0.001f, dynamic).value());
        REQUIRE_MESSAGE(report, report.error().text());
        std::vector<double> found;
        for (const auto& [name, t] : read_tensors(out))
            if (name.ends_with(".weight_scale") && t.type == dtype::f32) {
                CHECK(t.shape == std::vector<std::uint64_t>{1});
                found.push_back(values_of(t.type, t.bytes.data(), 1)[0]);
            }
        return found;
    };
    const auto own = scales(true), one = scales(false);
    REQUIRE(own.size() == 3);
    CHECK(own[0] != own[1]);
    CHECK(one == std::vector<double>(3, one[0]));
    CHECK(one[0] > *std::max_element(own.begin(), own.end()));  // the heavy-tailed tensor sets it
    // 32: copy and prune only.
    const auto pruned = bitmill::quantize(temp / "model", temp / "pruned",
                                          bitmill::options_from_bit_depth(32, 0.02f).value());
    REQUIRE_MESSAGE(pruned, pruned.error().text());
    const auto after = read_tensors(temp / "pruned");
    for (const auto& t : tensors) {
        CAPTURE(t.name);
        const auto& got = after.at(t.name);
        CHECK(got.type == t.type);
        CHECK(got.bytes.size() == t.bytes.size());
        if (!bitmill::facts(t.type).weight || t.type == dtype::f64) continue;
        const auto count = t.bytes.size() / bitmill::element_bytes(t.type);
        const auto before = values_of(t.type, t.bytes.data(), count),
                   now = values_of(t.type, got.bytes.data(), count);
        const bool matrix = t.shape.size() >= 2;  // biases and norms stay
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < count; ++i)
            wrong +=
                now[i] != (matrix && std::fabs(before[i]) < static_cast<double>(0.02f) ? 0.0 : before[i]);
        CHECK(wrong == 0);
    }
}

TEST_CASE("mill: a lone shard of a model is milled, with a warning that it is one of several") {
    const temp_folder temp;
    put_sharded_model(temp / "model", bert_tensors());
    const std::string shard = "model-00002-of-00002.safetensors";
    const auto warned = [&](const std::string& model) {
        const auto report = bitmill::quantize(model, "",
                                              [] {
                                                  mill_options options = level(scheme_type::int8);
                                                  options.dry_run = true;
                                                  return options;
                                              }())
                                .value();
        return std::count_if(report.warnings.begin(), report.warnings.end(),
                             [&](const auto& w) { return holds(w, shard + " is one of 2 files"); });
    };
    CHECK(warned(temp / "model") == 0);
    CHECK(warned(temp / ("model/" + shard)) == 1);
    put_file(temp / "one/model-00001-of-00001.safetensors", get_file(temp / ("model/" + shard)));
    CHECK(warned(temp / "one") == 0);
}

TEST_CASE("mill: too little memory is an error that leaves nothing") {
    const temp_folder temp;
    put_model(temp / "model", bert_tensors());
    for (auto [name, options] : variants()) {
        CAPTURE(std::string(name));
        options.memory_limit = 1000;
        const auto outcome = bitmill::quantize(temp / "model", temp / "out", options);
        REQUIRE_FALSE(outcome);
        CHECK(outcome.error().code == error_code::out_of_memory);
        CHECK(entries_of(temp.path()) == std::vector<std::string>{"model"});
    }
    REQUIRE(bitmill::quantize(temp / "model", temp / "out", level(scheme_type::int8)));
    bitmill::work_options work;
    work.memory_limit = 1000;
    CHECK(bitmill::dequantize(temp / "out", temp / "back", std::nullopt, work).error().code ==
          error_code::out_of_memory);
    CHECK(entries_of(temp.path()) == std::vector<std::string>{"model", "out"});
}

TEST_CASE("mill: a milled model is not milled again, an output is not replaced unasked") {
    const temp_folder temp;
    put_model(temp / "model", bert_tensors());
    REQUIRE(bitmill::quantize(temp / "model", temp / "out", level(scheme_type::int8)));
    const auto before = read_folder(temp / "out");
    CHECK(bitmill::quantize(temp / "model", temp / "out", level(scheme_type::int4)).error().code ==
          error_code::invalid_argument);
    CHECK(read_folder(temp / "out") == before);
    auto forced = level(scheme_type::int4);
    forced.force = true;
    REQUIRE(bitmill::quantize(temp / "model", temp / "out", forced));
    CHECK(read_folder(temp / "out") != before);
    CHECK(entries_of(temp.path()) == std::vector<std::string>{"model", "out"});
    CHECK(bitmill::dequantize(temp / "out", temp / "x", dtype::i8, {}).error().code ==
          error_code::invalid_argument);
    CHECK(bitmill::quantize(temp / "nowhere", temp / "x", level(scheme_type::int8)).error().code !=
          error_code::ok);
}

TEST_CASE("mill: the report is JSON and its sums are those of its rows") {
    const temp_folder temp;
    put_model(temp / "model", bert_tensors());
    const auto report = bitmill::quantize(temp / "model", temp / "out", level(scheme_type::int4)).value();
    std::uint64_t parameters = 0, coded_bytes = 0, coded = 0;
    for (const auto& t : report.tensors) {
        if (bitmill::facts(t.source_dtype).weight) parameters += t.elements;
        if (t.effective == "keep") continue;
        coded += t.elements;
        coded_bytes += t.bytes;
    }
    CHECK(report.parameters == parameters);
    CHECK(report.coded_bits_per_weight() ==
          doctest::Approx(8.0 * static_cast<double>(coded_bytes) / static_cast<double>(coded)));
    CHECK(report.coded_bits_per_weight() > 4);
    CHECK(report.coded_bits_per_weight() < 5.5);
    CHECK(report.error().elements() == coded);
    CHECK(report.error().snr_db() > 15);
    CHECK(holds(report.json(-1), "\"coded_bits_per_weight\":"));
    CHECK_FALSE(holds(report.json(-1), "\n"));
}

TEST_CASE("mill: the log names what begins, what deviates and what ends; a log that throws stops nothing") {
    const temp_folder temp;
    put_model(temp / "model", bert_tensors());
    mill_options options = level(scheme_type::nf4);
    std::vector<std::string> lines;
    std::vector<std::string> warnings;
    options.on_log = [&](bitmill::log_level kind, const std::string& line) {
        (kind == bitmill::log_level::warning ? warnings : lines).push_back(line);
    };
    const auto report = bitmill::quantize(temp / "model", temp / "out", options).value();
    REQUIRE(lines.size() >= 2);
    CHECK(holds(lines.front(), "quantize "));
    CHECK(holds(lines.back(), "wrote "));
    std::size_t deviations = 0;
    for (const auto& one : report.tensors) deviations += one.requested != one.effective;
    CHECK(deviations > 0);
    CHECK(lines.size() == 2 + deviations);
    CHECK(warnings == report.warnings);
    CHECK(!warnings.empty());

    options.on_log = [](bitmill::log_level, const std::string&) { throw std::runtime_error("full"); };
    options.force = true;
    CHECK(bitmill::quantize(temp / "model", temp / "out", options));
}

TEST_CASE("mill: a host pool that loses a task is an error, and the output is not half a model") {
    const temp_folder temp;
    put_model(temp / "model", bert_tensors());
    mill_options options = level(scheme_type::int8);
    options.run = [](std::size_t count, const bitmill::task_fn& task) {
        for (std::size_t i = 0; i + 1 < count; ++i) task(i);
    };
    const auto done = bitmill::quantize(temp / "model", temp / "out", options);
    REQUIRE(!done);
    CHECK(done.error().code == error_code::invalid_argument);
    CHECK(holds(done.error().message, "parallel_for"));
    CHECK(!std::filesystem::exists(temp / "out"));
}

TEST_CASE("mill: a progress hook that waits on the host's pool may run another tile") {
    const temp_folder temp;
    put_model(temp / "model", bert_tensors());
    mill_options options = level(scheme_type::int8);
    std::vector<std::function<void()>> queue;
    const auto run_one = [&] {
        if (queue.empty()) return;
        const auto task = std::move(queue.back());
        queue.pop_back();
        task();
    };
    options.run = [&](std::size_t count, const bitmill::task_fn& task) {
        for (std::size_t i = 0; i < count; ++i) queue.push_back([&task, i] { task(i); });
        while (!queue.empty()) run_one();
    };
    options.on_progress = [&](const bitmill::progress&) {
        run_one();
        return true;
    };
    REQUIRE(bitmill::quantize(temp / "model", temp / "out", options));
    CHECK(bitmill::quantize(temp / "model", temp / "plain", level(scheme_type::int8)));
    CHECK(get_file(temp / "out/model.safetensors") == get_file(temp / "plain/model.safetensors"));
}

TEST_CASE(
    "mill: sizes that the chosen level does not have are refused, a table of threads is not taken at its "
    "word") {
    const temp_folder temp;
    put_model(temp / "model", bert_tensors());
    mill_options options = level(scheme_type::int8);
    options.block_size = 32;
    CHECK(bitmill::quantize(temp / "model", temp / "out", options).error().code ==
          error_code::invalid_argument);
    options = level(scheme_type::int4);
    options.granularity = bitmill::granularity::per_channel;
    options.group_size = 64;
    CHECK(bitmill::quantize(temp / "model", temp / "out", options).error().code ==
          error_code::invalid_argument);
    options = level(scheme_type::int8);
    options.threads = ~0u;
    options.memory_limit = ~std::uint64_t{0};
    options.run = [](std::size_t count, const bitmill::task_fn& task) {
        for (std::size_t i = 0; i < count; ++i) task(i);
    };
    CHECK(bitmill::quantize(temp / "model", temp / "out", options));
}
