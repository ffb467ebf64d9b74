#pragma once

#include <cmath>

#include <bitmill/codec/scheme.hpp>
#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/mill/report.hpp>

namespace bitmill {
namespace detail {

// JSON has no infinity: an exact copy has SNR null.
inline ordered_json number_or_null(double value) {
    return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr);
}

inline ordered_json error_json(const error_metrics& error) {
    return json_object({{"mse", number_or_null(error.mse())},
                        {"max_abs", number_or_null(error.max_abs())},
                        {"snr_db", number_or_null(error.snr_db())},
                        {"cosine", number_or_null(error.cosine())}});
}

inline double ratio(std::uint64_t a, std::uint64_t b) {
    return b == 0 ? 0 : static_cast<double>(a) / static_cast<double>(b);
}

}  // namespace detail

BITMILL_INLINE double mill_report::coded_bits_per_weight() const {
    std::uint64_t bytes_coded = 0;
    std::uint64_t weights = 0;
    for (const auto& one : tensors) {
        if (one.effective == "keep" || one.effective == "tied") continue;
        bytes_coded += one.bytes;
        weights += one.elements;
    }
    return 8 * detail::ratio(bytes_coded, weights);
}

BITMILL_INLINE double mill_report::bits_per_weight() const { return 8 * detail::ratio(bytes, parameters); }

BITMILL_INLINE error_metrics mill_report::error() const {
    error_metrics all;
    for (const auto& one : tensors)
        if (one.measured) all.add(one.error);
    return all;
}

BITMILL_INLINE error_metrics mill_report::base_error() const {
    error_metrics all;
    for (const auto& one : tensors) {
        if (!one.measured) continue;
        const error_metrics& error = one.base_error ? *one.base_error : one.error;
        all.add(error);
    }
    return all;
}

BITMILL_INLINE std::string mill_report::json(int indent) const {
    using detail::ordered_json;
    ordered_json list = ordered_json::array();
    for (const auto& one : tensors) {
        ordered_json row =
            detail::json_object({{"name", one.name},
                                 {"shape", one.shape},
                                 {"source_dtype", std::string(facts(one.source_dtype).name)},
                                 {"requested", one.requested},
                                 {"effective", one.effective},
                                 {"reason", one.reason},
                                 {"elements", one.elements},
                                 {"source_bytes", one.source_bytes},
                                 {"bytes", one.bytes},
                                 {"bits_per_weight", 8 * detail::ratio(one.bytes, one.elements)}});
        if (one.measured) {
            row.update(detail::error_json(one.error));
            row["zeros_before"] = one.error.zeros_before();
            row["zeros_after"] = one.error.zeros_after();
        }
        if (one.residual_bytes != 0) row["residual_bytes"] = one.residual_bytes;
        if (one.base_error) row["base_snr_db"] = detail::number_or_null(one.base_error->snr_db());
        list.push_back(std::move(row));
    }
    const std::uint64_t f32_bytes = parameters * 4;
    const bool measured = !dry_run && !already_milled;
    ordered_json out = detail::json_object(
        {{"source", source},
         {"output", output},
         {"requested", requested},
         {"format", format},
         {"method", method},
         {"dry_run", dry_run},
         {"already_milled", already_milled},
         {"parameters", parameters},
         {"source_bytes", source_bytes},
         {"bytes", bytes},
         {"side_bytes", side_bytes},
         {"resumed_bytes", resumed_bytes},
         {"ratio_to_source", detail::ratio(source_bytes, bytes)},
         {"ratio_to_f32", detail::ratio(f32_bytes, bytes)},
         {"bits_per_weight", bits_per_weight()},
         {"coded_bits_per_weight", coded_bits_per_weight()},
         {"seconds", seconds},
         {"gb_per_second", seconds > 0 ? static_cast<double>(source_bytes) / seconds / 1e9 : 0.0},
         {"error", measured ? ordered_json(detail::error_json(error())) : ordered_json(nullptr)},
         {"pruning", pruning.empty() ? ordered_json(nullptr) : ordered_json(pruning)},
         {"zeros_before", measured ? ordered_json(error().zeros_before()) : ordered_json(nullptr)},
         {"zeros_after", measured ? ordered_json(error().zeros_after()) : ordered_json(nullptr)},
         {"warnings", warnings}});
    if (residual_bytes != 0) {
        const auto level = [&](const char* name, std::uint64_t size, const error_metrics& error) {
            return detail::json_object(
                {{"level", name},
                 {"bytes", size},
                 {"bits_per_weight", 8 * detail::ratio(size, parameters)},
                 {"error", measured ? ordered_json(detail::error_json(error)) : ordered_json(nullptr)}});
        };
        out["residual_bytes"] = residual_bytes;
        out["levels"] = {level("int4", bytes - residual_bytes, base_error()), level("int8", bytes, error())};
    }
    out["tensors"] = std::move(list);
    return detail::dumped(out, indent);
}

}  // namespace bitmill
