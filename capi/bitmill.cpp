// The C interface: each function converts, calls, stores. guard() in guard.hpp is the only try.
#include "bitmill.h"

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "convert.hpp"
#include "guard.hpp"
#include "report.hpp"

namespace bitmill::capi {
namespace {

// ---- models -----------------------------------------------------------------------------------------------------------

result<report_content> mill(const char* model, const char* out, const bitmill_mill_options& c,
                            const bitmill_hooks& hooks) {
    const auto from = text_from(model, "model");
    if (!from) return from.error();
    const auto to = text_from(out, "out");
    if (!to) return to.error();
    auto options = mill_options_from(c);
    if (!options) return options.error();
    host_memory memory;
    put_hooks(hooks, memory, *options);
    if (c.to == both) return content_of(quantize_both(*from, *to, *options));
    return content_of(quantize(*from, *to, *options));
}

result<report_content> unmill(const char* model, const char* out, const bitmill_dequantize_options& c,
                              const bitmill_hooks& hooks) {
    const auto from = text_from(model, "model");
    if (!from) return from.error();
    const auto to = text_from(out, "out");
    if (!to) return to.error();
    work_options options;
    put_work(c, options);
    std::optional<dtype> type;
    if (auto done = put_named(c.dtype, float_dtype_from_text, type); !done) return done.error();
    std::optional<level_choice> level;
    if (auto done = put_named(c.level, level_from_text, level); !done) return done.error();
    host_memory memory;
    put_hooks(hooks, memory, options);
    return content_of(dequantize(*from, *to, type, options,
                                 level ? std::optional<scheme_type>(level->type) : std::nullopt));
}

result<report_content> batch(const char* model_dir, const char* output_dir, const bitmill_batch_options& c,
                             const bitmill_hooks& hooks) {
    const auto from = text_from(model_dir, "model_dir");
    if (!from) return from.error();
    const auto to = text_from(output_dir, "output_dir");
    if (!to) return to.error();
    auto asked =
        options_from_bit_depth(c.bit_depth == 0 ? 8 : c.bit_depth, c.weight_threshold, c.one_range == 0);
    if (!asked) return asked.error();
    asked->prune_relative = c.prune_relative;
    asked->target_sparsity = c.target_sparsity;
    const model_quantizer quantizer(std::move(*asked));
    std::vector<std::string> names;
    if (auto done = put_list(c.models, c.models_count, "models", names); !done) return done.error();
    work_options options;
    put_work(c, options);
    host_memory memory;
    put_hooks(hooks, memory, options);
    return content_of(quantizer.batch_quantize_models(*from, *to, names, options));
}

// Without a source: validates.
result<report_content> check(const char* source, bool with_source, const char* model,
                             const bitmill_verify_options& c, const bitmill_hooks& hooks) {
    const auto folder = text_from(model, "model");
    if (!folder) return folder.error();
    work_options options;
    put_work(c, options);
    host_memory memory;
    put_hooks(hooks, memory, options);
    if (!with_source) return content_of(validate(*folder, options));
    const auto from = text_from(source, "source");
    if (!from) return from.error();
    return content_of(verify(*from, *folder, options));
}

// ---- buffers -------------------------------------------------------------------------------------------------

void put_sizes(bitmill_encoded& dst, const encoded_sizes& sizes) noexcept {
    dst.codes_bytes = sizes.codes;
    dst.scales_bytes = sizes.scales;
    dst.zero_points_bytes = sizes.zero_points;
    dst.nested_scales_bytes = sizes.nested_scales;
    dst.residual_bytes = sizes.residual;
}

void put_metrics(bitmill_metrics* dst, const error_metrics& value) noexcept {
    bitmill_metrics out = BITMILL_METRICS_INIT;
    out.elements = value.elements();
    out.mse = value.mse();
    out.max_abs = value.max_abs();
    out.snr_db = value.elements() == 0 ? 0 : value.snr_db();
    out.cosine = value.elements() == 0 ? 0 : value.cosine();
    put_struct(dst, out);
}

result<void> encode_matrix(const bitmill_scheme* scheme_given, const bitmill_matrix* matrix, const void* src,
                           bitmill_encoded* dst, const bitmill_encode_options* options_given, bool measure,
                           error_metrics& measured) {
    const auto scheme = scheme_from(scheme_given);
    if (!scheme) return scheme.error();
    const auto view = matrix_from(matrix, src);
    if (!view) return view.error();
    auto coded = encoded_from(dst, *scheme, view->rows, view->cols, false);
    if (!coded) return coded.error();
    const auto c = read_optional(options_given);
    if (!c) return c.error();
    const auto chosen = value_of<method>(methods, c->method, "method");
    if (!chosen) return chosen.error();
    const auto hooks = hooks_from(c->hooks);
    if (!hooks) return hooks.error();
    host_memory memory(*hooks);
    encode_options how;
    how.method = *chosen;
    how.weight_threshold = c->weight_threshold;
    how.measure = measure;
    how.memory = &memory;
    const auto base_checked = read_optional(c->base_metrics);
    if (!base_checked) return base_checked.error();
    error_metrics base;
    how.base_error = &base;
    const auto done = encode(*scheme, *view, *coded, how);
    if (!done) return done.error();
    if (c->base_metrics != nullptr) put_metrics(c->base_metrics, base);
    dst->nested_offset = coded->nested_offset;
    measured = *done;
    return {};
}

}  // namespace
}  // namespace bitmill::capi

using bitmill::result;
namespace capi = bitmill::capi;

uint32_t bitmill_version_number(void) { return BITMILL_VERSION_NUMBER; }

const char* bitmill_version_text(void) { return BITMILL_VERSION_TEXT; }

uint32_t bitmill_abi_version(void) { return BITMILL_ABI_VERSION; }

const char* bitmill_status_text(bitmill_status status) {
    static constexpr const char* names[] = {"ok",        "invalid_argument", "bad_input",
                                            "io",        "out_of_memory",    "refused",
                                            "cancelled", "unsupported",      "internal"};
    return status >= 0 && static_cast<std::size_t>(status) < std::size(names) ? names[status] : "unknown";
}

const char* bitmill_isa(void) { return bitmill::kernels::active().name; }

const char* bitmill_isa_available(size_t index) { return bitmill::kernels::available(index); }

bitmill_status bitmill_set_isa(const char* name, bitmill_error* error) {
    return capi::guard(error, [&]() -> result<void> {
        const auto text = capi::text_from(name, "name");
        if (!text) return text.error();
        return bitmill::set_isa(*text);
    });
}

bitmill_status bitmill_encode_bound(const bitmill_scheme* scheme, uint64_t rows, uint64_t cols,
                                    bitmill_encoded* sizes, bitmill_error* error) {
    if (capi::usable(sizes)) capi::put_sizes(*sizes, {});
    return capi::guard(error, [&]() -> result<void> {
        const auto checked = capi::read_struct(sizes);
        if (!checked) return checked.error();
        const auto read = capi::scheme_from(scheme);
        if (!read) return read.error();
        const auto bound = bitmill::encode_bound(*read, rows, cols);
        if (!bound) return bound.error();
        capi::put_sizes(*sizes, *bound);
        return {};
    });
}

bitmill_status bitmill_encode(const bitmill_scheme* scheme, const bitmill_matrix* matrix, const void* src,
                              bitmill_encoded* dst, const bitmill_encode_options* options,
                              bitmill_metrics* metrics, bitmill_error* error) {
    if (capi::usable(metrics)) capi::put_metrics(metrics, {});
    if (capi::usable(dst)) dst->nested_offset = 0;
    if (capi::usable(options) && capi::usable(options->base_metrics))
        capi::put_metrics(options->base_metrics, {});
    return capi::guard(error, [&]() -> result<void> {
        const auto checked = capi::read_optional(metrics);
        if (!checked) return checked.error();
        bitmill::error_metrics measured;
        auto done = capi::encode_matrix(scheme, matrix, src, dst, options, metrics != nullptr, measured);
        if (done && metrics != nullptr) capi::put_metrics(metrics, measured);
        return done;
    });
}

bitmill_status bitmill_decode(const bitmill_scheme* scheme, const bitmill_encoded* src,
                              const bitmill_matrix* matrix, void* dst, const bitmill_hooks* hooks,
                              bitmill_error* error) {
    return capi::guard(error, [&]() -> result<void> {
        const auto read = capi::scheme_from(scheme);
        if (!read) return read.error();
        const auto view = capi::matrix_from(matrix, dst);
        if (!view) return view.error();
        const auto coded = capi::encoded_from(src, *read, view->rows, view->cols, true);
        if (!coded) return coded.error();
        const auto given = capi::hooks_from(hooks);
        if (!given) return given.error();
        capi::host_memory memory(*given);
        return bitmill::decode(*read, *coded, *view, &memory);
    });
}

bitmill_status bitmill_mill(const char* model, const char* out, const bitmill_mill_options* options,
                            bitmill_report** report, bitmill_error* error) {
    if (report != nullptr) *report = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        const auto read = capi::read_struct(options);
        if (!read) return read.error();
        return capi::run_reported(read->hooks, report, [&](const bitmill_hooks& hooks) {
            return capi::mill(model, out, *read, hooks);
        });
    });
}

bitmill_status bitmill_dequantize(const char* model, const char* out,
                                  const bitmill_dequantize_options* options, bitmill_report** report,
                                  bitmill_error* error) {
    if (report != nullptr) *report = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        const auto read = capi::read_optional(options);
        if (!read) return read.error();
        return capi::run_reported(read->hooks, report, [&](const bitmill_hooks& hooks) {
            return capi::unmill(model, out, *read, hooks);
        });
    });
}

bitmill_status bitmill_batch(const char* model_dir, const char* output_dir,
                             const bitmill_batch_options* options, bitmill_report** report,
                             bitmill_error* error) {
    if (report != nullptr) *report = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        static const bitmill_batch_options defaults = BITMILL_BATCH_OPTIONS_INIT;
        const auto read = capi::read_struct(options == nullptr ? &defaults : options);
        if (!read) return read.error();
        return capi::run_reported(read->hooks, report, [&](const bitmill_hooks& hooks) {
            return capi::batch(model_dir, output_dir, *read, hooks);
        });
    });
}

static bitmill_status check_folder(const char* source, bool with_source, const char* model,
                                   const bitmill_verify_options* options, bitmill_report** report,
                                   bitmill_error* error) {
    if (report != nullptr) *report = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        const auto read = capi::read_optional(options);
        if (!read) return read.error();
        return capi::run_reported(read->hooks, report, [&](const bitmill_hooks& hooks) {
            return capi::check(source, with_source, model, *read, hooks);
        });
    });
}

bitmill_status bitmill_validate(const char* model, const bitmill_verify_options* options,
                                bitmill_report** report, bitmill_error* error) {
    return check_folder(nullptr, false, model, options, report, error);
}

bitmill_status bitmill_verify(const char* source, const char* model, const bitmill_verify_options* options,
                              bitmill_report** report, bitmill_error* error) {
    return check_folder(source, true, model, options, report, error);
}

bitmill_status bitmill_inspect(const char* model, const bitmill_hooks* hooks, bitmill_report** report,
                               bitmill_error* error) {
    if (report != nullptr) *report = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        return capi::run_reported(hooks, report, [&](const bitmill_hooks&) -> result<capi::report_content> {
            const auto text = capi::text_from(model, "model");
            if (!text) return text.error();
            return capi::content_of(bitmill::inspect(*text));
        });
    });
}

bitmill_status bitmill_report_json(const bitmill_report* report, char* dst, size_t dst_bytes,
                                   size_t* needed_bytes, bitmill_error* error) {
    if (needed_bytes != nullptr) *needed_bytes = 0;
    return capi::guard(error, [&]() -> result<void> {
        if (report == nullptr) return capi::invalid("report is NULL");
        const std::string text = std::visit([](const auto& one) { return one.json(); }, report->content);
        return capi::copy_text(text, dst, dst_bytes, needed_bytes);
    });
}

void bitmill_report_destroy(bitmill_report* report) {
    if (report == nullptr) return;
    capi::host_memory memory = report->memory;
    report->~bitmill_report();
    memory.deallocate(report, sizeof(bitmill_report), alignof(bitmill_report));
}
