// Input: {"config": config.json, "modules": modules.json, "pooling": 1_Pooling/config.json, "rename": [[FROM, TO] ...],
// "shapes": {NAME: SHAPE, or null for no such tensor}, "level": TEXT, "ids": [...], "types": [...], "lengths": [...]}; all
// but config may be missing. The folder holds the small encoder of the tests, its tensors renamed and reshaped. What
// opens runs: no batch crashes it, and one that fits gives as many floats as the facts say.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <bitmill/model/encoder_model.hpp>

#include <encoders.hpp>
#include <mutators.hpp>

using bitmill_test::made_tensor;
using fuzz::require;

namespace {

constexpr std::uint64_t most_elements = 1 << 14;  // of a tensor

void rename_tensors(std::vector<made_tensor>& tensors, const fuzz::json& pairs) {
    for (const auto& pair : pairs) {
        if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) continue;
        const auto from = pair[0].get<std::string>(), to = pair[1].get<std::string>();
        if (from.empty() || to.size() > 64) continue;
        for (auto& one : tensors)
            if (const auto at = one.name.find(from); at != std::string::npos)
                one.name.replace(at, from.size(), to);
    }
}

// False where a shape is no shape.
bool reshape(std::vector<made_tensor>& tensors, const fuzz::json& shapes) {
    for (const auto& [name, shape] : shapes.items()) {
        const auto found =
            std::find_if(tensors.begin(), tensors.end(), [&](const auto& one) { return one.name == name; });
        if (found == tensors.end()) continue;
        if (!shape.is_array()) {
            tensors.erase(found);
            continue;
        }
        found->shape.clear();
        std::uint64_t elements = 1;
        for (const auto& one : shape) {
            if (!one.is_number_unsigned() || one.get<std::uint64_t>() > most_elements) return false;
            found->shape.push_back(one.get<std::uint64_t>());
            elements *= found->shape.back();
            if (elements > most_elements) return false;
        }
        const std::string before = found->bytes;
        found->bytes.resize(static_cast<std::size_t>(elements) * 4);
        for (std::size_t i = before.size(); i < found->bytes.size(); ++i)
            found->bytes[i] = before[i % before.size()];
    }
    return true;
}

bool put_folder(const std::string& folder, const fuzz::json& input) {
    static const auto made = bitmill_test::encoder_tensors();
    auto tensors = made;
    if (const auto pairs = input.find("rename"); pairs != input.end()) rename_tensors(tensors, *pairs);
    if (const auto shapes = input.find("shapes"); shapes != input.end() && shapes->is_object())
        if (!reshape(tensors, *shapes)) return false;
    const auto text = [](const fuzz::json& value) {
        return value.dump(-1, ' ', false, fuzz::json::error_handler_t::replace);
    };
    fuzz::rewrite(folder + "/model.safetensors", bitmill_test::safetensors_of(tensors));
    fuzz::rewrite(folder + "/config.json", text(input.at("config")));
    for (const auto& [key, name] :
         {std::pair{"modules", "/modules.json"}, std::pair{"pooling", "/1_Pooling/config.json"}}) {
        std::filesystem::remove(folder + name);
        if (input.contains(key)) fuzz::rewrite(folder + name, text(input.at(key)));
    }
    return true;
}

template <class Number>
std::vector<Number> numbers(const fuzz::json& input, const char* key) {
    std::vector<Number> out;
    const auto list = input.find(key);
    if (list == input.end() || !list->is_array()) return out;
    for (const auto& one : *list)
        if (one.is_number_integer()) out.push_back(static_cast<Number>(one.get<std::int64_t>()));
    return out;
}

void check_runs(const bitmill::encoder_model& model, const fuzz::json& input) {
    const auto ids = numbers<std::int32_t>(input, "ids"), types = numbers<std::int32_t>(input, "types");
    const auto lengths = numbers<std::uint32_t>(input, "lengths");
    const bitmill::token_batch batch{ids, types, lengths};
    const auto& facts = model.facts();
    const auto run = [&](std::size_t count, auto method) {
        std::vector<float> out(count);
        if (const auto done = (model.*method)(batch, out); !done)
            require(done.error().code == bitmill::error_code::invalid_argument ||
                        done.error().code == bitmill::error_code::unsupported,
                    "a model that opened refuses batches, and heads that it has not");
    };
    run(lengths.size() * facts.embedding_size, &bitmill::encoder_model::embed);
    run(ids.size() * facts.hidden_size, &bitmill::encoder_model::hidden);
    run(lengths.size() * facts.labels, &bitmill::encoder_model::logits);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const bitmill_test::temp_folder temp;
    static const bool made = std::filesystem::create_directory(temp / "1_Pooling");
    require(made, "the folder is new");
    const auto input = fuzz::parse(fuzz::as_text(data, size));
    if (!input || !input->is_object() || !input->contains("config")) return 0;
    if (!put_folder(temp.path(), *input)) return 0;
    bitmill::model_options options;
    options.threads = 1;
    if (const auto level = input->find("level"); level != input->end() && level->is_string())
        options.level = level->get<std::string>();
    const auto model = bitmill::encoder_model::open(temp.path(), options);
    if (model) {
        const auto& facts = model->facts();
        require(facts.hidden_size > 0 && facts.heads > 0 && facts.hidden_size % facts.heads == 0,
                "heads share the hidden size");
        require(facts.file_bytes > 0 && !facts.effective.empty(), "what was read is told");
        check_runs(*model, *input);
    } else if (model.error().code != bitmill::error_code::invalid_argument) {
        fuzz::check_error(model.error());
    }
    return 0;
}

// ---- mutation --------------------------------------------------------------------------------------------
namespace {

constexpr std::string_view words[] = {"model_type",
                                      "bert",
                                      "roberta",
                                      "xlm-roberta",
                                      "distilbert",
                                      "architectures",
                                      "hidden_size",
                                      "num_attention_heads",
                                      "num_hidden_layers",
                                      "intermediate_size",
                                      "max_position_embeddings",
                                      "type_vocab_size",
                                      "vocab_size",
                                      "pad_token_id",
                                      "hidden_act",
                                      "gelu_new",
                                      "relu",
                                      "silu",
                                      "layer_norm_eps",
                                      "position_embedding_type",
                                      "relative_key",
                                      "id2label",
                                      "num_labels",
                                      "sinusoidal_pos_embds",
                                      "classifier.weight",
                                      "classifier.bias",
                                      "bert.pooler.dense.weight",
                                      "bert.embeddings.word_embeddings.weight",
                                      "bert.encoder.layer.1.output.dense.weight",
                                      "bert.encoder.layer.0.attention.self.query.bias",
                                      "bert.",
                                      "roberta.",
                                      "fp16",
                                      "original",
                                      "int8",
                                      "type",
                                      "path",
                                      "1_Pooling",
                                      "sentence_transformers.models.Pooling",
                                      "sentence_transformers.models.Normalize",
                                      "pooling_mode_cls_token",
                                      "pooling_mode_max_tokens",
                                      "pooling_mode_lasttoken",
                                      "word_embedding_dimension"};

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    fuzz::random rng(seed);
    return fuzz::hand_back(fuzz::mutated_json(std::string(fuzz::as_text(data, size)), rng, words), data,
                           max_size);
}
