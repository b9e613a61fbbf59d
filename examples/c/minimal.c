/* Continues a text: minimal MODEL. */
#include <cinderblock.h>
#include <stdio.h>
#include <string.h>

static int show(const char *text, size_t size, void *user_data) {
    (void)user_data;
    return fwrite(text, 1, size, stdout) != size;
}

int main(int count, char **arguments) {
    const char *prompt = "The old house stood at the end of the lane, and nobody had lived in it for years.";
    cinder_error *error = NULL;
    cinder_model *model = NULL;
    cinder_session *session = NULL;
    int failed = count != 2 || cinder_model_open(arguments[1], NULL, &model, &error)
        || cinder_session_create(model, NULL, &session, &error)
        || cinder_session_append_text(session, prompt, strlen(prompt), &error)
        || cinder_session_generate(session, NULL, show, NULL, NULL, &error);
    puts("");
    if (failed) fprintf(stderr, "%s\n", error ? cinder_error_message(error) : "usage: minimal MODEL");
    cinder_error_free(error);
    cinder_session_free(session);
    cinder_model_free(model);
    return failed;
}
