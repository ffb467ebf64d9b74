// Two models side by side: against the encoder and the metrics by themselves; tests/parity/test_compare.py does it with
// MiniLM and numpy.
#include <bitmill/eval/compare.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <bitmill/model/text_encoder.hpp>

#include <encoder_models.hpp>
#include <io_files.hpp>
#include <letter_tokenizer.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::compare_options;
using bitmill::comparison;
using bitmill::error_code;

namespace {

// Two models of the same shape; the second has other weights where `other` says so.
struct folders {
    temp_folder place{memory_parent()};
    std::string a = place / "a", b = place / "b", pairs = place / "pairs.jsonl",
                tasks = place / "tasks.jsonl";

    explicit folders(encoder_shape shape = {}, bool other = true) {
        put_encoder(a, shape);
        auto tensors = tensors_of(shape);
        if (other)
            for (auto& one : tensors)
                if (one.name.ends_with("output.dense.weight"))
                    for (std::size_t i = 2; i < one.bytes.size(); i += 4)
                        one.bytes[i] = static_cast<char>(one.bytes[i] ^ 0x3f);
        put_model(b, tensors, config_of(shape));
        for (const auto& one : {a, b}) put_file(one + "/tokenizer.json", letter_tokenizer());
        put_file(pairs, pair_lines());
        put_file(tasks, task_lines());
    }
    static std::string pair_lines() {
        std::string out;
        for (char c = 'a'; c <= 'z'; ++c)
            out += std::string(R"({"query": ")") + c + "x " + c + R"(", "document": ")" + c + c + " q" + c +
                   "\", \"id\": 1}\r\n";
        return out + "\n";
    }
    static std::string task_lines() {
        std::string out;
        for (char c = 'b'; c <= 'y'; ++c)
            out += std::string(R"({"query": "w)") + c + R"(", "documents": ["a)" + c + R"(", "zz", ")" + c +
                   " " + c + R"(w", "k", "lm", "op"], "relevant": [2, 0]})" + "\n";
        return out;
    }
    [[nodiscard]] compare_options both() const {
        compare_options out;
        out.pairs = pairs;
        out.tasks = tasks;
        out.rounds = 1;
        out.bootstrap.rounds = 200;
        return out;
    }
    [[nodiscard]] comparison compare(const compare_options& options) const {
        return bitmill::compare_model_performance(a, b, options).value();
    }
    [[nodiscard]] bitmill::error refused(const compare_options& options) const {
        const auto done = bitmill::compare_model_performance(a, b, options);
        REQUIRE_FALSE(done);
        return done.error();
    }
};

using vectors = std::vector<std::vector<float>>;
vectors embed(const bitmill::text_encoder& model, const std::vector<std::string>& texts) {
    vectors out;
    for (const auto& one : texts) {
        const std::vector<std::string_view> view{one};
        model.embed(view, out.emplace_back(model.model().facts().embedding_size)).value();
    }
    return out;
}
double cosine(const std::vector<float>& a, const std::vector<float>& b) {
    long double ab = 0, aa = 0, bb = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        ab += static_cast<long double>(a[i]) * static_cast<long double>(b[i]);
        aa += static_cast<long double>(a[i]) * static_cast<long double>(a[i]);
        bb += static_cast<long double>(b[i]) * static_cast<long double>(b[i]);
    }
    return static_cast<double>(ab / std::sqrt(aa) / std::sqrt(bb));
}
const bitmill::metric_difference& metric(const comparison& of, const std::string& name) {
    const auto found =
        std::find_if(of.metrics.begin(), of.metrics.end(), [&](const auto& one) { return one.name == name; });
    REQUIRE(found != of.metrics.end());
    return found->value;
}

}  // namespace

TEST_CASE("a model beside itself: cosine 1, no difference, no noise") {
    // EXACT, but for the cosine's last bits: SHARE(1e-12)
    const folders at({}, false);
    const auto out = at.compare(at.both());
    CHECK(out.pairs == 26);
    CHECK(out.tasks == 24);
    CHECK(out.cosine_min > 1 - 1e-12);
    CHECK(out.cosine_mean <= 1);
    CHECK(out.overlap == 1);
    REQUIRE(out.metrics.size() == 5);
    for (const auto& [name, value] : out.metrics) {
        CAPTURE(name);
        CHECK(value.original == value.quantized);
        CHECK(value.relative == 0);
        CHECK(value.low == 0);
        CHECK(value.high == 0);
        CHECK(value.original > 0);
        CHECK(value.n == (name == "recall@10" || name == "mrr@10" ? 26 : 24));
    }
    CHECK(out.original.pair_cosine == out.quantized.pair_cosine);
    REQUIRE(out.layers.size() == 8);  // two layers of four inputs
    CHECK(out.layers[0].layer == "encoder.layer.0.attention.self.query");
    CHECK(out.layers[7].layer == "encoder.layer.1.output.dense");
    for (const auto& one : out.layers) CHECK(one.snr_db == std::numeric_limits<double>::infinity());
    for (const auto* side : {&out.original, &out.quantized}) {
        CHECK(side->load_ms > 0);
        CHECK(side->latency_p50_ms > 0);
        CHECK(side->latency_p95_ms >= side->latency_p50_ms);
        CHECK(side->tokens_per_s > 0);
    }
    CHECK(out.passed());
}

TEST_CASE("metrics are those of the vectors") {
    // EXACT: of rankings; SHARE(1e-12): of cosines
    const folders at;
    const auto out = at.compare(at.both());
    std::vector<double> recall[2], rank[2], gain[2];
    std::vector<vectors> all_documents;
    double pair_cosine[2] = {};
    std::size_t side = 0;
    for (const auto& path : {at.a, at.b}) {
        const auto model = bitmill::text_encoder::open(path).value();
        std::vector<std::string> queries, documents;
        for (char c = 'a'; c <= 'z'; ++c) {
            queries.push_back({c, 'x', ' ', c});
            documents.push_back({c, c, ' ', 'q', c});
        }
        const auto asked = embed(model, queries), given = embed(model, documents);
        all_documents.push_back(given);
        for (std::size_t i = 0; i < asked.size(); ++i) {
            std::vector<double> scores;
            for (const auto& one : given) scores.push_back(cosine(asked[i], one));
            const auto before = static_cast<std::size_t>(
                std::count_if(scores.begin(), scores.end(), [&](double score) { return score > scores[i]; }));
            recall[side].push_back(before < 10 ? 1 : 0);
            rank[side].push_back(before < 10 ? 1.0 / static_cast<double>(before + 1) : 0);
            pair_cosine[side] += scores[i] / 26;
        }
        for (char c = 'b'; c <= 'y'; ++c) {
            const auto query = embed(model, {{'w', c}}).front();
            std::vector<double> scores;
            for (const auto& one : embed(model, {{'a', c}, "zz", {c, ' ', c, 'w'}, "k", "lm", "op"}))
                scores.push_back(cosine(query, one));
            gain[side].push_back(
                bitmill::ndcg_at(bitmill::top_ranked(scores, 6), std::vector<std::size_t>{0, 2}, 5));
        }
        ++side;
    }
    const bitmill::bootstrap_options how{.rounds = 200};
    const auto check = [&](const char* name, const auto& values) {
        CAPTURE(name);
        const auto truth = bitmill::paired_difference(values[0], values[1], how);
        const auto& got = metric(out, name);
        CHECK(got.original == truth.original);
        CHECK(got.quantized == truth.quantized);
        CHECK(got.low == truth.low);
        CHECK(got.high == truth.high);
    };
    check("recall@10", recall);
    check("mrr@10", rank);
    check("ndcg@5", gain);
    CHECK(metric(out, "mrr@10").relative != 0);  // the models differ
    CHECK(std::fabs(out.original.pair_cosine - pair_cosine[0]) < 1e-12);
    CHECK(std::fabs(out.quantized.pair_cosine - pair_cosine[1]) < 1e-12);
    CHECK(out.texts == 26 + 24 + 26 + 24 * 2 + 4);  // each once: "zz", "k", "lm" and "op" are in every task
    CHECK(out.cosine_min < out.cosine_mean);
    CHECK(out.cosine_mean < 1);
    CHECK(out.overlap < 1);
    // What the first layer is given is the same; behind the first changed one it is not.
    CHECK(out.layers[0].snr_db == std::numeric_limits<double>::infinity());
    CHECK(std::isfinite(out.layers[7].snr_db));
    CHECK(out.layers[7].snr_db < 60);
    // The same bits for any threads.
    auto more = at.both();
    more.original.threads = more.quantized.threads = 3;
    CHECK(metric(at.compare(more), "mrr@10").low == metric(out, "mrr@10").low);
}

TEST_CASE("a reranker's tasks are ranked by its logits") {
    // EXACT
    encoder_shape shape;
    shape.labels = 1;
    const folders at(shape);
    auto options = at.both();
    CHECK(at.refused(options).message.find("rerankers") != std::string::npos);
    options.pairs.clear();
    const auto out = at.compare(options);
    CHECK(out.reranker);
    CHECK(out.metrics.size() == 3);
    CHECK(out.texts == 24 * 6);
    CHECK(out.logit_difference_max > out.logit_difference_mean);
    CHECK(out.logit_difference_mean > 0);
    std::vector<double> precision;
    const auto model = bitmill::text_encoder::open(at.a).value();
    double mean = 0;
    for (char c = 'b'; c <= 'y'; ++c) {
        const std::string first{'a', c}, third{c, ' ', c, 'w'};
        const std::vector<std::string_view> documents{first, "zz", third, "k", "lm", "op"};
        const auto ranked = model.rerank(std::string{'w', c}, documents).value();
        double found = 0, sum = 0;
        for (std::size_t i = 0; i < ranked.size(); ++i)
            if (ranked[i].index == 0 || ranked[i].index == 2) sum += ++found / static_cast<double>(i + 1);
        mean += sum / 2;
    }
    CHECK(metric(out, "map").original == mean / 24);
    CHECK_FALSE(out.layers.empty());
    // On our own sentences.
    options.tasks.clear();
    const auto own = at.compare(options);
    CHECK(own.metrics.empty());
    CHECK(own.logit_difference_max > 0);
    CHECK(own.table().find("quality was not measured") != std::string::npos);
}

TEST_CASE("prompts: queries by 'query', documents by 'passage'") {
    // SHARE(1e-12)
    const folders at({}, false);
    for (const auto& path : {at.a, at.b})
        put_file(path + "/config_sentence_transformers.json",
                 R"({"prompts": {"query": "q ", "passage": "zz "}})");
    put_file(at.pairs, R"({"query": "abc", "document": "xyz"})");
    auto options = at.both();
    options.tasks.clear();
    const auto model = bitmill::text_encoder::open(at.a).value();
    const auto truth = embed(model, {"q abc", "zz xyz"});
    CHECK(std::fabs(at.compare(options).original.pair_cosine - cosine(truth[0], truth[1])) < 1e-12);
}

TEST_CASE("files that are no pairs or tasks name the line and the byte") {
    const folders at;
    auto options = at.both();
    struct row {
        const char* text;
        const char* says;
        std::uint64_t offset;
    };
    const std::string good = R"({"query": "a", "document": "b"})";
    for (const auto& [text, says, offset] :
         {row{"[1]", "line 2: must be a JSON object", 32}, row{R"({"query": "a"})", "line 2: a pair is", 32},
          row{R"({"query": 5, "document": "b"})", "line 2: a pair is", 32},
          row{R"({"query": "a", "document" "b"})", "line 2: ", 61},
          row{"{\"query\": \"\xff\", \"document\": \"b\"}", "line 2: ", 44},
          row{"  x", "line 2: must be", 34}}) {
        CAPTURE(text);
        put_file(at.pairs, good + "\n" + text + "\n");
        const auto what = at.refused(options);
        CHECK(what.code == error_code::bad_input);
        CHECK(what.message.find(says) == 0);
        CHECK(what.file == at.pairs);
        CHECK(what.offset >= 32);
        CHECK(what.offset <= offset);
    }
    put_file(at.pairs, good);
    for (const auto& [text, says, offset] :
         {row{R"({"query": "a", "documents": ["b"]})", "a task is", 0},
          row{R"({"query": "a", "documents": "b", "relevant": [0]})", "a task is", 0},
          row{R"({"query": "a", "documents": [5], "relevant": [0]})", "no text", 0},
          row{R"({"query": "a", "documents": ["b"], "relevant": [1]})", "holds 1, there are 1", 0},
          row{R"({"query": "a", "documents": ["b"], "relevant": [-1]})", "holds -1", 0},
          row{R"({"query": "a", "documents": ["b"], "relevant": [0.5]})", "holds 0.5", 0},
          row{R"({"query": "a", "documents": ["b"], "relevant": []})", "no document is relevant", 0},
          row{R"({"query": "a", "documents": ["b"], "relevant": [0, 0]})", "twice", 0},
          row{R"({"query": "a", "documents": ["b"], "relevant": [[[[[0]]]]]})", "line 1: ", 0}}) {
        CAPTURE(text);
        put_file(at.tasks, text);
        const auto what = at.refused(options);
        CHECK(what.code == error_code::bad_input);
        CHECK(what.message.find(says) != std::string::npos);
        CHECK(what.file == at.tasks);
    }
    put_file(at.tasks, "\n \n");
    CHECK(at.refused(options).message.find("holds no line") != std::string::npos);
    options.tasks = at.place / "none";
    CHECK(at.refused(options).code == error_code::io);
}

TEST_CASE("gates") {
    const folders at;
    auto options = at.both();
    options.gates = {"recall@10.low >= -99%", "size.ratio<=1", "mrr@10.quantized>1", "cosine.min>0.99999"};
    const auto out = at.compare(options);
    REQUIRE(out.gates.size() == 4);
    CHECK(out.gates[0].passed);
    CHECK(out.gates[0].text == "recall@10.low>=-99%");
    CHECK(out.gates[0].value == metric(out, "recall@10").low);
    CHECK(out.gates[1].passed);
    CHECK(out.gates[1].value == 1);
    CHECK_FALSE(out.gates[2].passed);
    CHECK_FALSE(out.gates[3].passed);
    CHECK_FALSE(out.passed());
    // Both sides of each sign.
    CHECK(out.check("size.ratio>=1").value().passed);
    CHECK(out.check("size.ratio>=100%").value().passed);
    CHECK_FALSE(out.check("size.ratio>1").value().passed);
    CHECK_FALSE(out.check("size.ratio<1").value().passed);
    CHECK(out.check("size.ratio<1.01").value().passed);
    CHECK(out.check("overlap@10.mean>+0").value().value == out.overlap);
    for (const auto& name : bitmill::quality_gate_names())
        if (name.find("logit") == std::string::npos)
            CHECK(std::isfinite(out.check(name + ">=0").value().value));
    CHECK(out.check("logit_difference.max<1").error().message.find("rerankers") != std::string::npos);
    const auto pair = out.check("pair_cosine.quantized>=0.5");
    CHECK(pair.error().code == error_code::refused);
    CHECK(pair.error().message.find("rises") != std::string::npos);
    for (const char* bad :
         {"recall@10>=0", "recall@10.lo>=0", "recall@10.l>=0", "recall@11.low>=0", ".low>=0", "",
          ">=", "recall@10.low", "recall@10.low=0", "recall@10.low>=", "recall@10.low>=x",
          "recall@10.low>=1%%", "recall@10.low>=nan", "recall@10.low>=1e999", "recall@10.low>==1"}) {
        CAPTURE(bad);
        CHECK(out.check(bad).error().code == error_code::invalid_argument);
    }
    CHECK(out.check("speed.ratio>1").error().message.find("there are recall@10.low, ") != std::string::npos);
    // Refused before anything is opened, and before anything is measured.
    options.gates = {"nonsense"};
    CHECK(bitmill::compare_model_performance("/nowhere", "/nowhere", options)
              .error()
              .message.find("gate 'nonsense'") == 0);
    options.gates = {"map.low>=0"};
    options.tasks.clear();
    CHECK(at.refused(options).message.find("needs tasks") != std::string::npos);
}

TEST_CASE("JSON, table and page say the same; hostile names stay text") {
    const folders at;
    auto options = at.both();
    options.gates = {"recall@10.low>=5"};
    auto out = at.compare(options);
    const auto json = nlohmann::json::parse(out.json());
    CHECK(json["metrics"]["map"]["original"].get<double>() == metric(out, "map").original);
    CHECK(json["metrics"]["recall@10"]["n"] == 26);
    CHECK(json["original"]["path"] == at.a);
    CHECK(json["layers"][0]["snr_db"].is_null());  // infinite
    CHECK(json["passed"] == false);
    CHECK(nlohmann::json::parse(out.json(-1)) == json);
    const auto table = out.table();
    CHECK(table.find("recall@10") != std::string::npos);
    CHECK(table.find("REFUSED  recall@10.low>=5") != std::string::npos);
    CHECK(table.find("no measure of quality") != std::string::npos);
    CHECK(table.find("quality was not measured") == std::string::npos);

    const std::string evil = "<script>alert(1)</script>\"'&\x1b[31m\xff";
    out.quantized.facts.path = out.original.facts.reason = out.layers[1].layer = out.gates[0].text = evil;
    out.metrics[0].name = "<b>";
    const std::string page = out.html();
    CHECK(page.find("<script") == std::string::npos);
    CHECK(page.find("<b>") == std::string::npos);
    CHECK(page.find("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;\\x1b[31m\\xff") !=
          std::string::npos);
    CHECK(bitmill::is_utf8(page));
    CHECK(std::count(page.begin(), page.end(), '\x1b') == 0);
    CHECK(page.find("http") == std::string::npos);
    CHECK(out.table().find('\x1b') == std::string::npos);
}

TEST_CASE("what does not belong together; progress; cancelled") {
    const folders at;
    encoder_shape wide;
    wide.hidden = 96;
    put_encoder(at.b, wide);
    put_file(at.b + "/tokenizer.json", letter_tokenizer());
    CHECK(at.refused(at.both()).message.find("do not belong together") != std::string::npos);
    encoder_shape deep;
    deep.layers = 3;
    put_encoder(at.b, deep);
    put_file(at.b + "/tokenizer.json", letter_tokenizer());
    CHECK(at.compare(at.both()).layers.empty());
    auto options = at.both();
    options.rounds = 0;
    CHECK(at.refused(options).code == error_code::invalid_argument);
    options.rounds = 2;
    std::size_t last = 0, whole = 0;
    options.on_progress = [&](std::size_t done, std::size_t total) {
        CHECK(done > last);
        CHECK(done <= total);
        last = done;
        whole = total;
        return true;
    };
    (void)at.compare(options);
    CHECK(last == whole);
    options.on_progress = [](std::size_t, std::size_t) { return false; };
    CHECK(at.refused(options).code == error_code::cancelled);
    options.pairs.clear();
    options.tasks.clear();
    options.on_progress = nullptr;
    const auto own = at.compare(options);
    CHECK(own.texts > 10);
    CHECK(own.metrics.empty());
    CHECK(own.html().find("quality was not measured") != std::string::npos);
}

TEST_CASE("a model that gives no numbers is no result") {
    folders at;
    auto tensors = tensors_of({});
    for (auto& one : tensors)
        if (one.name.ends_with("output.dense.weight"))
            for (std::size_t i = 0; i < one.bytes.size(); i += 4) {
                const float most = std::numeric_limits<float>::max();
                std::memcpy(one.bytes.data() + i, &most, 4);
            }
    put_model(at.b, tensors, config_of({}));
    put_file(at.b + "/tokenizer.json", letter_tokenizer());
    for (const bool measured : {true, false}) {
        compare_options options = at.both();
        if (!measured) options.pairs = options.tasks = "";
        options.gates = {"cosine.min>=0.99"};
        const auto refused = at.refused(options);
        CHECK(refused.code == error_code::bad_input);
        CHECK(refused.file == at.b);
        CHECK(refused.message.find("NaN or infinity for the text '") != std::string::npos);
    }
}

TEST_CASE("lines as others write them: a mark in front of UTF-8, keys of their own") {
    const folders at;
    const auto options = at.both();
    const auto expected = at.compare(options);
    std::string lines = folders::pair_lines();
    lines.insert(lines.find("\"id\": 1"), R"("meta": {"a": {"b": {"c": [{"d": [1]}]}}}, )");
    std::filesystem::remove(at.pairs);
    put_file(at.pairs, "\xef\xbb\xbf" + lines);
    CHECK(metric(at.compare(options), "mrr@10").quantized == metric(expected, "mrr@10").quantized);
}
