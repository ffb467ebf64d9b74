// The cache against a list that says what it should hold, and from many threads.
#include <bitmill/model/cache.hpp>

#include <algorithm>
#include <atomic>
#include <list>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <random.hpp>

using bitmill::error_code;

namespace {

// A model that counts how many of its kind are alive, and how much they take.
struct load {
    static inline std::atomic<std::uint64_t> alive_bytes{0};
    static inline std::atomic<int> opened{0};
    std::uint64_t bytes;
    explicit load(std::uint64_t size) : bytes(size) {
        alive_bytes += size;
        ++opened;
    }
    load(const load&) = delete;
    load& operator=(const load&) = delete;
    ~load() { alive_bytes -= bytes; }
};

using cache = bitmill::model_cache<load>;
using handle = cache::handle;

auto opener(std::uint64_t bytes) {
    return [bytes]() -> bitmill::result<cache::opened> {
        return cache::opened{std::make_shared<const load>(bytes), bytes};
    };
}

bitmill::result<handle> get(cache& c, const std::string& name, std::uint64_t bytes) {
    return c.get(name, bytes, opener(bytes));
}

std::vector<std::string> names(const cache& c) {
    std::vector<std::string> out;
    for (const auto& one : c.status().models) out.push_back(one.name);
    return out;
}

}  // namespace

TEST_CASE("cache: the least recently used makes room") {
    cache c(100);
    CHECK(get(c, "a", 40));
    CHECK(get(c, "b", 40));
    CHECK(get(c, "a", 40));
    CHECK(get(c, "c", 20));
    CHECK(names(c) == std::vector<std::string>{"c", "a", "b"});
    CHECK(get(c, "d", 30));
    CHECK(names(c) == std::vector<std::string>{"d", "c", "a"});
    const auto now = c.status();
    CHECK(now.current_bytes == 90);
    CHECK(now.evictions == 1);
    CHECK(now.models[2].access_count == 2);
    CHECK_FALSE(now.models[2].in_use);
    CHECK(load::alive_bytes == 90);
    c.clear();
    CHECK(load::alive_bytes == 0);
}

TEST_CASE("cache: what is in use or pinned stays, and counts until it is let go") {
    cache c(100);
    auto held = get(c, "a", 60).value();
    CHECK(get(c, "b", 30));
    CHECK(c.pin("b"));
    CHECK_FALSE(c.pin("x"));
    const auto refused = get(c, "c", 20);
    CHECK(refused.error().code == error_code::out_of_memory);
    CHECK(refused.error().message.find("90 are in use or pinned") != std::string::npos);
    CHECK(names(c).size() == 2);
    CHECK(get(c, "c", 101).error().code == error_code::out_of_memory);
    c.clear();
    CHECK(names(c) == std::vector<std::string>{"b"});
    CHECK(c.status().current_bytes == 90);
    CHECK(held->bytes == 60);
    CHECK(get(c, "c", 20).error().code == error_code::out_of_memory);
    held.reset();
    CHECK(c.status().current_bytes == 30);
    CHECK(get(c, "c", 70));
    c.set_max_bytes(40);
    CHECK(names(c) == std::vector<std::string>{"b"});
    CHECK(c.pin("b", false));
    CHECK(c.erase("b"));
    CHECK_FALSE(c.erase("b"));
    CHECK(load::alive_bytes == 0);
}

TEST_CASE("cache: what is forgotten while it is opened does not stay") {
    cache c(100);
    std::atomic<bool> opens{false};
    std::thread user([&] {
        const auto held = c.get("a", 60, [&]() -> bitmill::result<cache::opened> {
            opens = true;
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
            return cache::opened{std::make_shared<const load>(60), 60};
        });
        CHECK(held);
    });
    while (!opens) std::this_thread::yield();
    CHECK(c.erase("a"));
    user.join();
    CHECK(names(c).empty());
    CHECK(c.status().current_bytes == 0);
    CHECK(load::alive_bytes == 0);
}

TEST_CASE("cache: a model that cannot be opened, or is larger than announced, leaves nothing") {
    cache c(100);
    CHECK(get(c, "old", 90));
    const auto failing = [](const char* what) {
        return [what]() -> bitmill::result<cache::opened> {
            return bitmill::error{.code = error_code::bad_input, .message = what};
        };
    };
    CHECK(c.get("a", 10, failing("broken")).error().message == "broken");
    CHECK(c.get("a", 10, opener(11)).error().code == error_code::out_of_memory);
    CHECK(c.get("a", 10, []() -> bitmill::result<cache::opened> { throw std::bad_alloc(); }).error().code ==
          error_code::out_of_memory);
    CHECK(names(c) == std::vector<std::string>{"old"});
    CHECK(get(c, "a", 10));
    // One that takes less gives the rest back.
    CHECK(c.get("b", 60, opener(5)));
    CHECK(c.status().current_bytes == load::alive_bytes);
}

TEST_CASE("cache: ten thousand random calls beside a list") {
    // EXACT
    cache c(1000);
    struct entry {
        std::string name;
        std::uint64_t bytes;
    };
    std::list<entry> expected;  // the most recently used first
    test::random dice(5);
    for (int i = 0; i < 10000; ++i) {
        const std::string name(1, static_cast<char>('a' + dice.below(20)));
        const std::uint64_t bytes = 50 + 10 * static_cast<std::uint64_t>(name[0] - 'a');
        const auto at =
            std::find_if(expected.begin(), expected.end(), [&](const auto& one) { return one.name == name; });
        if (dice.below(50) == 0) {
            CHECK(c.erase(name) == (at != expected.end()));
            if (at != expected.end()) expected.erase(at);
            continue;
        }
        REQUIRE(get(c, name, bytes));
        if (at != expected.end()) expected.erase(at);
        std::uint64_t sum = bytes;
        for (const auto& one : expected) sum += one.bytes;
        for (; sum > 1000; expected.pop_back()) sum -= expected.back().bytes;
        expected.push_front({name, bytes});
        std::vector<std::string> list;
        for (const auto& one : expected) list.push_back(one.name);
        REQUIRE(names(c) == list);
        REQUIRE(c.status().current_bytes == sum);
        REQUIRE(load::alive_bytes == sum);
    }
}

TEST_CASE("cache: many threads; one opening for one name, never more than the budget") {
    cache c(400);
    const int before = load::opened;
    {
        std::vector<std::thread> users;
        std::atomic<int> failed{0};
        for (int i = 0; i < 16; ++i)
            users.emplace_back([&] {
                const auto got = c.get("same", 100, [] {
                    std::this_thread::sleep_for(std::chrono::milliseconds(20));
                    return opener(100)();
                });
                if (!got) ++failed;
            });
        for (auto& user : users) user.join();
        CHECK(failed == 0);
    }
    CHECK(load::opened == before + 1);
    std::atomic<std::uint64_t> most{0}, wrong{0}, served{0};
    std::vector<std::thread> users;
    for (unsigned i = 0; i < 8; ++i)
        users.emplace_back([&, i] {
            test::random dice(i);
            for (int k = 0; k < 2000; ++k) {
                const std::uint64_t bytes = 20 + dice.below(8) * 10;
                const auto got = get(c, "m" + std::to_string(bytes), bytes);
                const std::uint64_t alive = load::alive_bytes;
                for (std::uint64_t seen = most; seen < alive && !most.compare_exchange_weak(seen, alive);) {
                }
                if (got) ++served;
                if (got && (*got)->bytes != bytes) ++wrong;
                if (!got && got.error().code != error_code::out_of_memory) ++wrong;
                if (k % 100 == 0) c.clear();
            }
        });
    for (auto& user : users) user.join();
    CHECK(wrong == 0);
    CHECK(served > 8000);
    CHECK(most <= 400);
    c.clear();
    CHECK(load::alive_bytes == 0);
}
