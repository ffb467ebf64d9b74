// Makes chosen file operations below one folder fail, and writes down those that changed something. Preloaded
// (LD_PRELOAD) into the real command; tests/parity/io_faults.py sets the environment:
//
//   IO_FAULTS_FOLDER   only it and paths below it count
//   IO_FAULTS_KINDS    comma-separated names out of kind_names
//   IO_FAULTS_AT       the n-th such call, from 1; 0 strikes never
//   IO_FAULTS_REPEAT   once, forever (that call and all after it), alternate (that call and every second one)
//   IO_FAULTS_ACTION   an errno; or short (half of a transfer), kill, full (as a disk fills up: half of a
//                      transfer, then ENOSPC)
//   IO_FAULTS_OLD_KERNEL  set: there is no renameat2 and no openat2
//   IO_FAULTS_LOG      file to append the operations to
//   IO_FAULTS_RESULT   file for: calls counted, strikes, descriptors left open, where the first strike was
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

enum kind {
    k_open,
    k_create,
    k_read,
    k_write,
    k_fsync,
    k_truncate,
    k_fallocate,
    k_rename,
    k_unlink,
    k_mkdir,
    k_stat,
    k_readlink,
    k_readdir,
    k_flock,
    k_close
};
constexpr const char* kind_names[] = {"open",     "create",    "read",    "write",  "fsync",
                                      "truncate", "fallocate", "rename",  "unlink", "mkdir",
                                      "stat",     "readlink",  "readdir", "flock",  "close"};
constexpr int act_short = -1, act_kill = -2, act_full = -3;

// The function of this name that the program would have called.
#define NEXT(name) static const auto next = reinterpret_cast<decltype(&::name)>(::dlsym(RTLD_NEXT, #name))

std::string variable(const char* name) {
    const char* text = std::getenv(name);
    return text ? text : "";
}

int real_open(const char* path, int flags) {
    NEXT(open);
    return next(path, flags, 0666);
}

void real_write(int fd, const std::string& text) {
    NEXT(write);
    if (next(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) std::abort();
}

struct settings {
    std::string folder = variable("IO_FAULTS_FOLDER");
    std::string repeat = variable("IO_FAULTS_REPEAT");
    bool old_kernel = !variable("IO_FAULTS_OLD_KERNEL").empty();
    unsigned kinds = 0;
    long at = std::atol(variable("IO_FAULTS_AT").c_str());
    int action = 0;
    int log_fd = -1;
    std::atomic<long> calls{0};
    std::mutex mutex;  // of the log and of what follows
    long strikes = 0;
    std::string first;

    settings() {
        const std::string named = "," + variable("IO_FAULTS_KINDS") + ",";
        for (unsigned i = 0; i < std::size(kind_names); ++i)
            if (named.find("," + std::string(kind_names[i]) + ",") != std::string::npos) kinds |= 1u << i;
        const std::string what = variable("IO_FAULTS_ACTION");
        action = what == "short"  ? act_short
                 : what == "kill" ? act_kill
                 : what == "full" ? act_full
                                  : std::atoi(what.c_str());
        const std::string log = variable("IO_FAULTS_LOG");
        if (!log.empty()) log_fd = real_open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC);
    }

    [[nodiscard]] bool covers(const std::string& path) const {
        return !folder.empty() && path.starts_with(folder) &&
               (path.size() == folder.size() || path[folder.size()] == '/');
    }
};

settings& the() {
    static settings* const one = new settings;  // outlives every destructor
    return *one;
}

std::string path_of(int fd) {
    NEXT(readlink);
    const int saved = errno;
    std::string path(4096, '\0');
    const ssize_t length = next(("/proc/self/fd/" + std::to_string(fd)).c_str(), path.data(), path.size());
    path.resize(length < 0 ? 0 : static_cast<std::size_t>(length));
    errno = saved;
    return path;
}

std::string path_of(int folder_fd, const char* name) {
    if (name[0] == '/') return name;
    const std::string folder =
        folder_fd == AT_FDCWD ? std::filesystem::current_path().string() : path_of(folder_fd);
    return name[0] == '\0' ? folder : folder + "/" + name;
}

// What is to become of this call: 0 nothing, an errno, or act_short.
int strike(kind which, const std::string& path) {
    settings& s = the();
    if ((s.kinds >> which & 1) == 0 || !s.covers(path)) return 0;
    const long late = ++s.calls - s.at;
    if (s.at == 0 || late < 0) return 0;
    if (late > 0 && s.repeat != "forever" && (s.repeat != "alternate" || late % 2 != 0)) return 0;
    if (s.action == act_kill) ::kill(::getpid(), SIGKILL);
    const std::lock_guard lock(s.mutex);
    const bool is_first = s.strikes++ == 0;
    if (is_first) s.first = std::string(kind_names[which]) + " " + path;
    if (s.action == act_full) return is_first && which == k_write ? act_short : ENOSPC;
    return s.action;
}

// True where the call must fail, with errno set.
bool fails(kind which, const std::string& path) {
    const int action = strike(which, path);
    if (action > 0) errno = action;
    return action > 0;
}

void record(const std::string& path, const std::string& line, std::string_view data = {}) {
    settings& s = the();
    if (s.log_fd < 0 || !s.covers(path)) return;
    const int saved = errno;
    std::string whole = line + "\n";
    if (!data.empty()) whole.append(data).append("\n");
    const std::lock_guard lock(s.mutex);
    real_write(s.log_fd, whole);
    errno = saved;
}

struct stat facts_of(int fd) {
    NEXT(fstat);
    struct stat facts{};
    next(fd, &facts);
    return facts;
}

// st_ino 0: nothing is there.
struct stat facts_of(int folder_fd, const char* name) {
    NEXT(fstatat);
    const int saved = errno;
    struct stat facts{};
    if (next(folder_fd, name, &facts, AT_SYMLINK_NOFOLLOW) != 0) facts.st_ino = 0;
    errno = saved;
    return facts;
}

template <class Open>
int open_at(int folder_fd, const char* name, int flags, const Open& open) {
    const std::string path = path_of(folder_fd, name);
    if (fails((flags & O_CREAT) != 0 ? k_create : k_open, path)) return -1;
    const bool creates = (flags & O_CREAT) != 0 && facts_of(folder_fd, name).st_ino == 0;
    const int fd = open();
    if (fd >= 0 && creates) record(path, "create\t" + std::to_string(facts_of(fd).st_ino) + "\t" + path);
    return fd;
}

template <class Rename>
int rename_at(int from_fd, const char* from, int to_fd, const char* to, unsigned flags,
              const Rename& rename) {
    const std::string source = path_of(from_fd, from), target = path_of(to_fd, to);
    if (fails(k_rename, target)) return -1;
    const int status = rename();
    const char* what = (flags & RENAME_EXCHANGE) != 0 ? "exchange\t" : "rename\t";
    if (status == 0) record(target, what + source + "\t" + target);
    return status;
}

template <class Unlink>
int unlink_at(int folder_fd, const char* name, const Unlink& unlink) {
    const std::string path = path_of(folder_fd, name);
    if (fails(k_unlink, path)) return -1;
    const int status = unlink();
    if (status == 0) record(path, "unlink\t" + path);
    return status;
}

template <class Mkdir>
int mkdir_at(int folder_fd, const char* name, const Mkdir& mkdir) {
    const std::string path = path_of(folder_fd, name);
    if (fails(k_mkdir, path)) return -1;
    const int status = mkdir();
    if (status == 0) record(path, "mkdir\t" + std::to_string(facts_of(folder_fd, name).st_ino) + "\t" + path);
    return status;
}

template <class Move>
ssize_t transfer(kind which, int fd, std::size_t count, const Move& move) {
    const int action = strike(which, path_of(fd));
    if (action > 0) {
        errno = action;
        return -1;
    }
    return move(action == act_short && count > 1 ? count / 2 : count);
}

template <class Resize>
int resize_recorded(kind which, int fd, const Resize& resize) {
    const std::string path = path_of(fd);
    if (fails(which, path)) return -1;
    const int status = resize();
    if (status == 0) {
        const auto facts = facts_of(fd);
        record(path, "size\t" + std::to_string(facts.st_ino) + "\t" + std::to_string(facts.st_size));
    }
    return status;
}

template <class Sync>
int sync_recorded(int fd, const Sync& sync) {
    const std::string path = path_of(fd);
    if (fails(k_fsync, path)) return -1;
    const int status = sync();
    if (status == 0) record(path, "fsync\t" + std::to_string(facts_of(fd).st_ino));
    return status;
}

// At the program's end it should have closed whatever it opened below the folder.
__attribute__((destructor)) void tell_result() {
    const settings& s = the();
    const std::string file = variable("IO_FAULTS_RESULT");
    if (file.empty()) return;
    int left = 0;
    for (int fd = 0; fd < 256; ++fd) left += s.covers(path_of(fd)) ? 1 : 0;
    const int fd = real_open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC);
    real_write(fd, std::to_string(s.calls) + "\t" + std::to_string(s.strikes) + "\t" + std::to_string(left) +
                       "\t" + s.first);
}

}  // namespace

// ---- what the program and libstdc++ call -----------------------------------------------------------------
// `nm -D --undefined-only` of both gave the list; a call that is missing here neither fails nor is recorded.

extern "C" {

int open(const char* path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    NEXT(open);
    return open_at(AT_FDCWD, path, flags, [&] { return next(path, flags, mode); });
}

int openat(int folder_fd, const char* path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    NEXT(openat);
    return open_at(folder_fd, path, flags, [&] { return next(folder_fd, path, flags, mode); });
}

// renameat2 and openat2 come by number.
long syscall(long number, ...) noexcept {
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (long& one : a) one = va_arg(rest, long);
    va_end(rest);
    NEXT(syscall);
    const auto call = [&] { return static_cast<int>(next(number, a[0], a[1], a[2], a[3], a[4], a[5])); };
    const auto text = [&](int i) { return reinterpret_cast<const char*>(a[i]); };
    const auto fd = [&](int i) { return static_cast<int>(a[i]); };
    if (the().old_kernel && (number == SYS_openat2 || number == SYS_renameat2)) {
        errno = ENOSYS;
        return -1;
    }
    if (number == SYS_openat2)
        return open_at(fd(0), text(1), static_cast<int>(reinterpret_cast<const open_how*>(a[2])->flags),
                       call);
    if (number == SYS_renameat2)
        return rename_at(fd(0), text(1), fd(2), text(3), static_cast<unsigned>(a[4]), call);
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int close(int fd) {
    NEXT(close);
    const int action = strike(k_close, path_of(fd));
    const int status = next(fd);  // Linux closes it, whatever it says
    if (action <= 0) return status;
    errno = action;
    return -1;
}

ssize_t read(int fd, void* bytes, size_t count) {
    NEXT(read);
    return transfer(k_read, fd, count, [&](std::size_t some) { return next(fd, bytes, some); });
}

ssize_t pread(int fd, void* bytes, size_t count, off_t offset) {
    NEXT(pread);
    return transfer(k_read, fd, count, [&](std::size_t some) { return next(fd, bytes, some, offset); });
}

ssize_t pwrite(int fd, const void* bytes, size_t count, off_t offset) {
    NEXT(pwrite);
    return transfer(k_write, fd, count, [&](std::size_t some) {
        const ssize_t done = next(fd, bytes, some, offset);
        if (done > 0 && the().log_fd >= 0)
            record(path_of(fd),
                   "write\t" + std::to_string(facts_of(fd).st_ino) + "\t" + std::to_string(offset) + "\t" +
                       std::to_string(done),
                   {static_cast<const char*>(bytes), static_cast<std::size_t>(done)});
        return done;
    });
}

int fsync(int fd) {
    NEXT(fsync);
    return sync_recorded(fd, [&] { return next(fd); });
}

// Brings the bytes and the length to disk; times, which it may leave out, are not recorded.
int fdatasync(int fd) {
    NEXT(fdatasync);
    return sync_recorded(fd, [&] { return next(fd); });
}

int ftruncate(int fd, off_t bytes) noexcept {
    NEXT(ftruncate);
    return resize_recorded(k_truncate, fd, [&] { return next(fd, bytes); });
}

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
    NEXT(fallocate);
    return resize_recorded(k_fallocate, fd, [&] { return next(fd, mode, offset, bytes); });
}

int renameat(int from_fd, const char* from, int to_fd, const char* to) noexcept {
    NEXT(renameat);
    return rename_at(from_fd, from, to_fd, to, 0, [&] { return next(from_fd, from, to_fd, to); });
}

int rename(const char* from, const char* to) noexcept {
    NEXT(rename);
    return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0, [&] { return next(from, to); });
}

int unlink(const char* path) noexcept {
    NEXT(unlink);
    return unlink_at(AT_FDCWD, path, [&] { return next(path); });
}

int unlinkat(int folder_fd, const char* path, int flags) noexcept {
    NEXT(unlinkat);
    return unlink_at(folder_fd, path, [&] { return next(folder_fd, path, flags); });
}

int remove(const char* path) noexcept {
    NEXT(remove);
    return unlink_at(AT_FDCWD, path, [&] { return next(path); });
}

int mkdir(const char* path, mode_t mode) noexcept {
    NEXT(mkdir);
    return mkdir_at(AT_FDCWD, path, [&] { return next(path, mode); });
}

int mkdirat(int folder_fd, const char* path, mode_t mode) noexcept {
    NEXT(mkdirat);
    return mkdir_at(folder_fd, path, [&] { return next(folder_fd, path, mode); });
}

int stat(const char* path, struct stat* facts) noexcept {
    NEXT(stat);
    return fails(k_stat, path_of(AT_FDCWD, path)) ? -1 : next(path, facts);
}

int lstat(const char* path, struct stat* facts) noexcept {
    NEXT(lstat);
    return fails(k_stat, path_of(AT_FDCWD, path)) ? -1 : next(path, facts);
}

int fstat(int fd, struct stat* facts) noexcept {
    NEXT(fstat);
    return fails(k_stat, path_of(fd)) ? -1 : next(fd, facts);
}

int fstatat(int folder_fd, const char* path, struct stat* facts, int flags) noexcept {
    NEXT(fstatat);
    return fails(k_stat, path_of(folder_fd, path)) ? -1 : next(folder_fd, path, facts, flags);
}

ssize_t readlink(const char* path, char* target, size_t bytes) noexcept {
    NEXT(readlink);
    return fails(k_readlink, path_of(AT_FDCWD, path)) ? -1 : next(path, target, bytes);
}

ssize_t readlinkat(int folder_fd, const char* path, char* target, size_t bytes) noexcept {
    NEXT(readlinkat);
    return fails(k_readlink, path_of(folder_fd, path)) ? -1 : next(folder_fd, path, target, bytes);
}

char* realpath(const char* path, char* resolved) noexcept {
    NEXT(realpath);
    return fails(k_readlink, path_of(AT_FDCWD, path)) ? nullptr : next(path, resolved);
}

ssize_t getdents64(int folder_fd, void* entries, size_t bytes) noexcept {
    NEXT(getdents64);
    return fails(k_readdir, path_of(folder_fd)) ? -1 : next(folder_fd, entries, bytes);
}

int flock(int fd, int operation) noexcept {
    NEXT(flock);
    return fails(k_flock, path_of(fd)) ? -1 : next(fd, operation);
}

}  // extern "C"
