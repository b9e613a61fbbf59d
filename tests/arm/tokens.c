/* Continues a text of token ids with the library that has no tokenizer: tokens MODEL. */
#include <cinderblock.h>
#include <stdio.h>

int main(int count, char **arguments) {
    const uint32_t prompt[] = {300, 301, 302, 303, 304, 305, 306, 307, 308, 309};
    cinder_error *error = NULL;
    cinder_model *model = NULL;
    cinder_session *session = NULL;
    uint32_t token;
    int failed = count != 2 || cinder_model_open(arguments[1], NULL, &model, &error)
        || cinder_session_create(model, NULL, &session, &error)
        || cinder_session_append_tokens(session, prompt, sizeof prompt / sizeof *prompt, &error);
    for (int written = 0; !failed && written < 400; written++) {
        failed = cinder_session_decode_token(session, &token, &error);
        if (!failed) printf("%u\n", token);
    }
    if (failed) fprintf(stderr, "%s\n", error ? cinder_error_message(error) : "usage: tokens MODEL");
    cinder_error_free(error);
    cinder_session_free(session);
    cinder_model_free(model);
    return failed;
}
