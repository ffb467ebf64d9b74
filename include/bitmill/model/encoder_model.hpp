// An encoder that is opened from a folder and run on token ids: sentence embeddings, the classes of a sequence, token
// embeddings. Families: BERT, RoBERTa, XLM-RoBERTa, DistilBERT; plain (f32, f16, bf16) or milled, in any format that
// read_stored reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <bitmill/codec/scheme.hpp>
#include <bitmill/core/error.hpp>
#include <bitmill/core/memory.hpp>
#include <bitmill/core/parallel.hpp>
#include <bitmill/core/sha256.hpp>
#include <bitmill/mill/options.hpp>
#include <bitmill/nn/encoder.hpp>

namespace bitmill {

// How a sequence's vector comes from its tokens' (sentence-transformers, 1_Pooling/config.json).
enum class pooling : std::uint8_t {
    mean,
    cls,
    max,
    last
};
[[nodiscard]] const char* to_text(pooling value) noexcept;

struct model_options {
    // original, fp16, int8, int4, int2, or "": as it lies in the folder, of several levels the highest. A level is taken
    // from the planes of a bitmill folder, from MODEL/<level>/, or is what MODEL itself is; fp16 may also be a cast at
    // load.
    std::string level = {};
    bitmill::activation activation = bitmill::activation::floating;  // of integer layers, at run time
    unsigned threads = 0;                                            // 0: one per core; at most max_threads
    parallel_for run = {};                                           // the host's own threads; empty: ours
    memory_source memory = nullptr;  // weights, and what a call holds; threads keep scratch of their own
};

struct model_facts {
    std::string path;        // of the folder that was opened
    std::string model_type;  // bert, roberta, xlm-roberta, distilbert
    std::string requested;   // level; "" where none was asked for
    std::string effective;   // level
    std::string reason;      // "" where both are the same
    bool dynamic_int8 = false;
    unsigned threads = 0;  // that run it: thread_team::threads()
    std::size_t hidden_size = 0;
    std::size_t layers = 0;
    std::size_t heads = 0;
    std::size_t vocabulary = 0;
    std::size_t token_types = 0;
    std::size_t max_tokens = 0;      // of one sequence
    std::size_t embedding_size = 0;  // of embed(): hidden_size
    std::size_t labels = 0;          // of logits(); 0 where the model has no such head; 1: a reranker
    bitmill::pooling pooling = bitmill::pooling::mean;
    bool normalize = false;
    bool include_prompt = true;      // a prompt's tokens are pooled, too
    std::uint64_t file_bytes = 0;    // of the weights that were read
    std::uint64_t weight_bytes = 0;  // of memory that the weights take
    std::vector<std::string> warnings;

    // One JSON object with the fields above, by the same names. indent < 0: one line.
    [[nodiscard]] std::string json(int indent = 2) const;
};

// Move-only. embed(), hidden() and logits() are safe from many threads.
class encoder_model {
public:
    // Errors: those of checkpoint::open and read_stored; unsupported names what this version cannot run; bad_input where
    // config.json and the tensors disagree, or one holds NaN or infinity (names file, tensor and element).
    [[nodiscard]] static result<encoder_model> open(const std::string& path, const model_options& = {});

    encoder_model(encoder_model&&) noexcept;
    encoder_model& operator=(encoder_model&&) noexcept;
    ~encoder_model();

    [[nodiscard]] const model_facts& facts() const noexcept;

    // Of planes (format bitmill), the same model at level int8 or int4: it shares the base plane, the embeddings and the
    // threads with this one, which stays as it is; int4 reads nothing, int8 reads the residual plane. Safe from many
    // threads. Errors: invalid_argument where the model has no planes or no such level, bad_input where the folder was
    // written to since it was opened (open it anew), and those of open.
    [[nodiscard]] result<encoder_model> at_level(const std::string& level) const;

    // Errors of all three: invalid_argument for a batch that does not fit together, an empty sequence, one longer than
    // max_tokens, an id or a type outside of the model's; io, bad_input where a row of the embeddings cannot be read or holds NaN.
    // dst: [lengths.size(), embedding_size].
    [[nodiscard]] result<void> embed(const token_batch&, std::span<float> dst) const;
    // dst: [ids.size(), hidden_size], the tokens of the batch in order.
    [[nodiscard]] result<void> hidden(const token_batch&, std::span<float> dst) const;
    // dst: [lengths.size(), labels]. unsupported where the model has no head for it.
    [[nodiscard]] result<void> logits(const token_batch&, std::span<float> dst) const;

    // SHA-256 of what its outputs come from: the files of weights (of each its size, its beginning, its end and pieces of 4
    // KiB in between; of planes the base), the level, the activation, the pooling. Errors: io.
    [[nodiscard]] result<digest> fingerprint() const;

    // What each layer is given, from the next call on; null stops it. Not while a call runs.
    void observe(layer_observer observer);

private:
    struct content;
    explicit encoder_model(std::unique_ptr<content> what) noexcept;
    std::unique_ptr<content> content_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/encoder_model-inl.hpp>
#include <bitmill/detail/encoder_model_facts-inl.hpp>
#include <bitmill/detail/encoder_model_planes-inl.hpp>
#endif
