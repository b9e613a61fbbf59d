/*
 * Everything that a program can do wrong short of handing over pointers to nothing: statuses, never a crash.
 *
 *     abuse MODEL MODEL_WITHOUT_TOKENIZER SCRATCH_FOLDER [HOSTILE_FILE...]
 */
#define _POSIX_C_SOURCE 200809L
#include <cinderblock.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;

static void expect(cinder_status found, cinder_status expected, cinder_error **error, const char *call, int line) {
    int object = expected == CINDER_OK ? *error == NULL
                                       : *error != NULL && cinder_error_status(*error) == expected
                                           && cinder_error_message(*error)[0] != '\0';
    if (found != expected || !object) {
        failures++;
        fprintf(stderr, "line %d: %s: %s \"%s\", expected %s\n", line, call, cinder_status_name(found),
                cinder_error_message(*error), cinder_status_name(expected));
    }
    cinder_error_free(*error);
    *error = NULL;
}

#define EXPECT(status, call) expect(call, status, &error, #call, __LINE__)
#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            failures++; \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
        } \
    } while (0)

static cinder_error *error;

struct callback {
    cinder_session *session;
    long calls, stop_at;
    int action;
};

static int progress(uint64_t done, uint64_t total, void *data) {
    struct callback *callback = data;
    CHECK(done <= total);
    return callback->calls++ == callback->stop_at;
}

static void log_line(int level, const char *message, void *data) {
    CHECK(level >= CINDER_LOG_ERROR && message[0] != '\0' && strchr(message, '\n') == NULL);
    ++*(int *)data;
}

/* Inside the callback, the session is in use: only cancelling and freeing are allowed. */
static int piece(const char *text, size_t size, void *data) {
    struct callback *callback = data;
    CHECK(size > 0 && strlen(text) == size);
    if (callback->calls++ != callback->stop_at) {
        return 0;
    }
    uint32_t token = 0;
    uint64_t length = 0;
    cinder_status status = callback->session == NULL
        ? CINDER_MISUSE
        : cinder_session_decode_token(callback->session, &token, NULL)
            | cinder_session_length(callback->session, &length, NULL);
    CHECK(status == CINDER_MISUSE);
    switch (callback->action) {
    case 0: return 1;
    case 1: cinder_session_cancel(callback->session); return 0;
    default: cinder_session_free(callback->session); return 0;
    }
}

static void nulls(const cinder_model *model, cinder_session *session) {
    cinder_session *sessions[1] = {NULL};
    size_t size = 0;
    uint32_t token = 0;
    uint64_t length = 0;
    cinder_model *opened = NULL;
    cinder_session *made = NULL;
    cinder_model_info info = {.size = sizeof info};
    cinder_memory_estimate estimate = {.size = sizeof estimate};
    float logit = 0;

    cinder_model_free(NULL);
    cinder_session_free(NULL);
    cinder_error_free(NULL);
    cinder_session_cancel(NULL);
    cinder_model_options_init(NULL, 48);
    cinder_session_options_init(NULL, 32);
    cinder_sampler_options_init(NULL, 40);
    cinder_generate_options_init(NULL, 24);
    CHECK(cinder_error_status(NULL) == CINDER_OK && cinder_error_message(NULL)[0] == '\0');
    CHECK(cinder_error_file(NULL) == NULL && cinder_error_subject(NULL) == NULL);
    CHECK(cinder_model_name(NULL)[0] == '\0' && cinder_model_isa(NULL)[0] == '\0');
    CHECK(strcmp(cinder_status_name(-5), "unknown status") == 0);

    EXPECT(CINDER_ARGUMENT, cinder_model_open(NULL, NULL, &opened, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_open("x", NULL, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_open_fd(-1, 0, 0, NULL, &opened, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_open_fd(0, 0, 0, NULL, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_open_memory(NULL, 8, NULL, &opened, &error));
    EXPECT(CINDER_FORMAT, cinder_model_open_memory(NULL, 0, NULL, &opened, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_open_memory("x", SIZE_MAX, NULL, &opened, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_get_info(NULL, &info, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_get_info(model, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_estimate(NULL, NULL, &estimate, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_estimate(model, NULL, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_tokenize(NULL, "a", 1, &token, 1, &size, &error));
    EXPECT(CINDER_ARGUMENT, cinder_tokenize(model, NULL, 1, &token, 1, &size, &error));
    EXPECT(CINDER_ARGUMENT, cinder_tokenize(model, "a", 1, NULL, 1, &size, &error));
    EXPECT(CINDER_ARGUMENT, cinder_tokenize(model, "a", 1, &token, 1, NULL, &error));
    EXPECT(CINDER_OK, cinder_tokenize(model, NULL, 0, NULL, 0, &size, &error));
    EXPECT(CINDER_ARGUMENT, cinder_detokenize(NULL, &token, 1, NULL, 0, &size, &error));
    EXPECT(CINDER_ARGUMENT, cinder_detokenize(model, NULL, 1, NULL, 0, &size, &error));
    EXPECT(CINDER_ARGUMENT, cinder_detokenize(model, &token, 1, NULL, 0, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_create(NULL, NULL, &made, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_create(model, NULL, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_append_text(NULL, "a", 1, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_append_text(session, NULL, 1, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_append_tokens(NULL, &token, 1, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_append_tokens(session, NULL, 1, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_append_tokens(session, &token, SIZE_MAX, &error));
    EXPECT(CINDER_OK, cinder_session_append_tokens(session, NULL, 0, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_append_text_with_progress(NULL, "a", 1, NULL, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_append_text_with_progress(session, NULL, 1, NULL, NULL, &error));
    EXPECT(CINDER_OK, cinder_session_append_text_with_progress(session, NULL, 0, NULL, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_append_tokens_with_progress(NULL, &token, 1, NULL, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_append_tokens_with_progress(session, NULL, 1, NULL, NULL, &error));
    EXPECT(CINDER_OK, cinder_session_append_tokens_with_progress(session, NULL, 0, NULL, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_copy(NULL, &made, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_copy(session, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_tokens(NULL, &token, 1, &size, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_tokens(session, &token, 1, NULL, &error));
    EXPECT(CINDER_OK, cinder_session_tokens(session, NULL, 0, &size, &error));
    CHECK(size == 0);
    EXPECT(CINDER_ARGUMENT, cinder_session_length(NULL, &length, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_length(session, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_reset(NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_set_sampler(NULL, NULL, &error));
    EXPECT(CINDER_OK, cinder_session_set_sampler(session, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_set_stops(NULL, NULL, 0, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_set_stops(session, NULL, 1, &error));
    const char *stops[] = {"x", NULL};
    EXPECT(CINDER_ARGUMENT, cinder_session_set_stops(session, stops, 2, &error));
    stops[1] = "\xff";
    EXPECT(CINDER_ARGUMENT, cinder_session_set_stops(session, stops, 2, &error));
    EXPECT(CINDER_OK, cinder_session_set_stops(session, NULL, 0, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_decode_token(NULL, &token, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_decode_token(session, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_decode_block(NULL, &token, 1, &size, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_decode_block(session, &token, 1, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_logits(NULL, &logit, 1, &error));
    EXPECT(CINDER_BUFFER, cinder_session_logits(session, &logit, 1, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_generate(NULL, NULL, NULL, NULL, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_save(NULL, NULL, 0, &size, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_save(session, NULL, 0, NULL, &error));
    EXPECT(CINDER_BUFFER, cinder_session_save(session, NULL, 0, &size, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_save(session, NULL, size, &size, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_save_file(NULL, "x", &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_save_file(session, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_load(NULL, "x", 1, NULL, &made, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_load(model, NULL, 1, NULL, &made, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_load(model, "x", 1, NULL, NULL, &error));
    EXPECT(CINDER_FORMAT, cinder_session_load(model, NULL, 0, NULL, &made, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_load_file(NULL, "x", NULL, &made, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_load_file(model, NULL, NULL, &made, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_load_file(model, "x", NULL, NULL, &error));
    EXPECT(CINDER_ARGUMENT, cinder_batch_decode(NULL, 1, &token, &error));
    EXPECT(CINDER_ARGUMENT, cinder_batch_decode(sessions, 1, &token, &error));
    EXPECT(CINDER_OK, cinder_batch_decode(NULL, 0, NULL, &error));
    /* Without a place for the error, the status is enough. */
    CHECK(cinder_session_reset(NULL, NULL) == CINDER_ARGUMENT);
    CHECK(opened == NULL && made == NULL && token == 0);
}

/* A program that was built with an older or a newer header. */
static void sizes(const cinder_model *model) {
    struct {
        cinder_session_options known;
        uint64_t newer[2];
    } options;
    unsigned char info[128];
    cinder_session *session = NULL;
    for (size_t size = 0; size <= sizeof options; size++) {
        memset(&options, 0xee, sizeof options);
        cinder_session_options_init(&options.known, size);
        int fine = size >= sizeof(size_t) && size % sizeof(size_t) == 0;
        for (size_t at = fine ? size : 0; at < sizeof options; at++) {
            CHECK(((unsigned char *)&options)[at] == 0xee);
        }
        options.known.size = size;
        EXPECT(fine ? CINDER_OK : CINDER_ARGUMENT, cinder_session_create(model, &options.known, &session, &error));
        cinder_session_free(session);
        session = NULL;
    }
    cinder_session_options_init(&options.known, sizeof options);
    options.newer[1] = 1;
    EXPECT(CINDER_ARGUMENT, cinder_session_create(model, &options.known, &session, &error));
    options.known.size = SIZE_MAX;
    EXPECT(CINDER_ARGUMENT, cinder_session_create(model, &options.known, &session, &error));
    for (size_t size = 0; size <= sizeof info; size++) {
        memset(info, 0xee, sizeof info);
        memcpy(info, &size, sizeof size);
        int fine = size >= sizeof(size_t) && size % sizeof(size_t) == 0;
        EXPECT(fine ? CINDER_OK : CINDER_ARGUMENT, cinder_model_get_info(model, (cinder_model_info *)(void *)info, &error));
        for (size_t at = fine ? size : sizeof size; at < sizeof info; at++) {
            CHECK(info[at] == 0xee);
        }
    }
}

static void ranges(const cinder_model *model, cinder_session *session) {
    cinder_session *made = NULL;
    cinder_session_options wrong[8];
    for (int i = 0; i < 8; i++) {
        cinder_session_options_init(&wrong[i], sizeof wrong[i]);
    }
    wrong[0].cache_blocks = 4;
    wrong[1].cache_blocks = 3;
    wrong[2].cache_type = 9;
    wrong[3].alignment = 3;
    wrong[4].cache_blocks = UINT64_MAX;
    wrong[5].cache_blocks = 1ull << 60;
    wrong[6].sink_blocks = UINT64_MAX;
    wrong[7].cache_type = -1;
    for (int i = 0; i < 8; i++) {
        cinder_memory_estimate estimate = {.size = sizeof estimate};
        cinder_status status = i == 4 || i == 5 ? CINDER_RESOURCE : CINDER_ARGUMENT;
        EXPECT(status, cinder_model_estimate(model, &wrong[i], &estimate, &error));
        EXPECT(status, cinder_session_create(model, &wrong[i], &made, &error));
    }
    cinder_sampler_options sampler[5];
    float nan = strtof("nan", NULL);
    for (int i = 0; i < 5; i++) {
        cinder_sampler_options_init(&sampler[i], sizeof sampler[i]);
    }
    sampler[0].temperature = nan;
    sampler[1].top_p = 0;
    sampler[2].min_p = 2;
    sampler[3].repetition_penalty = -1;
    sampler[4].temperature = -1;
    for (int i = 0; i < 5; i++) {
        EXPECT(CINDER_ARGUMENT, cinder_session_set_sampler(session, &sampler[i], &error));
    }
    uint32_t tokens[3] = {1, 2, UINT32_MAX};
    uint64_t length = 99;
    EXPECT(CINDER_ARGUMENT, cinder_session_append_tokens(session, tokens, 3, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_append_text(session, "\xc3", 1, &error));
    EXPECT(CINDER_OK, cinder_session_length(session, &length, &error));
    CHECK(length == 0);
    EXPECT(CINDER_ARGUMENT, cinder_session_decode_token(session, tokens, &error));
    char text[4] = "?";
    size_t size = 0;
    EXPECT(CINDER_ARGUMENT, cinder_detokenize(model, &tokens[2], 1, text, 4, &size, &error));
    EXPECT(CINDER_BUFFER, cinder_tokenize(model, "The old house", 13, tokens, 1, &size, &error));
    CHECK(size > 1 && size <= 13);
    cinder_session *twice[2] = {session, session};
    EXPECT(CINDER_MISUSE, cinder_batch_decode(twice, 2, tokens, &error));
    EXPECT(CINDER_ARGUMENT, cinder_batch_decode(twice, 1, tokens, &error));
}

/* Callbacks that stop, cancel or free at every point. */
static void callbacks(const char *path) {
    cinder_model *model = NULL;
    int lines = 0;
    struct callback callback = {NULL, 0, -1, 0};
    cinder_model_options options;
    cinder_model_options_init(&options, sizeof options);
    options.threads = 2;
    options.verify = 1;
    options.progress = progress;
    options.progress_data = &callback;
    options.log = log_line;
    options.log_data = &lines;
    EXPECT(CINDER_OK, cinder_model_open(path, &options, &model, &error));
    long points = callback.calls;
    CHECK(points > 2 && lines > 0);
    for (long at = 0; at < points; at += points > 50 ? points / 10 : 1) {
        cinder_model *stopped = NULL;
        callback = (struct callback){NULL, 0, at, 0};
        EXPECT(CINDER_INTERRUPTED, cinder_model_open(path, &options, &stopped, &error));
        CHECK(stopped == NULL && callback.calls == at + 1);
    }
    cinder_generate_options generate;
    cinder_generate_options_init(&generate, sizeof generate);
    generate.max_tokens = 12;
    generate.ignore_end = 1;
    for (int action = 0; action < 3; action++) {
        for (long at = 0; at < 8; at++) {
            cinder_session *session = NULL;
            cinder_generation generation = {.size = sizeof generation, .end = 77};
            EXPECT(CINDER_OK, cinder_session_create(model, NULL, &session, &error));
            EXPECT(CINDER_OK, cinder_session_append_text(session, "The old house", 13, &error));
            struct callback at_piece = {session, 0, at, action};
            cinder_status status =
                cinder_session_generate(session, &generate, piece, &at_piece, &generation, NULL);
            if (at_piece.calls <= at) {
                CHECK(status == CINDER_OK && generation.end == CINDER_END_LENGTH);
            } else if (action == 0) {
                CHECK(status == CINDER_OK && generation.end == CINDER_END_CALLER && at_piece.calls == at + 1);
            } else if (action == 1) {
                /* Cancelled at the very last piece, the text is complete and the request waits for the next call. */
                CHECK(status == CINDER_INTERRUPTED || generation.tokens == 12);
            }
            if (action == 2 && at_piece.calls > at) {
                continue;
            }
            uint32_t token;
            cinder_session_cancel(session);
            EXPECT(CINDER_INTERRUPTED, cinder_session_decode_token(session, &token, &error));
            EXPECT(CINDER_OK, cinder_session_decode_token(session, &token, &error));
            cinder_session_cancel(session);
            EXPECT(CINDER_OK, cinder_session_reset(session, &error));
            EXPECT(CINDER_OK, cinder_session_append_text(session, "It", 2, &error));
            cinder_session_free(session);
        }
    }
    cinder_model_free(model);
}

/* Copies, tokens read back, and the progress of an append that is stopped, or whose session is freed, at each step. */
static void copies(const cinder_model *model) {
    enum { COUNT = 2001 };
    uint32_t tokens[COUNT], found[COUNT], first, second;
    for (uint32_t i = 0; i < COUNT; i++) {
        tokens[i] = 300 + i % 1000;
    }
    cinder_session *session = NULL, *copy = NULL;
    size_t count = 0;
    uint64_t length = 0;
    struct callback callback = {NULL, 0, -1, 0};
    cinder_session_options options;
    cinder_session_options_init(&options, sizeof options);
    options.cache_blocks = 1024;
    EXPECT(CINDER_OK, cinder_session_create(model, &options, &session, &error));
    EXPECT(CINDER_OK, cinder_session_append_tokens_with_progress(session, tokens, COUNT, progress, &callback, &error));
    long steps = callback.calls;
    CHECK(steps > 3);
    EXPECT(CINDER_BUFFER, cinder_session_tokens(session, found, COUNT - 1, &count, &error));
    EXPECT(CINDER_OK, cinder_session_tokens(session, found, COUNT, &count, &error));
    CHECK(count == COUNT && memcmp(found, tokens, sizeof tokens) == 0);
    EXPECT(CINDER_OK, cinder_session_copy(session, &copy, &error));
    for (int i = 0; i < 9; i++) {
        EXPECT(CINDER_OK, cinder_session_decode_token(session, &first, &error));
        EXPECT(CINDER_OK, cinder_session_decode_token(copy, &second, &error));
        CHECK(first == second);
    }
    cinder_session_free(copy);
    for (long at = 0; at < steps; at++) {
        callback = (struct callback){NULL, 0, at, 0};
        EXPECT(CINDER_OK, cinder_session_reset(session, &error));
        EXPECT(CINDER_INTERRUPTED,
               cinder_session_append_tokens_with_progress(session, tokens, COUNT, progress, &callback, &error));
        EXPECT(CINDER_OK, cinder_session_length(session, &length, &error));
        CHECK(callback.calls == at + 1 && (length == 0) == (at == 0) && length <= COUNT + 3);
    }
    callback = (struct callback){NULL, 0, 0, 0};
    EXPECT(CINDER_OK, cinder_session_reset(session, &error));
    EXPECT(CINDER_INTERRUPTED,
           cinder_session_append_text_with_progress(session, "The old house", 13, progress, &callback, &error));
    EXPECT(CINDER_OK, cinder_session_length(session, &length, &error));
    CHECK(length == 0);
    cinder_session_free(session);
}

/* Saved sessions: what is not as it was saved is refused. */
static void states(const cinder_model *model, const cinder_model *other, const char *folder) {
    cinder_session *session = NULL, *loaded = NULL;
    size_t size = 0;
    uint32_t block[1024], first, second;
    size_t count = 0;
    char path[4096], wrong[4096];
    snprintf(path, sizeof path, "%s/session", folder);
    snprintf(wrong, sizeof wrong, "%s/no/such/folder", folder);
    cinder_session_options options;
    cinder_session_options_init(&options, sizeof options);
    options.cache_blocks = 6;
    options.sink_blocks = 2;
    EXPECT(CINDER_OK, cinder_session_create(model, &options, &session, &error));
    EXPECT(CINDER_OK, cinder_session_append_text(session, "The old house at the end of the road", 36, &error));
    EXPECT(CINDER_BUFFER, cinder_session_decode_block(session, block, 0, &count, &error));
    CHECK(count >= 1);
    EXPECT(CINDER_OK, cinder_session_decode_block(session, block, 1024, &count, &error));
    EXPECT(CINDER_OK, cinder_session_decode_token(session, &first, &error));
    EXPECT(CINDER_BUFFER, cinder_session_save(session, NULL, 0, &size, &error));
    unsigned char *data = malloc(size), *copy = malloc(size + 1);
    if (data == NULL || copy == NULL) {
        exit(1);
    }
    EXPECT(CINDER_OK, cinder_session_save(session, data, size, &size, &error));
    EXPECT(CINDER_IO, cinder_session_save_file(session, wrong, &error));
    EXPECT(CINDER_IO, cinder_session_save_file(session, folder, &error));
    EXPECT(CINDER_IO, cinder_session_save_file(session, "", &error));
    EXPECT(CINDER_IO, cinder_session_save_file(session, "/dev/full", &error));
    EXPECT(CINDER_OK, cinder_session_save_file(session, path, &error));
    EXPECT(CINDER_OK, cinder_session_decode_token(session, &first, &error));
    EXPECT(CINDER_OK, cinder_session_load_file(model, path, &options, &loaded, &error));
    EXPECT(CINDER_OK, cinder_session_decode_token(loaded, &second, &error));
    CHECK(first == second);
    cinder_session_free(loaded);
    EXPECT(CINDER_ARGUMENT, cinder_session_load_file(model, path, &(cinder_session_options){sizeof options, 7, 2, 0, 0}, &loaded, &error));
    EXPECT(CINDER_FORMAT, cinder_session_load_file(other, path, NULL, &loaded, &error));
    EXPECT(CINDER_IO, cinder_session_load_file(model, wrong, NULL, &loaded, &error));
    EXPECT(CINDER_FORMAT, cinder_session_load_file(model, folder, NULL, &loaded, &error));
    for (size_t length = 0; length < size; length += length < 200 ? 1 : size / 37) {
        EXPECT(CINDER_FORMAT, cinder_session_load(model, data, length, NULL, &loaded, &error));
    }
    for (size_t at = 0; at < size; at += at < 200 ? 1 : size / 37) {
        memcpy(copy, data, size);
        copy[at] ^= 1 << at % 8;
        EXPECT(CINDER_FORMAT, cinder_session_load(model, copy, size, NULL, &loaded, &error));
    }
    memcpy(copy, data, size);
    copy[size] = 0;
    EXPECT(CINDER_FORMAT, cinder_session_load(model, copy, size + 1, NULL, &loaded, &error));
    free(data);
    free(copy);
    cinder_session_free(session);
    unlink(path);
    struct dirent *entry;
    DIR *listing = opendir(folder);
    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        CHECK(entry->d_name[0] == '.' && strlen(entry->d_name) <= 2);
    }
    closedir(listing);
}

/* A child of fork has the parent's memory but not its threads. */
static void forks(const cinder_model *model) {
    cinder_session *session = NULL;
    EXPECT(CINDER_OK, cinder_session_create(model, NULL, &session, &error));
    EXPECT(CINDER_OK, cinder_session_append_text(session, "The old house", 13, &error));
    pid_t child = fork();
    if (child == 0) {
        uint32_t token;
        cinder_session *own = NULL;
        failures = 0;
        EXPECT(CINDER_MISUSE, cinder_session_decode_token(session, &token, &error));
        EXPECT(CINDER_OK, cinder_session_create(model, NULL, &own, &error));
        EXPECT(CINDER_OK, cinder_session_append_text(own, "The old house", 13, &error));
        EXPECT(CINDER_OK, cinder_session_decode_token(own, &token, &error));
        cinder_session_free(session);
        cinder_session_free(own);
        if (failures == 0) {
            /* Without the look for leaks that Valgrind takes at an exit: the parent's threads have left theirs. */
            raise(SIGKILL);
        }
        _exit(1);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    uint32_t token;
    EXPECT(CINDER_OK, cinder_session_decode_token(session, &token, &error));
    cinder_session_free(session);
}

static int threads(void) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    while (tasks != NULL && readdir(tasks) != NULL) {
        count++;
    }
    if (tasks != NULL) {
        closedir(tasks);
    }
    return count;
}

static void files(const char *path, const char *folder) {
    cinder_model *model = NULL;
    int descriptor = open(path, O_RDONLY);
    struct stat status;
    CHECK(descriptor >= 0 && fstat(descriptor, &status) == 0);
    EXPECT(CINDER_IO, cinder_model_open("/no/such/file", NULL, &model, &error));
    CHECK(cinder_model_open("/no/such/file", NULL, &model, &error) == CINDER_IO);
    CHECK(strcmp(cinder_error_file(error), "/no/such/file") == 0);
    cinder_error_free(error);
    error = NULL;
    EXPECT(CINDER_FORMAT, cinder_model_open(folder, NULL, &model, &error));
    EXPECT(CINDER_FORMAT, cinder_model_open("/dev/null", NULL, &model, &error));
    EXPECT(CINDER_IO, cinder_model_open_fd(9999, 0, 0, NULL, &model, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_open_fd(descriptor, 1, 0, NULL, &model, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_open_fd(descriptor, 0, UINT64_MAX, NULL, &model, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_open_fd(descriptor, UINT64_MAX - 63, 0, NULL, &model, &error));
    EXPECT(CINDER_ARGUMENT, cinder_model_open_fd(descriptor, 64, UINT64_MAX, NULL, &model, &error));
    EXPECT(CINDER_FORMAT, cinder_model_open_fd(descriptor, 64, 64, NULL, &model, &error));
    int ends[2];
    CHECK(pipe(ends) == 0);
    EXPECT(CINDER_FORMAT, cinder_model_open_fd(ends[0], 0, 0, NULL, &model, &error));
    close(ends[0]);
    close(ends[1]);
    /* A model that begins in the middle of another file, and one in memory. */
    size_t size = (size_t)status.st_size;
    char packed[4096];
    snprintf(packed, sizeof packed, "%s/packed", folder);
    unsigned char *data = calloc(1, size + 192);
    if (data == NULL) {
        exit(1);
    }
    CHECK(read(descriptor, data + 64, size) == (ssize_t)size);
    int archive = open(packed, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(write(archive, data, size + 192) == (ssize_t)size + 192);
    EXPECT(CINDER_OK, cinder_model_open_fd(archive, 64, size, NULL, &model, &error));
    cinder_model_free(model);
    model = NULL;
    /* What was read into memory does not need the file any more. */
    cinder_model_options options;
    cinder_model_options_init(&options, sizeof options);
    options.in_memory = 1;
    options.reserved = 1;
    EXPECT(CINDER_ARGUMENT, cinder_model_open_fd(archive, 64, size, &options, &model, &error));
    options.reserved = 0;
    EXPECT(CINDER_OK, cinder_model_open_fd(archive, 64, size, &options, &model, &error));
    CHECK(ftruncate(archive, 64) == 0);
    cinder_session *session = NULL;
    uint32_t tokens[5] = {1, 2, 3, 4, 5};
    EXPECT(CINDER_OK, cinder_session_create(model, NULL, &session, &error));
    EXPECT(CINDER_OK, cinder_session_append_tokens(session, tokens, 5, &error));
    EXPECT(CINDER_OK, cinder_session_decode_token(session, tokens, &error));
    cinder_session_free(session);
    CHECK(pwrite(archive, data, size + 192, 0) == (ssize_t)size + 192);
    cinder_model_free(model);
    model = NULL;
    EXPECT(CINDER_FORMAT, cinder_model_open_fd(archive, 64, size + 100, NULL, &model, &error));
    EXPECT(CINDER_OK, cinder_model_open_memory(data + 64, size, NULL, &model, &error));
    cinder_model_free(model);
    model = NULL;
    EXPECT(CINDER_FORMAT, cinder_model_open_memory(data + 64, size - 1, NULL, &model, &error));
    free(data);
    close(archive);
    close(descriptor);
    unlink(packed);
}

/* What still opens must still run. */
static void hostile(const char *path) {
    cinder_model *model = NULL;
    cinder_session *session = NULL;
    uint32_t tokens[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    size_t size = 0;
    cinder_model_options options;
    cinder_model_options_init(&options, sizeof options);
    options.verify = 1;
    cinder_status verified = cinder_model_open(path, &options, &model, NULL);
    CHECK(verified != CINDER_INTERNAL && verified != CINDER_POISONED);
    cinder_model_free(model);
    model = NULL;
    cinder_status status = cinder_model_open(path, NULL, &model, NULL);
    CHECK(status != CINDER_INTERNAL && (status == CINDER_OK) == (model != NULL));
    CHECK(cinder_session_create(model, NULL, &session, NULL) != CINDER_INTERNAL);
    CHECK(cinder_session_append_tokens(session, tokens, 8, NULL) != CINDER_INTERNAL);
    CHECK(cinder_session_append_text(session, "The old house", 13, NULL) != CINDER_INTERNAL);
    for (int i = 0; i < 5; i++) {
        CHECK(cinder_session_decode_token(session, tokens, NULL) != CINDER_INTERNAL);
    }
    CHECK(cinder_session_save(session, NULL, 0, &size, NULL) != CINDER_INTERNAL);
    cinder_model_free(model);
    cinder_session_free(session);
}

struct heard {
    uint32_t tokens[64];
    int count, stop_at;
};

static int32_t hear(uint32_t token, float logprob, void *data) {
    struct heard *heard = data;
    CHECK(logprob <= 0.0f && heard->count < 64);
    heard->tokens[heard->count++] = token;
    return heard->count == heard->stop_at;
}

/* Going back, biased logits, each token with its probability, and a limit of time. */
static void control(const cinder_model *model) {
    cinder_session *session = NULL;
    float before[4096], after[4096];
    uint64_t length = 0;
    uint32_t tokens[203], token = 0;
    for (uint32_t i = 0; i < 203; i++) {
        tokens[i] = 300 + i;
    }
    EXPECT(CINDER_OK, cinder_session_create(model, NULL, &session, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_rewind(session, 1, &error));
    EXPECT(CINDER_OK, cinder_session_append_tokens(session, tokens, 100, &error));
    EXPECT(CINDER_OK, cinder_session_logits(session, before, 4096, &error));
    EXPECT(CINDER_OK, cinder_session_append_tokens(session, tokens + 100, 103, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_rewind(session, 51, &error));
    EXPECT(CINDER_OK, cinder_session_rewind(session, 25, &error));
    EXPECT(CINDER_OK, cinder_session_length(session, &length, &error));
    EXPECT(CINDER_OK, cinder_session_logits(session, after, 4096, &error));
    CHECK(length == 100 && memcmp(before, after, sizeof before) == 0);

    EXPECT(CINDER_ARGUMENT, cinder_session_set_speculation(session, 3, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_set_speculation(session, -1, &error));
    EXPECT(CINDER_OK, cinder_session_set_speculation(session, CINDER_SPECULATE_OFF, &error));
    EXPECT(CINDER_OK, cinder_session_set_speculation(session, CINDER_SPECULATE_ON, &error));

    uint32_t chosen[2] = {7, 4096};
    float bias[2] = {1000.0f, 0.0f};
    EXPECT(CINDER_ARGUMENT, cinder_session_set_logit_bias(session, NULL, bias, 1, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_set_logit_bias(session, chosen, bias, 2, &error));
    EXPECT(CINDER_OK, cinder_session_set_logit_bias(session, chosen, bias, 1, &error));
    EXPECT(CINDER_OK, cinder_session_decode_token(session, &token, &error));
    CHECK(token == 7);
    EXPECT(CINDER_OK, cinder_session_set_logit_bias(session, NULL, NULL, 0, &error));

    struct heard heard = {.stop_at = 5};
    cinder_generation generation = {.size = sizeof generation};
    cinder_generate_options options;
    cinder_generate_options_init(&options, sizeof options);
    options.max_tokens = 20;
    options.ignore_end = 1;
    options.token = hear;
    options.token_data = &heard;
    EXPECT(CINDER_OK, cinder_session_generate(session, &options, NULL, NULL, &generation, &error));
    CHECK(generation.end == CINDER_END_CALLER && generation.tokens == 5 && heard.count == 5);
    options.token = NULL;
    options.max_tokens = 100000000;
    options.time_limit_ms = 1;
    EXPECT(CINDER_OK, cinder_session_generate(session, &options, NULL, NULL, &generation, &error));
    CHECK(generation.end == CINDER_END_TIME);
    EXPECT(CINDER_OK, cinder_session_rewind(session, 0, &error));
    EXPECT(CINDER_ARGUMENT, cinder_session_decode_token(session, &token, &error));
    cinder_session_free(session);
}

int main(int count, char **arguments) {
    if (count < 4) {
        return 2;
    }
    cinder_model *model = NULL, *plain = NULL;
    cinder_session *session = NULL;
    int before = threads();
    EXPECT(CINDER_OK, cinder_model_open(arguments[1], NULL, &model, &error));
    EXPECT(CINDER_OK, cinder_model_open(arguments[2], NULL, &plain, &error));
    CHECK(threads() == before);
    EXPECT(CINDER_OK, cinder_session_create(model, NULL, &session, &error));
    nulls(model, session);
    sizes(model);
    ranges(model, session);
    callbacks(arguments[1]);
    copies(model);
    states(model, plain, arguments[3]);
    control(model);
    forks(model);
    files(arguments[2], arguments[3]);
    cinder_session *without = NULL;
    size_t size;
    EXPECT(CINDER_OK, cinder_session_create(plain, NULL, &without, &error));
    EXPECT(CINDER_UNSUPPORTED, cinder_session_append_text(without, "a", 1, &error));
    EXPECT(CINDER_UNSUPPORTED, cinder_tokenize(plain, "a", 1, NULL, 0, &size, &error));
    EXPECT(CINDER_UNSUPPORTED, cinder_session_generate(without, NULL, NULL, NULL, NULL, &error));
    cinder_session *mixed[2] = {session, without};
    uint32_t tokens[2] = {1, 1};
    EXPECT(CINDER_OK, cinder_session_append_tokens(session, tokens, 2, &error));
    EXPECT(CINDER_OK, cinder_session_append_tokens(without, tokens, 2, &error));
    EXPECT(CINDER_ARGUMENT, cinder_batch_decode(mixed, 2, tokens, &error));
    for (int i = 4; i < count; i++) {
        hostile(arguments[i]);
    }
    cinder_model_free(model);
    cinder_model_free(plain);
    cinder_session_free(without);
    cinder_session_free(session);
    /* No thread is left after the last free. */
    CHECK(threads() == before);
    return failures != 0;
}
