/* Loads the library twice over, uses it and unloads it: reload LIBRARY COPY_OF_LIBRARY MODEL. */
#include <cinderblock.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define TAKE(library, name) __typeof__(&name) p_##name = (__typeof__(&name))dlsym(library, #name)

static int use(void *library, const char *path) {
    TAKE(library, cinder_model_open);
    TAKE(library, cinder_session_create);
    TAKE(library, cinder_session_append_tokens);
    TAKE(library, cinder_session_decode_token);
    TAKE(library, cinder_session_free);
    TAKE(library, cinder_model_options_init);
    TAKE(library, cinder_model_free);
    cinder_model_options options;
    cinder_model *model = NULL;
    cinder_session *session = NULL;
    uint32_t tokens[5] = {300, 301, 302, 303, 304};
    p_cinder_model_options_init(&options, sizeof options);
    options.threads = 3;
    int failed = p_cinder_model_open(path, &options, &model, NULL)
        || p_cinder_session_create(model, NULL, &session, NULL)
        || p_cinder_session_append_tokens(session, tokens, 5, NULL)
        || p_cinder_session_decode_token(session, tokens, NULL);
    p_cinder_model_free(model);
    p_cinder_session_free(session);
    return failed;
}

int main(int count, char **arguments) {
    int failed = count != 4;
    for (int round = 0; round < 3 && !failed; round++) {
        void *one = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
        void *two = dlopen(arguments[2], RTLD_NOW | RTLD_LOCAL);
        failed = one == NULL || two == NULL || one == two || use(one, arguments[3]) || use(two, arguments[3])
            || dlclose(one) || use(two, arguments[3]) || dlclose(two);
    }
    return failed;
}
