// Reports: what was done, or found, for whoever asks for the JSON.
#pragma once

#include <utility>
#include <variant>

#include <bitmill/bitmill.hpp>

#include "bitmill.h"
#include "convert.hpp"

namespace bitmill::capi {
using report_content = std::variant<mill_report, repository_report, batch_report, verify_report,
                                    inspect_report, quantize_outcome>;
}

struct bitmill_report {
    bitmill::capi::host_memory memory;
    bitmill::capi::report_content content;
};

namespace bitmill::capi {

// Memory for a report, taken before the work: afterwards it could fail, and the work would be done unreported.
class new_report {
public:
    new_report(const host_memory& memory, bool wanted) : memory_(memory) {
        if (wanted) storage_ = memory_.allocate(sizeof(bitmill_report), alignof(bitmill_report));
    }
    new_report(const new_report&) = delete;
    new_report& operator=(const new_report&) = delete;
    ~new_report() {
        if (storage_ != nullptr)
            memory_.deallocate(storage_, sizeof(bitmill_report), alignof(bitmill_report));
    }
    void fill(report_content&& content, bitmill_report** dst) {
        if (storage_ == nullptr) return;
        *dst = new (std::exchange(storage_, nullptr)) bitmill_report{memory_, std::move(content)};
    }

private:
    host_memory memory_;
    void* storage_ = nullptr;
};

template <class Report>
result<report_content> content_of(result<Report> report) {
    if (!report) return report.error();
    return report_content(std::move(report).value());
}

// Runs work(hooks) -> result<report_content>.
template <class Work>
result<void> run_reported(const bitmill_hooks* given, bitmill_report** report, const Work& work) {
    const auto hooks = hooks_from(given);
    if (!hooks) return hooks.error();
    new_report reserved(host_memory(*hooks), report != nullptr);
    auto content = work(*hooks);
    if (!content) return content.error();
    reserved.fill(std::move(content).value(), report);
    return {};
}

}  // namespace bitmill::capi
