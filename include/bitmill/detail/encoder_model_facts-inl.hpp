#pragma once

#include <string>

#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/model/encoder_model.hpp>

namespace bitmill {

BITMILL_INLINE std::string model_facts::json(int indent) const {
    return detail::json_object({{"path", path},
                                {"model_type", model_type},
                                {"requested", requested},
                                {"effective", effective},
                                {"reason", reason},
                                {"dynamic_int8", dynamic_int8},
                                {"threads", threads},
                                {"hidden_size", hidden_size},
                                {"layers", layers},
                                {"heads", heads},
                                {"vocabulary", vocabulary},
                                {"token_types", token_types},
                                {"max_tokens", max_tokens},
                                {"embedding_size", embedding_size},
                                {"labels", labels},
                                {"pooling", to_text(pooling)},
                                {"normalize", normalize},
                                {"include_prompt", include_prompt},
                                {"file_bytes", file_bytes},
                                {"weight_bytes", weight_bytes},
                                {"warnings", warnings}})
        .dump(indent, ' ', false, detail::ordered_json::error_handler_t::replace);
}

}  // namespace bitmill
