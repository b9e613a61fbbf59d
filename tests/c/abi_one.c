/* The header compiles alone, in two translation units, as C11 and C++17; its numbers and sizes are what they were. */
#include <cinderblock.h>
#include <cinderblock.h>

#ifdef __cplusplus
#define FROZEN(condition) static_assert(condition, #condition)
extern "C" int other_unit(void);
#else
#define FROZEN(condition) _Static_assert(condition, #condition)
int other_unit(void);
#endif

FROZEN(sizeof(cinder_status) == 4);
FROZEN(CINDER_OK == 0 && CINDER_IO == 1 && CINDER_FORMAT == 2 && CINDER_UNSUPPORTED == 3);
FROZEN(CINDER_ARGUMENT == 4 && CINDER_RESOURCE == 5 && CINDER_NUMERIC == 6 && CINDER_INTERNAL == 7);
FROZEN(CINDER_INTERRUPTED == 8 && CINDER_MISUSE == 9 && CINDER_POISONED == 10 && CINDER_BUFFER == 11);
#if UINTPTR_MAX == 0xffffffffffffffffu
FROZEN(sizeof(cinder_model_options) >= 56 && offsetof(cinder_model_options, log_data) == 40);
FROZEN(offsetof(cinder_model_options, in_memory) == 48);
FROZEN(sizeof(cinder_session_options) >= 32 && offsetof(cinder_session_options, cache_type) == 24);
FROZEN(sizeof(cinder_sampler_options) >= 40 && offsetof(cinder_sampler_options, repetition_window) == 36);
FROZEN(sizeof(cinder_generate_options) >= 24 && offsetof(cinder_generate_options, ignore_end) == 16);
FROZEN(sizeof(cinder_generation) >= 24 && offsetof(cinder_generation, end) == 16);
FROZEN(sizeof(cinder_model_info) >= 64 && offsetof(cinder_model_info, token_hidden) == 60);
FROZEN(sizeof(cinder_memory_estimate) >= 40 && offsetof(cinder_memory_estimate, total) == 32);
#endif

int main(void) {
    return other_unit() != 0 || cinder_version_number() != CINDER_VERSION_NUMBER;
}
