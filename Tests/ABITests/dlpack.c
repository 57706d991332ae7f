/* DLPack tensors as views. The structs are written down here from the specification, not taken from the library. */
#include "support.h"

#include <stdint.h>

typedef struct {
  void *data;
  int32_t device_type, device_id, ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} DLTensor;

struct DLManagedTensor {
  DLTensor dl_tensor;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensor *);
};

struct DLManagedTensorVersioned {
  uint32_t major, minor;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensorVersioned *);
  uint64_t flags;
  DLTensor dl_tensor;
};

static ingot_error *error;
static float numbers[12];
static int64_t shape[2] = {2, 3}, strides[2] = {1, 2};
static int deleted;

static void deleter(struct DLManagedTensor *t) { (void)t, ++deleted; }

static DLTensor tensor(uint8_t code, uint8_t bits) {
  DLTensor t = {numbers, 1, 0, 2, code, bits, 1, shape, strides, 8};
  return t;
}

static void dtypes(void) {
  const struct {
    uint8_t code, bits;
    int32_t dtype;
  } known[] = {
      {2, 32, INGOT_DTYPE_F32},     {2, 16, INGOT_DTYPE_F16},         {2, 64, INGOT_DTYPE_F64},     {4, 16, INGOT_DTYPE_BF16},
      {0, 8, INGOT_DTYPE_I8},       {0, 16, INGOT_DTYPE_I16},         {0, 32, INGOT_DTYPE_I32},     {0, 64, INGOT_DTYPE_I64},
      {1, 8, INGOT_DTYPE_U8},       {1, 16, INGOT_DTYPE_U16},         {1, 32, INGOT_DTYPE_U32},     {1, 64, INGOT_DTYPE_U64},
      {6, 8, INGOT_DTYPE_BOOL},     {5, 64, INGOT_DTYPE_C64},         {10, 8, INGOT_DTYPE_F8_E4M3}, {11, 8, INGOT_DTYPE_F8_E4M3FNUZ},
      {12, 8, INGOT_DTYPE_F8_E5M2}, {13, 8, INGOT_DTYPE_F8_E5M2FNUZ}, {14, 8, INGOT_DTYPE_F8_E8M0}, {15, 6, INGOT_DTYPE_F6_E2M3},
      {16, 6, INGOT_DTYPE_F6_E3M2}, {17, 4, INGOT_DTYPE_F4}};
  for (size_t i = 0; i < sizeof known / sizeof *known; ++i) {
    struct DLManagedTensor managed = {tensor(known[i].code, known[i].bits), NULL, deleter};
    ingot_tensor_view view = INGOT_TENSOR_VIEW_INIT;
    CHECK_OK(ingot_tensor_view_from_dlpack(&managed, &view, &error));
    CHECK(view.dtype == known[i].dtype && view.rank == 2 && view.shape == shape && view.strides == strides);
    CHECK(view.data == (char *)numbers + 8 && view.flags == 0 && !view.name && view.struct_size == sizeof view);
  }
  const uint8_t unknown[][2] = {{2, 8}, {3, 64}, {5, 128}, {7, 8}, {6, 1}, {200, 32}};
  for (size_t i = 0; i < sizeof unknown / sizeof *unknown; ++i) {
    struct DLManagedTensor managed = {tensor(unknown[i][0], unknown[i][1]), NULL, deleter};
    ingot_tensor_view view = INGOT_TENSOR_VIEW_INIT;
    CHECK_STATUS(INGOT_E_DTYPE, ingot_tensor_view_from_dlpack(&managed, &view, &error));
  }
  struct DLManagedTensor vector = {tensor(2, 32), NULL, deleter};
  vector.dl_tensor.lanes = 4;
  ingot_tensor_view view = INGOT_TENSOR_VIEW_INIT;
  CHECK_ERROR(INGOT_E_DTYPE, "4 lanes", ingot_tensor_view_from_dlpack(&vector, &view, &error));
}

static void devices(void) {
  const struct {
    int32_t type;
    const char *name;
  } others[] = {{2, "cuda:3"}, {8, "metal:3"}, {10, "rocm:3"}, {14, "oneapi:3"}, {4, "opencl:3"}, {99, "type 99"}};
  for (size_t i = 0; i < sizeof others / sizeof *others; ++i) {
    struct DLManagedTensor managed = {tensor(2, 32), NULL, deleter};
    managed.dl_tensor.device_type = others[i].type;
    managed.dl_tensor.device_id = 3;
    ingot_tensor_view view = INGOT_TENSOR_VIEW_INIT;
    CHECK_ERROR(INGOT_E_UNSUPPORTED, others[i].name, ingot_tensor_view_from_dlpack(&managed, &view, &error));
    CHECK(strstr(last_error_text, "cpu()")); /* the hint */
  }
  for (int32_t host = 3; host <= 11; host += 8) { /* pinned memory */
    struct DLManagedTensor managed = {tensor(2, 32), NULL, deleter};
    managed.dl_tensor.device_type = host;
    ingot_tensor_view view = INGOT_TENSOR_VIEW_INIT;
    CHECK_OK(ingot_tensor_view_from_dlpack(&managed, &view, &error));
  }
}

static void versioned(void) {
  struct DLManagedTensorVersioned managed = {1, 7, NULL, NULL, 3, tensor(4, 16)};
  ingot_tensor_view view = INGOT_TENSOR_VIEW_INIT;
  CHECK_OK(ingot_tensor_view_from_dlpack_versioned(&managed, &view, &error));
  CHECK(view.flags == INGOT_TENSOR_READ_ONLY && view.dtype == INGOT_DTYPE_BF16 && view.data == (char *)numbers + 8);
  managed.flags = 2;
  CHECK_OK(ingot_tensor_view_from_dlpack_versioned(&managed, &view, &error));
  CHECK(view.flags == 0);
  managed.flags = 4, managed.dl_tensor = tensor(17, 4);
  CHECK_ERROR(INGOT_E_DTYPE, "padded", ingot_tensor_view_from_dlpack_versioned(&managed, &view, &error));
  managed.major = 2;
  CHECK_ERROR(INGOT_E_UNSUPPORTED, "version 2", ingot_tensor_view_from_dlpack_versioned(&managed, &view, &error));
}

static void hostile(void) {
  struct DLManagedTensor managed = {tensor(2, 32), NULL, deleter};
  ingot_tensor_view view = INGOT_TENSOR_VIEW_INIT;
  managed.dl_tensor.ndim = -1;
  CHECK_STATUS(INGOT_E_SHAPE, ingot_tensor_view_from_dlpack(&managed, &view, &error));
  managed.dl_tensor.ndim = 1 << 30;
  CHECK_STATUS(INGOT_E_SHAPE, ingot_tensor_view_from_dlpack(&managed, &view, &error));
  managed.dl_tensor = tensor(2, 32);
  managed.dl_tensor.shape = NULL;
  CHECK_STATUS(INGOT_E_INVALID_ARGUMENT, ingot_tensor_view_from_dlpack(&managed, &view, &error));
  managed.dl_tensor = tensor(2, 32);
  managed.dl_tensor.byte_offset = UINT64_MAX;
  CHECK_STATUS(INGOT_E_SHAPE, ingot_tensor_view_from_dlpack(&managed, &view, &error));
  managed.dl_tensor = tensor(2, 32);
  managed.dl_tensor.data = NULL; /* without memory it is empty, or refused where it is used */
  CHECK_OK(ingot_tensor_view_from_dlpack(&managed, &view, &error));
  CHECK(view.data == NULL);
  view.struct_size = 3;
  CHECK_STATUS(INGOT_E_INVALID_ARGUMENT, ingot_tensor_view_from_dlpack(&managed, &view, &error));
}

static void merged(void) {
  for (int i = 0; i < 12; ++i) numbers[i] = (float)i;
  struct DLManagedTensor managed = {tensor(2, 32), NULL, deleter};
  managed.dl_tensor.byte_offset = 0;
  ingot_tensor_view view = INGOT_TENSOR_VIEW_INIT, out = INGOT_TENSOR_VIEW_INIT;
  CHECK_OK(ingot_tensor_view_from_dlpack(&managed, &view, &error));
  float result[6];
  out.dtype = INGOT_DTYPE_F32, out.rank = 2, out.shape = shape, out.data = result;
  const ingot_tensor_view *inputs[] = {&view, &view};
  ingot_context *context = NULL;
  CHECK_OK(ingot_context_create(&context, NULL, &error));
  CHECK_OK(ingot_merge_tensors(context, "linear", NULL, NULL, inputs, 2, &out, NULL, &error));
  const float transposed[6] = {0, 2, 4, 1, 3, 5};
  CHECK(!memcmp(result, transposed, sizeof result));
  ingot_context_destroy(context);
}

int main(void) {
  dtypes();
  devices();
  versioned();
  hostile();
  merged();
  CHECK(deleted == 0); /* the capsule stays its owner's */
  return finish("dlpack");
}
