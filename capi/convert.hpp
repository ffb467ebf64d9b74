// What C hands in, as the library's own types. Every function checks what it converts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory_resource>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/bitmill.hpp>

#include "bitmill.h"

namespace bitmill::capi {

inline error invalid(std::string message) {
    return {.code = error_code::invalid_argument, .message = std::move(message)};
}

// ---- structs of any age --------------------------------------------------------------------------------------

struct struct_facts {
    const char* name;
    std::size_t first_bytes;  // in the first release of this ABI: pinned, whatever is appended later
};

template <class Struct>
inline constexpr struct_facts facts_of{};
template <>
inline constexpr struct_facts facts_of<bitmill_error>{"bitmill_error",
                                                      offsetof(bitmill_error, message) + 1000};
template <>
inline constexpr struct_facts facts_of<bitmill_hooks>{
    "bitmill_hooks", offsetof(bitmill_hooks, progress) + sizeof(bitmill_hooks::progress)};
template <>
inline constexpr struct_facts facts_of<bitmill_scheme>{"bitmill_scheme",
                                                       offsetof(bitmill_scheme, row_alignment) + 8};
template <>
inline constexpr struct_facts facts_of<bitmill_matrix>{"bitmill_matrix",
                                                       offsetof(bitmill_matrix, col_stride) + 8};
template <>
inline constexpr struct_facts facts_of<bitmill_encoded>{"bitmill_encoded",
                                                        offsetof(bitmill_encoded, residual_bytes) + 8};
template <>
inline constexpr struct_facts facts_of<bitmill_encode_options>{
    "bitmill_encode_options", offsetof(bitmill_encode_options, base_metrics) + sizeof(void*)};
template <>
inline constexpr struct_facts facts_of<bitmill_metrics>{"bitmill_metrics",
                                                        offsetof(bitmill_metrics, cosine) + 8};
template <>
inline constexpr struct_facts facts_of<bitmill_mill_options>{
    "bitmill_mill_options", offsetof(bitmill_mill_options, target_sparsity) + 8};
template <>
inline constexpr struct_facts facts_of<bitmill_dequantize_options>{
    "bitmill_dequantize_options", offsetof(bitmill_dequantize_options, dry_run) + 4};
template <>
inline constexpr struct_facts facts_of<bitmill_verify_options>{
    "bitmill_verify_options", offsetof(bitmill_verify_options, hooks) + sizeof(void*)};

template <>
inline constexpr struct_facts facts_of<bitmill_batch_options>{
    "bitmill_batch_options", offsetof(bitmill_batch_options, target_sparsity) + 8};

template <>
inline constexpr struct_facts facts_of<bitmill_model_options>{
    "bitmill_model_options", offsetof(bitmill_model_options, activation) + sizeof(void*)};
template <>
inline constexpr struct_facts facts_of<bitmill_model_facts>{"bitmill_model_facts",
                                                            offsetof(bitmill_model_facts, normalize) + 4};
template <>
inline constexpr struct_facts facts_of<bitmill_tokens>{"bitmill_tokens",
                                                       offsetof(bitmill_tokens, lengths_count) + 8};
template <>
inline constexpr struct_facts facts_of<bitmill_loader_options>{
    "bitmill_loader_options", offsetof(bitmill_loader_options, reserved) + 4};
template <>
inline constexpr struct_facts facts_of<bitmill_switch_record>{"bitmill_switch_record",
                                                              offsetof(bitmill_switch_record, reason) + 448};
template <>
inline constexpr struct_facts facts_of<bitmill_model_size_info>{
    "bitmill_model_size_info", offsetof(bitmill_model_size_info, size_reduction_percent) + 8};
template <>
inline constexpr struct_facts facts_of<bitmill_texts>{"bitmill_texts", offsetof(bitmill_texts, count) + 8};
template <>
inline constexpr struct_facts facts_of<bitmill_tokenize_options>{
    "bitmill_tokenize_options", offsetof(bitmill_tokenize_options, reserved) + 4};
template <>
inline constexpr struct_facts facts_of<bitmill_token_sequence>{
    "bitmill_token_sequence", offsetof(bitmill_token_sequence, special_tokens) + sizeof(void*)};
template <>
inline constexpr struct_facts facts_of<bitmill_text_options>{
    "bitmill_text_options", offsetof(bitmill_text_options, hooks) + sizeof(void*)};
template <>
inline constexpr struct_facts facts_of<bitmill_compare_options>{"bitmill_compare_options",
                                                                offsetof(bitmill_compare_options, seed) + 8};
template <>
inline constexpr struct_facts facts_of<bitmill_metric>{"bitmill_metric", offsetof(bitmill_metric, n) + 8};

template <>
inline constexpr struct_facts facts_of<bitmill_found_level>{
    "bitmill_found_level", offsetof(bitmill_found_level, fault) + sizeof(void*)};
template <>
inline constexpr struct_facts facts_of<bitmill_policy_thresholds>{
    "bitmill_policy_thresholds", offsetof(bitmill_policy_thresholds, high_load_level) + sizeof(void*)};
template <>
inline constexpr struct_facts facts_of<bitmill_policy_input>{
    "bitmill_policy_input", offsetof(bitmill_policy_input, since_switch_ms) + 8};
template <>
inline constexpr struct_facts facts_of<bitmill_policy_decision>{
    "bitmill_policy_decision", offsetof(bitmill_policy_decision, explanation) + 448};
template <>
inline constexpr struct_facts facts_of<bitmill_system_memory>{"bitmill_system_memory",
                                                              offsetof(bitmill_system_memory, limit) + 256};
template <>
inline constexpr struct_facts facts_of<bitmill_manager_options>{
    "bitmill_manager_options",
    offsetof(bitmill_manager_options, clock_ms) + sizeof(bitmill_manager_options::clock_ms)};
template <>
inline constexpr struct_facts facts_of<bitmill_managed_model_options>{
    "bitmill_managed_model_options", offsetof(bitmill_managed_model_options, reserved) + 4};
template <>
inline constexpr struct_facts facts_of<bitmill_load_request>{
    "bitmill_load_request", offsetof(bitmill_load_request, priority) + sizeof(void*)};
template <>
inline constexpr struct_facts facts_of<bitmill_manager_status>{
    "bitmill_manager_status", offsetof(bitmill_manager_status, recommended_reason) + 448};
template <>
inline constexpr struct_facts facts_of<bitmill_managed_status>{
    "bitmill_managed_status", offsetof(bitmill_managed_status, space_id) + 72};
template <>
inline constexpr struct_facts facts_of<bitmill_level_estimate>{
    "bitmill_level_estimate", offsetof(bitmill_level_estimate, explanation) + 448};
template <>
inline constexpr struct_facts facts_of<bitmill_registry_options>{
    "bitmill_registry_options",
    offsetof(bitmill_registry_options, unix_us) + sizeof(bitmill_registry_options::unix_us)};
template <>
inline constexpr struct_facts facts_of<bitmill_quantize_outcome>{
    "bitmill_quantize_outcome", offsetof(bitmill_quantize_outcome, message) + 512};
template <>
inline constexpr struct_facts facts_of<bitmill_quantize_job>{
    "bitmill_quantize_job", offsetof(bitmill_quantize_job, model_name) + 256};

// No struct will ever be larger; a larger struct_size is memory that was never initialised.
inline constexpr std::size_t largest_struct = 4096;

template <class Struct>
[[nodiscard]] bool usable(const Struct* given) noexcept {
    return given != nullptr && given->struct_size >= facts_of<Struct>.first_bytes &&
           given->struct_size <= largest_struct;
}

// A copy in the layout of this library: fields that an older caller lacks are 0, those of a newer one must be.
template <class Struct>
[[nodiscard]] result<Struct> read_struct(const Struct* given) {
    const std::string name = facts_of<Struct>.name;
    if (given == nullptr) return invalid(name + " is NULL");
    if (!usable(given))
        return invalid(name + ".struct_size is " + std::to_string(given->struct_size) +
                       "; initialise the struct with its _INIT macro");
    Struct copy{};
    std::memcpy(&copy, given, std::min<std::size_t>(given->struct_size, sizeof copy));
    const auto* bytes = reinterpret_cast<const unsigned char*>(given);
    bool unknown = false;
    for (std::size_t i = sizeof copy; i < given->struct_size; ++i) unknown = unknown || bytes[i] != 0;
    if constexpr (requires { copy.reserved; }) unknown = unknown || copy.reserved != 0;
    if (unknown)
        return error{.code = error_code::unsupported,
                     .message = name + " sets a field that bitmill " BITMILL_VERSION_TEXT " does not know"};
    return copy;
}

// As read_struct; NULL is the default of every field.
template <class Struct>
[[nodiscard]] result<Struct> read_optional(const Struct* given) {
    if (given == nullptr) return Struct{};
    return read_struct(given);
}

// ---- pinned numbers ------------------------------------------------------------------------------------------

template <class Value>
struct pinned {
    std::int32_t number;
    Value value;
};

inline constexpr pinned<dtype> dtypes[] = {{BITMILL_F32, dtype::f32},
                                           {BITMILL_F16, dtype::f16},
                                           {BITMILL_BF16, dtype::bf16},
                                           {BITMILL_F64, dtype::f64}};
inline constexpr pinned<scheme_type> scheme_types[] = {
    {BITMILL_SCHEME_FP32, scheme_type::f32},      {BITMILL_SCHEME_FP16, scheme_type::f16},
    {BITMILL_SCHEME_BF16, scheme_type::bf16},     {BITMILL_SCHEME_INT8, scheme_type::int8},
    {BITMILL_SCHEME_INT4, scheme_type::int4},     {BITMILL_SCHEME_NF4, scheme_type::nf4},
    {BITMILL_SCHEME_FP4, scheme_type::fp4},       {BITMILL_SCHEME_INT2, scheme_type::int2},
    {BITMILL_SCHEME_Q8_0, scheme_type::q8_0},     {BITMILL_SCHEME_Q4_0, scheme_type::q4_0},
    {BITMILL_SCHEME_Q4_1, scheme_type::q4_1},     {BITMILL_SCHEME_Q5_0, scheme_type::q5_0},
    {BITMILL_SCHEME_Q5_1, scheme_type::q5_1},     {BITMILL_SCHEME_Q2_K, scheme_type::q2_k},
    {BITMILL_SCHEME_Q3_K, scheme_type::q3_k},     {BITMILL_SCHEME_Q4_K, scheme_type::q4_k},
    {BITMILL_SCHEME_Q5_K, scheme_type::q5_k},     {BITMILL_SCHEME_Q6_K, scheme_type::q6_k},
    {BITMILL_SCHEME_IQ4_NL, scheme_type::iq4_nl}, {BITMILL_SCHEME_IQ4_XS, scheme_type::iq4_xs},
    {BITMILL_SCHEME_MXFP4, scheme_type::mxfp4}};
inline constexpr pinned<granularity> granularities[] = {{BITMILL_PER_CHANNEL, granularity::per_channel},
                                                        {BITMILL_PER_TENSOR, granularity::per_tensor},
                                                        {BITMILL_GROUP, granularity::group},
                                                        {BITMILL_BLOCK, granularity::block}};
inline constexpr pinned<method> methods[] = {{BITMILL_ABSMAX, method::absmax}, {BITMILL_MSE, method::mse}};

template <class Value>
[[nodiscard]] result<Value> value_of(std::span<const pinned<Value>> table, std::int32_t number,
                                     const char* what) {
    for (const auto& one : table)
        if (one.number == number) return one.value;
    return invalid(std::string(what) + " " + std::to_string(number) + " is none of bitmill.h's");
}

// ---- codecs --------------------------------------------------------------------------------------------------

[[nodiscard]] inline result<scheme> scheme_from(const bitmill_scheme* given) {
    const auto c = read_struct(given);
    if (!c) return c.error();
    const auto type = value_of<scheme_type>(scheme_types, c->type, "scheme type");
    if (!type) return type.error();
    const auto grain = value_of<granularity>(granularities, c->granularity, "granularity");
    if (!grain) return grain.error();
    const auto scales =
        value_of<dtype>(dtypes, c->scale_dtype == 0 ? BITMILL_F32 : c->scale_dtype, "scale_dtype");
    if (!scales) return scales.error();
    return scheme{.type = *type,
                  .granularity = *grain,
                  .group_size = static_cast<std::size_t>(c->group_size),
                  .symmetric = c->asymmetric == 0,
                  .double_quant = c->double_quant != 0,
                  .scale_dtype = *scales,
                  .offset_binary = c->offset_binary != 0,
                  .row_alignment = c->row_alignment == 0 ? 1 : static_cast<std::size_t>(c->row_alignment),
                  .planes = c->planes != 0};
}

[[nodiscard]] inline result<void> check_alignment(const void* data, dtype type, const char* what) {
    if (reinterpret_cast<std::uintptr_t>(data) % element_bytes(type) == 0) return {};
    return invalid(std::string(what) + " is not aligned to its elements of " +
                   std::to_string(element_bytes(type)) + " bytes");
}

template <class Pointer>
[[nodiscard]] result<strided_matrix<Pointer>> matrix_from(const bitmill_matrix* given, Pointer data) {
    const auto c = read_struct(given);
    if (!c) return c.error();
    const auto type = value_of<dtype>(dtypes, c->dtype, "dtype");
    if (!type) return type.error();
    if (data == nullptr && c->rows != 0 && c->cols != 0) return invalid("the matrix's data is NULL");
    if (auto aligned = check_alignment(data, *type, "the matrix's data"); !aligned) return aligned.error();
    return strided_matrix<Pointer>{*type,
                                   data,
                                   static_cast<std::size_t>(c->rows),
                                   static_cast<std::size_t>(c->cols),
                                   static_cast<std::ptrdiff_t>(c->row_stride),
                                   static_cast<std::ptrdiff_t>(c->col_stride)};
}

// The parts, each as large as the scheme needs for rows x cols; to decode, the residual may be missing.
[[nodiscard]] inline result<encoded_view> encoded_from(const bitmill_encoded* given, const scheme& s,
                                                       std::uint64_t rows, std::uint64_t cols,
                                                       bool to_decode) {
    const auto c = read_struct(given);
    if (!c) return c.error();
    const auto sizes = encode_bound(s, rows, cols);
    if (!sizes) return sizes.error();
    struct part {
        const char* name;
        void* data;
        std::uint64_t bytes;
        std::uint64_t needed;
        bool optional = false;
    };
    for (const part& one :
         {part{"codes", c->codes, c->codes_bytes, sizes->codes},
          part{"scales", c->scales, c->scales_bytes, sizes->scales},
          part{"zero_points", c->zero_points, c->zero_points_bytes, sizes->zero_points},
          part{"nested_scales", c->nested_scales, c->nested_scales_bytes, sizes->nested_scales},
          part{"residual", c->residual, c->residual_bytes, sizes->residual, to_decode}}) {
        if (one.needed == 0 || (one.optional && one.data == nullptr)) continue;
        if (one.data == nullptr) return invalid(std::string(one.name) + " is NULL");
        if (one.bytes < one.needed)
            return invalid(std::string(one.name) + " has " + std::to_string(one.bytes) +
                           " bytes, needed are " + std::to_string(one.needed));
    }
    if (is_plain(s.type))
        if (auto aligned = check_alignment(c->codes, facts(s.type).plain, "codes"); !aligned)
            return aligned.error();
    return encoded_view{static_cast<std::byte*>(c->codes),
                        static_cast<std::byte*>(c->scales),
                        static_cast<std::byte*>(c->zero_points),
                        static_cast<std::byte*>(c->nested_scales),
                        c->nested_offset,
                        static_cast<std::byte*>(c->residual)};
}

// ---- hooks ---------------------------------------------------------------------------------------------------

// The host's memory, or the program's where it gave none.
class host_memory : public std::pmr::memory_resource {
public:
    host_memory() = default;
    explicit host_memory(const bitmill_hooks& hooks)
        : context_(hooks.memory_context), allocate_(hooks.allocate), deallocate_(hooks.deallocate) {}

private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
        if (allocate_ == nullptr) return std::pmr::new_delete_resource()->allocate(bytes, alignment);
        if (void* memory = allocate_(context_, bytes, alignment)) return memory;
        throw std::bad_alloc();
    }
    void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override {
        if (deallocate_ == nullptr)
            return std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
        deallocate_(context_, memory, bytes, alignment);
    }
    [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
        return this == &other;
    }

    void* context_ = nullptr;
    void* (*allocate_)(void*, std::size_t, std::size_t) = nullptr;
    void (*deallocate_)(void*, void*, std::size_t, std::size_t) = nullptr;
};

[[nodiscard]] inline result<bitmill_hooks> hooks_from(const bitmill_hooks* given) {
    auto hooks = read_optional(given);
    if (hooks && (hooks->allocate == nullptr) != (hooks->deallocate == nullptr))
        return invalid("hooks.allocate and hooks.deallocate come together");
    return hooks;
}

// Sets memory and threads of a work_options or model_options; `hooks` and `memory` must outlive what uses them.
template <class Options>
void put_host(const bitmill_hooks& hooks, host_memory& memory, Options& options) {
    memory = host_memory(hooks);
    if (hooks.allocate != nullptr) options.memory = &memory;
    if (hooks.parallel_for != nullptr)
        options.run = [&hooks](std::size_t count, const task_fn& task) {
            struct {
                std::size_t count;
                const task_fn& task;
            } work{count, task};
            using work_type = decltype(work);
            const auto run = [](void* context, std::size_t index) {
                const auto& one = *static_cast<work_type*>(context);
                if (index < one.count) one.task(index);  // a host that counts wrongly must not make us crash
            };
            hooks.parallel_for(hooks.parallel_context, count, run, &work);
        };
}

// Empty without a hook; `hooks` must outlive what uses it.
inline std::function<void(log_level, const std::string&)> log_from(const bitmill_hooks& hooks) {
    if (hooks.log == nullptr) return {};
    return [&hooks](log_level level, const std::string& line) {
        hooks.log(hooks.log_context, static_cast<bitmill_log_level>(level), line.c_str());
    };
}

// As put_host, with log and progress.
inline void put_hooks(const bitmill_hooks& hooks, host_memory& memory, work_options& options) {
    put_host(hooks, memory, options);
    options.on_log = log_from(hooks);
    if (hooks.progress != nullptr)
        options.on_progress = [&hooks](const progress& now) {
            return hooks.progress(hooks.progress_context, now.done_bytes, now.total_bytes) == 0;
        };
}

// ---- options -------------------------------------------------------------------------------------------------

[[nodiscard]] inline result<std::string> text_from(const char* given, const char* what) {
    if (given == nullptr) return invalid(std::string(what) + " is NULL");
    return std::string(given);
}

// Sets `dst` where a name is given: names_from(text) -> result.
template <class Value, class Parse>
[[nodiscard]] result<void> put_named(const char* given, const Parse& parse, Value& dst) {
    if (given == nullptr) return {};
    auto value = parse(given);
    if (!value) return value.error();
    dst = *value;
    return {};
}

[[nodiscard]] inline result<void> put_list(const char* const* given, std::uint64_t count, const char* what,
                                           std::vector<std::string>& dst) {
    if (given == nullptr && count != 0) return invalid(std::string(what) + " is NULL");
    for (std::uint64_t i = 0; i < count; ++i) {
        if (given[i] == nullptr) return invalid(std::string(what) + " holds a NULL");
        dst.emplace_back(given[i]);
    }
    return {};
}

template <class Options>
void put_work(const Options& c, work_options& options) {
    options.threads = c.threads;
    if (c.memory_limit != 0) options.memory_limit = c.memory_limit;
    if constexpr (requires { c.force; }) options.force = c.force != 0;
    if constexpr (requires { c.dry_run; }) options.dry_run = c.dry_run != 0;
}

inline constexpr std::string_view both = "both";

[[nodiscard]] inline result<mill_options> mill_options_from(const bitmill_mill_options& c) {
    mill_options options;
    put_work(c, options);
    if (c.to == nullptr) return invalid("bitmill_mill_options.to is NULL; set a level such as \"int8\"");
    if (c.to != both) {
        const auto level = level_from_text(c.to);
        if (!level) return level.error();
        options.to = level->type;
        options.activation = level->activation;
    }
    if (auto done = put_named(c.format, format_from_text, options.format); !done) return done.error();
    if (auto done = put_named(c.granularity, granularity_from_text, options.granularity); !done)
        return done.error();
    if (auto done = put_named(c.method, method_from_text, options.method); !done) return done.error();
    if (auto done = put_named(c.activation, activation_from_text, options.activation); !done)
        return done.error();
    if (auto done = put_named(c.embeddings, embeddings_from_text, options.embeddings); !done)
        return done.error();
    if (auto done = put_named(c.levels, levels_from_text, options.levels); !done) return done.error();
    if (auto done = put_list(c.include, c.include_count, "include", options.include); !done)
        return done.error();
    if (auto done = put_list(c.exclude, c.exclude_count, "exclude", options.exclude); !done)
        return done.error();
    if (auto done = put_list(c.overrides, c.overrides_count, "overrides", options.override); !done)
        return done.error();
    options.group_size = static_cast<std::size_t>(c.group_size);
    if (c.group_size != 0 && !options.granularity) options.granularity = granularity::group;
    if (c.block_size != 0) options.block_size = static_cast<std::size_t>(c.block_size);
    options.weight_threshold = c.weight_threshold;
    options.prune_relative = c.prune_relative;
    options.target_sparsity = c.target_sparsity;
    options.double_quant = c.double_quant != 0;
    options.symmetric = c.asymmetric == 0;
    options.dynamic_range = c.one_range == 0;
    options.keep_non_finite = c.keep_non_finite != 0;
    options.strict = c.strict != 0;
    options.resume = c.no_resume == 0;
    if (c.journal_bytes != 0) options.journal_bytes = c.journal_bytes;
    return options;
}

}  // namespace bitmill::capi
