// Pickled models: where arrays lie, what they are called, and what is refused. (tests/parity/test_pickle.py has those
// that scikit-learn makes.)
#include <bitmill/io/pickle_model.hpp>

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <pickles.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::error_code;
using bitmill::pickle_array;
using bitmill::pickle_model;

namespace {

struct opened {
    temp_folder temp;
    bitmill::result<pickle_model> model;

    explicit opened(const std::string& bytes)
        : model([&] {
              put_file(temp / "m.pkl", bytes);
              return pickle_model::open(bitmill::input_file::open(temp / "m.pkl").value());
          }()) {}

    [[nodiscard]] const pickle_array& only() const {
        REQUIRE_MESSAGE(model, model.error().text());
        REQUIRE(model->arrays().size() == 1);
        return model->arrays()[0];
    }
    [[nodiscard]] std::string read(const pickle_array& array, std::size_t piece = 1000) const {
        std::string out(static_cast<std::size_t>(array.bytes), '\0');
        bitmill::pickle_array_reader reader(*model, array);
        for (std::size_t at = 0; at < out.size(); at += piece)
            reader.next(std::as_writable_bytes(std::span(out).subspan(at, std::min(piece, out.size() - at))))
                .value();
        return out;
    }
    [[nodiscard]] std::string refusal() const {
        REQUIRE(!model);
        CHECK(model.error().file == temp / "m.pkl");
        CHECK(model.error().offset != bitmill::error::no_offset);
        return model.error().message;
    }
};

std::string all_bytes() {
    std::string out;
    for (int i = 0; i < 1024; ++i) out += static_cast<char>(i * 7 + i / 256);
    return out;
}

}  // namespace

TEST_CASE("pickle: an array of each way of writing, its name, shape and elements") {
    const std::string content = all_bytes();
    const std::vector<std::uint64_t> shape{32, 4};
    const std::string head = "\x80\3}" + pickle_text("coef_");
    const struct {
        std::string bytes;
        pickle_array::storage stored;
    } rows[] = {
        {pickle_with(pickle_array_of(shape, content)), pickle_array::storage::bytes},
        {pickle_with(pickle_blank_array() + pickle_state(shape, pickle_dtype("f8"), pickle_latin1(content)),
                     2),
         pickle_array::storage::latin1},
        {pickle_with(pickle_buffer_array(shape, content), 5), pickle_array::storage::byte_array},
        {pickle_with(pickle_joblib_array(head.size(), shape, content), 3), pickle_array::storage::raw},
    };
    for (const auto& row : rows) {
        const opened file(row.bytes);
        const pickle_array& array = file.only();
        CHECK(array.name == "coef_");
        CHECK(array.type == dtype::f64);
        CHECK(array.shape == shape);
        CHECK(array.elements == 128);
        CHECK(array.stored == row.stored);
        CHECK(array.fixed == "");
        CHECK(!array.memo);
        CHECK(file.read(array) == content);
        CHECK(file.read(array, 7) == content);
        CHECK(array.begin == head.size());
        CHECK(row.bytes.substr(static_cast<std::size_t>(array.end)) == "s.");
    }
}

TEST_CASE("pickle: names say attributes, keys and indices from the top") {
    const std::string one = pickle_array_of({1}, quarters(1));
    // Pipeline.__setstate__({"steps": [("clf", {"coef_": ARRAY})], "more": {7: ARRAY}})
    const std::string state = "}(" + pickle_text("steps") + "]" + pickle_text("clf") + "}" +
                              pickle_text("coef_") + one + "s\x86" + "a" + pickle_text("more") + "}K\7" +
                              one + "su";
    const opened file("\x80\3" + pickle_name("sklearn.pipeline", "Pipeline") + ")\x81" + state + "b.");
    REQUIRE_MESSAGE(file.model, file.model.error().text());
    REQUIRE(file.model->arrays().size() == 2);
    CHECK(file.model->arrays()[0].name == "steps.0.1.coef_");
    CHECK(file.model->arrays()[1].name == "more.7");
    CHECK(opened("\x80\3" + one + ".").only().name == "array");
}

TEST_CASE("pickle: what can not be replaced says why, and one object stays one") {
    const std::string put = std::string("q\0", 2), get = std::string("h\0", 2);
    const std::string content = quarters(64);
    const std::string array =
        pickle_blank_array() + put + pickle_state({64}, pickle_dtype("f8"), pickle_bytes(content));
    {
        const opened file("\x80\3]" + array + "a" + get + "a.");
        CHECK(file.only().memo == 0);
        CHECK(file.only().fixed == "");
    }
    CHECK(!opened("\x80\3]" + array + "a.").only().memo);
    const std::string before = pickle_blank_array() + put + get + "0" +
                               pickle_state({64}, pickle_dtype("f8"), pickle_bytes(content));
    CHECK(opened("\x80\3" + before + ".").only().fixed == "it is used before it is complete");
    const std::string shared =
        pickle_blank_array() + pickle_state({64}, pickle_dtype("f8"), pickle_bytes(content) + put);
    CHECK(opened("\x80\3]" + shared + "a" + get + "a.").only().fixed != "");
    const std::string swapped =
        pickle_blank_array() + pickle_state({64}, pickle_dtype("f8", ">"), pickle_bytes(content));
    CHECK(opened("\x80\3" + swapped + ".").only().fixed == "big-endian");
    const std::string tree = pickle_name("sklearn.neighbors._kd_tree", "newObj") +
                             pickle_name("sklearn.neighbors._kd_tree", "KDTree") + "\x85R(" + array + "tb";
    CHECK(opened("\x80\3" + tree + ".").only().search_tree);
}

TEST_CASE("pickle: a pickle within joblib's, for an array of objects") {
    const std::string inner = "\x80\2]" + pickle_text("label") + "a.";
    std::string wrapper = pickle_joblib_array(0, {1}, "", "O8");
    const std::size_t end = wrapper.rfind("ub") + 2;
    const opened file("\x80\3](" + wrapper.substr(0, end) + inner + pickle_array_of({2}, quarters(2)) + "e.");
    CHECK(file.only().name == "1");
}

TEST_CASE("pickle: frames hold whole instructions") {
    const std::string body = "}" + pickle_text("coef_") + pickle_array_of({2}, quarters(2)) + "s.";
    const auto framed = [&](std::uint64_t length) { return "\x80\4\x95" + le(length, 8) + body; };
    CHECK(opened(framed(body.size())).only().name == "coef_");
    CHECK(opened(framed(body.size() - 9)).refusal().find("crosses the end of its frame") !=
          std::string::npos);
    CHECK(opened(framed(body.size() + 1)).refusal().find("cut off") != std::string::npos);
    CHECK(opened("\x80\4\x95" + le(20, 8) + framed(body.size()).substr(2)).refusal().find("within another") !=
          std::string::npos);
}

TEST_CASE("pickle: what can run code, or lies elsewhere, is refused by its name") {
    const auto refused = [](const std::string& bytes, std::string_view part) {
        const std::string message = opened(bytes).refusal();
        CHECK_MESSAGE(message.find(part) != std::string::npos, message);
    };
    const std::string text = pickle_text("x") + "\x85R.";
    refused("\x80\3" + pickle_name("os", "system") + text, "os.system");
    refused("\x80\3" + pickle_name("builtins", "eval") + text, "builtins.eval");
    refused("\x80\3" + pickle_name("numpy", "load") + text, "names numpy.load");
    refused("\x80\3" + pickle_name("numpy", "mean") + text, "calls numpy.mean");
    refused("\x80\3" + pickle_name("sklearn.datasets", "fetch_openml") + text,
            "names sklearn.datasets.fetch_openml");
    refused("\x80\3" + pickle_name("sklearn.svm", "SVC.__class__") + text, "SVC.__class__");
    refused("\x80\3" + pickle_name("__main__", "Model") + ")\x81.", "__main__.Model");
    refused("\x80\4" + pickle_text("posix") + pickle_text("system") + "\x93.", "posix.system");
    refused(std::string("\x80\3") + "K\1Q.", "persistent id");
    refused("\x80\5\x97.", "outside the pickle");
    refused(std::string("\x80\3") + "I1\n.", "0x49");
    refused("(dp0\n.", "no pickle of protocol 2 to 5");
    refused("\x1f\x8b\x08", "compressed with gzip");
    refused("\x78\x9c.", "compressed with zlib");
    refused("PK\3\4", "torch.save");
    refused("\x80\7.", "protocol 7");
}

TEST_CASE("pickle: sizes that do not fit are refused") {
    const std::string content = quarters(4);
    for (const auto& shape :
         std::vector<std::vector<std::uint64_t>>{{5}, {2, 1}, {0}, {1ull << 55, 1ull << 55}})
        CHECK(!opened(pickle_with(pickle_array_of(shape, content))).model);
    CHECK(!opened(pickle_with(pickle_joblib_array(0, {5}, content))).model);
    CHECK(!opened(pickle_with(pickle_joblib_array(0, {1ull << 55, 1ull << 55}, content))).model);
    const std::string latin = pickle_latin1(std::string(8, '\xff'));
    CHECK(opened(pickle_with(pickle_blank_array() + pickle_state({1}, pickle_dtype("f8"), latin), 2)).model);
    std::string broken = pickle_with(pickle_blank_array() + pickle_state({1}, pickle_dtype("f8"), latin), 2);
    broken[broken.find("\xc3\xbf")] = '\xc5';
    CHECK(opened(broken).refusal().find("latin-1") != std::string::npos);
}
