// Models that share memory, with memory, load and time injected: which level serves, why, and that what it gives is, bit for
// bit, what the level gives by itself.
#include <bitmill/model/model_manager.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <level_models.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::load_request;
using bitmill::managed_model;
using bitmill::managed_model_options;
using bitmill::model_manager;
using bitmill::task_priority;
using namespace std::chrono_literals;

namespace {

// A machine whose memory and clock the test sets.
struct machine {
    static constexpr std::uint64_t total = std::uint64_t{16} << 30;
    std::atomic<double> used{0.1};
    std::atomic<std::chrono::milliseconds> time{1h};
    lines log;

    bitmill::manager_options options() {
        bitmill::manager_options out;
        out.memory_interval = 0ms;
        out.working_bytes = 0;
        out.model.threads = 1;
        out.read_memory = [this]() -> bitmill::result<bitmill::system_memory> {
            bitmill::system_memory now;
            now.total_bytes = total;
            now.available_bytes = static_cast<std::uint64_t>(static_cast<double>(total) * (1 - used));
            return now;
        };
        out.clock = [this] { return std::chrono::steady_clock::time_point(time.load()); };
        out.on_log = [this](bitmill::log_level level, const std::string& line) {
            (level == bitmill::log_level::warning ? log.warnings : log.infos).push_back(line);
        };
        return out;
    }
    void wait(std::chrono::milliseconds some) { time = time.load() + some; }
};

model_manager with_model(machine& host, const std::string& path) {
    auto out = model_manager::create(host.options()).value();
    out.add_model("m", {.path = path}).value();
    return out;
}

std::string level_of(const managed_model& model) { return model.loader().decision().effective; }

// The level that a request finds, and whether its vectors are those of the level.
std::string served(model_manager& manager, const std::string& path, const load_request& request = {}) {
    auto model = manager.load_model("m", request).value();
    const std::string level = level_of(model);
    CHECK(model.decision().level == level);
    CHECK(vectors_of(model.loader()) == alone(path, level));
    return level;
}

load_request forced(const std::string& level) { return {.force_quantization = level}; }

}  // namespace

TEST_CASE("manager: memory walks a model down at once and up again after a while, each step explained") {
    // EXACT
    const family at_hand;
    machine host;
    auto manager = with_model(host, at_hand.path);
    CHECK(served(manager, at_hand.path) == "fp16");
    const auto at = [&](double used) {
        host.used = used;
        return served(manager, at_hand.path);
    };
    CHECK(at(0.5) == "int8");
    CHECK(at(0.7) == "int4");
    CHECK(at(0.9) == "int4");  // there is no int2
    CHECK(at(0.1) == "int4");  // it has served for no time
    CHECK(manager.get_status().value().models.front().decision->rule == "dwell");
    host.wait(31s);
    CHECK(at(0.37) == "int8");  // fp16 only where it stays right with a little more
    host.wait(31s);
    CHECK(at(0.37) == "int8");
    CHECK(at(0.3) == "fp16");
    const auto status = manager.get_status().value();
    std::vector<std::string> walk;
    for (const auto& one : status.switches) {
        CHECK(one.model == "m");
        CHECK(one.fault.empty());
        CHECK(one.decision.explanation.find("memory in use") != std::string::npos);
        walk.push_back(one.to);
    }
    CHECK(walk == std::vector<std::string>{"fp16", "int8", "int4", "int8", "fp16"});
    CHECK(status.switches[1].from == "fp16");
    CHECK(status.switches[1].freed_bytes > 0);
    CHECK(status.switches[1].freed_bytes + status.switches[2].freed_bytes + status.switches[3].freed_bytes +
              status.switches[4].freed_bytes ==
          0);
    CHECK(status.current_bytes == status.models.front().bytes);
    CHECK(host.log.infos.size() == 5);
    CHECK(host.log.warnings.empty());
}

TEST_CASE("manager: requests at work are the load") {
    const family at_hand;
    machine host;
    auto manager = with_model(host, at_hand.path);
    std::vector<managed_model> at_work;
    std::vector<std::string> levels;
    for (int i = 0; i < 7; ++i) {
        at_work.push_back(manager.load_model("m").value());
        levels.push_back(level_of(at_work.back()));
    }
    CHECK(levels == std::vector<std::string>{"fp16", "int8", "int8", "int8", "int8", "int4", "int4"});
    CHECK(manager.get_status().value().active_requests == 7);
    // They all share one model: what began before runs on.
    CHECK(vectors_of(at_work.front().loader()) == alone(at_hand.path, "int4"));
    at_work.clear();
    CHECK(manager.get_status().value().active_requests == 0);
    host.wait(1min);
    CHECK(level_of(manager.load_model("m").value()) == "fp16");
}

TEST_CASE("manager: a moment with few requests is no reason for a higher level") {
    const family at_hand;
    machine host;
    auto manager = with_model(host, at_hand.path);
    const auto with = [&](unsigned requests) {
        return served(manager, at_hand.path, {.active_requests = requests});
    };
    CHECK(with(12) == "int4");
    for (int i = 0; i < 5; ++i) {
        host.wait(20s);
        CHECK(with(1) == "int4");
        host.wait(5s);
        CHECK(with(12) == "int4");
    }
    host.wait(20s);
    CHECK(with(1) == "int4");
    const auto now = manager.load_model("m", {.active_requests = 1}).value();
    CHECK(now.decision().explanation.find("; now 1, the most of the last 30 s counts") != std::string::npos);
    host.wait(11s);
    CHECK(with(1) == "fp16");
    CHECK(manager.get_status().value().switches.size() == 2);
}

TEST_CASE("manager: force, floor and priority") {
    const family at_hand;
    machine host;
    auto manager = with_model(host, at_hand.path);
    host.used = 0.5;
    CHECK(served(manager, at_hand.path, {.priority = task_priority::quality}) == "fp16");
    CHECK(served(manager, at_hand.path, {.priority = task_priority::speed}) == "int4");
    CHECK(served(manager, at_hand.path, {.min_quantization = "int8"}) == "int8");
    CHECK(served(manager, at_hand.path, forced("int4")) == "int4");
    CHECK(served(manager, at_hand.path, forced("original")) == "original");
    CHECK(served(manager, at_hand.path) == "int8");
    CHECK(manager.load_model("m", forced("int2")).error().code == error_code::unsupported);
    CHECK(manager.load_model("m", forced("int7")).error().code == error_code::invalid_argument);
    CHECK(manager.load_model("n").error().code == error_code::invalid_argument);
    CHECK(manager.load_model("n").error().text().find("there is m") != std::string::npos);
    CHECK(manager.get_status().value().active_requests == 0);
}

TEST_CASE("manager: what does not fit is an error before anything is opened") {
    const family at_hand;
    machine host;
    auto options = host.options();
    options.working_bytes = machine::total;
    auto manager = model_manager::create(options).value();
    manager.add_model("m", {.path = at_hand.path}).value();
    CHECK(manager.load_model("m").error().code == error_code::out_of_memory);
    CHECK(manager.load_model("m", forced("int4")).error().code == error_code::out_of_memory);
    CHECK(manager.get_status().value().switches.empty());
    CHECK_FALSE(manager.get_status().value().models.front().loaded);
}

TEST_CASE("manager: planes change their level without a second model") {
    const planes at_hand;
    machine host;
    auto manager = with_model(host, at_hand.path);
    CHECK(served(manager, at_hand.path) == "int8");
    host.used = 0.7;
    CHECK(served(manager, at_hand.path) == "int4");
    host.used = 0.1;
    host.wait(1min);
    auto model = manager.load_model("m").value();
    CHECK(level_of(model) == "int8");
    CHECK(model.loader().switches().back().planes);
}

TEST_CASE("manager: a level that cannot be read is left out for a while, and told") {
    const family at_hand;
    machine host;
    auto manager = with_model(host, at_hand.path);
    host.used = 0.5;
    // Behind the manager's back: it has seen the headers already.
    const std::string file = at_hand.in("int8") + "/model.safetensors";
    const std::string whole = get_file(file);
    change(file, [](std::string& bytes) { bytes.resize(bytes.size() / 2); });
    CHECK(served(manager, at_hand.path) == "int4");
    CHECK(served(manager, at_hand.path) == "int4");
    auto status = manager.get_status().value();
    REQUIRE(status.switches.size() == 2);
    CHECK(status.switches[0].decision.level == "int8");
    CHECK(status.switches[0].to.empty());
    CHECK_FALSE(status.switches[0].fault.empty());
    CHECK(host.log.warnings.size() == 1);
    change(file, [&](std::string& bytes) { bytes = whole; });
    host.wait(30s);
    CHECK(served(manager, at_hand.path) == "int4");
    host.wait(31s);
    CHECK(served(manager, at_hand.path) == "int8");
    // And where it fails while another one serves.
    host.used = 0.7;
    CHECK(served(manager, at_hand.path) == "int4");
    change(file, [](std::string& bytes) { bytes.resize(bytes.size() / 2); });
    host.used = 0.5;
    host.wait(1min);
    CHECK(served(manager, at_hand.path) == "int4");
    status = manager.get_status().value();
    CHECK(status.switches.back().to == "int4");
    CHECK(status.switches.back().decision.level == "int8");
    CHECK_FALSE(status.switches.back().fault.empty());
    CHECK(manager.load_model("m", forced("int8")).error().code != error_code::ok);
}

TEST_CASE("manager: a level that gives no numbers gives way, and is not tried again with every request") {
    const family at_hand;
    make_nan(at_hand.in("int8"));
    machine host;
    auto manager = with_model(host, at_hand.path);
    host.used = 0.5;
    {
        auto model = manager.load_model("m").value();
        CHECK(level_of(model) == "int8");
        CHECK(vectors_of(model.loader()) ==
              alone(at_hand.path, "original"));  // this request is answered, too
    }
    CHECK(served(manager, at_hand.path) == "int4");
    CHECK(served(manager, at_hand.path) == "int4");
    const auto status = manager.get_status().value();
    std::vector<std::string> walk;
    for (const auto& one : status.switches) walk.push_back(one.to);
    CHECK(walk == std::vector<std::string>{"int8", "original", "int4"});
    CHECK(status.switches[1].fault.find("NaN") != std::string::npos);
    CHECK(status.switches[1].decision.rule == "fault");
    CHECK(status.current_bytes == status.models.front().bytes);
}

TEST_CASE("manager: a model that feeds an index does not drift") {
    const family at_hand;
    machine host;
    auto manager = model_manager::create(host.options()).value();
    managed_model_options index{.path = at_hand.path};
    index.max_drift = 0.0;
    CHECK(manager.add_model("m", index).error().code == error_code::invalid_argument);  // no texts
    index.drift_texts = {"the quick brown fox", "a lazy dog"};
    index.max_drift = -1;
    CHECK(manager.add_model("m", index).error().code == error_code::invalid_argument);
    // So far as int8 goes, and no farther.
    auto loader = bitmill::loader_options{};
    loader.canary = index.drift_texts;
    loader.canary_cosine = -1;
    auto measured = bitmill::model_loader::open(at_hand.path, loader).value();
    index.max_drift = 1 - *measured.use_level("int8").value().canary_cosine + 1e-6;
    manager.add_model("m", index).value();
    host.used = 0.5;
    CHECK(served(manager, at_hand.path) == "int8");
    host.used = 0.8;
    CHECK(served(manager, at_hand.path) == "int8");
    host.wait(24h);
    CHECK(served(manager, at_hand.path) == "int8");
    const auto status = manager.get_status().value();
    CHECK(std::count_if(status.switches.begin(), status.switches.end(),
                        [](const auto& one) { return one.fault.find("canary") != std::string::npos; }) == 1);
}

TEST_CASE("manager: the cache has room for one") {
    const family first, second;
    machine host;
    host.used = 0.5;
    auto options = host.options();
    const auto bytes_of = [](const std::string& path, const std::string& level) {
        bitmill::model_options model;
        model.level = level;
        return bitmill::text_encoder::open(path, model).value().model().facts().weight_bytes;
    };
    options.max_cache_bytes = bytes_of(first.path, "int8") * 5 / 3;
    auto manager = model_manager::create(options).value();
    manager.add_model("a", {.path = first.path}).value();
    manager.add_model("b", {.path = second.path}).value();
    const auto loaded = [&] {
        std::string out;
        for (const auto& one : manager.get_status().value().models)
            if (one.loaded) out += one.name + " " + one.level + ";";
        return out;
    };
    manager.warm_model("a").value();
    CHECK(loaded() == "a int8;");
    manager.warm_model("b").value();
    CHECK(loaded() == "b int8;");
    CHECK(manager.get_status().value().evictions == 1);
    {
        // What is in use stays; beside it a lower level has room.
        auto b = manager.load_model("b").value();
        auto a = manager.load_model("a").value();
        CHECK(level_of(a) == "int4");
        CHECK(level_of(b) == "int8");
        CHECK(manager.get_status().value().current_bytes <= options.max_cache_bytes);
    }
    manager.clear_cache();
    CHECK(loaded().empty());
    CHECK(manager.get_status().value().current_bytes == 0);
    CHECK(manager.pin_model("a"));
    CHECK_FALSE(manager.pin_model("c"));
    host.wait(24h);
    manager.warm_model("a").value();
    manager.clear_cache();
    CHECK(loaded() == "a int8;");
    CHECK(manager.remove_model("a"));
    CHECK(loaded().empty());
    CHECK_FALSE(manager.remove_model("a"));
    manager.add_model("a", {.path = second.path}).value();
    CHECK(manager.add_model("a", {.path = second.path}).error().code == error_code::invalid_argument);
    manager.warm_model("a").value();
    // Larger than the whole cache: the best level that fits, and none is kept where none does.
    manager.set_max_cache_bytes(bytes_of(first.path, "int8") * 2 / 3);
    CHECK(level_of(manager.load_model("a").value()) == "int4");
    manager.clear_cache();
    manager.set_max_cache_bytes(1000);
    CHECK(level_of(manager.load_model("a").value()) == "int8");
    CHECK(loaded().empty());
}

TEST_CASE("manager: a level that was milled meanwhile") {
    const family at_hand;
    machine host;
    std::filesystem::rename(at_hand.in("int4"), at_hand.place / "away");
    auto manager = with_model(host, at_hand.path);
    host.used = 0.7;
    CHECK(served(manager, at_hand.path) == "int8");
    std::filesystem::rename(at_hand.place / "away", at_hand.in("int4"));
    CHECK(served(manager, at_hand.path) == "int8");
    auto before = manager.load_model("m").value();
    manager.refresh_model("m").value();
    CHECK(served(manager, at_hand.path) == "int4");
    CHECK(vectors_of(before.loader()) == alone(at_hand.path, "int8"));
    CHECK(manager.refresh_model("n").error().code == error_code::invalid_argument);
}

TEST_CASE("manager: a request may say how many there are") {
    const family at_hand;
    machine host;
    auto manager = with_model(host, at_hand.path);
    CHECK(served(manager, at_hand.path, {.active_requests = 3}) == "int8");
    CHECK(served(manager, at_hand.path, {.active_requests = 9}) == "int4");
}

TEST_CASE("manager: what was dropped and is in use is not opened twice") {
    const family at_hand;
    machine host;
    auto manager = with_model(host, at_hand.path);
    auto held = manager.load_model("m").value();
    manager.clear_cache();
    auto again = manager.load_model("m").value();
    CHECK(&again.loader() == &held.loader());
    CHECK(manager.get_status().value().models.front().loaded);
}

TEST_CASE("manager: from many threads, while memory comes and goes") {
    // EXACT
    const family at_hand;
    machine host;
    auto options = host.options();
    options.thresholds.dwell = 0ms;
    options.on_log = nullptr;
    auto manager = model_manager::create(options).value();
    for (const char* name : {"a", "b", "c"}) manager.add_model(name, {.path = at_hand.path}).value();
    std::vector<std::vector<float>> known;
    for (const char* level : {"original", "fp16", "int8", "int4"})
        known.push_back(alone(at_hand.path, level));
    std::atomic<int> wrong{0}, failed{0};
    {
        std::vector<std::jthread> threads;
        for (int t = 0; t < 8; ++t)
            threads.emplace_back([&, t] {
                const char* const names[] = {"a", "b", "c"};
                for (int i = 0; i < 25; ++i) {
                    host.used = (i * 7 + t * 3) % 10 / 10.0;
                    auto model = manager.load_model(names[(i + t) % 3]);
                    if (!model) {
                        ++failed;
                        continue;
                    }
                    const auto out = vectors_of(model->loader());
                    if (std::find(known.begin(), known.end(), out) == known.end()) ++wrong;
                    if (i % 10 == t) manager.clear_cache();
                    (void)manager.get_status().value().json();
                }
            });
    }
    CHECK(wrong == 0);
    CHECK(failed == 0);
    manager.clear_cache();
    CHECK(manager.get_status().value().current_bytes == 0);
    CHECK(manager.get_status().value().active_requests == 0);
}

TEST_CASE("manager: what it tells of itself") {
    const family at_hand;
    machine host;
    auto manager = with_model(host, at_hand.path);
    host.used = 0.469;
    manager.warm_model("m").value();
    const auto status = manager.get_status().value();
    const std::string json = status.json(-1);
    for (const char* part :
         {R"("device":"cpu")", R"("active_requests":0)", R"("total_gb":16.0)", R"("available_gb":8.5)",
          R"("used_percent":"46.9%")", R"("capabilities":{"fp16":true,"int8":true,"int4":true,"int2":true})",
          R"("recommended_level":"int8")", R"("name":"m")", R"("access_count":1)", R"("status":"loaded")",
          R"("level":"int8")"}) {
        CAPTURE(part);
        CHECK(json.find(part) != std::string::npos);
    }
    CHECK(status.memory_json(-1).find(R"("percent_used":46.9)") != std::string::npos);
    CHECK(status.memory_json(-1).find(R"("status":"moderate")") != std::string::npos);
    CHECK(status.cache_json(-1).find(R"("max_size_mb":8000.0)") != std::string::npos);
    CHECK(status.cache_json(-1).find(R"("models_cached":1)") != std::string::npos);
    CHECK(status.warnings.empty());
    host.used = 0.9;
    manager.set_max_cache_bytes(status.current_bytes);
    const auto warnings = manager.get_status().value().warnings;
    REQUIRE(warnings.size() == 2);
    CHECK(warnings[0].find("100.0%") != std::string::npos);
    CHECK(warnings[1].find("90.0%") != std::string::npos);
}

TEST_CASE("manager: an estimate for a model that is not there") {
    machine host;
    auto manager = model_manager::create(host.options()).value();
    host.used = 0.3;
    const auto of = [&](double billions, const load_request& request = {}) {
        return manager.calculate(billions * 1e9, request).value();
    };
    // 4.8 of 16 GB are in use, and 5.1 more at the peak of int4.
    const auto seven = of(7);
    CHECK(seven.decision.level == "int4");
    CHECK(seven.bytes == 3609375000);
    const std::string json = seven.json(-1);
    for (const char* part : {R"("level":"int4")", R"("precision":"4-bit")", R"("compression_ratio":"8.0x")",
                             R"("estimated_memory_gb":3.61)", R"("load_in_4bit":true)",
                             R"("bnb_4bit_compute_dtype":"float16")", R"("bnb_4bit_quant_type":"nf4")"}) {
        CAPTURE(part);
        CHECK(json.find(part) != std::string::npos);
    }
    CHECK(of(0.1).decision.level == "fp16");
    CHECK(of(7, {.priority = task_priority::quality}).decision.level == "int8");
    CHECK(of(3, forced("int8")).decision.level == "int8");
    CHECK(manager.calculate(70e9).error().code == error_code::out_of_memory);
    for (const double bad : {0.0, -1.0, 1e18, std::numeric_limits<double>::quiet_NaN()})
        CHECK(manager.calculate(bad).error().code == error_code::invalid_argument);
}

TEST_CASE("manager: thresholds are checked, and can be changed while it runs") {
    const family at_hand;
    machine host;
    auto options = host.options();
    options.thresholds.moderate = 0.3;
    CHECK(model_manager::create(options).error().code == error_code::invalid_argument);
    options = host.options();
    options.capability = {"int9"};
    CHECK(model_manager::create(options).error().code == error_code::invalid_argument);
    options.capability = {"int8", "int4"};
    auto manager = model_manager::create(options).value();
    manager.add_model("m", {.path = at_hand.path}).value();
    CHECK(served(manager, at_hand.path) == "int8");
    bitmill::policy_thresholds tight;
    tight.comfortable = tight.moderate = 0.05;
    manager.set_thresholds(tight).value();
    CHECK(served(manager, at_hand.path) == "int4");
    tight.critical = 2;
    CHECK(manager.set_thresholds(tight).error().code == error_code::invalid_argument);
    CHECK(manager.add_model("x", {.path = at_hand.place / "none"}).error().code == error_code::io);
}
