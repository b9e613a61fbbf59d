/*
 * Several texts at once, which share every pass over the weights: batch MODEL. Halfway, inside a block, the third one is
 * saved and loaded, and the fourth one is replaced by a copy, without any effect on the texts.
 */
#include <cinderblock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXTS = 4, TOKENS = 42 };

static int reload(const cinder_model *model, cinder_session **session, cinder_error **error) {
    size_t size = 0;
    void *data = NULL;
    cinder_session *loaded = NULL;
    int failed = cinder_session_save(*session, NULL, 0, &size, NULL) != CINDER_BUFFER
        || (data = malloc(size)) == NULL
        || cinder_session_save(*session, data, size, &size, error) != CINDER_OK
        || cinder_session_load(model, data, size, NULL, &loaded, error) != CINDER_OK;
    free(data);
    if (!failed) {
        cinder_session_free(*session);
        *session = loaded;
    }
    return failed;
}

static int replace(cinder_session **session, cinder_error **error) {
    cinder_session *copy = NULL;
    if (cinder_session_copy(*session, &copy, error) != CINDER_OK) {
        return 1;
    }
    cinder_session_free(*session);
    *session = copy;
    return 0;
}

int main(int count, char **arguments) {
    const char *beginnings[TEXTS] = {
        "The old house stood at the end of the lane.",
        "It was a dark night, and the rain had not stopped since noon.",
        "My dear friend, I write to you from a small town by the sea.",
        "When the ship came into the harbour, the whole town was waiting.",
    };
    cinder_session *sessions[TEXTS] = {NULL};
    uint32_t tokens[TEXTS], texts[TEXTS][TOKENS];
    char text[TOKENS * 64];
    size_t size = 0;
    cinder_model *model = NULL;
    cinder_error *error = NULL;
    int failed = count != 2 || cinder_model_open(arguments[1], NULL, &model, &error) != CINDER_OK;
    for (int i = 0; i < TEXTS && !failed; i++) {
        failed = cinder_session_create(model, NULL, &sessions[i], &error) != CINDER_OK
            || cinder_session_append_text(sessions[i], beginnings[i], strlen(beginnings[i]), &error) != CINDER_OK;
    }
    for (int step = 0; step < TOKENS && !failed; step++) {
        failed = cinder_batch_decode(sessions, TEXTS, tokens, &error) != CINDER_OK
            || (step == TOKENS / 2 && (reload(model, &sessions[2], &error) || replace(&sessions[3], &error)));
        for (int i = 0; i < TEXTS; i++) {
            texts[i][step] = tokens[i];
        }
    }
    for (int i = 0; i < TEXTS && !failed; i++) {
        failed = cinder_detokenize(model, texts[i], TOKENS, text, sizeof text, &size, &error) != CINDER_OK;
        printf("%s%.*s\n---\n", beginnings[i], (int)size, text);
    }
    if (failed) {
        fprintf(stderr, "%s\n", error ? cinder_error_message(error) : "usage: batch MODEL");
    }
    cinder_error_free(error);
    cinder_model_free(model);
    for (int i = 0; i < TEXTS; i++) {
        cinder_session_free(sessions[i]);
    }
    return failed;
}
