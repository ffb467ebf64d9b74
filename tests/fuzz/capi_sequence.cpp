// Input: calls of the C interface, eight bytes each, with structs of any age, NULLs, small buffers, strides and hooks
// that fail. Structs and buffers lie in blocks of exactly the size that is told. What must hold: a status of bitmill.h
// and never INTERNAL, the same status in the error, nothing in out-parameters after a failure, hooks balanced, and
// what was encoded decodes.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <bitmill.h>

#include <models.hpp>
#include <mutators.hpp>

using fuzz::require;

namespace {

constexpr std::size_t call_bytes = 8;
using call = std::array<std::uint8_t, call_bytes>;

// ---- arguments -------------------------------------------------------------------------------------------

// A struct in a block of as many bytes as its struct_size says.
template <class Struct>
class argument {
public:
    // how: 0 as it is; else NULL, or another struct_size, or something behind the struct.
    argument(const Struct& value, unsigned how) : value_(value) {
        constexpr std::uint32_t size = sizeof(Struct);
        constexpr std::uint32_t sizes[] = {size, 0,        size, size + 8, size + 8,
                                           4096, size - 8, 4,    4097,     UINT32_MAX};
        constexpr unsigned null = 1, newer = 4;
        how = how < std::size(sizes) ? how : 0;
        if (how == null) return;
        value_.struct_size = how == 0 ? value.struct_size : sizes[how];
        block_.resize(value_.struct_size <= 4096 ? std::max<std::size_t>(value_.struct_size, 4) : 4);
        std::memcpy(block_.data(), &value_, std::min(block_.size(), sizeof value_));
        if (how == newer) block_.back() = std::byte{1};
        sound_ = sound_size() && how != newer;
    }
    [[nodiscard]] Struct* get() {
        return block_.empty() ? nullptr : reinterpret_cast<Struct*>(block_.data());
    }
    [[nodiscard]] bool null() const { return block_.empty(); }
    [[nodiscard]] bool sound_size() const {
        return value_.struct_size >= sizeof(Struct) && value_.struct_size <= 4096;
    }
    [[nodiscard]] bool sound() const { return sound_; }
    [[nodiscard]] Struct read() const {
        Struct out = value_;
        std::memcpy(&out, block_.data(), std::min(block_.size(), sizeof out));
        return out;
    }

private:
    Struct value_;
    std::vector<std::byte> block_;
    bool sound_ = false;
};

using error_argument = argument<bitmill_error>;

void check(bitmill_status status, const error_argument& given) {
    require(status >= BITMILL_OK && status < BITMILL_INTERNAL,
            "a status of bitmill.h, and no fault of bitmill");
    if (given.null()) return;
    if (!given.sound_size())
        return require(status == BITMILL_INVALID_ARGUMENT, "an error of the wrong size is refused");
    const bitmill_error error = given.read();
    require(error.status == status, "the error holds the status");
    require(std::memchr(error.message, 0, sizeof error.message) != nullptr, "the message ends");
    require((status == BITMILL_OK) == (error.message[0] == '\0'), "a message on failure only");
    require(status != BITMILL_OK || error.offset == BITMILL_NO_OFFSET, "no offset on success");
    for (const char* c = error.message; *c != '\0'; ++c)
        require(static_cast<unsigned char>(*c) >= ' ', "the message is one line");
}

// ---- hooks -----------------------------------------------------------------------------------------------

// Counts what the library takes; refuses, cancels and runs in other orders as told.
struct host {
    std::map<void*, std::pair<std::size_t, std::size_t>> blocks;
    unsigned allocations = 0, fails_at = 0;
    unsigned steps = 0, cancels_at = 0;

    static void* allocate(void* context, std::size_t bytes, std::size_t alignment) {
        auto& self = *static_cast<host*>(context);
        require(alignment != 0 && alignment <= 16 && (alignment & (alignment - 1)) == 0,
                "an alignment up to 16");
        if (self.fails_at != 0 && ++self.allocations >= self.fails_at) return nullptr;
        void* block = std::malloc(std::max<std::size_t>(bytes, 1));
        self.blocks[block] = {bytes, alignment};
        return block;
    }
    static void deallocate(void* context, void* block, std::size_t bytes, std::size_t alignment) {
        auto& self = *static_cast<host*>(context);
        const auto found = self.blocks.find(block);
        require(found != self.blocks.end() && found->second == std::pair(bytes, alignment),
                "what is given back was taken, with this size");
        self.blocks.erase(found);
        std::free(block);
    }
    static void parallel_for(void*, std::size_t count, void (*task)(void*, std::size_t), void* context) {
        for (std::size_t i = count; i-- > 0;) task(context, i);
    }
    static void log(void*, bitmill_log_level level, const char* line) {
        require(level == BITMILL_LOG_INFO || level == BITMILL_LOG_WARNING, "a level of bitmill.h");
        require(std::strchr(line, '\n') == nullptr, "a log line is one line");
    }
    static std::int32_t progress(void* context, std::uint64_t done, std::uint64_t total) {
        auto& self = *static_cast<host*>(context);
        require(done <= total, "no more is done than there is");
        return self.cancels_at != 0 && ++self.steps >= self.cancels_at;
    }
};

bitmill_hooks hooks_of(host& self, unsigned which) {
    bitmill_hooks hooks = BITMILL_HOOKS_INIT;
    hooks.memory_context = hooks.progress_context = &self;
    if ((which & 1) != 0) hooks.allocate = host::allocate;
    if ((which & 1) != 0 && which != 0xff) hooks.deallocate = host::deallocate;
    if ((which & 2) != 0) hooks.parallel_for = host::parallel_for;
    if ((which & 4) != 0) hooks.log = host::log;
    if ((which & 8) != 0) hooks.progress = host::progress;
    return hooks;
}

// ---- models ----------------------------------------------------------------------------------------------

struct models {
    bitmill_test::temp_folder temp;
    std::string out = temp / "out";
    std::vector<std::string> paths{
        temp / "plain", temp / "coded", temp / "blocks", temp / "gone", temp / "plain/config.json", "", out};
    std::string native = temp / "native";

    models() {
        using bitmill::dtype;
        using bitmill_test::make_tensor;
        bitmill_test::put_model(paths[0], {make_tensor("bert.dense.weight", dtype::f32, {16, 128}, 2),
                                           make_tensor("bert.dense.bias", dtype::f32, {16}, 3),
                                           make_tensor("lm_head.weight", dtype::f16, {32, 64}, 4)});
        bitmill_mill_options options = BITMILL_MILL_OPTIONS_INIT;
        options.to = "int4";
        require(bitmill_mill(paths[0].c_str(), paths[1].c_str(), &options, nullptr, nullptr) == BITMILL_OK,
                "int4");
        options.to = "nf4";
        require(bitmill_mill(paths[0].c_str(), paths[2].c_str(), &options, nullptr, nullptr) == BITMILL_OK,
                "nf4");
        options.to = "int8";
        options.format = "bitmill";
        require(bitmill_mill(paths[0].c_str(), native.c_str(), &options, nullptr, nullptr) == BITMILL_OK,
                "planes");
    }
    [[nodiscard]] const char* pick(unsigned index) const {
        if (index % 8 != 7) return paths[index % 8].c_str();
        return index < 128 ? nullptr : native.c_str();
    }
};

const models& all_models() {
    static const models made;
    return made;
}

constexpr const char* names[] = {nullptr,
                                 "int8",
                                 "int4",
                                 "nf4",
                                 "fp4",
                                 "fp16",
                                 "bf16",
                                 "fp32",
                                 "f32",
                                 "plain",
                                 "compressed-tensors",
                                 "bitsandbytes",
                                 "per_tensor",
                                 "per_channel",
                                 "group",
                                 "absmax",
                                 "mse",
                                 "float",
                                 "dynamic-int8",
                                 "keep",
                                 "int8_dynamic",
                                 "",
                                 "no such name",
                                 "gguf",
                                 "int2",
                                 "bitmill",
                                 "both",
                                 "int8,int4"};
constexpr const char* patterns[] = {"weight",         ".*=int8", "bert=keep", "(",
                                    "weight=int4:32", "",        nullptr,     "lm_head=nf4"};
constexpr std::uint64_t numbers[] = {0,
                                     1,
                                     2,
                                     3,
                                     4,
                                     7,
                                     8,
                                     16,
                                     31,
                                     32,
                                     33,
                                     64,
                                     128,
                                     4096,
                                     1u << 20,
                                     std::uint64_t{1} << 32,
                                     std::uint64_t{1} << 62,
                                     UINT64_MAX};
constexpr std::int64_t strides[] = {0, 1, 2, 3, 32, 40, -1, -2, -32, -40};

template <class List>
auto at(const List& list, unsigned index) {
    return list[index % std::size(list)];
}

// ---- the machine -----------------------------------------------------------------------------------------

class machine {
public:
    machine() {
        scheme_.type = BITMILL_SCHEME_INT8;
        matrix_.dtype = BITMILL_F32;
        matrix_.rows = 4;
        matrix_.cols = 32;
        mill_.to = "int8";
        mill_.dry_run = 1;
        mill_.threads = unmill_.threads = 1;
        mill_.include = mill_.exclude = mill_.overrides = nullptr;
        verify_.threads = 1;
    }
    machine(const machine&) = delete;
    machine& operator=(const machine&) = delete;
    ~machine() {
        bitmill_report_destroy(report_);
        require(host_.blocks.empty(), "all memory came back");
    }

    void run(const call& c) {
        error_ = error_argument(BITMILL_ERROR_INIT, c[7]);
        switch (c[0] % 15) {
            case 0: return set_scheme(c[1], c[2]);
            case 1: return set_matrix(c[1], c[2]);
            case 2: return set_mill(c[1], c[2]);
            case 3: return set_host(c[1], c[2], c[3]);
            case 4: return make_buffers(c);
            case 5: return encode(c);
            case 6: return decode(c);
            case 7: return mill(c);
            case 8: return dequantize(c);
            case 9: return inspect(c);
            case 10: return print(c[1]);
            case 11:
                bitmill_report_destroy(report_);
                report_ = nullptr;
                return;
            case 12: return set_isa(c[1]);
            case 13: return check_folder(c);
            default: return choose_level(c);
        }
    }

private:
    void set_scheme(unsigned field, unsigned value) {
        switch (field % 9) {
            case 0: scheme_.type = static_cast<bitmill_scheme_type>(value % 10); return;
            case 1: scheme_.granularity = static_cast<bitmill_granularity>(value % 5); return;
            case 2: scheme_.scale_dtype = static_cast<bitmill_dtype>(value % 6); return;
            case 3: scheme_.group_size = at(numbers, value); return;
            case 4: scheme_.asymmetric = static_cast<std::int32_t>(value % 2); return;
            case 5: scheme_.double_quant = static_cast<std::int32_t>(value % 2); return;
            case 6: scheme_.offset_binary = static_cast<std::int32_t>(value % 2); return;
            case 7: scheme_.row_alignment = at(numbers, value); return;
            default: scheme_.planes = static_cast<std::int32_t>(value % 2); return;
        }
    }
    void set_matrix(unsigned field, unsigned value) {
        switch (field % 5) {
            case 0: matrix_.dtype = static_cast<bitmill_dtype>(value % 6); return;
            case 1: matrix_.rows = at(numbers, value); return;
            case 2: matrix_.cols = at(numbers, value); return;
            case 3: matrix_.row_stride = at(strides, value); return;
            default: matrix_.col_stride = at(strides, value); return;
        }
    }
    void set_mill(unsigned field, unsigned value) {
        const char* const name = at(names, value);
        const auto flag = static_cast<std::int32_t>(value % 2);
        switch (field % 24) {
            case 0: mill_.to = name; return;
            case 1: mill_.format = name; return;
            case 2: mill_.granularity = name; return;
            case 3: mill_.method = name; return;
            case 4: mill_.activation = name; return;
            case 5: mill_.embeddings = name; return;
            case 6: unmill_.dtype = name; return;
            case 7: mill_.group_size = at(numbers, value); return;
            case 8: mill_.block_size = at(numbers, value); return;
            case 9: mill_.memory_limit = unmill_.memory_limit = at(numbers, value); return;
            case 10: mill_.weight_threshold = value == 0 ? NAN : static_cast<float>(value) - 2; return;
            case 11: mill_.double_quant = flag; return;
            case 12: mill_.asymmetric = flag; return;
            case 13: mill_.one_range = flag; return;
            case 14: mill_.strict = flag; return;
            case 15: mill_.force = unmill_.force = flag; return;
            case 16: mill_.dry_run = unmill_.dry_run = flag; return;
            case 20: mill_.no_resume = flag; return;
            case 21: mill_.journal_bytes = at(numbers, value); return;
            case 22: mill_.levels = name; return;
            case 23: unmill_.level = name; return;
            case 17:
                mill_.include = patterns;
                mill_.include_count = value % (std::size(patterns) + 1);
                return;
            case 18:
                mill_.overrides = patterns;
                mill_.overrides_count = value % (std::size(patterns) + 1);
                return;
            default:
                mill_.exclude = nullptr;
                mill_.exclude_count = value % 2;
                return;
        }
    }
    void set_host(unsigned which, unsigned fails_at, unsigned cancels_at) {
        hooks_ = hooks_of(host_, which);
        host_.fails_at = fails_at;
        host_.cancels_at = cancels_at;
        host_.allocations = host_.steps = 0;
    }

    // Of what the numbers and names make: a level, or a refusal and nothing.
    void choose_level(const call& c) {
        const char* const levels[] = {"fp16", "int8", at(names, c[4])};
        const std::uint64_t peaks[] = {at(numbers, c[5]), at(numbers, c[5] / 16u), 1};
        bitmill_policy_input input = BITMILL_POLICY_INPUT_INIT;
        input.active_requests = c[2] % 16u;
        input.total_bytes = at(numbers, c[2]);
        input.other_bytes = at(numbers, c[3]);
        input.priority = c[4] % 4 == 3 ? "quality" : nullptr;
        input.levels = levels;
        input.peak_bytes = c[4] == 255 ? nullptr : peaks;
        input.levels_count = c[5] % 4u;
        input.current = at(names, c[6]);
        input.since_switch_ms = at(numbers, c[6]);
        bitmill_policy_thresholds limits = BITMILL_POLICY_THRESHOLDS_INIT;
        limits.comfortable = static_cast<double>(c[3]) / 512;
        limits.hysteresis = c[6] == 255 ? NAN : static_cast<double>(c[6]) - 1;
        limits.dwell_ms = static_cast<std::int64_t>(at(numbers, c[3] / 8u));
        argument<bitmill_policy_input> asked(input, c[1] % 16u);
        argument<bitmill_policy_thresholds> thresholds(limits, c[1] / 16u);
        argument<bitmill_policy_decision> decision(BITMILL_POLICY_DECISION_INIT, c[6] / 16u);
        const auto status = bitmill_choose_level(asked.get(), thresholds.get(), decision.get(), error_.get());
        check(status, error_);
        require((asked.sound() && decision.sound()) || status != BITMILL_OK, "a bad struct is refused");
        if (decision.null() || !decision.sound_size()) return;
        const bitmill_policy_decision told = decision.read();
        require((status == BITMILL_OK) == (told.level[0] != '\0'), "a level on success only");
        require(std::memchr(told.explanation, 0, sizeof told.explanation) != nullptr, "the explanation ends");
    }

    // ---- matrices
    struct extent {
        std::int64_t first = 0, last = 0;  // elements, from row 0 and column 0
    };
    // What the matrix spans; of one that buffers of 4096 bytes cannot code a single element, which nobody may reach.
    [[nodiscard]] extent span() const {
        extent out;
        if (matrix_.rows > 4096 || matrix_.cols > 4096 || matrix_.rows * matrix_.cols > 8192) return out;
        const auto reach = [&](std::uint64_t count, std::int64_t stride, std::int64_t dense) {
            const std::int64_t far = static_cast<std::int64_t>(count) - 1;
            const std::int64_t step = stride == 0 ? dense : stride;
            (step < 0 ? out.first : out.last) += far < 0 ? 0 : far * step;
        };
        reach(matrix_.rows, matrix_.row_stride, static_cast<std::int64_t>(matrix_.cols));
        reach(matrix_.cols, matrix_.col_stride, 1);
        return out;
    }
    struct block {
        std::vector<std::byte> bytes;
        void* origin = nullptr;
    };
    [[nodiscard]] block make_block(const extent& range, unsigned fill) const {
        constexpr std::size_t widths[] = {4, 4, 2, 2, 8, 4};
        const std::size_t width = widths[static_cast<std::size_t>(matrix_.dtype)];
        block out;
        out.bytes.resize(static_cast<std::size_t>(range.last - range.first + 1) * width);
        // Small halves, floats and doubles alike: no byte pattern of these is NaN or infinite.
        for (std::size_t i = 0; i < out.bytes.size(); ++i)
            out.bytes[i] = static_cast<std::byte>((i * 7 + fill) % 61);
        if (fill % 16 == 15) std::fill(out.bytes.begin(), out.bytes.end(), std::byte{0xff});  // NaN
        out.origin = out.bytes.data() - range.first * static_cast<std::ptrdiff_t>(width);
        return out;
    }
    void make_buffers(const call& c) {
        argument<bitmill_scheme> scheme(scheme_, c[1]);
        argument<bitmill_encoded> sizes(coded_, c[2]);
        const auto status =
            bitmill_encode_bound(scheme.get(), matrix_.rows, matrix_.cols, sizes.get(), error_.get());
        check(status, error_);
        require((scheme.sound() && sizes.sound()) || status != BITMILL_OK, "a bad struct is refused");
        if (!sizes.sound_size() || sizes.null()) return;
        const bitmill_encoded told = sizes.read();
        const std::uint64_t bytes[] = {told.codes_bytes, told.scales_bytes, told.zero_points_bytes,
                                       told.nested_scales_bytes, told.residual_bytes};
        if (status != BITMILL_OK)
            return require(std::count(std::begin(bytes), std::end(bytes), 0u) == std::ssize(bytes),
                           "sizes are 0 on failure");
        if (*std::max_element(std::begin(bytes), std::end(bytes)) > 4096) return;
        void** const pointers[] = {&coded_.codes, &coded_.scales, &coded_.zero_points, &coded_.nested_scales,
                                   &coded_.residual};
        std::uint64_t* const counts[] = {&coded_.codes_bytes, &coded_.scales_bytes, &coded_.zero_points_bytes,
                                         &coded_.nested_scales_bytes, &coded_.residual_bytes};
        for (std::size_t i = 0; i < std::size(bytes); ++i) {
            // At times a byte short.
            const std::uint64_t less = c[3] == i + 1 && bytes[i] != 0 ? 1 : 0;
            buffers_[i].assign(static_cast<std::size_t>(bytes[i] - less), std::byte{0xa5});
            *pointers[i] = buffers_[i].empty() ? nullptr : buffers_[i].data();
            *counts[i] = buffers_[i].size();
        }
    }
    void encode(const call& c) {
        const extent range = span();
        block source = make_block(range, c[6]);
        argument<bitmill_scheme> scheme(scheme_, c[1]);
        argument<bitmill_matrix> matrix(matrix_, c[2]);
        argument<bitmill_encoded> coded(coded_, c[3]);
        argument<bitmill_metrics> metrics(BITMILL_METRICS_INIT, c[4]);
        argument<bitmill_hooks> hooks(hooks_, c[5] / 16 % 8);
        bitmill_encode_options how = BITMILL_ENCODE_OPTIONS_INIT;
        how.method = static_cast<bitmill_method>(c[5] % 4);
        how.hooks = hooks.get();
        argument<bitmill_metrics> base(BITMILL_METRICS_INIT, c[5] >= 128 ? c[4] / 16u : 1u);
        how.base_metrics = base.get();
        argument<bitmill_encode_options> options(how, c[5] / 4 % 4);
        const bool no_source = c[6] % 16 == 14;
        const auto status = bitmill_encode(scheme.get(), matrix.get(), no_source ? nullptr : source.origin,
                                           coded.get(), options.get(), metrics.get(), error_.get());
        check(status, error_);
        const bool sound =
            scheme.sound() && matrix.sound() && coded.sound() && (metrics.null() || metrics.sound()) &&
            (options.null() ||
             (options.sound() && (hooks.null() || hooks.sound()) && (base.null() || base.sound())));
        require(sound || status != BITMILL_OK, "a bad struct is refused");
        if (!metrics.null() && metrics.sound_size() && status != BITMILL_OK)
            require(metrics.read().elements == 0 && metrics.read().mse == 0, "no metrics on failure");
        if (status != BITMILL_OK) return;
        coded_.nested_offset = coded.read().nested_offset;
        if (metrics.null()) return;
        require(metrics.read().elements == matrix_.rows * matrix_.cols, "all elements are measured");
        require(std::isfinite(metrics.read().mse) && !std::isnan(metrics.read().cosine),
                "metrics are numbers");
    }
    void decode(const call& c) {
        const extent range = span();
        block target = make_block(range, 0);
        argument<bitmill_scheme> scheme(scheme_, c[1]);
        argument<bitmill_matrix> matrix(matrix_, c[2]);
        argument<bitmill_encoded> coded(coded_, c[3]);
        argument<bitmill_hooks> hooks(hooks_, c[4]);
        const auto status =
            bitmill_decode(scheme.get(), coded.get(), matrix.get(), c[6] % 16 == 14 ? nullptr : target.origin,
                           hooks.get(), error_.get());
        check(status, error_);
        const bool sound =
            scheme.sound() && matrix.sound() && coded.sound() && (hooks.null() || hooks.sound());
        require(sound || status != BITMILL_OK, "a bad struct is refused");
    }

    // ---- models
    // A report of the call that comes next; the one before is given back.
    bitmill_report** fresh_report(bool wanted) {
        bitmill_report_destroy(report_);
        report_ = nullptr;
        return wanted ? &report_ : nullptr;
    }
    void check_report(bitmill_status status, bool wanted) {
        require((report_ != nullptr) == (wanted && status == BITMILL_OK), "a report after success only");
    }
    // Writing a model takes milliseconds: once an input.
    template <class Options>
    void limit_work(Options& options, bool& really) {
        really = options.dry_run == 0 && !written_;
        if (really) written_ = true;
        if (!really) options.dry_run = 1;
        if (options.memory_limit == 0) options.memory_limit = 64u << 20;
    }
    static void check_out(bool really, bitmill_status status) {
        require(std::filesystem::exists(all_models().out) == (really && status == BITMILL_OK),
                "the output appears with success only");
        std::filesystem::remove_all(all_models().out);
    }
    void mill(const call& c) {
        bool really = false;
        bitmill_mill_options given = mill_;
        limit_work(given, really);
        argument<bitmill_hooks> hooks(hooks_, c[3]);
        given.hooks = hooks.get();
        argument<bitmill_mill_options> options(given, c[2]);
        const bool wanted = c[4] % 2 == 0;
        bitmill_report** const report = fresh_report(wanted);
        const auto status =
            bitmill_mill(all_models().pick(c[1]), c[5] == 1 ? nullptr : all_models().out.c_str(),
                         options.get(), report, error_.get());
        check(status, error_);
        check_report(status, wanted);
        require(options.sound() || status != BITMILL_OK, "bad options are refused");
        check_out(really, status);
    }
    void dequantize(const call& c) {
        bool really = false;
        bitmill_dequantize_options given = unmill_;
        limit_work(given, really);
        argument<bitmill_hooks> hooks(hooks_, c[3]);
        given.hooks = hooks.get();
        argument<bitmill_dequantize_options> options(given, c[2]);
        if (options.null()) return;  // the default writes
        const bool wanted = c[4] % 2 == 0;
        bitmill_report** const report = fresh_report(wanted);
        const auto status =
            bitmill_dequantize(all_models().pick(c[1]), c[5] == 1 ? nullptr : all_models().out.c_str(),
                               options.get(), report, error_.get());
        check(status, error_);
        check_report(status, wanted);
        require(options.sound() || status != BITMILL_OK, "bad options are refused");
        check_out(really, status);
    }
    void check_folder(const call& c) {
        argument<bitmill_hooks> hooks(hooks_, c[3]);
        bitmill_verify_options given = verify_;
        given.memory_limit = unmill_.memory_limit;
        given.hooks = hooks.get();
        argument<bitmill_verify_options> options(given, c[2]);
        const bool wanted = c[4] % 2 == 0;
        bitmill_report** const report = fresh_report(wanted);
        const char* const model = all_models().pick(c[1]);
        const auto status = c[5] % 2 == 0 ? bitmill_validate(model, options.get(), report, error_.get())
                                          : bitmill_verify(all_models().pick(c[5] / 2), model, options.get(),
                                                           report, error_.get());
        check(status, error_);
        check_report(status, wanted);
        require(options.null() || options.sound() || status != BITMILL_OK, "bad options are refused");
    }
    void inspect(const call& c) {
        argument<bitmill_hooks> hooks(hooks_, c[2]);
        const bool wanted = c[4] % 2 == 0;
        bitmill_report** const report = fresh_report(wanted);
        const auto status = bitmill_inspect(all_models().pick(c[1]), hooks.get(), report, error_.get());
        check(status, error_);
        check_report(status, wanted);
    }
    void print(unsigned room) {
        std::size_t needed = 99;
        auto status = bitmill_report_json(report_, nullptr, 0, &needed, error_.get());
        check(status, error_);
        const bool expected = report_ != nullptr && (error_.null() || error_.sound_size());
        require((status == BITMILL_OK) == expected, "every report can be printed");
        if (!expected) return;
        const std::size_t rooms[] = {needed, needed - 1, 0, needed + 5};
        std::vector<char> text(at(rooms, room), 'x');
        status = bitmill_report_json(report_, text.data(), text.size(), nullptr, error_.get());
        check(status, error_);
        if (text.size() < needed) {
            require(std::count(text.begin(), text.end(), 'x') == std::ssize(text),
                    "nothing is written on failure");
        } else {
            require(status == BITMILL_OK && text[needed - 1] == '\0',
                    "a buffer of the size that was told is enough");
            require(nlohmann::json::parse(text.data()).is_object(), "a report is JSON");
        }
    }
    void set_isa(unsigned which) {
        const char* const available = bitmill_isa_available(which % 5);
        const char* const name = which < 128 && available != nullptr ? available : at(names, which);
        const auto status = bitmill_set_isa(name, error_.get());
        check(status, error_);
        if (status == BITMILL_OK)
            require(std::strcmp(bitmill_isa(), name) == 0, "the set that was asked for");
        require(bitmill_status_text(static_cast<bitmill_status>(which) - 9) != nullptr,
                "a status has a text");
    }

    bitmill_scheme scheme_ = BITMILL_SCHEME_INIT;
    bitmill_matrix matrix_ = BITMILL_MATRIX_INIT;
    bitmill_encoded coded_ = BITMILL_ENCODED_INIT;
    bitmill_mill_options mill_ = BITMILL_MILL_OPTIONS_INIT;
    bitmill_dequantize_options unmill_ = BITMILL_DEQUANTIZE_OPTIONS_INIT;
    bitmill_verify_options verify_ = BITMILL_VERIFY_OPTIONS_INIT;
    bitmill_hooks hooks_ = BITMILL_HOOKS_INIT;
    std::array<std::vector<std::byte>, 5> buffers_;
    host host_;
    error_argument error_{BITMILL_ERROR_INIT, 0};
    bitmill_report* report_ = nullptr;
    bool written_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    machine one;
    for (std::size_t i = 0; i + call_bytes <= std::min<std::size_t>(size, 64 * call_bytes); i += call_bytes) {
        call c;
        std::copy_n(data + i, call_bytes, c.begin());
        one.run(c);
    }
    return 0;
}

// ---- mutation: whole calls, and bytes of one ---------------------------------------------------------------
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    fuzz::random rng(seed);
    std::string input(fuzz::as_text(data, size / call_bytes * call_bytes));
    const auto place = [&] {
        return rng.below(static_cast<std::uint32_t>(input.size() / call_bytes + 1)) * call_bytes;
    };
    std::string fresh(call_bytes, '\0');
    fresh[0] = static_cast<char>(rng.below(14));
    for (std::size_t i = 1; i < 4; ++i)
        if (rng.below(2) == 0) fresh[i] = static_cast<char>(rng.below(32));
    switch (rng.below(6)) {
        case 0: input.insert(place(), fresh); break;
        case 1: input.erase(place(), call_bytes); break;
        case 2: input.insert(place(), input.substr(place(), call_bytes * (1 + rng.below(4)))); break;
        case 3:
        case 4:
            if (!input.empty())
                input[rng.below(static_cast<std::uint32_t>(input.size()))] = static_cast<char>(rng.below(32));
            break;
        default: fuzz::mutate_bytes(input, call_bytes);
    }
    if (input.empty()) input = fresh;
    return fuzz::hand_back(input, data, max_size);
}
