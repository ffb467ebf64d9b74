/* What the C programs share: checks, files, and a small model written byte by byte. C99 and POSIX. */
#ifndef BITMILL_TESTS_CAPI_SUPPORT_H
#define BITMILL_TESTS_CAPI_SUPPORT_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bitmill.h>

extern int failures;

#define CHECK(condition) check((condition) != 0, #condition, __FILE__, __LINE__)
/* The call and what it must return; a wrong status is shown with the message. */
#define EXPECT(status, call, error) expect(status, call, error, #call, __FILE__, __LINE__)

void check(int good, const char* what, const char* file, int line);
void expect(bitmill_status wanted, bitmill_status got, const bitmill_error* error, const char* what,
            const char* file, int line);

/* A new folder under TMPDIR, for one test program; remove_folder deletes it with all that is in it. */
void make_folder(char* path, size_t path_bytes);
void remove_folder(const char* path);
/* "FOLDER/NAME" in one of a few static buffers that take turns. */
const char* join(const char* folder, const char* name);
int exists(const char* path);
/* Names in a folder, hidden ones too, "." and ".." not; -1 where it cannot be read. */
int count_entries(const char* path);
/* The whole file with a NUL behind, to be freed; NULL where it cannot be read. */
char* read_file(const char* path, size_t* bytes);

/* A BERT of one layer in two shards: model_tensors tensors of f32, all but one of them matrices. */
#define model_tensors 4
#define model_rows 96
#define model_cols 256
void make_model(const char* folder);
/* The value of an element of the model's matrices. */
float model_value(size_t tensor, size_t element);
extern const char* const model_names[model_tensors];

/* Finds a tensor in a .safetensors file that is already read; NULL where there is none. */
const char* find_tensor(const char* file, const char* name, size_t* bytes);

/* The report as text, to be freed. */
char* json_of(const bitmill_report* report);

#endif
