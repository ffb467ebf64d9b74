// A killed quantize goes on where it stopped, with the bytes of an undisturbed run; whatever is not surely of the same
// work, whole and on disk is done again.
#include <bitmill/mill/mill.hpp>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bitmill/detail/checksum-inl.hpp>
#include <bitmill/mill/manifest.hpp>

#include <gguf_files.hpp>
#include <models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::mill_options;
using bitmill::scheme_type;
namespace fs = std::filesystem;

namespace {

// Every tile is noted as soon as it is done, one after the other.
mill_options careful(scheme_type to, bool double_quant = false) {
    mill_options options;
    options.to = to;
    options.double_quant = double_quant;
    options.threads = 1;
    options.journal_bytes = 1;
    return options;
}

// Mills in a child that is killed at the n-th report of progress; false where it ended before.
bool kill_at(int n, const std::string& model, const std::string& out, mill_options options) {
    const pid_t child = ::fork();
    if (child == 0) {
        options.on_progress = [&](const bitmill::progress&) {
            if (--n == 0) ::kill(::getpid(), SIGKILL);
            return true;
        };
        ::_exit(bitmill::quantize(model, out, options) ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE((WIFSIGNALED(status) || WEXITSTATUS(status) == 0));
    return WIFSIGNALED(status);
}

// A model, what an undisturbed run makes of it, and what killed runs left.
struct killed_work {
    temp_folder temp{memory_parent()};
    std::string source = temp / "model", out = temp / "out", partial = out + ".bitmill-partial";
    mill_options options = careful(scheme_type::int4);
    std::map<std::string, std::string> whole;
    static constexpr const char* journal = "/.bitmill-journal";

    explicit killed_work(bool sharded = true) {
        sharded ? put_sharded_model(source, bert_tensors()) : put_model(source, bert_tensors());
        put_file(source + "/1_Pooling/config.json", "{}");
        mill_whole();
        REQUIRE(kill_at(1, source, out, options));
        entry_bytes = get_file(partial + journal).size() - key_bytes;
        fs::remove_all(partial);
    }
    void mill_whole() {
        (void)bitmill::quantize(source, out, options).value();
        whole = read_folder(out);
        fs::remove_all(out);
    }
    // Leaves the partial folder of a run of which n tiles were done.
    void leave(int n) {
        fs::remove_all(partial);
        REQUIRE(kill_at(n, source, out, options));
        REQUIRE(entry_count() == static_cast<std::size_t>(n));
    }
    static constexpr std::size_t key_bytes = 64;
    std::size_t entry_bytes = 0;
    [[nodiscard]] std::size_t entry_count() const {
        const std::size_t bytes = get_file(partial + journal).size() - key_bytes;
        REQUIRE(bytes % entry_bytes == 0);
        return bytes / entry_bytes;
    }
    // Runs again; the bytes of the source that it did not mill anew.
    std::uint64_t resume(const mill_options& how) {
        const auto report = bitmill::quantize(source, out, how);
        REQUIRE_MESSAGE(report, report.error().text());
        return report->resumed_bytes;
    }
    void check_whole() {
        CHECK((read_folder(out) == whole));
        CHECK(entries_of(temp.path()) == std::vector<std::string>{"model", "out"});
        fs::remove_all(out);
    }
};

}  // namespace

TEST_CASE("resume: killed after each tile, also at the shards' boundary, the bytes are the same [EXACT]") {
    const std::pair<mill_options, bool> ways[] = {{careful(scheme_type::int4), true},
                                                  {careful(scheme_type::int8), false},
                                                  {careful(scheme_type::nf4, true), true},
                                                  {careful(scheme_type::f16), true}};
    for (const auto& [options, sharded] : ways) {
        killed_work work(sharded);
        work.options = options;
        work.options.granularity =
            options.to == scheme_type::int8 ? std::optional(bitmill::granularity::per_tensor) : std::nullopt;
        work.mill_whole();
        std::uint64_t last = 0, total = 0;
        int resumed = 0;
        for (int n = 1; kill_at(n, work.source, work.out, work.options); ++n) {
            std::vector<std::string> lines;
            mill_options how = work.options;
            how.threads = 3;
            how.journal_bytes = 1000;
            how.on_log = [&](bitmill::log_level, const std::string& line) { lines.push_back(line); };
            std::uint64_t first = 0;
            how.on_progress = [&](const bitmill::progress& now) {
                if (first == 0) first = now.done_bytes;
                total = now.total_bytes;
                CHECK(now.done_bytes <= now.total_bytes);
                return true;
            };
            const std::uint64_t bytes = work.resume(how);
            CHECK(bytes >= last);
            const bool said = std::any_of(lines.begin(), lines.end(),
                                          [](const auto& line) { return line.starts_with("resumes: "); });
            CHECK((said || bytes == 0));
            resumed += bytes > last ? 1 : 0;
            last = bytes;
            work.check_whole();
        }
        work.check_whole();
        CHECK(resumed >= 15);
        CHECK(last > 0);
        CHECK(last <= total);
    }
}

TEST_CASE("resume: killed again and again it still goes on, and verify agrees") {
    killed_work work;
    std::size_t entries = 0;
    for (int kills = 1; kills <= 6; ++kills) {
        // What is there is read back first.
        REQUIRE(kill_at(static_cast<int>(entries) + 2, work.source, work.out, work.options));
        CHECK(work.entry_count() == entries + 2);
        entries = work.entry_count();
    }
    CHECK(work.resume(work.options) > 0);
    CHECK(bitmill::verify(work.source, work.out, {}));
    work.check_whole();
}

TEST_CASE("resume: tiles whose bytes changed, or never came to the disk, are milled again") {
    killed_work work;
    work.leave(9);
    const auto early = read_folder(work.partial);
    const std::uint64_t all = work.resume(work.options);
    work.check_whole();
    for (const char* name : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}) {
        const std::string& content = early.at(name);
        std::size_t noticed = 0;
        for (std::size_t at = content.size() / 3; at < content.size(); at += content.size() / 11) {
            for (const auto& [other, bytes] : early) put_file(work.partial + "/" + other, bytes);
            std::string changed = content;
            changed[at] = static_cast<char>(changed[at] ^ 0x10);
            put_file(work.partial + "/" + name, changed);
            noticed += work.resume(work.options) < all ? 1u : 0u;
            work.check_whole();
        }
        if (std::string(name).starts_with("model-00001")) CHECK(noticed > 0);
    }
    // As on a file system that lost the last seconds but not the journal.
    work.leave(1);
    const auto first = read_folder(work.partial);
    fs::remove_all(work.partial);
    for (const auto& [name, bytes] : first) put_file(work.partial + "/" + name, bytes);
    put_file(work.partial + work.journal, early.at(".bitmill-journal"));
    CHECK(work.resume(work.options) < all);
    work.check_whole();
}

TEST_CASE("resume: a .gguf alone, which has no manifest") {
    const temp_folder temp{memory_parent()};
    const std::uint64_t rows = 8, cols = 64, bytes = rows * cols * 4;
    std::vector<gguf_tensor> tensors;
    std::vector<float> values;
    for (std::uint64_t i = 0; i < 5; ++i) {
        const std::string name =
            i == 0 ? "output_norm.weight" : "blk." + std::to_string(i) + ".ffn_up.weight";
        tensors.push_back({name, {cols, rows}, 0, i * bytes});
        for (std::uint64_t k = 0; k < rows * cols; ++k)
            values.push_back(static_cast<float>((k * 37 + i * 11) % 101) - 50.0f);
    }
    const std::string source = temp / "in", out = temp / "out.gguf", partial = out + ".bitmill-partial";
    const std::string_view data(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    put_file(source + "/m.gguf",
             gguf_of({gguf_pair("general.architecture", 8, gguf_string("llama"))}, tensors, data));
    put_file(source + "/tokenizer.json", "{}");
    const auto options = careful(scheme_type::q4_0);
    const auto undisturbed = bitmill::quantize(source, out, options);
    REQUIRE_MESSAGE(undisturbed, undisturbed.error().text());
    CHECK(undisturbed->side_bytes == 0);
    const std::string whole = get_file(out);
    CHECK(whole.size() == undisturbed->bytes);
    fs::remove_all(out);
    int n = 1;
    for (; kill_at(n, source, out, options); ++n) {
        const auto again = bitmill::quantize(source, out, options);
        REQUIRE_MESSAGE(again, again.error().text());
        CHECK((again->resumed_bytes > 0 || n == 1));
        CHECK(get_file(out) == whole);
        CHECK(entries_of(temp.path()) == std::vector<std::string>{"in", "out.gguf"});
        fs::remove_all(out);
    }
    CHECK(n > 4);
    fs::remove_all(out);
    // What lies there is still compared with what was written.
    REQUIRE(kill_at(n - 1, source, out, options));
    std::string changed = get_file(partial + "/model.gguf");
    changed[changed.size() - 300] = static_cast<char>(changed[changed.size() - 300] ^ 1);
    put_file(partial + "/model.gguf", changed);
    const auto mended = bitmill::quantize(source, out, options);
    REQUIRE_MESSAGE(mended, mended.error().text());
    CHECK(mended->resumed_bytes > 0);
    CHECK(get_file(out) == whole);
}

TEST_CASE("resume: a checksum tells every changed bit and every length") {
    std::vector<std::byte> bytes(100);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7);
    for (std::size_t count = 0; count <= bytes.size(); ++count) {
        const std::span<std::byte> part(bytes.data(), count);
        const auto whole = bitmill::detail::checksum_of(part);
        for (std::size_t bit = 0; bit < 8 * count; ++bit) {
            part[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
            CHECK(bitmill::detail::checksum_of(part) != whole);
            part[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
        }
        CHECK(bitmill::detail::checksum_of(part) == whole);
    }
    const std::vector<std::byte> zeros(100);
    for (std::size_t count = 1; count <= zeros.size(); ++count)
        CHECK(bitmill::detail::checksum_of(std::span(zeros).first(count)) !=
              bitmill::detail::checksum_of(std::span(zeros).first(count - 1)));
}

TEST_CASE("resume: entries that were torn or changed are not believed") {
    killed_work work;
    const int many = 9;
    work.leave(many);
    const std::string journal = get_file(work.partial + work.journal);
    const auto early = read_folder(work.partial);
    const auto resume_with = [&](const std::string& bytes) {
        fs::remove_all(work.partial);
        for (const auto& [name, content] : early) put_file(work.partial + "/" + name, content);
        put_file(work.partial + work.journal, bytes);
        return work.resume(work.options);
    };
    const std::uint64_t all = resume_with(journal);
    work.check_whole();

    const std::size_t second = work.key_bytes + work.entry_bytes;
    const std::uint64_t one = resume_with(journal.substr(0, second));
    work.check_whole();
    CHECK(one > 0);
    CHECK(one < all);
    for (std::size_t bytes = second; bytes < second + work.entry_bytes; bytes += 7) {
        CAPTURE(bytes);
        CHECK(resume_with(journal.substr(0, bytes)) == one);
        work.check_whole();
    }
    for (std::size_t at = 0; at < work.entry_bytes; at += 5) {
        CAPTURE(at);
        std::string changed = journal.substr(0, second + work.entry_bytes);
        changed[second + at] = static_cast<char>(changed[second + at] ^ 0x40);
        CHECK(resume_with(changed) == one);
        work.check_whole();
    }
    // Zeros, as a file system may leave them where a write was lost; what comes behind is true by itself.
    std::string holed = journal.substr(0, second);
    holed.append(work.entry_bytes * 3 + 5, '\0');
    CHECK(resume_with(holed) == one);
    work.check_whole();
    // Of another work: its key does not fit, so nothing of it counts.
    std::string foreign = journal;
    foreign[3] = foreign[3] == '0' ? '1' : '0';
    CHECK(resume_with(foreign) == 0);
    work.check_whole();
    CHECK(resume_with(journal.substr(0, work.key_bytes - 1)) == 0);
    work.check_whole();
}

TEST_CASE("resume: only the same source and the same request go on") {
    killed_work work;
    const auto other = [&](const char* what, const std::function<void(mill_options&)>& change, bool resumes) {
        CAPTURE(std::string(what));
        work.leave(5);
        mill_options how = work.options;
        change(how);
        CHECK((work.resume(how) != 0) == resumes);
        CHECK(entries_of(work.temp.path()) == std::vector<std::string>{"model", "out"});
        CHECK((read_folder(work.out) == work.whole) == resumes);
        fs::remove_all(work.out);
    };
    other("threads", [](auto& o) { o.threads = 5; }, true);
    other("memory", [](auto& o) { o.memory_limit = 8 << 20; }, true);
    other("journal", [](auto& o) { o.journal_bytes = 1 << 30; }, true);
    other("strictness", [](auto& o) { o.force = true; }, true);
    other("level", [](auto& o) { o.to = scheme_type::int8; }, false);
    other("method", [](auto& o) { o.method = bitmill::method::absmax; }, false);
    other("threshold", [](auto& o) { o.weight_threshold = 1e-3f; }, false);
    other("relative threshold", [](auto& o) { o.prune_relative = 1e-3; }, false);
    other("sparsity", [](auto& o) { o.target_sparsity = 0.1; }, false);
    other("a name", [](auto& o) { o.exclude = {"key"}; }, false);

    const auto anew = [&](const char* what, const std::function<void()>& change) {
        CAPTURE(std::string(what));
        work.leave(5);
        change();
        CHECK(work.resume(work.options) == 0);
        fs::remove_all(work.out);
        work.mill_whole();
    };
    anew("no resume", [&] { work.options.resume = false; });
    work.options.resume = true;
    const std::string shard = work.source + "/model-00001-of-00002.safetensors";
    anew("the time of a shard", [&] { fs::last_write_time(shard, fs::file_time_type::clock::now()); });
    anew("a weight, though size and time are as before", [&] {
        struct stat before{};
        REQUIRE(::stat(shard.c_str(), &before) == 0);
        std::string bytes = get_file(shard);
        bytes.back() = static_cast<char>(bytes.back() ^ 1);
        put_file(shard, bytes);
        const timespec times[] = {before.st_atim, before.st_mtim};
        REQUIRE(::utimensat(AT_FDCWD, shard.c_str(), times, 0) == 0);
    });
    anew("the config", [&] { put_file(work.source + "/config.json", "{\"model_type\": \"bert\"}"); });
    work.leave(5);
    REQUIRE(bitmill::dequantize(work.source, work.out, std::nullopt, {}));
    CHECK(entries_of(work.temp.path()) == std::vector<std::string>{"model", "out"});
}

TEST_CASE("resume: a partial folder that lost or gained files") {
    killed_work work;
    const std::string first = "/model-00001-of-00002.safetensors",
                      second = "/model-00002-of-00002.safetensors";
    const auto check = [&](const char* what, const std::function<void()>& change, bool resumes) {
        CAPTURE(std::string(what));
        work.leave(9);
        change();
        CHECK((work.resume(work.options) != 0) == resumes);
        work.check_whole();
    };
    check("as it was", [] {}, true);
    check("a shard less", [&] { fs::remove(work.partial + second); }, false);
    check("the journal less", [&] { fs::remove(work.partial + work.journal); }, false);
    check("a shard cut", [&] { fs::resize_file(work.partial + first, 1000); }, false);
    check(
        "another header",
        [&] {
            std::string bytes = get_file(work.partial + first);
            bytes[20] = '#';
            put_file(work.partial + first, bytes);
        },
        false);
    // What a run had copied when it was killed, and a file that the source no longer has.
    check(
        "side files",
        [&] {
            put_file(work.partial + "/1_Pooling/config.json", "half");
            put_file(work.partial + "/config.json", "half");
            put_file(work.partial + "/gone/deep/notes.txt", "of the source as it was");
            put_file(work.partial + "/manifest.json", "");
            fs::create_directory_symlink(work.source, work.partial + "/link");
        },
        true);
    CHECK(fs::exists(work.source + first));  // the link was not followed
    put_file(work.temp / "precious.txt", "keep");
    work.leave(9);
    fs::remove(work.partial + first);
    fs::create_symlink(work.temp / "precious.txt", work.partial + first);
    CHECK(work.resume(work.options) == 0);
    CHECK(get_file(work.temp / "precious.txt") == "keep");
    fs::remove(work.temp / "precious.txt");
    work.check_whole();
}

TEST_CASE("resume: what was done stays where reading it back is cancelled or fails") {
    killed_work work;
    work.leave(5);
    const std::uint64_t all = work.resume(work.options);
    work.check_whole();
    work.leave(5);
    const auto stays = [&](const mill_options& how, error_code code) {
        CHECK(bitmill::quantize(work.source, work.out, how).error().code == code);
        CHECK(entries_of(work.temp.path()) == std::vector<std::string>{"model", "out.bitmill-partial"});
    };
    for (int n = 1; n <= 5; ++n) {
        CAPTURE(n);
        mill_options how = work.options;
        how.on_progress = [calls = 0, n](const bitmill::progress&) mutable { return ++calls < n; };
        stays(how, error_code::cancelled);
    }
    mill_options how = work.options;
    how.memory_limit = 1;
    stays(how, error_code::out_of_memory);
    CHECK(work.resume(work.options) == all);
    work.check_whole();
}

TEST_CASE("resume: a cancel or an error deletes what was resumed, a finished folder is never resumed") {
    killed_work work;
    work.leave(5);
    mill_options how = work.options;
    // Five tiles are read back, the sixth is milled.
    how.on_progress = [calls = 0](const bitmill::progress&) mutable { return ++calls < 6; };
    CHECK(bitmill::quantize(work.source, work.out, how).error().code == error_code::cancelled);
    CHECK(entries_of(work.temp.path()) == std::vector<std::string>{"model"});
    // A kill while the replaced model was deleted: it lies under the partial's name, marked.
    REQUIRE(bitmill::quantize(work.source, work.out, work.options));
    fs::rename(work.out, work.partial);
    put_file(work.partial + "/.bitmill-partial", "");
    CHECK(work.resume(work.options) == 0);
    work.check_whole();
}
