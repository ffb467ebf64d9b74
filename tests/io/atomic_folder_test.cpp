#include <bitmill/io/atomic_folder.hpp>

#include <array>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <string>
#include <thread>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <io_files.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::atomic_folder;
using bitmill::error_code;
namespace fs = std::filesystem;

namespace {

void put_model(const std::string& path, const std::string& tag) {
    put_file(path + "/config.json", tag);
    put_file(path + "/model.safetensors", tag);
}

bitmill::error create_error(const std::string& out, const std::string& source, bool force) {
    const auto made = atomic_folder::create(out, source, force);
    return made ? bitmill::error{} : made.error();
}

std::size_t entries_in(const std::string& path) {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
}

}  // namespace

TEST_CASE("atomic_folder: a new folder appears at commit and not before") {
    const temp_folder temp;
    {
        auto folder = atomic_folder::create(temp / "out/", "", false).value();
        CHECK(folder.out() == temp / "out");
        REQUIRE(bitmill::write_file(folder.path_of("a.txt"), "A"));
        REQUIRE(bitmill::write_file(folder.path_of("sub/deep/b.txt"), "B"));
        CHECK_FALSE(fs::exists(temp / "out"));
        auto moved = std::move(folder);
        REQUIRE(moved.commit());
        CHECK(moved.commit().error().code == error_code::invalid_argument);
    }
    CHECK(get_file(temp / "out/a.txt") == "A");
    CHECK(get_file(temp / "out/sub/deep/b.txt") == "B");
    CHECK(entries_in(temp.path()) == 1);
}

TEST_CASE("atomic_folder: without a commit nothing is left") {
    const temp_folder temp;
    {
        auto folder = atomic_folder::create(temp / "out", "", false).value();
        REQUIRE(bitmill::write_file(folder.path_of("sub/a.txt"), "A"));
        CHECK(entries_in(temp.path()) == 1);
        auto other = atomic_folder::create(temp / "other", "", false).value();
        other = std::move(folder);  // discards what it held
        CHECK(entries_in(temp.path()) == 1);
    }
    CHECK(entries_in(temp.path()) == 0);
}

TEST_CASE("atomic_folder: one file alone becomes the output") {
    const temp_folder temp;
    const auto write = [&](bool force, const char* text) -> bitmill::result<void> {
        auto folder = atomic_folder::create(temp / "x.gguf", "", force, {}, "model.gguf");
        if (!folder) return folder.error();
        REQUIRE(bitmill::write_file(folder->path_of("model.gguf"), text));
        REQUIRE(bitmill::write_file(folder->path_of("other"), "goes"));
        return folder->commit();
    };
    REQUIRE(write(false, "A"));
    CHECK(get_file(temp / "x.gguf") == "A");
    CHECK(entries_in(temp.path()) == 1);
    CHECK(write(false, "B").error().code == error_code::invalid_argument);
    CHECK(get_file(temp / "x.gguf") == "A");
    REQUIRE(write(true, "B"));
    CHECK(get_file(temp / "x.gguf") == "B");
    CHECK(entries_in(temp.path()) == 1);
    {
        auto appears = atomic_folder::create(temp / "y.gguf", "", false, {}, "model.gguf").value();
        REQUIRE(bitmill::write_file(appears.path_of("model.gguf"), "A"));
        put_file(temp / "y.gguf", "the user's");
        CHECK(appears.commit().error().code == error_code::invalid_argument);
    }
    CHECK(get_file(temp / "y.gguf") == "the user's");
    fs::create_directory(temp / "z.gguf");
    CHECK(atomic_folder::create(temp / "z.gguf", "", true, {}, "model.gguf").error().message ==
          "is not a file; choose another output");
    CHECK(entries_in(temp.path()) == 3);
}

TEST_CASE("atomic_folder: path_of stays inside") {
    const temp_folder temp;
    const auto folder = atomic_folder::create(temp / "out", "", false).value();
    for (const char* bad : {"", "/etc/x", "../x", "a/../../x", "a//b", "./a", "a/"})
        CHECK_THROWS_AS((void)folder.path_of(bad), bitmill::exception);
    REQUIRE(bitmill::write_file(folder.path_of("f"), "x"));
    CHECK_THROWS_AS((void)folder.path_of("f/g"), bitmill::exception);  // f is a file
}

TEST_CASE("atomic_folder: what exists is replaced only when told, and only if it is a model") {
    const temp_folder temp;
    put_model(temp / "out", "old");
    CHECK(create_error(temp / "out", "", false).code == error_code::invalid_argument);
    CHECK(create_error(temp / "out", "", false).message.find("--force") != std::string::npos);
    {
        auto folder = atomic_folder::create(temp / "out", "", true).value();
        REQUIRE(bitmill::write_file(folder.path_of("config.json"), "new"));
        CHECK(get_file(temp / "out/config.json") == "old");
        REQUIRE(folder.commit());
    }
    CHECK(get_file(temp / "out/config.json") == "new");
    CHECK_FALSE(fs::exists(temp / "out/model.safetensors"));
    CHECK(entries_in(temp.path()) == 1);

    put_file(temp / "thesis/chapter.txt", "precious");
    CHECK(create_error(temp / "thesis", "", true).code == error_code::invalid_argument);
    put_file(temp / "file", "x");
    CHECK(create_error(temp / "file", "", true).code == error_code::invalid_argument);
    fs::create_directory_symlink("out", temp / "link");
    CHECK(create_error(temp / "link", "", true).code == error_code::invalid_argument);
    fs::create_directory(temp / "empty");
    CHECK(create_error(temp / "empty", "", false).code == error_code::invalid_argument);
    CHECK(create_error(temp / "empty", "", true).code == error_code::ok);
    CHECK(get_file(temp / "thesis/chapter.txt") == "precious");
    CHECK(create_error(temp / "none/out", "", false).code == error_code::io);
    CHECK(create_error(temp / "none/out", "", false).file == temp / "none");
    for (const char* bad : {"", "/", ".", "..", "x/..", "x.bitmill-partial", "x.bitmill-old"})
        CHECK(create_error(bad, "", true).code == error_code::invalid_argument);
    CHECK(entries_in(temp.path()) == 5);
}

TEST_CASE("atomic_folder: what changed while the work ran is looked at again") {
    const temp_folder temp;
    auto folder = atomic_folder::create(temp / "out", "", false).value();
    put_model(temp / "out", "somebody else's");
    CHECK(folder.commit().error().code == error_code::invalid_argument);
    CHECK(get_file(temp / "out/config.json") == "somebody else's");

    put_model(temp / "second", "old");
    auto forced = atomic_folder::create(temp / "second", "", true).value();
    fs::remove_all(temp / "second");
    put_file(temp / "second/letter.txt", "precious");
    CHECK(forced.commit().error().code == error_code::invalid_argument);
    CHECK(get_file(temp / "second/letter.txt") == "precious");
}

TEST_CASE("atomic_folder: never over the model that is read") {
    const temp_folder temp;
    put_model(temp / "a/model", "source");
    put_file(temp / "a/config.json", "{}");
    fs::create_directory_symlink("a/model", temp / "alias");
    const std::string source = temp / "a/model";
    for (const auto& [out, from] : {std::pair{temp / "a/model", source},
                                    {temp / "a", source},
                                    {temp / "a/model", temp / "alias"},
                                    {temp / "a/../a/model/", source}}) {
        CAPTURE(out);
        CHECK(create_error(out, from, true).code == error_code::invalid_argument);
    }
    CHECK(create_error(temp / "a/model/int8", source, false).code == error_code::ok);  // a variant
    // A model that lies in what would be cleaned as unfinished work.
    put_model(temp / "x.bitmill-partial", "source");
    CHECK(create_error(temp / "x", temp / "x.bitmill-partial", false).code == error_code::invalid_argument);
    CHECK(get_file(temp / "x.bitmill-partial/config.json") == "source");
    CHECK(get_file(temp / "a/model/config.json") == "source");
    CHECK(create_error(temp / "a", temp / "none", true).code == error_code::io);
}

TEST_CASE("atomic_folder: what a killed run left is deleted, and links in it are not followed") {
    const temp_folder temp;
    put_file(temp / "precious/letter.txt", "keep");
    put_file(temp / "out.bitmill-partial/.bitmill-partial", "");
    put_file(temp / "out.bitmill-partial/half/x", "stale");
    fs::create_directory_symlink(temp / "precious", temp / "out.bitmill-partial/half/link");
    fs::create_symlink(temp / "precious/letter.txt", temp / "out.bitmill-partial/file_link");
    {
        auto folder = atomic_folder::create(temp / "out", "", false).value();
        CHECK(entries_in(temp / "out.bitmill-partial") == 1);  // the marker
        REQUIRE(bitmill::write_file(folder.path_of("new"), "1"));
        REQUIRE(folder.commit());
    }
    CHECK(entries_in(temp / "out") == 1);
    CHECK(get_file(temp / "precious/letter.txt") == "keep");
    // A link in the partial's place is not taken for it.
    fs::create_directory_symlink("precious", temp / "other.bitmill-partial");
    CHECK(create_error(temp / "other", "", false).code == error_code::io);
    CHECK(get_file(temp / "precious/letter.txt") == "keep");
}

TEST_CASE("atomic_folder: what a killed run left stays only for the key that its journal begins with") {
    const temp_folder temp;
    const std::string partial = temp / "out.bitmill-partial";
    const auto leave = [&](const std::string& journal) {
        fs::remove_all(partial);
        put_file(partial + "/.bitmill-partial", "");
        put_file(partial + "/half/deep/x", "stale");
        put_file(partial + "/y", "stale");
        if (!journal.empty()) put_file(partial + "/.bitmill-journal", journal);
    };
    const std::string journals[] = {"KEY1 and entries", "KEY1", "KEY2 and entries", "KEY", " KEY1", ""};
    for (const std::string& journal : journals) {
        CAPTURE(journal);
        for (const char* key : {"KEY1", ""}) {
            leave(journal);
            const auto folder = atomic_folder::create(temp / "out", "", false, key).value();
            const bool same = journal.starts_with("KEY1") && *key != '\0';
            CHECK(folder.resumes() == same);
            CHECK(entries_in(partial) == (same ? 4 : 1));
        }
    }
    leave("KEY1");
    auto folder = atomic_folder::create(temp / "out", "", false, "KEY1").value();
    CHECK(create_error(temp / "out", "", false).code == error_code::io);  // locked as ever
    REQUIRE(folder.keep_only({"half/deep/x", "z"}));
    CHECK(entries_in(partial) == 3);
    put_file(partial + "/half/z", "new");
    REQUIRE(folder.keep_only({"y"}));
    CHECK(entries_in(partial) == 2);
    put_file(partial + "/config.json", "{}");
    auto moved = std::move(folder);
    CHECK(moved.resumes());
    CHECK(moved.key() == "KEY1");
    CHECK(moved.journal_path() == partial + "/.bitmill-journal");
    REQUIRE(moved.commit());
    CHECK(entries_in(temp / "out") == 1);  // neither marker nor journal

    leave("KEY1");
    auto other = atomic_folder::create(temp / "other", "", false, "KEY1").value();
    CHECK_FALSE(other.resumes());
    auto again = atomic_folder::create(temp / "out", "", true, "KEY1");
    CHECK_FALSE(again);  // what lies there is no model
    fs::remove_all(temp / "out");
    again = atomic_folder::create(temp / "out", "", false, "KEY1");
    REQUIRE(again);
    REQUIRE(again->start_anew());
    CHECK_FALSE(again->resumes());
    CHECK(entries_in(partial) == 1);
}

TEST_CASE("atomic_folder: a folder of the partial's name that is not bitmill's is left alone") {
    const temp_folder temp;
    put_file(temp / "out.bitmill-partial/notes.txt", "mine");
    CHECK(create_error(temp / "out", "", true).code == error_code::invalid_argument);
    CHECK(get_file(temp / "out.bitmill-partial/notes.txt") == "mine");
}

TEST_CASE("atomic_folder: force replaces no folder that only has a config.json") {
    const temp_folder temp;
    put_file(temp / "project/config.json", "{}");
    put_file(temp / "project/thesis/chapter.txt", "precious");
    CHECK(create_error(temp / "project", "", true).code == error_code::invalid_argument);
    CHECK(get_file(temp / "project/thesis/chapter.txt") == "precious");
}

TEST_CASE("atomic_folder: a kill between the renames of a simple file system is mended") {
    const temp_folder temp;
    put_model(temp / "out.bitmill-old", "old");
    put_file(temp / "out.bitmill-old/.bitmill-partial", "");
    put_file(temp / "out.bitmill-partial/.bitmill-partial", "");
    put_file(temp / "out.bitmill-partial/config.json", "new, perhaps half");
    // Without force the recovered folder counts as there.
    CHECK(create_error(temp / "out", "", false).code == error_code::invalid_argument);
    CHECK(get_file(temp / "out/config.json") == "old");
    CHECK(entries_in(temp.path()) == 1);
    // Both there: the swap was done, only the deletion was cut off.
    put_model(temp / "out.bitmill-old", "older");
    put_file(temp / "out.bitmill-old/.bitmill-partial", "");
    CHECK(create_error(temp / "out", "", true).code == error_code::ok);
    CHECK(get_file(temp / "out/config.json") == "old");
    CHECK_FALSE(fs::exists(temp / "out.bitmill-old"));
}

TEST_CASE("atomic_folder: a folder of the old one's name that is the user's stays") {
    const temp_folder temp;
    put_file(temp / "out.bitmill-old/precious", "mine");
    {
        auto folder = atomic_folder::create(temp / "out", "", false);
        REQUIRE(folder);
        REQUIRE(bitmill::write_file(folder->path_of("config.json"), "{}"));
        REQUIRE(bitmill::write_file(folder->path_of("model.safetensors"), "x"));
        REQUIRE(folder->commit());
    }
    auto again = atomic_folder::create(temp / "out", "", true);
    REQUIRE(again);
    REQUIRE(bitmill::write_file(again->path_of("config.json"), "{\"new\": 1}"));
    REQUIRE(again->commit());
    CHECK(get_file(temp / "out.bitmill-old/precious") == "mine");
    CHECK(get_file(temp / "out/config.json") == "{\"new\": 1}");
}

TEST_CASE("atomic_folder: a second process is told that another one writes") {
    const temp_folder temp;
    auto folder = atomic_folder::create(temp / "out", "", false);
    REQUIRE(folder);
    REQUIRE(bitmill::write_file(folder->path_of("a"), "A"));
    const auto second = [&] {  // in another process: 0 = created, 1 = told that it is locked
        const pid_t child = ::fork();
        if (child == 0) {
            const auto failed = create_error(temp / "out", "", true);
            const bool told =
                failed.code == error_code::io && failed.message.find("another bitmill") != std::string::npos;
            ::_exit(failed.code == error_code::ok ? 0 : told ? 1 : 2);
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    };
    CHECK(second() == 1);
    CHECK(create_error(temp / "out", "", false).code == error_code::io);  // nor a second object
    CHECK(get_file(temp / "out.bitmill-partial/a") == "A");
    folder = bitmill::error{};  // gives up
    CHECK(second() == 0);
}

TEST_CASE("atomic_folder: an old folder that is still being deleted is not a stale partial") {
    // The swap gives the old folder the partial's name; a locked one must be left alone.
    const temp_folder temp;
    put_model(temp / "out.bitmill-partial", "being deleted elsewhere");
    const int fd = ::open((temp / "out.bitmill-partial").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    REQUIRE(::flock(fd, LOCK_EX) == 0);
    CHECK(create_error(temp / "out", "", false).code == error_code::io);
    CHECK(entries_in(temp / "out.bitmill-partial") == 2);
    ::close(fd);
}

TEST_CASE("atomic_folder: kill -9 at 200 instants leaves the old or the new folder, whole") {
    const temp_folder temp;
    const std::string out = temp / "out";
    const auto part = [&](int generation, int file) {
        return std::string(20'000, static_cast<char>('a' + (generation + file) % 26));
    };
    const auto save = [&](int generation, int ready) {
        auto folder = atomic_folder::create(out, "", true);
        if (!folder) return false;
        if (!bitmill::write_file(folder->path_of("config.json"), "{}")) return false;
        for (int file = 0; file < 3; ++file)
            if (!bitmill::write_file(folder->path_of("f" + std::to_string(file) + ".safetensors"),
                                     part(generation, file)))
                return false;
        (void)!::write(ready, "x", 1);  // from here on it is the commit that is killed
        return static_cast<bool>(folder->commit());
    };
    std::array<int, 2> null_pipe{};
    REQUIRE(::pipe(null_pipe.data()) == 0);
    const auto begin = std::chrono::steady_clock::now();
    REQUIRE(save(0, null_pipe[1]));
    REQUIRE(save(0, null_pipe[1]));
    const auto one_save =
        std::chrono::steady_clock::now() - begin;  // two in truth: the kills pass the end, too
    int current = 0, kept = 0, replaced = 0;
    for (int kill = 1; kill <= 200; ++kill) {
        std::array<int, 2> ready{};
        REQUIRE(::pipe(ready.data()) == 0);
        const pid_t child = ::fork();
        if (child == 0) {
            (void)save(kill, ready[1]);
            ::_exit(0);
        }
        ::close(ready[1]);
        char mark = 0;
        // Two kills in three fall into the commit, the others anywhere.
        if (kill % 3 != 0) (void)!::read(ready[0], &mark, 1);
        std::this_thread::sleep_for(one_save * (kill * 37 % 100) / 100);
        ::kill(child, SIGKILL);
        int status = 0;
        ::waitpid(child, &status, 0);
        ::close(ready[0]);
        const bool is_new = get_file(out + "/f0.safetensors") == part(kill, 0);
        const int seen = is_new ? kill : current;
        for (int file = 0; file < 3; ++file)
            REQUIRE(get_file(out + "/f" + std::to_string(file) + ".safetensors") == part(seen, file));
        REQUIRE(entries_in(out) - (fs::exists(out + "/.bitmill-partial") ? 1 : 0) == 4);
        ++(is_new ? replaced : kept);
        current = seen;
    }
    MESSAGE("old " << kept << ", new " << replaced << ", torn 0");
    CHECK(kept > 10);
    CHECK(replaced > 10);
    REQUIRE(save(201, null_pipe[1]));
    CHECK(entries_in(temp.path()) == 1);  // the next run swept up
    ::close(null_pipe[0]);
    ::close(null_pipe[1]);
}
