/* A host that lends its memory, its threads and its log: the library uses nothing else. */
#include <pthread.h>

#include "support.h"

static char folder[256];

/* ---- memory: counted, with marked bytes around each piece, filled with a mark when it comes and goes ---------- */

enum {
    guard_bytes = 64,
    workers = 3
};

struct memory {
    pthread_mutex_t mutex;
    size_t pieces, bytes, peak_bytes, largest;
};

static void* lend(void* context, size_t bytes, size_t alignment) {
    struct memory* memory = context;
    unsigned char* piece;
    void* raw = NULL;
    CHECK(alignment != 0 && alignment <= 16 && (alignment & (alignment - 1)) == 0);
    if (posix_memalign(&raw, 64, bytes + 2 * guard_bytes) != 0) return NULL;
    piece = raw;
    memset(piece, 0xa5, bytes + 2 * guard_bytes);
    pthread_mutex_lock(&memory->mutex);
    ++memory->pieces;
    memory->bytes += bytes;
    if (memory->bytes > memory->peak_bytes) memory->peak_bytes = memory->bytes;
    if (bytes > memory->largest) memory->largest = bytes;
    pthread_mutex_unlock(&memory->mutex);
    /* Aligned to what was asked for and to no more. */
    return piece + (alignment == 16 ? guard_bytes : alignment);
}

static void take_back(void* context, void* lent, size_t bytes, size_t alignment) {
    struct memory* memory = context;
    const size_t front = alignment == 16 ? guard_bytes : alignment;
    unsigned char* piece = (unsigned char*)lent - front;
    size_t i, marked = 0;
    for (i = 0; i < front; ++i) marked += piece[i] == 0xa5;
    for (i = front + bytes; i < bytes + 2 * guard_bytes; ++i) marked += piece[i] == 0xa5;
    CHECK(marked == 2 * guard_bytes);
    pthread_mutex_lock(&memory->mutex);
    --memory->pieces;
    memory->bytes -= bytes;
    pthread_mutex_unlock(&memory->mutex);
    memset(lent, 0x5a, bytes);
    free(piece);
}

/* ---- threads: a fixed team that shares the tasks out by number ------------------------------------------------- */

struct team {
    unsigned calls, tasks[workers];
    int threads_before, threads_seen; /* of the process */
};
struct job {
    struct team* team;
    size_t count, worker;
    void (*task)(void*, size_t);
    void* context;
};

static int threads_of_process(void) { return count_entries("/proc/self/task"); }

/* A thread that was joined may still be listed for a moment. */
static int are_alone(const struct team* team) {
    unsigned tries;
    for (tries = 0; tries < 10000; ++tries) {
        if (threads_of_process() == team->threads_before) return 1;
        usleep(1000);
    }
    return 0;
}

/* ThreadSanitizer keeps a thread of its own, from the program's first one on. */
static void* no_work(void* argument) { return argument; }
static void count_team(struct team* team) {
    pthread_t first;
    if (pthread_create(&first, NULL, no_work, NULL) != 0 || pthread_join(first, NULL) != 0) exit(2);
    usleep(100000);
    team->threads_before = threads_of_process();
}

static void* work(void* argument) {
    struct job* job = argument;
    size_t i;
    for (i = job->worker; i < job->count; i += workers) {
        job->task(job->context, i);
        ++job->team->tasks[job->worker];
    }
    return NULL;
}

static void parallel_for(void* context, size_t count, void (*task)(void*, size_t), void* task_context) {
    struct team* team = context;
    pthread_t threads[workers];
    struct job jobs[workers];
    size_t i;
    ++team->calls;
    CHECK(are_alone(team));
    for (i = 0; i < workers; ++i) {
        const struct job job = {team, count, i, task, task_context};
        jobs[i] = job;
        if (pthread_create(&threads[i], NULL, work, &jobs[i]) != 0) exit(2);
    }
    for (i = 0; i < workers; ++i) pthread_join(threads[i], NULL);
}

/* ---- log and progress ------------------------------------------------------------------------------------------ */

struct log {
    pthread_t caller;
    unsigned infos, warnings;
    int told_the_end;
};
static void on_log(void* context, bitmill_log_level level, const char* line) {
    struct log* log = context;
    CHECK(pthread_equal(pthread_self(), log->caller));
    CHECK(line[0] != 0 && strpbrk(line, "\r\n") == NULL);
    CHECK(level == BITMILL_LOG_INFO || level == BITMILL_LOG_WARNING);
    if (level == BITMILL_LOG_INFO) ++log->infos;
    if (level == BITMILL_LOG_WARNING) ++log->warnings;
    if (strstr(line, "wrote") != NULL && strstr(line, folder) != NULL) log->told_the_end = 1;
}

struct steps {
    struct team* team;
    unsigned calls, stop_at;
    int inside; /* one call at a time */
};
static int32_t on_progress(void* context, uint64_t done_bytes, uint64_t total_bytes) {
    struct steps* steps = context;
    const int threads = threads_of_process();
    CHECK(!steps->inside && done_bytes <= total_bytes);
    steps->inside = 1;
    if (threads > steps->team->threads_seen) steps->team->threads_seen = threads;
    steps->inside = 0;
    return ++steps->calls == steps->stop_at;
}

int main(void) {
    struct memory memory = {PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, 0};
    struct team team = {0, {0}, 0, 0};
    struct log log = {0, 0, 0, 0};
    struct steps steps = {NULL, 0, 0, 0};
    bitmill_hooks hooks = BITMILL_HOOKS_INIT;
    bitmill_mill_options options = BITMILL_MILL_OPTIONS_INIT;
    bitmill_dequantize_options back = BITMILL_DEQUANTIZE_OPTIONS_INIT;
    bitmill_report* report = NULL;
    bitmill_error error = BITMILL_ERROR_INIT;
    unsigned calls;

    make_folder(folder, sizeof folder);
    make_model(join(folder, "model"));
    count_team(&team);
    steps.team = &team;
    log.caller = pthread_self();
    hooks.memory_context = &memory;
    hooks.allocate = lend;
    hooks.deallocate = take_back;
    hooks.parallel_context = &team;
    hooks.parallel_for = parallel_for;
    hooks.log_context = &log;
    hooks.log = on_log;
    hooks.progress_context = &steps;
    hooks.progress = on_progress;

    options.to = "nf4";
    options.double_quant = 1;
    options.threads = workers;
    options.hooks = &hooks;
    EXPECT(BITMILL_OK, bitmill_mill(join(folder, "model"), join(folder, "nf4"), &options, &report, &error),
           &error);
    /* Each matrix is a tile of 96 KiB and more; the report alone is still the library's. */
    CHECK(memory.peak_bytes > 96 << 10 && memory.largest >= 96 << 10);
    CHECK(memory.pieces == 1);
    free(json_of(report));
    bitmill_report_destroy(report);
    CHECK(memory.pieces == 0 && memory.bytes == 0);
    CHECK(team.calls >= 2 && team.tasks[0] > 0 && team.tasks[1] > 0 && team.tasks[2] > 0);
    CHECK(team.threads_seen <= team.threads_before + workers);
    CHECK(log.infos >= 2 && log.told_the_end);
    CHECK(steps.calls > 0);
    CHECK(are_alone(&team));

    memory.largest = 0;
    back.hooks = &hooks;
    back.threads = workers;
    calls = team.calls;
    EXPECT(BITMILL_OK, bitmill_dequantize(join(folder, "nf4"), join(folder, "back"), &back, &report, &error),
           &error);
    CHECK(memory.largest >= 96 << 10 && team.calls > calls);
    bitmill_report_destroy(report);
    EXPECT(BITMILL_OK, bitmill_inspect(join(folder, "nf4"), &hooks, &report, &error), &error);
    CHECK(memory.pieces == 1);
    bitmill_report_destroy(report);
    CHECK(memory.pieces == 0 && memory.bytes == 0);

    steps.stop_at = steps.calls + 2;
    options.force = 1;
    EXPECT(BITMILL_CANCELLED,
           bitmill_mill(join(folder, "model"), join(folder, "nf4"), &options, &report, &error), &error);
    CHECK(report == NULL && memory.pieces == 0 && memory.bytes == 0);
    CHECK(count_entries(folder) == 3);
    remove_folder(folder);
    return failures != 0;
}
