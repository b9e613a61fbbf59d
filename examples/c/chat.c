/*
 * A conversation that streams: chat MODEL. Reads a line, answers it, and remembers both. Ctrl-C stops an answer, at
 * the prompt it ends the program.
 */
#include <cinderblock.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* For the signal handler, which may cancel: that only sets a flag. */
static cinder_session *volatile answering;

static void stop(int signal_number) {
    (void)signal_number;
    cinder_session_cancel(answering);
}

static int show(const char *text, size_t size, void *user_data) {
    (void)user_data;
    return fwrite(text, 1, size, stdout) != size || fflush(stdout) != 0;
}

static int answer(cinder_session *session, const char *line, cinder_error **error) {
    cinder_generate_options options;
    cinder_generate_options_init(&options, sizeof options);
    options.max_tokens = 60;
    if (cinder_session_append_text(session, line, strlen(line), error) != CINDER_OK) {
        return 1;
    }
    answering = session;
    signal(SIGINT, stop);
    cinder_status status = cinder_session_generate(session, &options, show, NULL, NULL, error);
    signal(SIGINT, SIG_DFL);
    answering = NULL;
    if (status == CINDER_INTERRUPTED) {
        cinder_error_free(*error);
        *error = NULL;
        return puts(" ...") < 0;
    }
    return puts("") < 0 || status != CINDER_OK;
}

int main(int count, char **arguments) {
    cinder_error *error = NULL;
    cinder_model *model = NULL;
    cinder_session *session = NULL;
    cinder_sampler_options sampler;
    cinder_sampler_options_init(&sampler, sizeof sampler);
    sampler.repetition_penalty = 1.1f;
    const char *stops[] = {"\n\n"};
    char line[4096];

    int failed = count != 2 || cinder_model_open(arguments[1], NULL, &model, &error) != CINDER_OK
        || cinder_session_create(model, NULL, &session, &error) != CINDER_OK
        || cinder_session_set_sampler(session, &sampler, &error) != CINDER_OK
        || cinder_session_set_stops(session, stops, 1, &error) != CINDER_OK;
    while (!failed && fputs("> ", stdout) >= 0 && fflush(stdout) == 0 && fgets(line, sizeof line, stdin) != NULL) {
        failed = answer(session, line, &error);
    }
    if (failed) {
        fprintf(stderr, "%s\n", error ? cinder_error_message(error) : "usage: chat MODEL");
    }
    cinder_error_free(error);
    cinder_session_free(session);
    cinder_model_free(model);
    return failed;
}
