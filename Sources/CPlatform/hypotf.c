/* The command links Foundation's archives, and these mention hypotf, whose newest version in glibc is GLIBC_2.35. With
 * this definition the command needs nothing newer than GLIBC_2.34 and starts on systems that do not have 2.35 yet.
 * The same as glibc's: the double arithmetic neither overflows nor loses digits of a float. */
#include <math.h>

__attribute__((visibility("hidden"))) float hypotf(float x, float y) {
  if (isinf(x) || isinf(y)) return INFINITY;
  return (float)sqrt((double)x * (double)x + (double)y * (double)y);
}
