#include "support.h"

int failures = 0;

void check(int good, const char* what, const char* file, int line) {
    if (good) return;
    ++failures;
    fprintf(stderr, "%s:%d: %s is wrong\n", file, line, what);
}

void expect(bitmill_status wanted, bitmill_status got, const bitmill_error* error, const char* what,
            const char* file, int line) {
    if (got != wanted) {
        ++failures;
        fprintf(stderr, "%s:%d: %s is %s, not %s: %s\n", file, line, what, bitmill_status_text(got),
                bitmill_status_text(wanted), error == NULL ? "" : error->message);
    }
    if (error == NULL) return;
    check(error->status == got, "error->status", file, line);
    check(memchr(error->message, 0, sizeof error->message) != NULL, "the message's NUL", file, line);
    check((error->message[0] == 0) == (got == BITMILL_OK), "a message exactly on failure", file, line);
}

const char* join(const char* folder, const char* name) {
    static char paths[8][4096];
    static int turn = 0;
    char* path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

void make_folder(char* path, size_t path_bytes) {
    const char* root = getenv("TMPDIR");
    snprintf(path, path_bytes, "%s/bitmill-capi-XXXXXX", root != NULL ? root : "/tmp");
    if (mkdtemp(path) == NULL) {
        perror(path);
        exit(2);
    }
}

int exists(const char* path) {
    struct stat facts;
    return lstat(path, &facts) == 0;
}

int count_entries(const char* path) {
    DIR* folder = opendir(path);
    int count = 0;
    if (folder == NULL) return -1;
    while (readdir(folder) != NULL) ++count;
    closedir(folder);
    return count - 2;
}

void remove_folder(const char* path) {
    DIR* folder = opendir(path);
    struct dirent* entry;
    char inner[4096];
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
        if (unlink(inner) != 0) remove_folder(inner);
    }
    if (folder != NULL) closedir(folder);
    rmdir(path);
}

char* read_file(const char* path, size_t* bytes) {
    FILE* file = fopen(path, "rb");
    char* text = NULL;
    long length;
    if (file == NULL) return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (length = ftell(file)) >= 0) {
        rewind(file);
        text = malloc((size_t)length + 1);
        if (text != NULL && fread(text, 1, (size_t)length, file) == (size_t)length) {
            text[length] = 0;
            if (bytes != NULL) *bytes = (size_t)length;
        }
    }
    fclose(file);
    return text;
}

static void write_file(const char* path, const char* text, size_t bytes) {
    FILE* file = fopen(path, "wb");
    if (file == NULL || fwrite(text, 1, bytes, file) != bytes || fclose(file) != 0) {
        perror(path);
        exit(2);
    }
}

const char* const model_names[model_tensors] = {
    "embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query.weight",
    "encoder.layer.0.output.dense.weight", "encoder.layer.0.output.dense.bias"};

/* 1 / 64 apart and never constant along a row, so that every scheme has something to lose. */
float model_value(size_t tensor, size_t element) {
    return (float)((long)((element * 37 + tensor * 11) % 255) - 127) / 64.0f;
}

static size_t model_elements(size_t tensor) { return tensor == 3 ? model_cols : model_rows * model_cols; }

static void write_shard(const char* path, size_t first, size_t end) {
    char header[2048];
    size_t length = 0, bytes = 0, i, k;
    unsigned char* file =
        calloc(1, sizeof header + 8 + (end - first) * model_rows * model_cols * sizeof(float));
    if (file == NULL) exit(2);
    for (i = first; i < end; ++i) {
        const size_t count = model_elements(i);
        length += (size_t)snprintf(header + length, sizeof header - length,
                                   "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s%d],\"data_offsets\":[%lu,%lu]}",
                                   i == first ? "{" : ",", model_names[i], i == 3 ? "" : "96,", model_cols,
                                   (unsigned long)bytes, (unsigned long)(bytes + count * sizeof(float)));
        bytes += count * sizeof(float);
    }
    header[length++] = '}';
    while (length % 8 != 0) header[length++] = ' ';
    for (k = 0; k < 8; ++k) file[k] = (unsigned char)((uint64_t)length >> (8 * k));
    memcpy(file + 8, header, length);
    bytes = 8 + length;
    for (i = first; i < end; ++i)
        for (k = 0; k < model_elements(i); ++k, bytes += sizeof(float)) {
            const float value = model_value(i, k);
            memcpy(file + bytes, &value, sizeof value);
        }
    write_file(path, (const char*)file, bytes);
    free(file);
}

void make_model(const char* folder) {
    static const char config[] =
        "{\"model_type\": \"bert\", \"architectures\": [\"BertModel\"], \"dtype\": \"float32\"}";
    char index[2048];
    size_t i, length;
    if (mkdir(folder, 0777) != 0) {
        perror(folder);
        exit(2);
    }
    write_shard(join(folder, "model-00001-of-00002.safetensors"), 0, 2);
    write_shard(join(folder, "model-00002-of-00002.safetensors"), 2, model_tensors);
    length = (size_t)snprintf(index, sizeof index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {");
    for (i = 0; i < model_tensors; ++i)
        length += (size_t)snprintf(index + length, sizeof index - length,
                                   "%s\"%s\": \"model-0000%c-of-00002.safetensors\"", i == 0 ? "" : ", ",
                                   model_names[i], i < 2 ? '1' : '2');
    length += (size_t)snprintf(index + length, sizeof index - length, "}}");
    write_file(join(folder, "model.safetensors.index.json"), index, length);
    write_file(join(folder, "config.json"), config, sizeof config - 1);
    write_file(join(folder, "tokenizer.json"), "{}", 2);
}

const char* find_tensor(const char* file, const char* name, size_t* bytes) {
    char quoted[256];
    const char* at;
    unsigned long begin, end;
    uint64_t header = 0;
    int k;
    for (k = 7; k >= 0; --k) header = header << 8 | (unsigned char)file[k];
    snprintf(quoted, sizeof quoted, "\"%s\":{", name);
    at = strstr(file + 8, quoted);
    if (at == NULL || (at = strstr(at, "\"data_offsets\":[")) == NULL) return NULL;
    if (sscanf(at, "\"data_offsets\":[%lu,%lu]", &begin, &end) != 2) return NULL;
    *bytes = (size_t)(end - begin);
    return file + 8 + header + begin;
}

char* json_of(const bitmill_report* report) {
    bitmill_error error = BITMILL_ERROR_INIT;
    size_t needed = 0;
    char* text;
    EXPECT(BITMILL_OK, bitmill_report_json(report, NULL, 0, &needed, &error), &error);
    text = malloc(needed);
    if (text == NULL) exit(2);
    EXPECT(BITMILL_OK, bitmill_report_json(report, text, needed, NULL, &error), &error);
    CHECK(strlen(text) + 1 == needed);
    return text;
}
