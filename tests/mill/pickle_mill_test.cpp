// Pickled models milled: the very bytes of small ones. (tests/parity/test_pickle.py loads large ones in Python.)
#include <bitmill/mill/mill.hpp>

#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/core/half.hpp>
#include <bitmill/mill/inspect.hpp>
#include <bitmill/mill/model_quantizer.hpp>

#include <pickles.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;

namespace {

bitmill::mill_options to(bitmill::scheme_type type) {
    bitmill::mill_options options;
    options.to = type;
    return options;
}

std::string halves(std::size_t count) {
    std::string out;
    for (std::size_t i = count; i != 0; --i)
        out += le(bitmill::f16_from_f32(0.25f * static_cast<float>(i)), 2);
    return out;
}

const std::string name_of_dtype = pickle_name("numpy", "dtype");
const std::string half_dtype = "0" + name_of_dtype + pickle_text("f2") + "\x89\x88\x87R";
const std::string make_array = pickle_name("numpy", "array");
const std::string as_double = pickle_text("<f8") + "\x86R";

}  // namespace

TEST_CASE("pickle mill: fp16 puts calls around the array and halves into it") {
    const temp_folder temp;
    const std::string content = quarters(64);
    const struct {
        std::string source, expected;
    } rows[] = {
        {pickle_with(pickle_array_of({64}, content)),
         pickle_with(make_array + pickle_blank_array() + "(K\1" + pickle_numbers({64}) + pickle_dtype("f8") +
                     half_dtype + "\x89" + "C\x80" + halves(64) + "tb" + as_double)},
        {pickle_with(pickle_blank_array() + pickle_state({64}, pickle_dtype("f8"), pickle_latin1(content)),
                     2),
         pickle_with(make_array + pickle_blank_array() + "(K\1" + pickle_numbers({64}) + pickle_dtype("f8") +
                         half_dtype + "\x89" + pickle_latin1("") + "0C\x80" + halves(64) + "tb" + as_double,
                     2)},
        {pickle_with(pickle_buffer_array({64}, content), 5),
         pickle_with(make_array + pickle_name("numpy._core.numeric", "_frombuffer") + "(\x96" + le(128, 8) +
                         halves(64) + pickle_dtype("f8") + half_dtype + pickle_numbers({64}) +
                         pickle_text("C") + "tR" + as_double,
                     5)},
    };
    for (const auto& row : rows) {
        put_file(temp / "m.pkl", row.source);
        auto options = to(bitmill::scheme_type::f16);
        options.force = true;
        const auto report = bitmill::quantize(temp / "m.pkl", temp / "o.pkl", options);
        REQUIRE_MESSAGE(report, report.error().text());
        CHECK(get_file(temp / "o.pkl") == row.expected);
        CHECK(report->bytes == row.expected.size());
        CHECK(report->tensors[0].effective == "fp16");
        CHECK(report->source_bytes - report->bytes ==
              report->tensors[0].source_bytes - report->tensors[0].bytes);
        CHECK(std::isinf(report->tensors[0].error.snr_db()));
    }
}

TEST_CASE("pickle mill: frames count what they hold, a memo keeps one object, joblib's padding fits") {
    const temp_folder temp;
    const std::string content = quarters(64);
    const std::string blank = pickle_blank_array() + "\x94";
    const std::string rest = std::string("ah\0a.", 5);
    const std::string body =
        "]" + blank + pickle_state({64}, pickle_dtype("f8"), pickle_bytes(content)) + rest;
    put_file(temp / "m.pkl", "\x80\4\x95" + le(body.size(), 8) + body);
    REQUIRE(bitmill::quantize(temp / "m.pkl", temp / "o.pkl", to(bitmill::scheme_type::f16)));
    const std::string milled = "]" + make_array + blank + "(K\1" + pickle_numbers({64}) + pickle_dtype("f8") +
                               half_dtype + "\x89" + "C\x80" + halves(64) + "tb" + as_double +
                               std::string("q\0", 2) + rest;
    CHECK(get_file(temp / "o.pkl") == "\x80\4\x95" + le(milled.size(), 8) + milled);

    const std::string first = pickle_joblib_array(3, {64}, content);
    put_file(temp / "m.joblib",
             "\x80\3]" + first + "a" + pickle_joblib_array(4 + first.size(), {2}, quarters(2)) + "a.");
    REQUIRE(bitmill::quantize(temp / "m.joblib", temp / "o.joblib", to(bitmill::scheme_type::f16)));
    const auto inspected = bitmill::inspect(temp / "o.joblib");
    REQUIRE_MESSAGE(inspected, inspected.error().text());
    REQUIRE(inspected->tensors.size() == 2);
    CHECK(inspected->tensors[0].type == bitmill::dtype::f16);
    for (const auto& tensor : inspected->tensors) CHECK(*tensor.offset % 16 == 0);
    CHECK(get_file(temp / "o.joblib").substr(*inspected->tensors[1].offset) == quarters(2) + "a.");
}

TEST_CASE("pickle mill: int8 multiplies codes by a scale of the array's own type") {
    const temp_folder temp;
    std::vector<double> values;
    for (int i = -127; i <= 127; ++i) values.push_back(0.5 * i);
    values.back() = 63.75;  // the largest is 127.5 scales
    put_file(temp / "m.pkl", pickle_with(pickle_array_of({1, 255}, doubles(values)), 3, "weights"));
    const auto report = bitmill::quantize(temp / "m.pkl", temp / "o.pkl", to(bitmill::scheme_type::int8));
    REQUIRE_MESSAGE(report, report.error().text());
    std::string codes;
    for (int i = -127; i <= 127; ++i) codes += static_cast<char>(i);
    const std::string expected = pickle_with(
        pickle_name("numpy", "multiply") + pickle_blank_array() + "(K\1" + pickle_numbers({1, 255}) +
            pickle_dtype("f8") + "0" + name_of_dtype + pickle_text("i1") + "\x89\x88\x87R" + "\x89" +
            "C\xff" + codes + "tb" + "G\x3f\xe0" + std::string(6, '\0') + "\x86R",
        3, "weights");
    CHECK(get_file(temp / "o.pkl") == expected);
    CHECK(report->tensors[0].effective == "int8 per_tensor");
}

TEST_CASE("pickle mill: requests that a pickle cannot meet are refused, and leave nothing") {
    const temp_folder temp;
    put_file(temp / "m.pkl", pickle_with(pickle_array_of({64}, quarters(64))));
    const auto refused = [&](const bitmill::mill_options& options, std::string_view part) {
        const auto report = bitmill::quantize(temp / "m.pkl", temp / "o.pkl", options);
        REQUIRE(!report);
        CHECK_MESSAGE(report.error().text().find(part) != std::string::npos, report.error().text());
        CHECK(!std::filesystem::exists(temp / "o.pkl"));
    };
    refused(to(bitmill::scheme_type::int4), "numpy has no int4");
    refused(to(bitmill::scheme_type::bf16), "numpy has no bf16");
    auto options = to(bitmill::scheme_type::int8);
    options.format = bitmill::format::plain;
    refused(options, "stays a pickle");
    options = to(bitmill::scheme_type::int8);
    options.granularity = bitmill::granularity::group;
    options.group_size = 32;
    refused(options, "not for groups");
    options = to(bitmill::scheme_type::int8);
    options.memory_limit = 1 << 20;
    refused(options, "memory limit");
    options = to(bitmill::scheme_type::int8);
    options.on_progress = [](const bitmill::progress&) { return false; };
    refused(options, "cancelled");
    put_file(temp / "big.pkl", pickle_with(pickle_array_of({64}, doubles(std::vector<double>(64, 1e5)))));
    options = to(bitmill::scheme_type::f16);
    options.strict = true;
    const auto strict = bitmill::quantize(temp / "big.pkl", temp / "o.pkl", options);
    REQUIRE(!strict);
    CHECK(strict.error().tensor == "coef_");
    CHECK(!bitmill::dequantize(temp / "m.pkl", temp / "o", {}, {}));
}

TEST_CASE("pickle mill: one range for the whole model, and the files of a batch") {
    const temp_folder temp;
    std::vector<double> small(65, 0.5), large(65, 1.0);
    small.back() = large.back() = -0.25;
    put_file(temp / "models/m.pkl", "\x80\3](" + pickle_array_of({1, 65}, doubles(small)) +
                                        pickle_array_of({1, 65}, doubles(large)) + "e.");
    const auto quantizer = bitmill::model_quantizer::create(8, 0, false);
    REQUIRE(quantizer);
    const auto batch = quantizer->batch_quantize_models(temp / "models");
    REQUIRE_MESSAGE(batch, batch.error().text());
    REQUIRE(batch->models.size() == 1);
    CHECK(batch->models[0].name == "m");
    CHECK(batch->models[0].output == temp / "models/quantized/m.pkl");
    const std::string milled = get_file(temp / "models/quantized/m.pkl");
    CHECK(milled.find(std::string(64, '\x7f')) != std::string::npos);
    // 0.5 of 1 is 63.5 of 127 steps, rounded half to even.
    CHECK(milled.find(std::string(64, '\x40')) != std::string::npos);
    const auto one = quantizer->quantize_model_file(temp / "models/m.pkl", temp / "alone.pkl");
    REQUIRE_MESSAGE(one, one.error().text());
    CHECK(get_file(temp / "alone.pkl") == milled);
}
