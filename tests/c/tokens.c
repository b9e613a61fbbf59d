/* Generates without a tokenizer: tokens MODEL. Prints the ids. */
#include <cinderblock.h>
#include <stdio.h>

int main(int count, char **arguments) {
    const uint32_t beginning[] = {300, 301, 302, 303, 304};
    uint32_t token = 0;
    cinder_error *error = NULL;
    cinder_model *model = NULL;
    cinder_session *session = NULL;
    int failed = count != 2 || cinder_model_open(arguments[1], NULL, &model, &error)
        || cinder_session_create(model, NULL, &session, &error)
        || cinder_session_append_tokens(session, beginning, 5, &error);
    for (int i = 0; i < 64 && !failed; i++) {
        failed = cinder_session_decode_token(session, &token, &error);
        printf("%u ", token);
    }
    if (failed) fprintf(stderr, "%s\n", cinder_error_message(error));
    cinder_error_free(error);
    cinder_session_free(session);
    cinder_model_free(model);
    return failed;
}
