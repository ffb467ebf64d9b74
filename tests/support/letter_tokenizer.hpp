// A tokenizer.json for small models.
#pragma once

#include <string>

namespace bitmill_test {

// Small letters, one token each: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, then the letters (with 26: a 4 ... z 29), then those
// within a word (##a 30 ... ##z 55).
inline std::string letter_tokenizer(int letters = 26) {
    std::string vocabulary = R"("[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3)";
    for (const bool later : {false, true})
        for (int i = 0; i < letters; ++i)
            vocabulary += std::string(",\"") + (later ? "##" : "") + static_cast<char>('a' + i) +
                          "\":" + std::to_string(4 + i + (later ? letters : 0));
    return R"({"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"BertPreTokenizer"},
      "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{)" +
           vocabulary +
           R"(}},"post_processor":{"type":"BertProcessing","sep":["[SEP]",3],"cls":["[CLS]",2]}})";
}

}  // namespace bitmill_test
