/* A model folder in, a smaller one out: options, report, progress, cancelling, inspecting, and back. */
#include <math.h>

#include "support.h"

static char folder[256];

static int contains(const char* text, const char* part) { return strstr(text, part) != NULL; }

struct steps {
    uint64_t done, total;
    unsigned calls, stop_at;
};
static int32_t on_progress(void* context, uint64_t done_bytes, uint64_t total_bytes) {
    struct steps* steps = context;
    CHECK(done_bytes >= steps->done && done_bytes <= total_bytes);
    steps->done = done_bytes;
    steps->total = total_bytes;
    return ++steps->calls == steps->stop_at;
}

static bitmill_mill_options int8_options(const bitmill_hooks* hooks) {
    bitmill_mill_options options = BITMILL_MILL_OPTIONS_INIT;
    options.to = "int8";
    options.granularity = "per_channel";
    options.threads = 2;
    options.hooks = hooks;
    return options;
}

/* Mills, and returns how often progress was reported. */
static unsigned mill(void) {
    static const char* const exclude[] = {"query"};
    struct steps steps = {0, 0, 0, 0};
    bitmill_hooks hooks = BITMILL_HOOKS_INIT;
    bitmill_mill_options options;
    bitmill_report* report = NULL;
    bitmill_error error = BITMILL_ERROR_INIT;
    char* json;
    hooks.progress = on_progress;
    hooks.progress_context = &steps;
    options = int8_options(&hooks);
    options.exclude = exclude;
    options.exclude_count = 1;
    EXPECT(BITMILL_OK, bitmill_mill(join(folder, "model"), join(folder, "int8"), &options, &report, &error),
           &error);
    CHECK(report != NULL && steps.calls > 2 && steps.done == steps.total);
    json = json_of(report);
    CHECK(contains(json, "\"requested\": \"int8 per_channel\""));
    CHECK(contains(json, "\"format\": \"compressed-tensors\""));
    CHECK(contains(json, "encoder.layer.0.attention.self.query.weight"));
    CHECK(contains(json, "\"dry_run\": false"));
    free(json);
    bitmill_report_destroy(report);
    CHECK(exists(join(folder, "int8/config.json")) && exists(join(folder, "int8/tokenizer.json")));
    return steps.calls;
}

static void plan_only(void) {
    bitmill_mill_options options = int8_options(NULL);
    bitmill_report* report = NULL;
    bitmill_error error = BITMILL_ERROR_INIT;
    const int before = count_entries(folder);
    char* json;
    options.dry_run = 1;
    EXPECT(BITMILL_OK, bitmill_mill(join(folder, "model"), "", &options, &report, &error), &error);
    json = json_of(report);
    CHECK(contains(json, "\"dry_run\": true"));
    CHECK(count_entries(folder) == before);
    free(json);
    bitmill_report_destroy(report);
}

static void inspect(void) {
    bitmill_report* report = NULL;
    bitmill_error error = BITMILL_ERROR_INIT;
    char* json;
    EXPECT(BITMILL_OK, bitmill_inspect(join(folder, "int8"), NULL, &report, &error), &error);
    json = json_of(report);
    CHECK(contains(json, "\"quant_method\": \"compressed-tensors\""));
    CHECK(contains(json, "\"stored_as\": \"int8 per_channel\""));
    CHECK(contains(json, "model-00002-of-00002.safetensors"));
    free(json);
    bitmill_report_destroy(report);
}

/* Checks the folder alone, then against its source; a byte more in a file is refused, and the file named. */
static void check_bytes(void) {
    bitmill_verify_options options = BITMILL_VERIFY_OPTIONS_INIT;
    bitmill_report* report = NULL;
    bitmill_error error = BITMILL_ERROR_INIT;
    char* json;
    FILE* file;
    options.threads = 2;
    EXPECT(BITMILL_OK, bitmill_validate(join(folder, "int8"), &options, &report, &error), &error);
    json = json_of(report);
    CHECK(contains(json, "\"manifest_sha256\""));
    free(json);
    bitmill_report_destroy(report);
    EXPECT(BITMILL_OK, bitmill_verify(join(folder, "model"), join(folder, "int8"), &options, NULL, &error),
           &error);
    EXPECT(BITMILL_IO, bitmill_validate(join(folder, "model"), NULL, NULL, &error), &error);
    file = fopen(join(folder, "int8/tokenizer.json"), "ab");
    CHECK(file != NULL && fputc(' ', file) == ' ' && fclose(file) == 0);
    EXPECT(BITMILL_REFUSED, bitmill_validate(join(folder, "int8"), NULL, &report, &error), &error);
    CHECK(report == NULL && contains(error.message, "tokenizer.json"));
}

/* Half a step of the row's scale at most, and nothing lost in what is kept: the embedding, the excluded one, the bias. */
static void check_weights(const char* path, size_t first, size_t end) {
    char* file = read_file(path, NULL);
    size_t i, k, bytes = 0;
    CHECK(file != NULL);
    for (i = first; file != NULL && i < end; ++i) {
        const char* data = find_tensor(file, model_names[i], &bytes);
        size_t wrong = 0;
        CHECK(data != NULL && bytes == sizeof(float) * model_cols * (i == 3 ? 1 : model_rows));
        for (k = 0; data != NULL && k < bytes / sizeof(float); ++k) {
            float value;
            memcpy(&value, data + k * sizeof value, sizeof value);
            wrong += !(fabsf(value - model_value(i, k)) <= (i != 2 ? 0 : 127 / 64.0f / 127.5f * 0.5001f));
        }
        CHECK(wrong == 0);
    }
    free(file);
}

static void dequantize(void) {
    bitmill_dequantize_options options = BITMILL_DEQUANTIZE_OPTIONS_INIT;
    bitmill_report* report = NULL;
    bitmill_error error = BITMILL_ERROR_INIT;
    options.dtype = "f32";
    EXPECT(BITMILL_OK,
           bitmill_dequantize(join(folder, "int8"), join(folder, "back"), &options, &report, &error), &error);
    free(json_of(report));
    bitmill_report_destroy(report);
    check_weights(join(folder, "back/model-00001-of-00002.safetensors"), 0, 2);
    check_weights(join(folder, "back/model-00002-of-00002.safetensors"), 2, 4);
    /* Everything by default; what is there is replaced only where that was asked for. */
    EXPECT(BITMILL_INVALID_ARGUMENT,
           bitmill_dequantize(join(folder, "int8"), join(folder, "back"), NULL, NULL, &error), &error);
    CHECK(contains(error.message, "exists already"));
    options.force = 1;
    EXPECT(BITMILL_OK, bitmill_dequantize(join(folder, "int8"), join(folder, "back"), &options, NULL, &error),
           &error);
}

/* Whenever the host stops, the folder is as it was. */
static void cancel(unsigned calls) {
    unsigned stop_at;
    for (stop_at = 1; stop_at <= calls; ++stop_at) {
        struct steps steps = {0, 0, 0, 0};
        bitmill_hooks hooks = BITMILL_HOOKS_INIT;
        bitmill_mill_options options;
        bitmill_report* report = (bitmill_report*)&steps;
        bitmill_error error = BITMILL_ERROR_INIT;
        const int before = count_entries(folder);
        steps.stop_at = stop_at;
        hooks.progress = on_progress;
        hooks.progress_context = &steps;
        options = int8_options(&hooks);
        EXPECT(BITMILL_CANCELLED,
               bitmill_mill(join(folder, "model"), join(folder, "never"), &options, &report, &error), &error);
        CHECK(report == NULL && error.offset == BITMILL_NO_OFFSET);
        CHECK(count_entries(folder) == before && !exists(join(folder, "never")));
    }
}

int main(void) {
    unsigned calls;
    make_folder(folder, sizeof folder);
    make_model(join(folder, "model"));
    calls = mill();
    plan_only();
    inspect();
    check_bytes();
    dequantize();
    cancel(calls);
    remove_folder(folder);
    return failures != 0;
}
