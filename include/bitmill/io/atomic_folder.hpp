// A folder that appears whole or not at all.
#pragma once

#include <set>
#include <string>

#include <bitmill/core/error.hpp>
#include <bitmill/io/file.hpp>

namespace bitmill {

// Builds the folder OUT in its sibling OUT.bitmill-partial and swaps it in. Whatever happens, a kill or a
// power cut too, OUT is what it was or the new folder, never a mix. Move-only; path_of is safe from many
// threads, commit is not.
class atomic_folder {
public:
    // Makes the partial folder and locks it against other processes (io if one holds it). What a killed run
    // left there is deleted, unless it began a journal with `key` (not ""): then it stays. source_root, "" for none,
    // is the model that is being read: OUT may lie in it but must not be it or hold it. An OUT that exists is invalid_argument unless `force`; with force
    // it is replaced only if it is empty or looks like a model (config.json and *.safetensors, or manifest.json
    // and *.gguf).
    // With `single`, the name of a file that will lie in the folder, OUT becomes that file alone and the folder goes;
    // an OUT that exists is then replaced only if it is a file.
    [[nodiscard]] static result<atomic_folder> create(const std::string& out, const std::string& source_root,
                                                      bool force, std::string key = {},
                                                      std::string single = {});

    // Of an OUT that is finished and stays: takes away what killed runs left in it and beside it. Where another
    // process is at work there, it does nothing.
    [[nodiscard]] static result<void> tidy(const std::string& out, const std::string& source_root);

    atomic_folder(atomic_folder&& other) noexcept;
    atomic_folder& operator=(atomic_folder&& other) noexcept;
    atomic_folder(const atomic_folder&) = delete;
    atomic_folder& operator=(const atomic_folder&) = delete;
    ~atomic_folder();  // without a commit: deletes the partial folder, unless keep_partial() was called

    [[nodiscard]] const std::string& out() const noexcept { return out_; }  // absolute
    // Absolute path inside the partial folder; its parent folders are made. Throws exception
    // (invalid_argument) for a name that would leave the folder.
    [[nodiscard]] std::string path_of(const std::string& relative) const;

    [[nodiscard]] const std::string& key() const noexcept { return key_; }
    // Is what a killed run left still there?
    [[nodiscard]] bool resumes() const noexcept { return resumes_; }
    // Where the journal lies, which begins with key() and says what of the folder is done. commit() deletes it.
    [[nodiscard]] std::string journal_path() const;
    // Brings the names of what lies directly in the folder to disk.
    [[nodiscard]] result<void> sync_names() const;
    // Deletes what a killed run left, but the journal and the files of these names; or all of it.
    [[nodiscard]] result<void> keep_only(const std::set<std::string>& names);
    [[nodiscard]] result<void> start_anew();
    // Without a commit the partial folder stays, as after a kill.
    void keep_partial() noexcept { keeps_ = true; }

    // fsyncs every file and folder, swaps, fsyncs the parent, deletes the old folder. On an error before
    // the swap OUT is untouched and the partial folder is deleted with this object; an error after it
    // says that the new folder is in place.
    [[nodiscard]] result<void> commit();

private:
    atomic_folder() = default;
    result<void> check_out(const std::string& source_root) const;
    result<void> acquire_partial();
    result<void> take_over(bool stale);
    int swap_names(bool replaces, const char*& old_at) noexcept;
    result<void> swap_in();
    result<void> swap_in_file();
    result<void> clear_away(int placed_fd, const char* old_at, int old_fd);
    void discard() noexcept;

    std::string out_;            // canonical parent + name
    std::string name_;           // last part of OUT
    std::string partial_, old_;  // its siblings
    std::string key_;
    std::string single_;  // "": the whole folder
    bool force_ = false;
    bool resumes_ = false;
    bool keeps_ = false;
    int parent_fd_ = -1;
    int partial_fd_ = -1;  // holds the lock; -1 once committed or moved from
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/atomic_folder-inl.hpp>
#endif
