/* The layout of every struct of ABI 0 on 64-bit machines. A line that fails here is a change of the ABI. */
#include <ingot/ingot.h>

#define AT(type, member, offset) _Static_assert(offsetof(type, member) == (offset), #type "." #member)
#define SIZE(type, size) _Static_assert(sizeof(type) == (size), #type)

SIZE(void *, 8);

SIZE(ingot_context_options, 56);
AT(ingot_context_options, struct_size, 0);
AT(ingot_context_options, flags, 4);
AT(ingot_context_options, threads, 8);
AT(ingot_context_options, team, 12);
AT(ingot_context_options, memory_budget_bytes, 16);
AT(ingot_context_options, isa, 24);
AT(ingot_context_options, log, 32);
AT(ingot_context_options, log_user, 40);
AT(ingot_context_options, log_level, 48);
AT(ingot_context_options, reserved, 52);

SIZE(ingot_tensor_view, 56);
AT(ingot_tensor_view, name, 8);
AT(ingot_tensor_view, dtype, 16);
AT(ingot_tensor_view, rank, 20);
AT(ingot_tensor_view, shape, 24);
AT(ingot_tensor_view, strides, 32);
AT(ingot_tensor_view, data, 40);
AT(ingot_tensor_view, byte_count, 48);

SIZE(ingot_model_options, 16);
AT(ingot_model_options, config_json, 8);

SIZE(ingot_source, 48);
AT(ingot_source, user, 8);
AT(ingot_source, size, 16);
AT(ingot_source, read_at, 24);
AT(ingot_source, map, 32);
AT(ingot_source, release, 40);

SIZE(ingot_resolver, 40);
AT(ingot_resolver, user, 8);
AT(ingot_resolver, open, 16);
AT(ingot_resolver, list, 24);
AT(ingot_resolver, release, 32);

SIZE(ingot_recipe_options, 8);

SIZE(ingot_plan_options, 56);
AT(ingot_plan_options, shard_size_bytes, 8);
AT(ingot_plan_options, seed, 16);
AT(ingot_plan_options, models, 24);
AT(ingot_plan_options, model_count, 32);
AT(ingot_plan_options, resolver, 40);
AT(ingot_plan_options, numerics, 48);
AT(ingot_plan_options, missing, 52);

SIZE(ingot_progress, 56);
AT(ingot_progress, bytes_done, 8);
AT(ingot_progress, bytes_total, 16);
AT(ingot_progress, tensors_done, 24);
AT(ingot_progress, tensors_total, 32);
AT(ingot_progress, tensor, 40);
AT(ingot_progress, elapsed_ns, 48);

SIZE(ingot_run_options, 40);
AT(ingot_run_options, progress, 8);
AT(ingot_run_options, progress_user, 16);
AT(ingot_run_options, progress_interval_ms, 24);
AT(ingot_run_options, sync, 28);
AT(ingot_run_options, cancel, 32);

SIZE(ingot_sink, 48);
AT(ingot_sink, user, 8);
AT(ingot_sink, reserve, 16);
AT(ingot_sink, write_at, 24);
AT(ingot_sink, commit, 32);
AT(ingot_sink, release, 40);

SIZE(ingot_side_input, 32);
AT(ingot_side_input, name, 8);
AT(ingot_side_input, input, 16);
AT(ingot_side_input, tensor, 24);

SIZE(ingot_aim, 32);
AT(ingot_aim, norms, 8);
AT(ingot_aim, base, 16);
AT(ingot_aim, omega, 24);

SIZE(ingot_merge_options, 48);
AT(ingot_merge_options, seed, 8);
AT(ingot_merge_options, cancel, 16);
AT(ingot_merge_options, sides, 24);
AT(ingot_merge_options, side_count, 32);
AT(ingot_merge_options, aim, 40);

SIZE(ingot_delta_options, 32);
AT(ingot_delta_options, task, 8);
AT(ingot_delta_options, scale, 16);
AT(ingot_delta_options, shard_size_bytes, 24);

int main(void) { return 0; }
