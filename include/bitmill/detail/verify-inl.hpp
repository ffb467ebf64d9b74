#pragma once

#include <algorithm>

#include <bitmill/detail/manifest_check-inl.hpp>
#include <bitmill/detail/mill-inl.hpp>
#include <bitmill/mill/manifest.hpp>

namespace bitmill {
namespace detail {

// Where two manifests part: the first tensor, or the part that differs.
inline error first_difference(const manifest& stated, const std::string& derived, const std::string& path) {
    const auto now = ordered_json::parse(derived);
    if (stated.json.at("version") != now.at("version"))
        return {.code = error_code::unsupported,
                .message = "was milled by bitmill " + stated.json.at("version").get<std::string>() +
                           ", this is " + BITMILL_VERSION_TEXT +
                           ", whose bytes may differ: verify it with that version",
                .file = path};
    const auto& before = stated.json.at("tensors");
    const auto& after = now.at("tensors");
    for (std::size_t i = 0; i < std::min(before.size(), after.size()); ++i) {
        if (before[i] == after[i]) continue;
        const auto name = before[i].value("name", "");
        if (before[i].at("source") != after[i].at("source"))
            return refused("the source's tensor is not the one that was milled", path, name);
        return refused("the source gives other bytes than the manifest says", path, name);
    }
    for (const char* key : {"source", "files"}) {
        const auto& was = stated.json.at(key);
        const auto& is = now.at(key);
        for (std::size_t i = 0; i < std::max(was.size(), is.size()); ++i)
            if (i >= was.size() || i >= is.size() || was[i] != is[i])
                return refused(
                    std::string(key == std::string_view("source") ? "the source has" : "the source gives") +
                        " another file " + (i < is.size() ? is : was)[i].value("name", "") +
                        " than the one that the manifest lists",
                    path);
    }
    return refused("the source gives another manifest", path);
}

// As guard; what nlohmann says of a field that is missing or of another type is no help.
template <class Body>
auto guard_manifest(const std::string& model, const Body& body) -> decltype(body()) {
    const std::string path = model + "/" + manifest_name;
    return guard(path, [&]() -> decltype(body()) {
        try {
            return body();
        } catch (const nlohmann::json::exception&) {
            return refused("is no manifest that bitmill wrote: a field is missing or of another type", path);
        }
    });
}

inline verify_report report_of(const std::string& model, const manifest& stated, const checked_files& checked,
                               const stopwatch& clock) {
    verify_report report;
    report.model = model;
    report.manifest_sha256 = stated.own_hash;
    report.tensors = stated.json.at("tensors").size();
    report.files = checked.files;
    report.bytes = checked.bytes;
    report.residuals_missing = checked.residuals_missing;
    report.seconds = clock.seconds();
    return report;
}

}  // namespace detail

BITMILL_INLINE std::string verify_report::json(int indent) const {
    detail::ordered_json out;
    if (!source.empty()) out["source"] = source;
    out.update(detail::json_object({{"model", model},
                                    {"manifest_sha256", manifest_sha256},
                                    {"files", files},
                                    {"tensors", tensors},
                                    {"bytes", bytes},
                                    {"residuals_missing", residuals_missing},
                                    {"seconds", seconds}}));
    return detail::dumped(out, indent);
}

BITMILL_INLINE result<verify_report> validate(const std::string& model, const work_options& options) {
    return detail::guard_manifest(model, [&]() -> result<verify_report> {
        const detail::stopwatch clock;
        const auto stated = detail::read_manifest(model);
        if (!stated) return stated.error();
        const auto checked = detail::check_files(model, *stated, options);
        if (!checked) return checked.error();
        return detail::report_of(model, *stated, *checked, clock);
    });
}

BITMILL_INLINE result<verify_report> verify(const std::string& source, const std::string& model,
                                            const work_options& options) {
    return detail::guard_manifest(model, [&]() -> result<verify_report> {
        const detail::stopwatch clock;
        const auto stated = detail::read_manifest(model);
        if (!stated) return stated.error();
        const auto original = checkpoint::open(source);
        if (!original) return original.error();
        mill_options request = detail::options_of(stated->json.at("request"), options);
        request.dry_run = false;
        const auto derived = detail::mill_model(*original, source, model, request, nullptr);
        if (!derived) return derived.error();
        const std::string path = model + "/" + detail::manifest_name;
        if (derived->manifest != stated->text)
            return detail::first_difference(*stated, derived->manifest, path);
        const auto checked = detail::check_files(model, *stated, options);
        if (!checked) return checked.error();
        auto report = detail::report_of(model, *stated, *checked, clock);
        report.source = source;
        return report;
    });
}

}  // namespace bitmill
