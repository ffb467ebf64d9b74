// What the kernel's files say: of this machine, and of machines that are made up.
#include <bitmill/model/system_memory.hpp>

#include <filesystem>
#include <string>

#include <doctest/doctest.h>

#include <io_files.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::read_system_memory;

namespace {

constexpr std::uint64_t gib = std::uint64_t{1} << 30;

struct machine {
    temp_folder root{memory_parent()};

    machine() {
        put("/proc/meminfo",
            "MemTotal:       16777216 kB\nMemFree:          100000 kB\nMemAvailable:    8388608 kB\n");
        put("/proc/self/statm", "5000 3000 200 10 0 100 0\n");
    }
    void put(const std::string& name, const std::string& text) const {
        const std::string path = root.path() + name;
        std::filesystem::create_directories(std::filesystem::path(path).parent_path());
        std::filesystem::remove(path);
        put_file(path, text);
    }
    void group(const std::string& path, const std::string& most, const std::string& current,
               const std::string& stat = "") const {
        const std::string folder = "/sys/fs/cgroup" + path;
        put(folder + "/memory.max", most + "\n");
        put(folder + "/memory.current", current + "\n");
        put(folder + "/memory.stat", "anon 5\n" + stat);
    }
    [[nodiscard]] bitmill::system_memory read() const { return read_system_memory(root.path()).value(); }
};

}  // namespace

TEST_CASE("system memory: of this machine") {
    const auto now = read_system_memory().value();
    CHECK(now.total_bytes > 64 << 20);
    CHECK(now.available_bytes <= now.total_bytes);
    CHECK(now.process_bytes > 1 << 20);
    CHECK(now.process_bytes < now.total_bytes);
    CHECK(now.used_share() > 0);
    CHECK(now.used_share() <= 1);
}

TEST_CASE("system memory: the machine's, without control groups") {
    const machine m;
    auto now = m.read();
    CHECK(now.total_bytes == 16 * gib);
    CHECK(now.available_bytes == 8 * gib);
    CHECK(now.used_bytes() == 8 * gib);
    CHECK(now.used_share() == 0.5);
    CHECK(now.process_bytes % 3000 == 0);
    CHECK(now.limit.empty());
    m.put("/proc/self/cgroup", "12:memory:/old\n1:name=systemd:/x\n");  // version 1
    CHECK(m.read().total_bytes == 16 * gib);
    m.put("/proc/self/cgroup", "0::/\n");
    m.group("", "max", "1000");
    CHECK(m.read().total_bytes == 16 * gib);
}

TEST_CASE("system memory: the least of all control groups above the process") {
    const machine m;
    m.put("/proc/self/cgroup", "5:cpu:/x\n0::/a/b\n");
    m.group("/a/b", std::to_string(4 * gib), std::to_string(3 * gib),
            "inactive_file " + std::to_string(gib) + "\n");
    auto now = m.read();
    CHECK(now.total_bytes == 4 * gib);
    CHECK(now.available_bytes == 2 * gib);  // of the 3 in use one can go
    CHECK(now.limit == "/a/b");
    m.group("/a", std::to_string(2 * gib), std::to_string(gib));
    now = m.read();
    CHECK(now.total_bytes == 2 * gib);
    CHECK(now.available_bytes == gib);
    CHECK(now.limit == "/a");
    // More in use than the limit, which was lowered; a limit above the machine's.
    m.group("/a", std::to_string(gib), std::to_string(2 * gib));
    CHECK(m.read().available_bytes == 0);
    CHECK(m.read().used_share() == 1);
    m.group("/a", std::to_string(99 * gib), std::to_string(2 * gib));
    CHECK(m.read().total_bytes == 4 * gib);
    // Inside a container that sees its own group as the root of all.
    m.put("/proc/self/cgroup", "0::/docker/of/the/host\n");
    m.group("", std::to_string(3 * gib), std::to_string(gib));
    CHECK(m.read().total_bytes == 3 * gib);
    CHECK(m.read().limit == "/");
}

TEST_CASE("system memory: files that say nothing") {
    const machine m;
    m.put("/proc/self/cgroup", "0::");
    CHECK(m.read().total_bytes == 16 * gib);
    m.put("/proc/self/cgroup", "");
    m.put("/proc/self/statm", "");
    CHECK(m.read().process_bytes == 0);
    m.put("/proc/self/cgroup", "0::/a\n");
    m.group("/a", "18446744073709551616", "x");
    CHECK(m.read().total_bytes == 16 * gib);
    for (const char* text :
         {"", "MemTotal: 5 kB\n", "MemTotal: 5 kB\nMemAvailable: 6 kB\n",
          "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n", "MemTotal: x\nMemAvailable: 1\n"}) {
        m.put("/proc/meminfo", text);
        CHECK(read_system_memory(m.root.path()).error().code == error_code::bad_input);
    }
    std::filesystem::remove(m.root.path() + "/proc/meminfo");
    const auto gone = read_system_memory(m.root.path());
    CHECK(gone.error().code == error_code::io);
    CHECK(gone.error().file == m.root.path() + "/proc/meminfo");
}
