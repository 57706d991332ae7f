// Library and command run on glibc 2.34. Swift's static archives refer to hypotf, which glibc 2.35 gave a new version, and the linker takes
// the newest. A definition of our own, hidden like all of this target, ends the reference.
#include <math.h>

__attribute__((visibility("hidden"))) float hypotf(float x, float y) {
  if (isinf(x) || isinf(y)) return INFINITY;
  return (float)sqrt((double)x * (double)x + (double)y * (double)y);
}
