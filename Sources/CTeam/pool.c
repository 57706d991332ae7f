#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct member {
  struct ingot_pool *pool;
  pthread_t thread;
  int worker;
} member;

struct ingot_pool {
  pthread_mutex_t lock;
  pthread_cond_t start;
  pthread_cond_t finished;
  uint64_t generation; // counts runs, so that a thread takes part in each once
  int pending;         // threads that have not finished the current run
  int started;         // threads that exist
  bool stopping;
  void (*work)(void *, int, int);
  void *context;
  member members[];
};

static void *member_main(void *argument) {
  member *self = argument;
  ingot_pool *pool = self->pool;
  uint64_t seen = 0;
  // The allocator may take address space for a thread's first block: where that is scarce it shows now, while threads are made.
  void *volatile block = malloc(1);
  free(block);
  pthread_mutex_lock(&pool->lock);
  for (;;) {
    while (pool->generation == seen && !pool->stopping) pthread_cond_wait(&pool->start, &pool->lock);
    if (pool->stopping) break;
    seen = pool->generation;
    void (*work)(void *, int, int) = pool->work;
    void *context = pool->context;
    const int size = pool->started + 1;
    pthread_mutex_unlock(&pool->lock);
    work(context, self->worker, size);
    pthread_mutex_lock(&pool->lock);
    if (--pool->pending == 0) pthread_cond_signal(&pool->finished);
  }
  pthread_mutex_unlock(&pool->lock);
  return NULL;
}

ingot_pool *ingot_pool_create(int threads) {
  const int wanted = threads > 1 ? threads - 1 : 0;
  ingot_pool *pool = calloc(1, sizeof(ingot_pool) + (size_t)wanted * sizeof(member));
  if (!pool) return NULL;
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->start, NULL);
  pthread_cond_init(&pool->finished, NULL);
  // The host's signals are for the host's threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (int i = 0; i < wanted; i++) {
    member *m = &pool->members[i];
    m->pool = pool;
    m->worker = i + 1;
    if (pthread_create(&m->thread, NULL, member_main, m) != 0) break;
    pthread_setname_np(m->thread, "ingot-worker");
    pthread_mutex_lock(&pool->lock);
    pool->started++;
    pthread_mutex_unlock(&pool->lock);
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return pool;
}

int ingot_pool_size(const ingot_pool *pool) { return pool->started + 1; }

void ingot_pool_run(ingot_pool *pool, void (*work)(void *, int, int), void *context) {
  pthread_mutex_lock(&pool->lock);
  pool->work = work;
  pool->context = context;
  pool->pending = pool->started;
  pool->generation++;
  const int size = pool->started + 1;
  pthread_cond_broadcast(&pool->start);
  pthread_mutex_unlock(&pool->lock);
  work(context, 0, size);
  pthread_mutex_lock(&pool->lock);
  while (pool->pending > 0) pthread_cond_wait(&pool->finished, &pool->lock);
  pthread_mutex_unlock(&pool->lock);
}

void ingot_pool_destroy(ingot_pool *pool) {
  if (!pool) return;
  pthread_mutex_lock(&pool->lock);
  pool->stopping = true;
  pthread_cond_broadcast(&pool->start);
  pthread_mutex_unlock(&pool->lock);
  for (int i = 0; i < pool->started; i++) pthread_join(pool->members[i].thread, NULL);
  pthread_cond_destroy(&pool->finished);
  pthread_cond_destroy(&pool->start);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

void ingot_pool_forget(ingot_pool *pool) { free(pool); }
