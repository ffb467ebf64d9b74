/* The version, and the instruction set: which ones there are, choosing one, and names that are none. */
#include "support.h"

static int is_available(const char* name) {
    size_t i;
    for (i = 0; bitmill_isa_available(i) != NULL; ++i)
        if (strcmp(bitmill_isa_available(i), name) == 0) return 1;
    return 0;
}

int main(void) {
    static const char* const known[] = {BITMILL_TEST_ISAS}; /* what the library was built with */
    bitmill_error error = BITMILL_ERROR_INIT;
    char before[32];
    size_t i;
    CHECK(bitmill_version_number() == BITMILL_VERSION_NUMBER);
    CHECK(strcmp(bitmill_version_text(), BITMILL_VERSION_TEXT) == 0);
    CHECK(bitmill_abi_version() == BITMILL_ABI_VERSION);
    CHECK(strcmp(bitmill_status_text(BITMILL_OK), "ok") == 0);
    CHECK(strcmp(bitmill_status_text(BITMILL_INTERNAL), "internal") == 0);
    CHECK(strcmp(bitmill_status_text(BITMILL_INTERNAL + 1), "unknown") == 0);
    CHECK(strcmp(bitmill_status_text(-1), "unknown") == 0);

    snprintf(before, sizeof before, "%s", bitmill_isa());
    CHECK(bitmill_isa_available(0) != NULL);
    for (i = 0; bitmill_isa_available(i) != NULL; ++i) {
        EXPECT(BITMILL_OK, bitmill_set_isa(bitmill_isa_available(i), &error), &error);
        CHECK(strcmp(bitmill_isa(), bitmill_isa_available(i)) == 0);
    }
    CHECK(strcmp(bitmill_isa(), before) == 0); /* the last is the one that is chosen unasked */
    CHECK(bitmill_isa_available(i + 1) == NULL && bitmill_isa_available((size_t)-1) == NULL);

    for (i = 0; i < sizeof known / sizeof *known; ++i)
        EXPECT(is_available(known[i]) ? BITMILL_OK : BITMILL_UNSUPPORTED, bitmill_set_isa(known[i], &error),
               &error);
    EXPECT(BITMILL_OK, bitmill_set_isa(before, &error), &error);
    EXPECT(BITMILL_INVALID_ARGUMENT, bitmill_set_isa("avx3", &error), &error);
    CHECK(strstr(error.message, "'avx3'") != NULL && strstr(error.message, bitmill_isa_available(0)) != NULL);
    EXPECT(BITMILL_INVALID_ARGUMENT, bitmill_set_isa("", &error), &error);
    EXPECT(BITMILL_INVALID_ARGUMENT, bitmill_set_isa(NULL, &error), &error);
    CHECK(bitmill_set_isa("avx3", NULL) == BITMILL_INVALID_ARGUMENT);
    CHECK(strcmp(bitmill_isa(), before) == 0);
    return failures != 0;
}
