/* Semantic search from C: texts to vectors, the nearest to a query first.
 *
 *     c_search MODEL QUERY TEXT...
 *
 * MODEL is a folder with an encoder and its tokenizer.json, plain or milled.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <bitmill.h>

static int failed(bitmill_status status, const bitmill_error* error) {
    if (status != BITMILL_OK) fprintf(stderr, "c_search: %s\n", error->message);
    return status != BITMILL_OK;
}

static double dot(const float* a, const float* b, size_t size) {
    double sum = 0;
    size_t i;
    for (i = 0; i < size; ++i) sum += (double)a[i] * b[i];
    return sum;
}

static double cosine_of(const float* a, const float* b, size_t size) {
    return dot(a, b, size) / sqrt(dot(a, a, size) * dot(b, b, size));
}

/* vectors[0] is the query's. */
static void print_nearest(const float* vectors, size_t size, const char* const* texts, size_t count) {
    size_t shown, i;
    char* done = calloc(count, 1);
    if (done == NULL) return;
    for (shown = 1; shown < count; ++shown) {
        size_t best = 0;
        double most = 0;
        for (i = 1; i < count; ++i) {
            const double cosine = cosine_of(vectors, vectors + i * size, size);
            if (!done[i] && (best == 0 || cosine > most)) best = i, most = cosine;
        }
        done[best] = 1;
        printf("%7.4f  %s\n", most, texts[best]);
    }
    free(done);
}

int main(int argc, char** argv) {
    bitmill_error error = BITMILL_ERROR_INIT;
    bitmill_model_options options = BITMILL_MODEL_OPTIONS_INIT;
    bitmill_model_facts facts = BITMILL_MODEL_FACTS_INIT;
    bitmill_texts texts = BITMILL_TEXTS_INIT;
    bitmill_text_encoder* encoder = NULL;
    float* vectors = NULL;
    size_t size = 0, count = (size_t)(argc > 2 ? argc - 2 : 0);
    int bad;
    if (argc < 4) {
        fprintf(stderr, "usage: c_search MODEL QUERY TEXT...\n");
        return 2;
    }
    options.activation = "dynamic-int8"; /* integer layers run on integers */
    if (failed(bitmill_text_encoder_open(argv[1], &options, &encoder, &error), &error)) return 1;
    bad = failed(bitmill_model_get_facts(bitmill_text_encoder_model(encoder), &facts, &error), &error);
    if (!bad) {
        size = (size_t)facts.embedding_size;
        vectors = malloc(count * size * sizeof *vectors);
        bad = vectors == NULL;
    }
    texts.data = (const char* const*)(argv + 2);
    texts.count = count;
    bad = bad ||
          failed(bitmill_text_encoder_embed(encoder, &texts, NULL, vectors, count * size, &error), &error);
    if (!bad) print_nearest(vectors, size, texts.data, count);
    free(vectors);
    bitmill_text_encoder_destroy(encoder);
    return bad;
}
