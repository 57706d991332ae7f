/* The kernels for scalar: the reference: one element at a time, nothing vectorised. */
#define INGOTK_SET scalar
#define INGOTK_SCALAR 1
#define INGOTK_LANES 1
#include "../kernels/vector.h"

#include "../kernels/all.inc"
