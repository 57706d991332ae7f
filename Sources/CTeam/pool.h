// Threads of our own, parked between runs.
#ifndef INGOT_POOL_H
#define INGOT_POOL_H

typedef struct ingot_pool ingot_pool;

/// Starts up to `threads` - 1 threads (the caller is the remaining one); fewer where the system allows no more. Null when out
/// of memory.
ingot_pool *ingot_pool_create(int threads);
/// The number of workers, the calling thread among them.
int ingot_pool_size(const ingot_pool *pool);
/// Runs `work(context, worker, size)` on every worker and waits for all.
void ingot_pool_run(ingot_pool *pool, void (*work)(void *, int, int), void *context);
/// Stops and joins the threads.
void ingot_pool_destroy(ingot_pool *pool);
/// Frees the memory of a pool whose threads stayed behind in the parent process.
void ingot_pool_forget(ingot_pool *pool);

#endif
