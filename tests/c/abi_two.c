#include <cinderblock.h>

#ifdef __cplusplus
extern "C"
#endif
int other_unit(void);

int other_unit(void) {
    return cinder_status_name(CINDER_OK)[0] != 'C' || cinder_version()[0] == '\0';
}
