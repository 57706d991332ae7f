/* Compiles as C99, C11 and C++11 with all warnings as errors: every struct has an _INIT that fills it, every constant its value. */
#include <ingot/ingot.h>
/* Twice: once is enough. */
#include <ingot/ingot.h>

static const ingot_context_options context_options = INGOT_CONTEXT_OPTIONS_INIT;
static const ingot_tensor_view tensor_view = INGOT_TENSOR_VIEW_INIT;
static const ingot_model_options model_options = INGOT_MODEL_OPTIONS_INIT;
static const ingot_source source = INGOT_SOURCE_INIT;
static const ingot_resolver resolver = INGOT_RESOLVER_INIT;
static const ingot_recipe_options recipe_options = INGOT_RECIPE_OPTIONS_INIT;
static const ingot_plan_options plan_options = INGOT_PLAN_OPTIONS_INIT;
static const ingot_run_options run_options = INGOT_RUN_OPTIONS_INIT;
static const ingot_sink sink = INGOT_SINK_INIT;
static const ingot_merge_options merge_options = INGOT_MERGE_OPTIONS_INIT;
static const ingot_side_input side_input = INGOT_SIDE_INPUT_INIT;
static const ingot_aim aim = INGOT_AIM_INIT;
static const ingot_delta_options delta_options = INGOT_DELTA_OPTIONS_INIT;

int main(void) {
  return !(context_options.struct_size == sizeof context_options && tensor_view.struct_size == sizeof tensor_view &&
           model_options.struct_size == sizeof model_options && source.struct_size == sizeof source &&
           resolver.struct_size == sizeof resolver && recipe_options.struct_size == sizeof recipe_options &&
           plan_options.struct_size == sizeof plan_options && run_options.struct_size == sizeof run_options &&
           sink.struct_size == sizeof sink && merge_options.struct_size == sizeof merge_options &&
           side_input.struct_size == sizeof side_input && aim.struct_size == sizeof aim &&
           delta_options.struct_size == sizeof delta_options && ingot_abi_version() == INGOT_ABI_VERSION &&
           ingot_version_number() == INGOT_VERSION_MAJOR * 1000000u + INGOT_VERSION_MINOR * 1000u + INGOT_VERSION_PATCH);
}
