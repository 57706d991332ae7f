// The library runs on glibc 2.34. Swift's static Glibc overlay refers to hypotf, which glibc 2.35 gave a new version, and the
// linker takes the newest: the library would not load on 2.34. Nothing here calls it; a definition of our own, hidden like all of
// this target, ends the reference. Squares of floats do not overflow in double.
float hypotf(float x, float y);
float hypotf(float x, float y) { return (float)__builtin_sqrt((double)x * x + (double)y * y); }
