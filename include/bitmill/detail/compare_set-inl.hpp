// What models are compared on: pairs and tasks from JSON lines, or sentences of the library's own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/json_stream-inl.hpp>
#include <bitmill/eval/compare.hpp>
#include <bitmill/io/file.hpp>

namespace bitmill::detail {

// Texts by number, each once.
class text_pool {
public:
    text_pool() = default;
    text_pool(text_pool&&) noexcept = default;  // a copy's views would be of the first one's texts
    text_pool& operator=(text_pool&&) noexcept = default;
    std::size_t add(const std::string& text) {
        const auto [at, added] = numbers_.try_emplace(text, texts_.size());
        if (added) texts_.push_back(at->first);  // a node's key never moves
        return at->second;
    }
    [[nodiscard]] std::span<const std::string_view> all() const noexcept { return texts_; }
    [[nodiscard]] std::size_t size() const noexcept { return texts_.size(); }
    [[nodiscard]] std::string_view operator[](std::size_t number) const { return texts_[number]; }

private:
    std::unordered_map<std::string, std::size_t> numbers_;
    std::vector<std::string_view> texts_;
};

struct evaluation_pair {
    std::size_t query, document;
};
struct evaluation_task {
    std::size_t query;
    std::vector<std::size_t> documents;
    std::vector<std::size_t> relevant;  // places in `documents`
};

struct evaluation_set {
    text_pool queries, documents;  // those of pairs come first
    std::size_t pair_documents = 0;
    std::vector<evaluation_pair> pairs;
    std::vector<evaluation_task> tasks;
};

// One file of JSON lines.
class json_lines {
public:
    explicit json_lines(const std::string& path) : path_(path) {}

    // take(object) -> error message, "" where all is well.
    template <class Take>
    result<void> read(const Take& take) {
        constexpr std::uint64_t most = std::uint64_t{64} << 20;
        const auto file = input_file::open(path_);
        if (!file) return file.error();
        const auto text = read_text(*file, most);
        if (!text) return text.error();
        std::size_t records = 0;
        std::string_view left = *text;
        if (constexpr std::string_view mark = "\xef\xbb\xbf"; left.starts_with(mark)) {
            left.remove_prefix(mark.size());  // of editors that write one in front of UTF-8
            offset_ = mark.size();
        }
        while (!left.empty()) {
            const std::string_view line = left.substr(0, left.find('\n'));
            ++line_;
            if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
                ++records;
                if (auto done = read_line(line, take); !done) return done;
            }
            const std::size_t bytes = std::min(line.size() + 1, left.size());
            left.remove_prefix(bytes);
            offset_ += bytes;
        }
        if (records != 0) return {};
        return error{.code = error_code::bad_input,
                     .message = "holds no line; write one JSON object a line",
                     .file = path_};
    }

private:
    [[nodiscard]] error refuse(const std::string& message, std::uint64_t inside = 0) const {
        return {.code = error_code::bad_input,
                .message = "line " + std::to_string(line_) + ": " + message,
                .file = path_,
                .offset = offset_ + inside};
    }

    template <class Take>
    result<void> read_line(std::string_view line, const Take& take) {
        if (const auto begin = line.find_first_not_of(" \t\r"); line[begin] != '{')
            return refuse("must be a JSON object, in { }", begin);
        json_source source(line);
        source.allow_long_strings();
        json_checker checker(source, 64);
        if (auto sound = parse_json(source, checker, path_); !sound)
            return refuse(sound.error().message,
                          sound.error().offset == error::no_offset ? 0 : sound.error().offset);
        const std::string wrong = take(json::parse(line));
        return wrong.empty() ? result<void>() : refuse(wrong);
    }

    std::string path_;
    std::size_t line_ = 0;
    std::uint64_t offset_ = 0;
};

class evaluation_reader {
public:
    [[nodiscard]] result<evaluation_set> read(const std::string& pairs, const std::string& tasks) {
        if (!pairs.empty())
            if (auto done = json_lines(pairs).read([&](const json& line) { return add_pair(line); }); !done)
                return done.error();
        out_.pair_documents = out_.documents.size();
        if (!tasks.empty())
            if (auto done = json_lines(tasks).read([&](const json& line) { return add_task(line); }); !done)
                return done.error();
        return std::move(out_);
    }

private:
    static constexpr std::size_t most_pairs = 20000, most_tasks = 100000, most_documents = 1000,
                                 most_texts = 100000;

    static const std::string* text_at(const json& line, const char* key) {
        const auto found = line.find(key);
        return found == line.end() ? nullptr : found->get_ptr<const std::string*>();
    }
    [[nodiscard]] std::string check_room() const {
        if (out_.queries.size() + out_.documents.size() <= most_texts) return {};
        return "there are more than " + std::to_string(most_texts) + " different texts; take fewer";
    }

    std::string add_pair(const json& line) {
        const auto* const query = text_at(line, "query");
        const auto* const document = text_at(line, "document");
        if (query == nullptr || document == nullptr)
            return "a pair is {\"query\": \"...\", \"document\": \"...\"}, both texts";
        if (out_.pairs.size() == most_pairs)
            return "there are more than " + std::to_string(most_pairs) + " pairs; take fewer";
        out_.pairs.push_back({out_.queries.add(*query), out_.documents.add(*document)});
        return check_room();
    }

    std::string add_task(const json& line) {
        static const std::string form =
            "a task is {\"query\": \"...\", \"documents\": [\"...\", ...], \"relevant\": [0, ...]}";
        const auto* const query = text_at(line, "query");
        const auto documents = line.find("documents"), relevant = line.find("relevant");
        if (query == nullptr || documents == line.end() || relevant == line.end() || !documents->is_array() ||
            !relevant->is_array())
            return form;
        if (documents->size() > most_documents)
            return "has more than " + std::to_string(most_documents) + " documents; take fewer";
        if (out_.tasks.size() == most_tasks)
            return "there are more than " + std::to_string(most_tasks) + " tasks; take fewer";
        evaluation_task task{out_.queries.add(*query), {}, {}};
        for (const auto& one : *documents) {
            const auto* const text = one.get_ptr<const std::string*>();
            if (text == nullptr) return form + "; a document is no text";
            task.documents.push_back(out_.documents.add(*text));
        }
        for (const auto& one : *relevant) {
            if (!one.is_number_unsigned() || one.get<std::uint64_t>() >= task.documents.size())
                return "relevant holds " + shown(one) + ", there are " +
                       std::to_string(task.documents.size()) + " documents, numbered from 0";
            task.relevant.push_back(static_cast<std::size_t>(one.get<std::uint64_t>()));
        }
        std::sort(task.relevant.begin(), task.relevant.end());
        if (task.relevant.empty()) return "no document is relevant, so that no order is better than another";
        if (std::adjacent_find(task.relevant.begin(), task.relevant.end()) != task.relevant.end())
            return "relevant names a document twice";
        out_.tasks.push_back(std::move(task));
        return check_room();
    }

    evaluation_set out_;
};

// Of different lengths and subjects: enough to see whether vectors stay where they were, too few to measure quality.
[[nodiscard]] inline std::span<const std::string_view> own_sentences() {
    static constexpr std::string_view sentences[] = {
        "Hello.",
        "What is the capital of Mongolia?",
        "The kettle began to sing just as the rain stopped.",
        "Interest rates rose for the third time this year, and small companies put off what they had planned "
        "to buy.",
        "To reset your password, follow the link in the message that we sent you within one hour.",
        "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
        "A binary search halves the remaining range at every step; of a million entries it looks at twenty.",
        "The tenant must give notice in writing three months in advance, and hand over all keys on the last "
        "day.",
        "How do I change the tyre of a bicycle without special tools?",
        "The orchestra tuned to a single long note from the oboe.",
        "Vaccines teach the immune system to recognise a danger it has never met. Some need one dose, others "
        "three, "
        "and a few must be given again after ten years, since what the body has learnt fades.",
        "When two threads write to the same memory without order, anything may happen.",
        "Salt lowers the temperature at which water freezes.",
        "The train leaves from platform seven at twenty past nine and reaches the coast before noon.",
        "int main(void) { return 0; }",
        "The committee postponed the vote until the missing figures arrive. Nobody had expected that the "
        "report, which "
        "was due in spring, would still be with the printers when the leaves began to fall; and yet the "
        "chair, who had "
        "seen many such reports, did not seem surprised in the least."};
    return sentences;
}

}  // namespace bitmill::detail
