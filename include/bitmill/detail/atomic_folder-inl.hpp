#pragma once

#include <bitmill/io/atomic_folder.hpp>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bitmill/detail/beneath-inl.hpp>
#include <bitmill/detail/folder_tools-inl.hpp>
#include <bitmill/detail/io_error-inl.hpp>

namespace bitmill {

namespace detail {
inline constexpr const char* partial_suffix = ".bitmill-partial";
// Only where the file system cannot exchange two names: OUT waits here while the new folder moves in.
inline constexpr const char* old_suffix = ".bitmill-old";

inline constexpr const char* busy_message = "another bitmill is writing it; wait for it to end";
// Of atomic_folder::create: what was asked for is sound, and only its time has not come.
inline bool is_busy(const error& what) noexcept {
    return what.code == error_code::io && what.message == busy_message;
}

}  // namespace detail

BITMILL_INLINE atomic_folder::atomic_folder(atomic_folder&& other) noexcept
    : out_(std::move(other.out_)), name_(std::move(other.name_)), partial_(std::move(other.partial_)),
      old_(std::move(other.old_)), key_(std::move(other.key_)), single_(std::move(other.single_)),
      force_(other.force_), resumes_(other.resumes_), keeps_(other.keeps_),
      parent_fd_(std::exchange(other.parent_fd_, -1)), partial_fd_(std::exchange(other.partial_fd_, -1)) {}

BITMILL_INLINE atomic_folder& atomic_folder::operator=(atomic_folder&& other) noexcept {
    if (this != &other) {
        discard();
        out_ = std::move(other.out_);
        name_ = std::move(other.name_);
        partial_ = std::move(other.partial_);
        old_ = std::move(other.old_);
        key_ = std::move(other.key_);
        single_ = std::move(other.single_);
        force_ = other.force_;
        resumes_ = other.resumes_;
        keeps_ = other.keeps_;
        parent_fd_ = std::exchange(other.parent_fd_, -1);
        partial_fd_ = std::exchange(other.partial_fd_, -1);
    }
    return *this;
}

BITMILL_INLINE atomic_folder::~atomic_folder() { discard(); }

BITMILL_INLINE result<atomic_folder> atomic_folder::create(const std::string& out,
                                                           const std::string& source_root, bool force,
                                                           std::string key, std::string single) {
    namespace fs = std::filesystem;
    const auto refuse = [&](std::string message) {
        return detail::make_error(error_code::invalid_argument, std::move(message), out);
    };
    std::string trimmed = out;
    while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
    const auto slash = trimmed.rfind('/');
    atomic_folder made;
    made.key_ = std::move(key);
    made.single_ = std::move(single);
    made.force_ = force;
    made.name_ = slash == std::string::npos ? trimmed : trimmed.substr(slash + 1);
    if (detail::why_not_relative(made.name_) != nullptr)
        return refuse("the output needs a folder name of its own");
    if (made.name_.ends_with(detail::partial_suffix) || made.name_.ends_with(detail::old_suffix))
        return refuse("names with this ending are for unfinished work; choose another");
    made.partial_ = made.name_ + detail::partial_suffix;
    made.old_ = made.name_ + detail::old_suffix;
    const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : trimmed.substr(0, slash);
    std::error_code failed;
    const fs::path real_parent = fs::canonical(parent, failed);
    if (failed)
        return detail::os_error(failed.value(), "the output's parent folder must be there already", parent);
    made.out_ = (real_parent / made.name_).string();
    made.parent_fd_ =
        detail::retrying([&] { return ::open(real_parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
    if (made.parent_fd_ < 0) return detail::os_error(errno, "cannot open the output's parent folder", parent);
    if (auto checked = made.check_out(source_root); !checked) return checked.error();
    if (auto locked = made.acquire_partial(); !locked) return locked.error();
    // Under the lock once more: another process may have just finished, or an OUT been recovered.
    if (auto checked = made.check_out({}); !checked) return checked.error();
    return made;
}

BITMILL_INLINE result<void> atomic_folder::tidy(const std::string& given, const std::string& source_root) {
    std::string out = given;
    while (out.size() > 1 && out.back() == '/') out.pop_back();
    const auto marked = detail::is_there(out + "/" + detail::partial_marker);
    if (!marked) return marked.error();
    const auto left = detail::is_there(out + detail::partial_suffix + "/" + detail::partial_marker);
    if (!left) return left.error();
    if (!*marked && !*left) return {};
    const auto held = create(out, source_root, true);
    if (!held) return {};
    // The swap itself must be on disk before the new folder loses its mark.
    if (*marked)
        if (auto synced = detail::sync_names(held->parent_fd_, out); !synced) return synced;
    if (*marked && ::unlink((out + "/" + detail::partial_marker).c_str()) != 0 && errno != ENOENT)
        return detail::os_error(errno, "cannot delete", out + "/" + detail::partial_marker);
    return {};
}

BITMILL_INLINE result<void> atomic_folder::check_out(const std::string& source_root) const {
    const auto refuse = [&](std::string message) {
        return detail::make_error(error_code::invalid_argument, std::move(message), out_);
    };
    if (!source_root.empty()) {
        for (const std::string& name : {name_, partial_, old_}) {
            auto holds = detail::is_at_or_above(parent_fd_, name, source_root);
            if (!holds) return holds.error();
            if (*holds)
                return refuse("the model that is read, " + source_root +
                              ", lies in it or is it; choose another output");
        }
    }
    struct stat facts{};
    if (::fstatat(parent_fd_, name_.c_str(), &facts, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT) return {};
        return detail::os_error(errno, "cannot look at the output", out_);
    }
    const bool file = !single_.empty();
    if (S_ISLNK(facts.st_mode))
        return refuse(file ? "is a symbolic link; give the file itself"
                           : "is a symbolic link; give the folder itself");
    if (file ? !S_ISREG(facts.st_mode) : !S_ISDIR(facts.st_mode))
        return refuse(file ? "is not a file; choose another output"
                           : "is not a folder; choose another output");
    if (!force_) return refuse("exists already; choose another output, or replace it with --force");
    if (file) return {};
    auto replaceable = detail::looks_replaceable(out_);
    if (!replaceable) return replaceable.error();
    if (!*replaceable)
        return refuse(
            "is a folder that does not look like a model (config.json and *.safetensors, or manifest.json "
            "and *.gguf), so not even "
            "--force deletes it; choose another output");
    return {};
}

BITMILL_INLINE result<void> atomic_folder::acquire_partial() {
    const std::string shown = out_ + detail::partial_suffix;
    // A lock on a folder that was swapped in or deleted meanwhile is worth nothing: look again.
    for (int attempt = 0; attempt < 100; ++attempt) {
        // Takes away again what was made. It is still empty; were it not, this would do nothing.
        struct taken {
            const atomic_folder& folder;
            bool made;
            ~taken() {
                if (made) ::unlinkat(folder.parent_fd_, folder.partial_.c_str(), AT_REMOVEDIR);
            }
        } undo{*this, ::mkdirat(parent_fd_, partial_.c_str(), 0777) == 0};
        if (!undo.made && errno != EEXIST) return detail::os_error(errno, "cannot make the folder", shown);
        detail::unique_fd fd = detail::open_folder(parent_fd_, partial_.c_str());
        if (!fd && errno == ENOENT) continue;
        if (!fd) return detail::os_error(errno, "cannot open the folder for unfinished work", shown);
        if (!detail::lock(fd.get())) {
            if (errno != EWOULDBLOCK) return detail::os_error(errno, "cannot lock the folder", shown);
            undo.made = false;
            return detail::make_error(error_code::io, detail::busy_message, out_);
        }
        if (!detail::is_entry(parent_fd_, partial_, fd.get())) {
            undo.made = false;
            continue;
        }
        const auto stale = detail::is_stale_partial(shown);
        if (!stale) return stale.error();
        partial_fd_ = fd.release();  // from here on it is this object's to delete
        undo.made = false;
        if (auto taken = take_over(*stale); !taken) return taken;
        return detail::recover_old(parent_fd_, name_, out_);
    }
    return detail::make_error(error_code::io, detail::busy_message, out_);
}

BITMILL_INLINE result<void> atomic_folder::take_over(bool stale) {
    resumes_ = stale && !key_.empty() && detail::begins_with(partial_fd_, detail::journal_name, key_);
    if (resumes_) return {};
    // Perhaps the old model: the swap itself must be on disk first, or a power cut brings it back empty.
    if (stale)
        if (auto synced = detail::sync_names(parent_fd_, out_); !synced) return synced;
    return start_anew();
}

// The marker comes with an fsync of the names: a journal that a power cut brought back would speak of files that
// are new since.
BITMILL_INLINE result<void> atomic_folder::start_anew() {
    resumes_ = false;
    const std::string shown = out_ + detail::partial_suffix;
    if (const int failed = detail::empty_folder(partial_fd_, detail::partial_marker); failed != 0)
        return detail::os_error(failed, "cannot delete what is in it", shown);
    if (!detail::make_marker(partial_fd_))
        return detail::os_error(errno, "cannot write to the folder", shown);
    return {};
}

BITMILL_INLINE result<void> atomic_folder::keep_only(const std::set<std::string>& names) {
    std::set<std::string> kept = names;
    kept.insert({detail::partial_marker, detail::journal_name});
    return detail::keep_only(out_ + detail::partial_suffix, {}, kept);
}

BITMILL_INLINE std::string atomic_folder::journal_path() const { return path_of(detail::journal_name); }

BITMILL_INLINE result<void> atomic_folder::sync_names() const {
    return detail::sync_names(partial_fd_, out_ + detail::partial_suffix);
}

BITMILL_INLINE std::string atomic_folder::path_of(const std::string& relative) const {
    const std::string path = out_ + detail::partial_suffix + "/" + relative;
    if (const char* why = detail::why_not_relative(relative))
        throw exception(detail::make_error(error_code::invalid_argument, why, path));
    std::error_code failed;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path(), failed);
    if (failed) throw exception(detail::os_error(failed.value(), "cannot make its folder", path));
    return path;
}

BITMILL_INLINE result<void> atomic_folder::commit() {
    if (partial_fd_ < 0)
        return detail::make_error(error_code::invalid_argument, "the folder is already committed", out_);
    // A finished folder is never taken for one to go on with, even if a kill leaves it under the partial's name.
    if (::unlinkat(partial_fd_, detail::journal_name, 0) != 0 && errno != ENOENT)
        return detail::os_error(errno, "cannot delete", journal_path());
    if (auto synced = detail::sync_tree(out_ + detail::partial_suffix); !synced) return synced;
    if (auto checked = check_out({}); !checked) return checked;
    return single_.empty() ? swap_in() : swap_in_file();
}

BITMILL_INLINE result<void> atomic_folder::swap_in_file() {
    // Without force another process's file, made since check_out, is left alone, too.
    const int failed = detail::rename_with(partial_fd_, single_.c_str(), parent_fd_, name_.c_str(),
                                           force_ ? 0 : RENAME_NOREPLACE);
    if (failed != 0) return detail::os_error(errno, "cannot move the finished file to its place", out_);
    auto synced = detail::sync_names(parent_fd_, out_);
    discard();
    if (synced) return {};
    error why = synced.error();
    why.message = "the new file is in place, but: " + why.message;
    return why;
}

// Returns 0, or what errno says. From the swap on nothing may need memory: an exception would leave the new folder
// in place without a word. old_at: the name under which the old folder now waits to be deleted, null for none.
BITMILL_INLINE int atomic_folder::swap_names(bool replaces, const char*& old_at) noexcept {
    const auto rename = [&](const std::string& from, const std::string& to, unsigned flags) {
        return detail::rename_with(parent_fd_, from.c_str(), parent_fd_, to.c_str(), flags) == 0;
    };
    old_at = nullptr;
    if (!replaces) return rename(partial_, name_, RENAME_NOREPLACE) ? 0 : errno;
    old_at = partial_.c_str();
    if (rename(partial_, name_, RENAME_EXCHANGE)) return 0;
    if (errno != EINVAL && errno != ENOSYS) return errno;
    old_at = old_.c_str();
    if (!rename(name_, old_, RENAME_NOREPLACE)) return errno;
    if (rename(partial_, name_, RENAME_NOREPLACE)) return 0;
    const int why = errno;
    ::renameat(parent_fd_, old_.c_str(), parent_fd_, name_.c_str());
    return why;
}

BITMILL_INLINE result<void> atomic_folder::swap_in() {
    const detail::unique_fd old = detail::open_folder(parent_fd_, name_.c_str());
    if (!old && errno != ENOENT) return detail::os_error(errno, "cannot open the folder to replace", out_);
    if (old) {
        // The old folder is about to bear the partial's name: the lock keeps a second process, which would
        // take it for a stale partial, away until it is gone.
        if (!detail::lock(old.get()))
            return detail::os_error(errno, "cannot lock the folder to replace", out_);
        // Should its deletion be cut off, the next run may finish it. On a full disk it must do without.
        (void)detail::make_marker(old.get());
    }
    const char* old_at = nullptr;
    if (const int failed = swap_names(static_cast<bool>(old), old_at); failed != 0) {
        if (old) ::unlinkat(old.get(), detail::partial_marker, 0);
        return detail::os_error(failed, "cannot move the finished folder to its place", out_);
    }
    // From here on OUT is the new folder, whatever else fails.
    const detail::unique_fd placed(std::exchange(partial_fd_, -1));
    if (auto cleared = clear_away(placed.get(), old_at, old.get()); !cleared) {
        error why = cleared.error();
        why.message = "the new folder is in place, but: " + why.message;
        return why;
    }
    return {};
}

// After the swap. Until the new names are on disk a power cut may bring back the old ones: no earlier may the old
// folder be deleted, or the new one, whose name is still the partial's then, lose its mark.
BITMILL_INLINE result<void> atomic_folder::clear_away(int placed_fd, const char* old_at, int old_fd) {
    if (auto synced = detail::sync_names(parent_fd_, out_); !synced) return synced;
    result<void> unmarked;
    if (::unlinkat(placed_fd, detail::partial_marker, 0) != 0 && errno != ENOENT)
        unmarked = detail::os_error(errno, "cannot delete", out_ + "/" + detail::partial_marker);
    else
        unmarked = detail::sync_names(placed_fd, out_);
    if (old_at == nullptr) return unmarked;
    if (const int failed = detail::delete_folder(parent_fd_, old_at, old_fd); failed != 0)
        return detail::os_error(failed, "cannot delete", std::filesystem::path(out_).parent_path() / old_at);
    if (auto synced = detail::sync_names(parent_fd_, out_); !synced) return synced;
    return unmarked;
}

BITMILL_INLINE void atomic_folder::discard() noexcept {
    if (partial_fd_ >= 0) {
        // Nobody to tell: the next run deletes what is left.
        if (!keeps_) (void)detail::delete_folder(parent_fd_, partial_.c_str(), partial_fd_);
        ::close(std::exchange(partial_fd_, -1));
    }
    if (parent_fd_ >= 0) ::close(std::exchange(parent_fd_, -1));
}

}  // namespace bitmill
