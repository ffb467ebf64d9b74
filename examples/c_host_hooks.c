/* The host's own threads, memory, log and progress, from C.
 *
 *     c_host_hooks MODEL OUT
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <bitmill.h>

enum {
    THREADS = 3
};

/* ---- memory with a hard bound ---- */

struct budget {
    pthread_mutex_t lock; /* tiles run at the same time */
    size_t limit, used, peak;
};

static void* allocate(void* context, size_t bytes, size_t alignment) {
    struct budget* budget = context;
    void* memory = NULL;
    (void)alignment; /* at most 16, which malloc gives */
    pthread_mutex_lock(&budget->lock);
    if (bytes <= budget->limit - budget->used) memory = malloc(bytes);
    if (memory != NULL) {
        budget->used += bytes;
        if (budget->used > budget->peak) budget->peak = budget->used;
    }
    pthread_mutex_unlock(&budget->lock);
    return memory; /* NULL: the call returns BITMILL_OUT_OF_MEMORY */
}

static void deallocate(void* context, void* memory, size_t bytes, size_t alignment) {
    struct budget* budget = context;
    (void)alignment;
    pthread_mutex_lock(&budget->lock);
    budget->used -= bytes;
    pthread_mutex_unlock(&budget->lock);
    free(memory);
}

/* ---- threads: here started for each call, in a service a pool ---- */

struct job {
    pthread_mutex_t lock;
    size_t next, count;
    void (*task)(void* task_context, size_t index);
    void* task_context;
};

static void* work(void* argument) {
    struct job* job = argument;
    for (;;) {
        size_t index;
        pthread_mutex_lock(&job->lock);
        index = job->next++;
        pthread_mutex_unlock(&job->lock);
        if (index >= job->count) return NULL;
        job->task(job->task_context, index);
    }
}

static void parallel_for(void* context, size_t count, void (*task)(void*, size_t), void* task_context) {
    struct job job = {PTHREAD_MUTEX_INITIALIZER, 0, count, task, task_context};
    pthread_t threads[THREADS];
    int i, started = 0;
    while (started < THREADS && pthread_create(&threads[started], NULL, work, &job) == 0) ++started;
    if (started == 0) work(&job);
    for (i = 0; i < started; ++i) pthread_join(threads[i], NULL);
    *(size_t*)context += count;
}

/* ---- what people see ---- */

static void log_line(void* context, bitmill_log_level level, const char* line) {
    fprintf(context, "%s: %s\n", level == BITMILL_LOG_WARNING ? "warning" : "info", line);
}

/* From any thread, one call at a time. Anything but 0 cancels. */
static int32_t progress(void* context, uint64_t done_bytes, uint64_t total_bytes) {
    *(double*)context = total_bytes == 0 ? 100 : 100.0 * (double)done_bytes / (double)total_bytes;
    return 0;
}

int main(int argc, char** argv) {
    struct budget budget = {PTHREAD_MUTEX_INITIALIZER, (size_t)16 << 20, 0, 0};
    bitmill_error error = BITMILL_ERROR_INIT;
    bitmill_hooks hooks = BITMILL_HOOKS_INIT;
    bitmill_mill_options options = BITMILL_MILL_OPTIONS_INIT;
    size_t tasks = 0;
    double percent = 0;
    bitmill_status status;

    if (argc < 3) {
        fprintf(stderr, "c_host_hooks MODEL OUT\n");
        return 2;
    }
    hooks.memory_context = &budget;
    hooks.allocate = allocate;
    hooks.deallocate = deallocate;
    hooks.parallel_context = &tasks;
    hooks.parallel_for = parallel_for;
    hooks.log_context = stderr;
    hooks.log = log_line;
    hooks.progress_context = &percent;
    hooks.progress = progress;
    options.to = "int4";
    options.threads = THREADS; /* tiles in flight at most */
    options.hooks = &hooks;

    status = bitmill_mill(argv[1], argv[2], &options, NULL, &error);
    printf("%s: %.0f %%, peak %lu of %lu bytes, %lu left behind, %lu tasks on our threads\n",
           status == BITMILL_OK ? "done" : error.message, percent, (unsigned long)budget.peak,
           (unsigned long)budget.limit, (unsigned long)budget.used, (unsigned long)tasks);
    return status != BITMILL_OK;
}
