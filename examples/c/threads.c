/*
 * Two sessions of one model on two threads: threads MODEL. With one thread for each session, neither waits for the other.
 * The main thread frees the model first and cancels the second session in the middle of its endless text.
 */
#include <cinderblock.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct writer {
    cinder_session *session;
    const char *text;
    uint64_t most;
    size_t bytes;
    cinder_status status;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

static int count_bytes(const char *text, size_t size, void *user_data) {
    struct writer *writer = user_data;
    (void)text;
    pthread_mutex_lock(&writer->lock);
    writer->bytes += size;
    pthread_cond_signal(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
    return 0;
}

static void *write_text(void *data) {
    struct writer *writer = data;
    cinder_generate_options options;
    cinder_generate_options_init(&options, sizeof options);
    options.max_tokens = writer->most;
    options.ignore_end = 1;
    writer->status = cinder_session_append_text(writer->session, writer->text, strlen(writer->text), NULL);
    if (writer->status == CINDER_OK) {
        writer->status = cinder_session_generate(writer->session, &options, count_bytes, writer, NULL, NULL);
    }
    pthread_mutex_lock(&writer->lock);
    writer->bytes += 1; /* Wakes the main thread also if nothing was written. */
    pthread_cond_signal(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
    return NULL;
}

int main(int count, char **arguments) {
    struct writer writers[2] = {
        {NULL, "The old house stood at the end of the lane.", 40, 0, CINDER_OK, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER},
        {NULL, "It was a dark night, and the rain had not stopped since noon.", UINT64_MAX, 0, CINDER_OK, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER},
    };
    pthread_t threads[2];
    cinder_model_options options;
    cinder_model *model = NULL;
    cinder_error *error = NULL;
    cinder_model_options_init(&options, sizeof options);
    options.threads = 1;
    if (count != 2 || cinder_model_open(arguments[1], &options, &model, &error) != CINDER_OK
        || cinder_session_create(model, NULL, &writers[0].session, &error) != CINDER_OK
        || cinder_session_create(model, NULL, &writers[1].session, &error) != CINDER_OK) {
        fprintf(stderr, "%s\n", error ? cinder_error_message(error) : "usage: threads MODEL");
        return 1;
    }
    cinder_model_free(model);
    for (int i = 0; i < 2; i++) {
        if (pthread_create(&threads[i], NULL, write_text, &writers[i]) != 0) {
            return 1;
        }
    }
    pthread_mutex_lock(&writers[1].lock);
    while (writers[1].bytes == 0) {
        pthread_cond_wait(&writers[1].changed, &writers[1].lock);
    }
    pthread_mutex_unlock(&writers[1].lock);
    cinder_session_cancel(writers[1].session);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        printf("%s: %zu bytes\n", cinder_status_name(writers[i].status), writers[i].bytes - 1);
        cinder_session_free(writers[i].session);
    }
    return writers[0].status != CINDER_OK || writers[1].status != CINDER_INTERRUPTED;
}
