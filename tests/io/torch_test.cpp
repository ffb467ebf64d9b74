// Files of torch.save: what they hold, and every order in which a tensor's elements may lie.
#include <bitmill/io/torch.hpp>

#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/io/weight_file.hpp>

#include <random.hpp>
#include <temp_folder.hpp>
#include <torch_files.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::error_code;
using bitmill::tensor_info;
using bitmill::weight_file;

namespace {

weight_file open(const std::string& path) {
    return weight_file::open(bitmill::input_file::open(path).value()).value();
}

std::string read(const weight_file& file, const tensor_info& t, std::uint64_t offset, std::uint64_t bytes) {
    std::string text(static_cast<std::size_t>(bytes), '\0');
    file.read(t, offset, std::as_writable_bytes(std::span(text.data(), text.size()))).value();
    return text;
}

// One element after another, as the strides say.
std::string expected(const std::string& storage, const torch_tensor& t, std::size_t width) {
    std::string out;
    std::vector<std::uint64_t> at(t.shape.size(), 0);
    const std::uint64_t count =
        std::accumulate(t.shape.begin(), t.shape.end(), std::uint64_t{1}, std::multiplies<>());
    for (std::uint64_t i = 0; i < count; ++i) {
        std::uint64_t element = t.first;
        for (std::size_t d = 0; d < at.size(); ++d) element += at[d] * t.strides[d];
        out += storage.substr(static_cast<std::size_t>(element) * width, width);
        for (std::size_t d = at.size(); d-- > 0 && ++at[d] == t.shape[d];) at[d] = 0;
    }
    return out;
}

}  // namespace

TEST_CASE("torch: tensors by name, with dtype, shape and place") {
    const temp_folder temp;
    put_file(temp / "m.bin", torch_file_of(state_pickle({{"b", {4, 3}, {3, 1}, 2},
                                                         {"a", {4}, {1}, 0, "1", 4},
                                                         {"half", {2, 4}, {4, 1}, 0, "1", 8, "Half"},
                                                         {"none", {0, 7}, {7, 1}, 0, "2", 0},
                                                         {"scalar", {}, {}, 63}})));
    const auto file = open_torch(temp / "m.bin");
    REQUIRE_MESSAGE(file, file.error().text());
    REQUIRE(file->size() == 5);
    CHECK_FALSE(file->find("c"));
    const tensor_info b = (*file)[file->find("b").value()];
    CHECK(b.type == dtype::f32);
    CHECK(std::vector<std::uint64_t>(b.shape.begin(), b.shape.end()) == std::vector<std::uint64_t>{4, 3});
    CHECK(b.elements == 12);
    CHECK(b.bytes == 48);
    CHECK(b.strides.empty());
    CHECK((*file)[file->find("half").value()].type == dtype::f16);
    CHECK((*file)[file->find("none").value()].bytes == 0);
    CHECK((*file)[file->find("scalar").value()].offset - b.offset == (63 - 2) * 4);
    for (std::size_t i = 1; i < file->size(); ++i) CHECK((*file)[i - 1].offset <= (*file)[i].offset);
}

TEST_CASE("torch: any strides read as row-major, whole and in pieces") {
    const temp_folder temp;
    test::random rng(3);
    std::string storage;
    for (int i = 0; i < 256; ++i) storage.push_back(static_cast<char>(i));
    int strided = 0;
    for (int round = 0; round < 400; ++round) {
        torch_tensor t{"t", {}, {}};
        std::uint64_t last = 0;
        for (std::uint32_t rank = rng.below(5); rank > 0; --rank) {
            t.shape.push_back(1 + rng.below(4));
            t.strides.push_back(rng.below(3) == 0 ? rng.below(12) : rng.below(4));
            last += (t.shape.back() - 1) * t.strides.back();
        }
        if (last > 63) continue;
        t.first = rng.below(static_cast<std::uint32_t>(64 - last));
        put_file(temp / "m.bin", torch_file_of(state_pickle({t})));
        const weight_file file = open(temp / "m.bin");
        const tensor_info info = file[0];
        strided += info.strides.empty() ? 0 : 1;
        const std::string wanted = expected(storage, t, 4);
        REQUIRE(info.bytes == wanted.size());
        CHECK(read(file, info, 0, info.bytes) == wanted);
        for (int piece = 0; piece < 8; ++piece) {
            const std::uint64_t from = rng.below(static_cast<std::uint32_t>(info.bytes));
            const std::uint64_t count = rng.below(static_cast<std::uint32_t>(info.bytes - from + 1));
            CHECK(read(file, info, from, count) ==
                  wanted.substr(static_cast<std::size_t>(from), static_cast<std::size_t>(count)));
        }
    }
    CHECK(strided > 100);
}

TEST_CASE("torch: a large transposed matrix, more than one buffer of it") {
    const temp_folder temp;
    const std::uint64_t rows = 300, cols = 70;
    std::string bytes;
    for (std::uint32_t i = 0; i < rows * cols; ++i) bytes += le(i, 4);
    put_file(temp / "m.bin",
             zip_of({{"m/data.pkl", state_pickle({{"t", {rows, cols}, {1, rows}, 0, "0", rows * cols},
                                                  {"far", {rows}, {cols}, 0, "0", rows * cols}})},
                     {"m/data/0", bytes}}));
    const weight_file file = open(temp / "m.bin");
    for (const char* name : {"t", "far"}) {
        const tensor_info info = file[file.find(name).value()];
        torch_tensor t{
            name, {info.shape.begin(), info.shape.end()}, {info.strides.begin(), info.strides.end()}};
        CHECK(read(file, info, 0, info.bytes) == expected(bytes, t, 4));
    }
}

TEST_CASE("torch: state dicts below a name, and what is none") {
    const temp_folder temp;
    const std::string items = pickle_items({{"w", {2}, {1}}});
    const auto opened = [&](const std::string& pickle) {
        put_file(temp / "m.bin", torch_file_of(pickle));
        return open_torch(temp / "m.bin");
    };
    for (const char* name : {"state_dict", "model", "module"}) {
        const auto file = opened("\x80\x02}(" + pickle_text("epoch") + "K\x03" + pickle_text("none") + "N" +
                                 pickle_text(name) + "}" + items + "u.");
        REQUIRE_MESSAGE(file, file.error().text());
        CHECK(file->find("w"));
    }
    CHECK(opened("\x80\x02}(" + pickle_text("lr") + "G?\xb9\x99\x99\x99\x99\x99\x9a" + pickle_text("w") +
                 pickle_tensor({"w", {2}, {1}}) + "u."));
    CHECK_FALSE(opened("\x80\x02}(" + pickle_text("other") + "}" + items + "u."));
    CHECK_FALSE(opened("\x80\x02}(" + pickle_text("w") + pickle_tensor({"w", {2}, {1}}) +
                       pickle_text("more") + "}" + items + "u."));
    CHECK_FALSE(opened("\x80\x02}."));
    CHECK_FALSE(opened("\x80\x02N."));
    CHECK_FALSE(opened("\x80\x02" + pickle_tensor({"w", {2}, {1}}) + "."));
    // The metadata that a module's state dict carries.
    CHECK(opened("\x80\x02" + pickle_name("collections", "OrderedDict") + ")R" + items + "}" +
                 pickle_text("_metadata") + "}sb."));
}

TEST_CASE("torch: which of several dicts is the model, and nothing of it lost") {
    const temp_folder temp;
    const std::string item = pickle_text("w") + pickle_tensor({"w", {2}, {1}});
    const auto code = [&](const std::string& items) {
        put_file(temp / "m.bin", torch_file_of("\x80\x02}(" + items + "u."));
        const auto file = open_torch(temp / "m.bin");
        return file ? error_code::ok : file.error().code;
    };
    const std::string dict = "}(" + item + "u";
    const std::string tensor = pickle_tensor({"t", {2}, {1}});
    CHECK(code(pickle_text("state_dict") + dict + pickle_text("loss") + tensor) == error_code::ok);
    CHECK(code(pickle_text("state_dict") + dict + pickle_text("module") + "}") == error_code::ok);
    CHECK(code(pickle_text("state_dict") + dict + pickle_text("model") + dict) == error_code::bad_input);
    CHECK(code(item + pickle_text("rest") + "](" + tensor + "e") == error_code::bad_input);
    CHECK(code(item + pickle_text("rest") + "(" + tensor + "t") == error_code::bad_input);
    CHECK(code(item + pickle_text("nets") + "}(" + pickle_text("g") + dict + "u") == error_code::bad_input);
    CHECK(code(item + pickle_text("words") +
               "](K\x01K\x02"
               "e") == error_code::ok);
    // A dict that holds itself, and one that stands there a hundred thousand times.
    const std::string put("q\0", 2);
    const std::string get("h\0", 2);
    CHECK(code(item + pickle_text("loop") + "}" + put + "(" + pickle_text("again") + get + "u") ==
          error_code::ok);
    std::string many = pickle_text("d") + "}" + put + "(";
    for (int i = 0; i < 2000; ++i) many += "K\x01N";
    many += "u";
    for (int i = 0; i < 2000; ++i) many += "N" + get;
    CHECK(code(item + many) == error_code::ok);
}

TEST_CASE("torch: sets are read, parameters with a state are parameters, TorchScript is named") {
    const temp_folder temp;
    const auto opened = [&](const std::string& pickle, bool script = false) {
        std::vector<std::pair<std::string, std::string>> entries{{"m/data.pkl", "\x80\x02}(" + pickle + "u."},
                                                                 {"m/data/0", std::string(256, 's')}};
        if (script) entries.insert(entries.begin(), {"m/constants.pkl", "\x80\x02)."});
        put_file(temp / "m.pt", zip_of(entries));
        return open_torch(temp / "m.pt");
    };
    const std::string tensor = pickle_tensor({"w", {2}, {1}}), item = pickle_text("w") + tensor;
    const std::string words = pickle_text("words");
    const std::string members = pickle_text("a") + pickle_text("b");
    CHECK(opened(item + words + "\x8f(" + members + "\x90"));
    CHECK(opened(item + words + pickle_name("__builtin__", "set") + "](" + members + "e\x85R"));
    // A tensor beside the state dict is not lost in a set either.
    CHECK_FALSE(opened(item + words + "\x8f(" + tensor + "\x90"));
    CHECK_FALSE(opened(item + words + pickle_name("__builtin__", "set") + "](" + tensor + "e\x85R"));
    CHECK_FALSE(opened(item + words + pickle_name("__builtin__", "set") + "K\x01\x85R"));
    CHECK_FALSE(opened(item + words + "}(" + members + "\x90"));
    const auto with_state = opened(
        pickle_text("w") + pickle_name("torch._utils", "_rebuild_parameter_with_state") + "(" + tensor +
        "\x88" + pickle_name("collections", "OrderedDict") + ")R}" + pickle_text("is_shared") + "\x88stR");
    REQUIRE_MESSAGE(with_state, with_state.error().text());
    CHECK(with_state->size() == 1);
    const auto script = opened(item, true);
    REQUIRE_FALSE(script);
    CHECK(script.error().code == error_code::unsupported);
    CHECK(script.error().message.find("TorchScript") != std::string::npos);
}

TEST_CASE("torch: a tensor that torch would negate or conjugate when it is used is refused") {
    const temp_folder temp;
    const auto code = [&](const std::string& metadata) {
        std::string tensor = pickle_tensor({"w", {2}, {1}});
        tensor.insert(tensor.size() - 2, metadata);
        put_file(temp / "m.bin", torch_file_of("\x80\x02}(" + pickle_text("w") + tensor + "u."));
        const auto file = open_torch(temp / "m.bin");
        return file ? error_code::ok : file.error().code;
    };
    CHECK(code("") == error_code::ok);
    CHECK(code("}") == error_code::ok);
    CHECK(code("}(" + pickle_text("neg") + "\x89u") == error_code::ok);
    CHECK(code("}(" + pickle_text("neg") + "\x88u") == error_code::unsupported);
    CHECK(code("}(" + pickle_text("conj") + "\x88u") == error_code::unsupported);
    CHECK(code("}(" + pickle_text("other") + "\x88u") == error_code::bad_input);
    CHECK(code("K\x01") == error_code::bad_input);
    CHECK(code("}N") == error_code::bad_input);
}

TEST_CASE("torch: each rule of a tensor has its error") {
    const temp_folder temp;
    const auto why = [&](const torch_tensor& t) {
        put_file(temp / "m.bin", torch_file_of(state_pickle({t})));
        const auto file = open_torch(temp / "m.bin");
        REQUIRE(!file);
        CHECK(file.error().code == error_code::bad_input);
        CHECK(file.error().file == temp / "m.bin");
        return file.error().message;
    };
    const auto holds = [](const std::string& text, const char* part) {
        return text.find(part) != std::string::npos;
    };
    CHECK(holds(why({"w", {65}, {1}}), "reaches past"));
    CHECK(holds(why({"w", {2}, {1}, 63}), "reaches past"));
    CHECK(holds(why({"w", {2}, {63}, 1}), "reaches past"));
    CHECK(holds(why({"w", {1}, {1}, std::uint64_t{1} << 62}), "reaches past"));
    CHECK(holds(why({"w", {2, 2}, {1}}), "as many strides"));
    CHECK(holds(why({"w", {2}, {~std::uint64_t{0}}}), "whole numbers from 0"));
    CHECK(holds(why({"w", {3}, {std::uint64_t{1} << 62}}), "reaches past"));
    CHECK(holds(why({"w", {std::uint64_t{1} << 40, std::uint64_t{1} << 40}, {0, 0}}), "64 bits"));
    CHECK(holds(why({"w", {1 << 30}, {0}}), "unfolds"));
    CHECK(holds(why({"w", {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}}), "8 dimensions"));
    CHECK(holds(why({"w", {2}, {1}, 0, "0", 65}), "storage '0' has 256 bytes"));
    CHECK(holds(why({"w", {2}, {1}, 0, "9"}), "no storage '9'"));
    CHECK(holds(why({"w", {2}, {1}, 0, "../version"}), "no storage"));
    CHECK(holds(why({"", {2}, {1}}), "name"));
    CHECK(holds(why({std::string(1025, 'n'), {2}, {1}}), "name"));
    CHECK(holds(why({"\xff", {2}, {1}}), "name"));
    put_file(temp / "m.bin", torch_file_of(state_pickle({{"w", {2}, {1}}, {"w", {3}, {1}}})));
    CHECK(holds(open_torch(temp / "m.bin").error().message, "twice"));
    put_file(temp / "m.bin", torch_file_of(state_pickle({{"w", {2}, {1}}}), "big"));
    CHECK(open_torch(temp / "m.bin").error().code == error_code::unsupported);
}
