// The verbs that do not know GGUF yet say so: its names and blocks mean nothing to readers of what they
// write.
#pragma once

#include <string>

#include <bitmill/io/checkpoint.hpp>

namespace bitmill::detail {

inline result<void> refuse_gguf(const checkpoint& model, const std::string& verb) {
    for (std::size_t shard = 0; shard < model.shard_count(); ++shard)
        if (model.shard(shard).gguf() != nullptr)
            return error{.code = error_code::unsupported,
                         .message = "is a GGUF file, which this version can inspect and not " + verb +
                                    "; give the safetensors or PyTorch weights it was made from",
                         .file = model.shard(shard).file().path()};
    return {};
}

}  // namespace bitmill::detail
