// Truth: ids and offsets that the tokenizers package 0.23.3 gives, and the rules of its sources; tests/parity compares
// with the package itself on real text.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <bitmill/detail/byte_trie-inl.hpp>
#include <bitmill/detail/hash-inl.hpp>
#include <bitmill/detail/tokenizer_file-inl.hpp>
#include <bitmill/text/tokenizer.hpp>

#include <temp_folder.hpp>

namespace {

using ids = std::vector<std::int32_t>;
using spans = std::vector<bitmill::token_span>;

// Everything but the model's and the pre-tokenizer's members.
std::string file_of(const std::string& model, const std::string& members = "") {
    return R"({"version":"1.0","added_tokens":[],"model":)" + model + (members.empty() ? "" : "," + members) +
           "}";
}

const std::string bert_model = R"({"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##",
  "max_input_chars_per_word":100,"vocab":{"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"[MASK]":4,"un":5,"##aff":6,"##able":7,
  "cafe":8,",":9,"!":10,"中":11,"a":12,"##a":13}})";
const std::string bert_members = R"("normalizer":{"type":"BertNormalizer","clean_text":true,
  "handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},
  "post_processor":{"type":"TemplateProcessing",
   "single":[{"SpecialToken":{"id":"[CLS]","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"[SEP]","type_id":0}}],
   "pair":[{"SpecialToken":{"id":"[CLS]","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"[SEP]","type_id":0}},
           {"Sequence":{"id":"B","type_id":1}},{"SpecialToken":{"id":"[SEP]","type_id":1}}],
   "special_tokens":{"[CLS]":{"id":"[CLS]","ids":[2],"tokens":["[CLS]"]},"[SEP]":{"id":"[SEP]","ids":[3],"tokens":["[SEP]"]}}})";

bitmill::tokenizer bert(const std::string& more = "") {
    std::string text = file_of(bert_model, bert_members + (more.empty() ? "" : "," + more));
    const std::string none = R"("added_tokens":[])";
    text.replace(
        text.find(none), none.size(),
        R"("added_tokens":[{"id":4,"content":"[MASK]","single_word":false,"lstrip":true,"rstrip":false,"normalized":false,"special":true}])");
    return bitmill::tokenizer::parse(text).value();
}

// "ab" and "abc" merge; of characters, or of bytes.
std::string bpe_model(const std::string& rules = "") {
    return R"({"type":"BPE","vocab":{"a":0,"b":1,"c":2,"ab":3,"abc":4,"<0xC3>":5,"<0xA9>":6,"<unk>":7,"Ġ":8,"Ã":9,"©":10,"é":11},
      "merges":[["a","b"],["ab","c"]])" +
           rules + "}";
}

const std::string unigram_model = R"({"type":"Unigram","unk_id":0,"byte_fallback":false,
  "vocab":[["<unk>",0.0],["a",-1.0],["b",-1.5],["ab",-2.0],["abc",-2.2],["c",-3.0],["▁",-1.0]]})";

bitmill::error error_of(const std::string& text) {
    const auto made = bitmill::tokenizer::parse(text, "t.json");
    REQUIRE_FALSE(made);
    return made.error();
}

}  // namespace

TEST_CASE("WordPiece: normal text, accents, unknown words, Chinese characters") {
    const auto tokenizer = bert();
    const auto out = tokenizer.encode("Unaffable, CAFÉ! 中x").value();
    CHECK(out.ids == ids{2, 5, 6, 7, 9, 8, 10, 11, 1, 3});
    CHECK(out.offsets ==
          spans{{0, 0}, {0, 2}, {2, 5}, {5, 9}, {9, 10}, {11, 15}, {15, 16}, {17, 18}, {18, 19}, {0, 0}});
    CHECK(out.special_tokens == std::vector<std::uint8_t>{1, 0, 0, 0, 0, 0, 0, 0, 0, 1});
    CHECK(out.attention == std::vector<std::uint8_t>(10, 1));
    CHECK(out.types == ids(10, 0));
    // e and a combining accent: the accent goes, the offsets of what is left stay.
    CHECK(tokenizer.encode("cafe\u0301!", {.add_special_tokens = false}).value().offsets ==
          spans{{0, 4}, {5, 6}});
    CHECK(tokenizer.encode("").value().ids == ids{2, 3});
    CHECK(tokenizer.encode(std::string(101, 'a')).value().ids == ids{2, 1, 3});
    CHECK(tokenizer.encode(std::string(100, 'a')).value().ids.size() == 102);
}

TEST_CASE("pairs, types, truncation") {
    const auto tokenizer = bert();
    const auto pair = tokenizer.encode("a a a", "a").value();
    CHECK(pair.ids == ids{2, 12, 12, 12, 3, 12, 3});
    CHECK(pair.types == ids{0, 0, 0, 0, 0, 1, 1});
    CHECK(tokenizer.encode("a a a", "a", {.max_length = 5}).value().ids == ids{2, 12, 3, 12, 3});
    CHECK(tokenizer.encode("a a a", {.max_length = 4}).value().ids == ids{2, 12, 12, 3});
    const auto refused = tokenizer.encode("a", {.max_length = 1});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == bitmill::error_code::invalid_argument);
    const auto own =
        bert(R"("truncation":{"max_length":3,"strategy":"LongestFirst","stride":0,"direction":"Left"})");
    CHECK(own.facts().max_length == 3);
    const auto cut = own.encode("a, !").value();
    CHECK(cut.ids == ids{2, 10, 3});
    CHECK(cut.offsets == spans{{0, 0}, {3, 4}, {0, 0}});
    CHECK(own.encode("a, !", {.truncate = false}).value().ids.size() == 5);
}

TEST_CASE("added tokens take the blanks before them along") {
    const auto out = bert().encode("a  [MASK]!", {.add_special_tokens = false}).value();
    CHECK(out.ids == ids{12, 4, 10});
    CHECK(out.offsets == spans{{0, 1}, {1, 9}, {9, 10}});
    CHECK(bert().id_of("[MASK]") == 4);
    CHECK(bert().token_of(6) == "##aff");
    CHECK_FALSE(bert().token_of(14));
    CHECK_FALSE(bert().token_of(-1));
    CHECK(bert().facts().vocabulary == 14);
}

TEST_CASE("what is not UTF-8 counts as U+FFFD, by maximal subparts") {
    const auto tokenizer = bitmill::tokenizer::parse(file_of(bpe_model(R"(,"unk_token":"<unk>")"))).value();
    const auto offsets = [&](std::string_view text) { return tokenizer.encode(text).value().offsets; };
    CHECK(offsets("a\xff\xfe") == spans{{0, 1}, {1, 2}, {2, 3}});
    CHECK(offsets("\xe2\x82"
                  "a") == spans{{0, 1}, {1, 2}});                     // the beginning of one character
    CHECK(offsets("\xed\xa0\x80") == spans{{0, 1}, {1, 2}, {2, 3}});  // a surrogate
    CHECK(offsets("\xf0\x9f\x98") == spans{{0, 1}});
    CHECK(offsets("\xc3") == spans{{0, 1}});
}

TEST_CASE("BPE: merges, unknown characters, fallback to bytes") {
    const auto encode = [](const std::string& rules, std::string_view text) {
        return bitmill::tokenizer::parse(file_of(bpe_model(rules))).value().encode(text).value();
    };
    CHECK(encode("", "abcab").ids == ids{4, 3});
    CHECK(encode(R"(,"unk_token":"<unk>")", "axxb").ids == ids{0, 7, 7, 1});
    CHECK(encode(R"(,"unk_token":"<unk>","fuse_unk":true)", "axxb").ids == ids{0, 7, 1});
    CHECK(encode("", "axb").ids == ids{3});  // dropped
    const auto bytes = encode(R"(,"unk_token":"<unk>","byte_fallback":true)", "aßé");
    CHECK(bytes.ids == ids{0, 7, 11});  // of ß's bytes only one is there
    CHECK(bytes.offsets == spans{{0, 1}, {1, 2}, {2, 3}});
    // Files of old have merges as lines.
    std::string old = file_of(bpe_model());
    old.replace(old.find(R"([["a","b"],["ab","c"]])"), 22, R"(["a b","ab c"])");
    CHECK(bitmill::tokenizer::parse(old).value().encode("abc").value().ids == ids{4});
}

TEST_CASE("byte-level BPE: bytes of a character share its offset, blanks are trimmed") {
    const std::string byte_level =
        R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
      "post_processor":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";
    const auto tokenizer = bitmill::tokenizer::parse(file_of(bpe_model(), byte_level)).value();
    const auto out = tokenizer.encode("ab \u00e9").value();
    CHECK(out.ids == ids{3, 8, 9, 10});
    CHECK(out.offsets == spans{{0, 2}, {3, 3}, {3, 4}, {3, 4}});
}

TEST_CASE("Unigram: the best sum, unknown ones in a row as one") {
    const auto tokenizer =
        bitmill::tokenizer::parse(
            file_of(
                unigram_model,
                R"("pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true})"))
            .value();
    const auto out = tokenizer.encode("abc xyab").value();
    CHECK(out.ids == ids{6, 4, 6, 0, 3});
    CHECK(out.offsets == spans{{0, 1}, {0, 3}, {3, 4}, {4, 6}, {6, 8}});
}

TEST_CASE("scores are read as the package reads them, to the last bit") {
    using bitmill::detail::score_of;
    // Left: numbers in files that the package wrote; right: what it writes for them when it has read them again.
    CHECK(score_of("-9.054823338006095") == -9.054823338006097);
    CHECK(score_of("-4.0865919275169516") == -4.086591927516952);
    CHECK(score_of("-7.3033198502927625") == -7.303319850292763);
    CHECK(score_of("-8.620715418435733") == -8.620715418435733);
    CHECK(score_of("-0.5") == -0.5);
    CHECK(score_of("1.5e3") == 1500);
    CHECK(score_of("2.5E-1") == 0.25);
    CHECK(score_of("1e+2") == 100);
    CHECK(score_of("-0.0") == 0);
    CHECK(score_of("123456789012345678901234567890.5") == doctest::Approx(1.2345678901234568e29));
    CHECK(score_of("0.00000000000000000000000000000000000000001") == 1e-41);
    CHECK(score_of("1e-320") == doctest::Approx(1e-320));
    CHECK(score_of("0.0e-99999") == 0);
    CHECK(score_of("1e-99999") == 0);
}

TEST_CASE("an unknown part is refused by name") {
    const auto text_of = [](const std::string& members) { return error_of(file_of(bert_model, members)); };
    for (
        const auto& [members, named] : std::vector<std::pair<std::string, std::string>>{
            {R"("normalizer":{"type":"Sequence","normalizers":[{"type":"Rot13"}]})", "normalizer 'Rot13'"},
            {R"("pre_tokenizer":{"type":"UnicodeScripts"})", "pre-tokenizer 'UnicodeScripts'"},
            {R"("pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a+)+$"},"behavior":"Isolated","invert":false})",
             "'(a+)+$'"},
            {R"("normalizer":{"type":"Replace","pattern":{"String":")" + std::string(65, 'a') +
                 R"("},"content":""})",
             "a long pattern"},
            {R"("post_processor":{"type":"Sign"})", "post-processor 'Sign'"},
            {R"("pre_tokenizer":{"type":"ByteLevel"})", "model 'WordPiece'"}}) {
        const auto error = text_of(members);
        CHECK(error.code == bitmill::error_code::unsupported);
        CHECK(error.file == "t.json");
        CHECK_MESSAGE(error.message.find(named) != std::string::npos, error.message);
    }
    CHECK(error_of(file_of(R"({"type":"Morse","vocab":{"a":0}})")).code == bitmill::error_code::unsupported);
}

TEST_CASE("broken files are bad_input") {
    for (const std::string& text :
         {std::string(""),
          std::string("[]"),
          std::string("{}"),
          std::string("{\"model\":{\"vocab\":{\"a\":0}"),
          file_of(R"({"type":"WordPiece","vocab":{"a":0}})"),                 // no [UNK]
          file_of(R"({"type":"BPE","vocab":{"a":2000000000},"merges":[]})"),  // an id out of all proportion
          file_of(R"({"type":"BPE","vocab":{"a":0,"a":1},"merges":[]})"),
          file_of(R"({"type":"BPE","vocab":{"a":0},"merges":[["a","b"]]})"),
          file_of(R"({"type":"BPE","vocab":{"a":0},"merges":["a b c"]})"),
          file_of(R"({"type":"BPE","vocab":{"a":-1},"merges":[]})"),
          file_of(R"({"type":"BPE","vocab":{"a":0}})"),  // no merges
          file_of(R"({"type":"BPE","vocab":{"a":0},"merges":[],"byte_fallback":{}})"),
          file_of(R"({"type":"WordPiece","unk_token":"a","vocab":{"a":0},"max_input_chars_per_word":5000})"),
          file_of(bert_model, R"("normalizer":{"type":"BertNormalizer","lowercase":"false"})"),
          file_of(bert_model, R"("post_processor":{"type":"ByteLevel","trim_offsets":255})"),
          file_of(bert_model, R"("post_processor":{"type":"TemplateProcessing","special_tokens":{},"pair":[],
            "single":[{"Sequence":{"id":"C","type_id":0}}]})"),
          R"({"added_tokens":[{"id":0,"content":7}],"model":)" + bert_model + "}",
          file_of(R"({"type":"Unigram","unk_id":9,"vocab":[["a",0.0]]})"),
          file_of(R"({"type":"Unigram","unk_id":0,"vocab":[["a"]]})"),
          file_of(unigram_model, R"("normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA!"})"),
          file_of(unigram_model, R"("normalizer":{"type":"Precompiled","precompiled_charsmap":"/////w=="})"),
          std::string(2000, '[')}) {
        const auto error = error_of(text);
        CHECK_MESSAGE(error.code == bitmill::error_code::bad_input, text.substr(0, 80));
        CHECK(error.file == "t.json");
    }
}

TEST_CASE("a folder, a file, and none") {
    const bitmill_test::temp_folder folder;
    std::ofstream(folder / "tokenizer.json") << file_of(bpe_model());
    CHECK(bitmill::tokenizer::open(folder / "tokenizer.json")->encode("abc")->ids == ids{4});
    CHECK(bitmill::tokenizer::open(
              (folder / "tokenizer.json").substr(0, (folder / "tokenizer.json").rfind('/')))
              ->encode("abc")
              ->ids == ids{4});
    CHECK(bitmill::tokenizer::open(folder / "other.json").error().code == bitmill::error_code::io);
}

TEST_CASE("a character without a token, where there is none for unknown ones") {
    const auto tokenizer =
        bitmill::tokenizer::parse(file_of(R"({"type":"Unigram","unk_id":null,"vocab":[["a",-1.0]]})"))
            .value();
    CHECK(tokenizer.encode("aa").value().ids == ids{0, 0});
    const auto refused = tokenizer.encode("ab");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == bitmill::error_code::bad_input);
}

TEST_CASE("a file cannot make a text grow without bound") {
    std::string steps;
    for (int i = 0; i < 40; ++i)
        steps +=
            std::string(i == 0 ? "" : ",") + R"({"type":"Replace","pattern":{"String":"a"},"content":"aa"})";
    const auto tokenizer =
        bitmill::tokenizer::parse(
            file_of(bpe_model(), R"("normalizer":{"type":"Sequence","normalizers":[)" + steps + "]}"))
            .value();
    CHECK(tokenizer.encode("b").value().ids == ids{1});
    const auto refused = tokenizer.encode("ab");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == bitmill::error_code::bad_input);
    const auto long_text = tokenizer.encode(std::string((std::size_t{16} << 20) + 1, 'b'));
    REQUIRE_FALSE(long_text);
    CHECK(long_text.error().code == bitmill::error_code::invalid_argument);
    CHECK(error_of(file_of(bpe_model(),
                           R"("normalizer":{"type":"Prepend","prepend":")" + std::string(65, 'a') + "\"}"))
              .code == bitmill::error_code::unsupported);
}

TEST_CASE("max_length of the caller comes with the caller's strategy, none with the file's") {
    const std::string rules =
        R"("truncation":{"max_length":8,"strategy":"OnlySecond","stride":0,"direction":"Left"})";
    const auto tokenizer = bitmill::tokenizer::parse(file_of(bert_model, bert_members + "," + rules)).value();
    CHECK(tokenizer.encode("aa, un", "a, a !").value().ids == ids{2, 12, 13, 9, 5, 3, 10, 3});
    CHECK(tokenizer.encode("a, un", "!", {.max_length = 6}).value().ids == ids{2, 12, 9, 3, 10, 3});
    CHECK(tokenizer.encode("a, un", {.max_length = 4}).value().ids == ids{2, 12, 9, 3});
}

// The limit is some thirty times what it takes here, and a third of what it took when time was quadratic.
TEST_CASE("half a million keys of two letters make a trie in linear time") {
    std::vector<std::string> keys(std::size_t{1} << 19);
    std::vector<bitmill::detail::byte_trie::entry> entries;
    for (std::size_t i = 0; i < keys.size(); ++i) {
        for (int bit = 18; bit >= 0; --bit) keys[i] += (i >> bit & 1) != 0 ? 'b' : 'a';
        entries.emplace_back(keys[i], static_cast<std::int32_t>(i));
    }
    const auto begin = std::chrono::steady_clock::now();
    const bitmill::detail::byte_trie trie(std::move(entries));
    CHECK(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < 30);
    for (std::size_t i = 0; i < keys.size(); i += 997) {
        const auto node = trie.walk(keys[i]);
        REQUIRE(node != bitmill::detail::byte_trie::no_node);
        CHECK(trie.value(node) == static_cast<std::int32_t>(i));
        CHECK(trie.child(node, 'a') == bitmill::detail::byte_trie::no_node);
    }
}

// 300 and more of them; tables have 1024 places for as many.
TEST_CASE("tokens and merges that were chosen to collide are refused") {
    const auto collides = [](std::uint64_t hash) { return (hash & 1023) == 0; };
    std::string tokens;
    for (int i = 0, found = 0; found < 300; ++i) {
        const std::string token = "t" + std::to_string(i);
        if (!collides(bitmill::detail::hash_of(token))) continue;
        tokens += (found == 0 ? "\"" : ",\"") + token + "\":" + std::to_string(found);
        ++found;
    }
    CHECK(error_of(file_of(R"({"type":"BPE","vocab":{)" + tokens + R"(},"merges":[]})")).code ==
          bitmill::error_code::bad_input);

    std::string vocab;
    std::string merges;
    std::uint32_t next = 600;
    for (std::uint32_t a = 0; a < 600; ++a) {
        const std::string left = "t" + std::to_string(a);
        vocab += (a == 0 ? "\"" : ",\"") + left + "\":" + std::to_string(a);
        for (std::uint32_t b = 0; b < 600 && next < 950; ++b) {
            if (!collides(bitmill::detail::hash_of(a, b))) continue;
            const std::string right = "t" + std::to_string(b);
            vocab += ",\"" + left + right + "\":" + std::to_string(next);
            merges += (next++ == 600 ? "[\"" : ",[\"") + left + "\",\"" + right + "\"]";
        }
    }
    REQUIRE(next > 900);
    const auto refused =
        error_of(file_of(R"({"type":"BPE","vocab":{)" + vocab + R"(},"merges":[)" + merges + "]}"));
    CHECK(refused.code == bitmill::error_code::bad_input);
    CHECK(refused.message.find("collide") != std::string::npos);
}

// The limit is a hundred times what it takes here, and far below what quadratic time would be: 10^12 steps.
TEST_CASE("a megabyte of one character takes no quadratic time") {
    const auto seconds = [](const bitmill::tokenizer& tokenizer, const std::string& text) {
        const auto begin = std::chrono::steady_clock::now();
        CHECK(tokenizer.encode(text, {.truncate = false}).value().attention.size() > 0);
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    const std::string metaspace =
        R"("pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true})";
    const std::string byte_level =
        R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true})";
    std::vector<bitmill::tokenizer> tokenizers;
    tokenizers.push_back(bert());
    tokenizers.push_back(bitmill::tokenizer::parse(file_of(unigram_model, metaspace)).value());
    tokenizers.push_back(bitmill::tokenizer::parse(file_of(bpe_model(), byte_level)).value());
    tokenizers.push_back(bitmill::tokenizer::parse(file_of(bpe_model(R"(,"unk_token":"<unk>")"))).value());
    for (const auto& tokenizer : tokenizers)
        for (const std::string& one :
             {std::string("a"), std::string(" "), std::string("!"), std::string("ab"), std::string("\n"),
              std::string("\u0301"), std::string("\xff"), std::string("[MASK] "), std::string("'")}) {
            std::string text;
            while (text.size() < (std::size_t{1} << 20)) text += one;
            CHECK_MESSAGE(seconds(tokenizer, text) < 60, tokenizer.facts().model << " of " << one);
        }
}

TEST_CASE("many threads share a tokenizer") {
    const auto tokenizer = bitmill::tokenizer::parse(file_of(bpe_model(R"(,"unk_token":"<unk>")"))).value();
    const ids expected = tokenizer.encode("abcab xabc").value().ids;
    std::vector<std::thread> threads;
    std::vector<int> wrong(4, 0);
    for (std::size_t t = 0; t < wrong.size(); ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 500; ++i) wrong[t] += tokenizer.encode("abcab xabc").value().ids != expected;
        });
    for (auto& thread : threads) thread.join();
    CHECK(wrong == std::vector<int>(4, 0));
}
