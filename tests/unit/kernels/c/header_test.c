/* The header is C: this file compiles it as such, without C++ to help. */

#include "theria/kernels.h"

#include <string.h>

/* 0 if a context can be made, described and destroyed from C. */
int theria_header_test(void) {
  theria_context* context = NULL;
  theria_device_info info;
  memset(&info, 0, sizeof(info));
  info.struct_size = sizeof(info);
  if (theria_context_create(NULL, &context) != THERIA_OK) return 1;
  if (theria_context_device(context, &info) != THERIA_OK) return 2;
  if (strcmp(info.id, "cpu") != 0 || info.device_type != THERIA_CPU) return 3;
  theria_context_destroy(context);
  return 0;
}
