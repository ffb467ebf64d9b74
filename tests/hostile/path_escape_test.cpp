// Names in an index that try to leave the model's folder (the ONNX external data class of bugs), by every way in.
#include <bitmill/io/checkpoint.hpp>

#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <bitmill/detail/beneath-inl.hpp>
#include <io_files.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::input_file;
namespace fs = std::filesystem;

namespace {

// outside/ holds a good shard; model/ tries to reach it. Every file outside holds the same bytes, so that
// an escape would succeed.
struct escape_room {
    temp_folder temp;
    std::string model = temp / "model";

    escape_room() {
        const std::string shard = small_safetensors({"a"});
        for (const char* name :
             {"secret.safetensors", "outside/secret.safetensors", "model-evil/s.safetensors",
              "model/inside.safetensors", "model/sub/deep.safetensors", "model/...safetensors",
              "model/spaced name.safetensors"})
            put_file(temp / name, shard);
        const auto link = [&](const std::string& target, const std::string& name) {
            fs::create_symlink(target, model + "/" + name);
        };
        link("../secret.safetensors", "up.safetensors");
        link(temp / "secret.safetensors", "absolute.safetensors");
        link("../outside", "dir");
        link(temp / "outside", "absolute_dir");
        link("..", "dotdot");
        link("/", "root");
        link("sub/../../secret.safetensors", "winding.safetensors");
        link("up.safetensors", "chain1.safetensors");
        link("chain1.safetensors", "chain2.safetensors");
        link("dotdot/outside", "chain_dir");
        link("loop2.safetensors", "loop1.safetensors");
        link("loop1.safetensors", "loop2.safetensors");
        link("self.safetensors", "self.safetensors");
        link("gone.safetensors", "dangling.safetensors");
        link("sub", "to_dir.safetensors");
        link("/proc/self/exe", "magic.safetensors");
        link("/dev/zero", "zero.safetensors");
        link("../model/inside.safetensors",
             "out_and_in.safetensors");  // back inside, but through the outside
        link(model + "/inside.safetensors", "absolute_inside.safetensors");
        link("../../model", "sub/out_and_in_dir");
        link("inside.safetensors", "good_link.safetensors");
        link("../inside.safetensors", "sub/good_up.safetensors");
        link("sub", "good_dir");
        fs::create_directory(model + "/folder.safetensors");
        REQUIRE(::mkfifo((model + "/fifo.safetensors").c_str(), 0600) == 0);
        (void)::mknod((model + "/device.safetensors").c_str(), S_IFCHR | 0600,
                      static_cast<dev_t>(0x105));  // root only
        bind_socket();
        fs::create_hard_link(model + "/inside.safetensors", model + "/hard.safetensors");
    }

    void bind_socket() const {
        const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_un name{};
        name.sun_family = AF_UNIX;
        const std::string path = model + "/socket.safetensors";
        path.copy(name.sun_path, sizeof name.sun_path - 1);
        REQUIRE(::bind(fd, reinterpret_cast<const struct sockaddr*>(&name), sizeof name) == 0);
        ::close(fd);
    }

    [[nodiscard]] std::vector<std::string> escapes() const {
        std::vector<std::string> names{"",
                                       ".",
                                       "..",
                                       "/",
                                       "//",
                                       "./",
                                       "../",
                                       "../..",
                                       "/..",
                                       "../secret.safetensors",
                                       "../../secret.safetensors",
                                       "./../secret.safetensors",
                                       "sub/../../secret.safetensors",
                                       "sub/../inside.safetensors",
                                       "./inside.safetensors",
                                       "sub/./deep.safetensors",
                                       "sub//deep.safetensors",
                                       "//inside.safetensors",
                                       "inside.safetensors/",
                                       "inside.safetensors/.",
                                       "inside.safetensors/..",
                                       "sub/deep.safetensors/",
                                       "inside.safetensors/x.safetensors",
                                       "../model/inside.safetensors",
                                       "../model-evil/s.safetensors",
                                       "-evil/s.safetensors",
                                       "..\\secret.safetensors",
                                       "sub\\..\\..\\secret.safetensors",
                                       "C:\\secret.safetensors",
                                       "~/secret.safetensors",
                                       "$HOME/secret.safetensors",
                                       "file:///etc/passwd",
                                       "file://secret.safetensors",
                                       "%2e%2e/secret.safetensors",
                                       "..%2fsecret.safetensors",
                                       "..%00/secret.safetensors",
                                       "/etc/passwd",
                                       "/proc/self/environ",
                                       "/proc/self/fd/0",
                                       "/dev/zero",
                                       "/dev/stdin",
                                       "/dev/tty",
                                       temp / "secret.safetensors",
                                       model + "/inside.safetensors",
                                       "//" + temp / "secret.safetensors",
                                       "\xc0\xae\xc0\xae/secret.safetensors",
                                       "\xe0\x80\xae\xe0\x80\xae/secret.safetensors",
                                       "..\xc0\xaf"
                                       "secret.safetensors",
                                       "\xf0\x80\x80\xaf"
                                       "etc/passwd",
                                       "\xe2\x80\xa5/secret.safetensors",
                                       "\xef\xbc\x8e\xef\xbc\x8e/secret.safetensors",  // look-alikes of ".."
                                       "up.safetensors",
                                       "absolute.safetensors",
                                       "dir/secret.safetensors",
                                       "absolute_dir/secret.safetensors",
                                       "dotdot/secret.safetensors",
                                       "root/etc/passwd",
                                       "winding.safetensors",
                                       "chain1.safetensors",
                                       "chain2.safetensors",
                                       "chain_dir/secret.safetensors",
                                       "loop1.safetensors",
                                       "self.safetensors",
                                       "dangling.safetensors",
                                       "to_dir.safetensors",
                                       "magic.safetensors",
                                       "zero.safetensors",
                                       "out_and_in.safetensors",
                                       "absolute_inside.safetensors",
                                       "sub/out_and_in_dir/inside.safetensors",
                                       "folder.safetensors",
                                       "fifo.safetensors",
                                       "device.safetensors",
                                       "socket.safetensors",
                                       "sub",
                                       " ../secret.safetensors",
                                       ".. /secret.safetensors",
                                       "...",
                                       std::string(5000, 'a') + ".safetensors",
                                       std::string(300, 'a') + ".safetensors"};
        names.push_back(std::string("inside.safetensors\0", 19));
        names.push_back(std::string("inside.safetensors\0/../../secret.safetensors", 44));
        names.push_back(std::string("\0", 1));
        std::string long_way;
        for (int i = 0; i < 600; ++i) long_way += "sub/../";
        names.push_back(long_way + "../secret.safetensors");
        return names;
    }
    [[nodiscard]] static std::vector<std::string> allowed() {
        return {"inside.safetensors",      "sub/deep.safetensors",      "good_link.safetensors",
                "sub/good_up.safetensors", "good_dir/deep.safetensors", "...safetensors",
                "spaced name.safetensors", "hard.safetensors"};
    }
};

}  // namespace

TEST_CASE("path escapes: open_beneath opens nothing outside, and everything inside") {
    const escape_room room;
    REQUIRE(room.escapes().size() >= 60);
    for (const auto& name : room.escapes()) {
        CAPTURE(name);
        for (const std::string& root : {room.model, room.model + "/"}) {
            const auto file = input_file::open_beneath(root, name);
            REQUIRE_FALSE(file);
            CHECK((file.error().code == error_code::bad_input || file.error().code == error_code::io));
            CHECK_FALSE(file.error().message.empty());
        }
    }
    for (const auto& name : room.allowed()) {
        CAPTURE(name);
        const auto file = input_file::open_beneath(room.model, name);
        REQUIRE_MESSAGE(file, file.error().text());
        CHECK(file.value().size() == small_safetensors({"a"}).size());
    }
    // An empty root is not the root of the file system, nor the current folder.
    CHECK_FALSE(input_file::open_beneath("", "etc/passwd"));
    CHECK_FALSE(input_file::open_beneath("", "CMakeLists.txt"));
    CHECK_FALSE(input_file::open_beneath(std::string("/\0", 2), "etc/passwd"));
    CHECK_FALSE(input_file::open_beneath(room.model + "/none", "inside.safetensors"));
    CHECK_FALSE(input_file::open_beneath(room.model + "/inside.safetensors", "x"));
}

TEST_CASE("path escapes: the walk for kernels without openat2 decides the same") {
    const escape_room room;
    const int folder = ::open(room.model.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    REQUIRE(folder >= 0);
    constexpr int flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
    const auto kind = [](int fd) {  // 0 a regular file, 1 something else, 2 nothing
        struct stat facts{};
        if (fd < 0) return 2;
        const bool regular = ::fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode);
        ::close(fd);
        return regular ? 0 : 1;
    };
    std::vector<std::string> names = room.allowed();
    for (const auto& name : room.escapes())
        if (bitmill::detail::why_not_relative(name) == nullptr) names.push_back(name);
    REQUIRE(names.size() > 40);
    const bool has_openat2 =
        kind(bitmill::detail::open_beneath_kernel(folder, "inside.safetensors", flags)) == 0;
    for (std::size_t i = 0; i < names.size(); ++i) {
        CAPTURE(names[i]);
        const int walked = kind(bitmill::detail::open_beneath_walking(folder, names[i], flags));
        CHECK((walked == 0) == (i < room.allowed().size()));
        if (has_openat2) CHECK(kind(bitmill::detail::open_beneath_kernel(folder, names[i], flags)) == walked);
    }
    ::close(folder);
}

TEST_CASE("path escapes: as the shard of an index") {
    const escape_room room;
    std::size_t tried = 0;
    for (const auto& name : room.escapes()) {
        CAPTURE(name);
        // Not dump(): it refuses the overlong forms that we want in the file.
        std::string quoted;
        for (const char c : name) {
            if (c == '\0')
                quoted += "\\u0000";
            else if (c == '"' || c == '\\')
                quoted += std::string("\\") + c;
            else
                quoted += c;
        }
        put_file(room.model + "/model.safetensors.index.json",
                 R"({"metadata":{},"weight_map":{"a":")" + quoted + "\"}}");
        const auto model = bitmill::checkpoint::open(room.model);
        REQUIRE_FALSE(model);
        CHECK(model.error().code == error_code::bad_input);
        CHECK_FALSE(model.error().file.empty());
        ++tried;
    }
    CHECK(tried >= 60);
}

TEST_CASE("path escapes: the model's own files as links out of it") {
    for (const char* name : {"model.safetensors", "model.safetensors.index.json", "config.json",
                             "modules.json", "tokenizer.json"}) {
        CAPTURE(name);
        const temp_folder temp;
        put_file(temp / "model/model.safetensors", small_safetensors({"a"}));
        REQUIRE(bitmill::checkpoint::open(temp / "model"));
        const std::string outside = temp / "outside";
        put_file(outside, std::string(name) == "model.safetensors" ? small_safetensors({"a"}) : "{}");
        if (std::string(name).find("index") != std::string::npos)
            fs::remove(temp / "model/model.safetensors");
        fs::remove(temp / ("model/" + std::string(name)));
        fs::create_symlink("../outside", temp / ("model/" + std::string(name)));
        const auto model = bitmill::checkpoint::open(temp / "model");
        REQUIRE_FALSE(model);
        CHECK(model.error().code == error_code::bad_input);
        CHECK(model.error().file == temp / ("model/" + std::string(name)));
    }
}
