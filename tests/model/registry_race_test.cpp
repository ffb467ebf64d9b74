// The registry under fire: many calls for the same work, from threads and processes, that are killed, cancelled, or have no
// room to write.
#include <bitmill/model/registry.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bitmill/mill/manifest.hpp>

#include <registries.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::model_registry;
namespace fs = std::filesystem;

namespace {

using names = std::vector<std::string>;

// What processes tell each other.
struct call_result {
    bool success = false, did_work = false;
    std::array<char, 32> id = {};
    std::array<char, 200> message = {};

    void fill(const bitmill::quantize_outcome& outcome) {
        success = outcome.is_quantized;
        did_work = outcome.did_work;
        std::strncpy(id.data(), outcome.job_id.c_str(), id.size() - 1);
        std::strncpy(message.data(), outcome.message.c_str(), message.size() - 1);
    }
};
struct shared_facts {
    std::atomic<int> ready{0};
    std::atomic<bool> go{false};
    std::array<call_result, 64> calls = {};
};

class shared_memory {
public:
    shared_memory()
        : at_(::mmap(nullptr, sizeof(shared_facts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                     0)) {
        REQUIRE(at_ != MAP_FAILED);
        facts_ = new (at_) shared_facts;
    }
    shared_memory(const shared_memory&) = delete;
    shared_memory& operator=(const shared_memory&) = delete;
    ~shared_memory() { ::munmap(at_, sizeof(shared_facts)); }
    shared_facts* operator->() const { return facts_; }

private:
    void* at_;
    shared_facts* facts_;
};

template <class Condition>
bool wait_until(const Condition& condition) {
    for (int i = 0; i < 60000; ++i) {
        if (condition()) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
}

pid_t in_child(const std::function<int()>& body) {
    const pid_t child = ::fork();
    if (child == 0) {
        int status = 99;
        try {
            status = body();
        } catch (...) {
        }
        ::_exit(status);
    }
    REQUIRE(child > 0);
    return child;
}

int status_of(pid_t child) {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return status;
}

// Every tile is noted as soon as it is done, one after the other.
bitmill::mill_options careful() {
    auto options = model_registry::default_options();
    options.threads = 1;
    options.journal_bytes = 1;
    return options;
}

// A process that is killed at the n-th report of progress; false where it ended before.
bool kill_at(int n, const std::string& root) {
    const int status = status_of(in_child([&] {
        auto options = careful();
        options.on_progress = [&](const bitmill::progress&) {
            if (--n == 0) ::kill(::getpid(), SIGKILL);
            return true;
        };
        return model_registry::open(root).value().quantize("roberta", options).did_work ? 0 : 1;
    }));
    REQUIRE((WIFSIGNALED(status) || WEXITSTATUS(status) == 0));
    return WIFSIGNALED(status);
}

const names whole_model{"config.json", "int8", "metadata.json", "model.safetensors", "tokenizer.json"};

}  // namespace

TEST_CASE("registry: 64 calls of one process are one job") {
    registry_folder f;
    const std::string path = f.add();
    auto registry = f.open();
    std::vector<bitmill::quantize_outcome> outcomes(64);
    std::atomic<int> reports{0};
    std::atomic<bool> go{false};
    std::vector<std::thread> threads;
    for (auto& one : outcomes)
        threads.emplace_back([&] {
            auto options = model_registry::default_options();
            options.on_progress = [&](const bitmill::progress&) {
                for (const auto& job : registry.jobs())
                    if (job.level == "int8" && job.model_name == "roberta-base") ++reports;
                return true;
            };
            while (!go) std::this_thread::yield();
            one = registry.quantize("roberta", options);
        });
    go = true;
    for (auto& one : threads) one.join();
    int worked = 0;
    for (const auto& one : outcomes) {
        CHECK_MESSAGE(one.is_quantized, one.message);
        CHECK(one.job_id == outcomes[0].job_id);
        worked += one.did_work ? 1 : 0;
    }
    CHECK(worked == 1);
    CHECK(reports > 0);
    CHECK(registry.jobs().empty());
    CHECK(entries_of(path) == whole_model);
    check_variant(path, "int8");
}

TEST_CASE("registry: 8 processes with 8 threads each are one job") {
    for (int round = 0; round < 5; ++round) {
        registry_folder f;
        const std::string path = f.add();
        const shared_memory shared;
        std::vector<pid_t> children;
        for (std::size_t process = 0; process < 8; ++process)
            children.push_back(in_child([&, process] {
                auto registry = model_registry::open(f.root).value();
                std::vector<std::thread> threads;
                for (std::size_t i = 0; i < 8; ++i)
                    threads.emplace_back([&, i] {
                        ++shared->ready;
                        (void)wait_until([&] { return shared->go.load(); });
                        shared->calls[process * 8 + i].fill(registry.quantize("roberta"));
                    });
                for (auto& one : threads) one.join();
                return 0;
            }));
        CHECK(wait_until([&] { return shared->ready == 64; }));
        shared->go = true;
        for (const pid_t child : children) CHECK(status_of(child) == 0);
        int worked = 0;
        std::set<std::string> ids;
        for (const auto& call : shared->calls) {
            CHECK_MESSAGE(call.success, std::string(call.message.data()));
            worked += call.did_work ? 1 : 0;
            ids.insert(call.id.data());
        }
        CHECK(worked == 1);
        CHECK(ids.size() == 1);
        CHECK(entries_of(path) == whole_model);
        check_variant(path, "int8");
    }
}

TEST_CASE("registry: kill -9 at every tile leaves no partial variant, and the next call goes on") {
    registry_folder f;
    const std::string path = f.add();
    std::uint64_t resumed = 0;
    int kills = 0, with_journal = 0;
    for (int n = 1; kill_at(n, f.root); ++n) {
        ++kills;
        CHECK_FALSE(fs::exists(path + "/int8"));
        // It goes when all is written, just before the folder gets its name.
        const bool journal = fs::exists(path + "/int8.bitmill-partial/.bitmill-journal");
        auto registry = f.open();
        CHECK_FALSE(registry.find("roberta").value().metadata.is_quantized);
        CHECK(registry.find("roberta").value().levels == names{"original"});
        const auto done = registry.quantize("roberta", careful());
        REQUIRE_MESSAGE(done.did_work, done.message);
        if (journal) {
            CHECK(done.report->resumed_bytes >= resumed);
            resumed = done.report->resumed_bytes;
            ++with_journal;
        }
        CHECK(entries_of(path) == whole_model);
        check_variant(path, "int8", careful());
        CHECK(bitmill::verify(path, path + "/int8"));
        fs::remove_all(path + "/int8");
    }
    CHECK(kills > 10);
    CHECK(with_journal >= kills - 2);
    CHECK(resumed > 0);
}

TEST_CASE("registry: a process that waits takes over from one that is killed") {
    registry_folder f;
    const std::string path = f.add();
    const shared_memory shared;
    const pid_t first = in_child([&] {
        auto options = careful();
        int tiles = 0;
        options.on_progress = [&](const bitmill::progress&) {
            if (++tiles == 4) shared->ready = 1;
            // It stays there until it is killed.
            return tiles < 4 || (::pause(), true);
        };
        (void)model_registry::open(f.root).value().quantize("roberta", options);
        return 0;
    });
    REQUIRE(wait_until([&] { return shared->ready == 1; }));
    auto registry = f.open();
    auto options = careful();
    int asked = 0;
    options.on_progress = [&](const bitmill::progress& now) {
        if (++asked == 5) ::kill(first, SIGKILL);
        if (asked < 5) CHECK(now.total_bytes == 0);
        return true;
    };
    const auto done = registry.quantize("roberta", options);
    CHECK(WIFSIGNALED(status_of(first)));
    REQUIRE_MESSAGE(done.did_work, done.message);
    CHECK(done.report->resumed_bytes > 0);
    check_variant(path, "int8", careful());
    CHECK(entries_of(path) == whole_model);
}

TEST_CASE("registry: waiting for another process can be cancelled, and so can the work") {
    registry_folder f;
    const std::string path = f.add();
    const shared_memory shared;
    const pid_t first = in_child([&] {
        auto options = careful();
        options.on_progress = [&](const bitmill::progress&) {
            shared->ready = 1;
            return wait_until([&] { return shared->go.load(); });
        };
        return model_registry::open(f.root).value().quantize("roberta", options).did_work ? 0 : 1;
    });
    REQUIRE(wait_until([&] { return shared->ready == 1; }));
    auto registry = f.open();
    auto options = careful();
    int asked = 0;
    options.on_progress = [&](const bitmill::progress&) { return ++asked < 3; };
    const auto waited = registry.quantize("roberta", options);
    CHECK(waited.message == "Error during quantization: cancelled");
    CHECK(waited.code == error_code::cancelled);
    CHECK(asked == 3);
    shared->go = true;
    CHECK(status_of(first) == 0);  // it heard nothing of that
    CHECK(registry.quantize("roberta", careful()).already_quantized);
    fs::remove_all(path + "/int8");
    fs::remove(path + "/metadata.json");
    asked = 0;
    CHECK(registry.quantize("roberta", options).code == error_code::cancelled);
    CHECK(entries_of(path) == names{"config.json", "model.safetensors", "tokenizer.json"});
    options.on_progress = [](const bitmill::progress&) -> bool { throw 5; };
    CHECK(registry.quantize("roberta", options).code == error_code::cancelled);
    CHECK(registry.jobs().empty());
}

TEST_CASE("registry: who waits goes on where the call that worked was cancelled") {
    registry_folder f;
    const std::string path = f.add();
    auto registry = f.open();
    std::atomic<int> tiles{0};
    std::atomic<bool> waits{false};
    bitmill::quantize_outcome first, second;
    auto options = careful();
    options.on_progress = [&](const bitmill::progress&) {
        return ++tiles < 6 || !wait_until([&] { return waits.load(); });
    };
    std::thread worker([&] { first = registry.quantize("roberta", options); });
    REQUIRE(wait_until([&] { return tiles >= 1; }));
    auto patient = careful();
    patient.on_progress = [&](const bitmill::progress&) {
        waits = true;
        return true;
    };
    second = registry.quantize("roberta", patient);
    worker.join();
    CHECK(first.code == error_code::cancelled);
    REQUIRE_MESSAGE(second.did_work, second.message);
    CHECK(second.report->resumed_bytes > 0);
    CHECK(second.job_id == first.job_id);
    check_variant(path, "int8", careful());
    CHECK(entries_of(path) == whole_model);
}

TEST_CASE("registry: different requests for one level come after each other") {
    registry_folder f;
    const std::string path = f.add();
    auto registry = f.open();
    std::vector<bitmill::quantize_outcome> outcomes(8);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < outcomes.size(); ++i)
        threads.emplace_back([&, i] {
            bitmill::mill_options packed;
            outcomes[i] =
                registry.quantize("roberta", i % 2 == 0 ? model_registry::default_options() : packed);
        });
    for (auto& one : threads) one.join();
    for (const auto& one : outcomes) CHECK_MESSAGE(one.is_quantized, one.message);
    CHECK(outcomes[0].job_id != outcomes[1].job_id);
    CHECK(bitmill::verify(path, path + "/int8"));
    CHECK(entries_of(path) == whole_model);
}

TEST_CASE("registry: a folder that cannot be written is read all the same") {
    registry_folder f;
    const std::string path = f.add();
    REQUIRE(f.open().quantize("roberta").did_work);
    const std::string bare = f.add("bare");
    // The user who runs the tests may be root, whom no permission stops.
    const auto as_nobody = [&](const std::function<bool()>& body) {
        return status_of(in_child([&] {
            if (::geteuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) return 2;
            return body() ? 0 : 1;
        }));
    };
    fs::permissions(f.place.path(), fs::perms(0755));
    for (const auto& folder : {path, bare}) fs::permissions(folder, fs::perms(0555));
    const auto before = read_folder(f.root);
    CHECK(as_nobody([&] {
              auto registry = model_registry::open(f.root).value();
              const auto again = registry.quantize("roberta");
              return again.already_quantized && registry.warnings().empty();
          }) == 0);
    CHECK(as_nobody([&] {
              auto registry = model_registry::open(f.root).value();
              const auto list = registry.list().value();
              const auto failed = registry.quantize("bare");
              return list.models.size() == 2 && list.models[1].metadata.is_quantized &&
                     list.models[0].metadata.dimensions == 768u && registry.warnings().size() == 1 &&
                     failed.code == error_code::io &&
                     failed.message.starts_with("Error during quantization: int8") &&
                     failed.message.find(f.root) == std::string::npos;
          }) == 0);
    CHECK(read_folder(f.root) == before);
    for (const auto& folder : {path, bare}) fs::permissions(folder, fs::perms(0755));
}

TEST_CASE("registry: where there is no room the model stays as it was") {
    registry_folder f;
    const std::string path = f.add();
    const auto before = read_folder(f.root);
    int failed = 0;
    // Every limit stops at another write; RLIMIT_FSIZE makes each past it fail as a full disk does.
    for (rlim_t bytes = 0; bytes < 4'000'000; bytes = bytes * 3 + 50) {
        const int status = status_of(in_child([&] {
            ::signal(SIGXFSZ, SIG_IGN);
            const rlimit limit{bytes, bytes};
            if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
            const auto done = model_registry::open(f.root).value().quantize("roberta");
            const bool clear = done.code == error_code::io && done.message.find(f.root) == std::string::npos;
            return done.did_work ? 1 : clear ? 0 : 3;
        }));
        REQUIRE(WIFEXITED(status));
        REQUIRE(WEXITSTATUS(status) <= 1);
        if (WEXITSTATUS(status) == 1) break;
        ++failed;
        CHECK(read_folder(f.root) == before);
    }
    CHECK(failed > 5);
    CHECK(f.open().quantize("roberta").is_quantized);
    check_variant(path, "int8");
}
