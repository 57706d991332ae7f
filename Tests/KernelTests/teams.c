/* The pthread team under the thread sanitizer: runs, nested calls, teams beside each other, and the end of a team. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "CTeam.h"

enum { WORKERS = 4, ROUNDS = 200, HOSTS = 3 };

typedef struct {
  atomic_int next;
  ingot_team *team;
  int items[64]; /* each written by the worker that took it, read by the caller after the run */
  int busy;
} job;

static void body(void *user, int worker, int size) {
  job *j = user;
  (void)size;
  for (int item; (item = atomic_fetch_add(&j->next, 1)) < 64;) j->items[item] += worker + 1;
  /* A run inside of a run is refused. */
  if (worker == 0) j->busy = ingot_team_run(j->team, body, user);
}

static void *host(void *unused) {
  (void)unused;
  ingot_team *team = NULL;
  char why[256];
  if (ingot_team_create(WORKERS, INGOT_TEAM_PTHREAD, NULL, &team, why, sizeof why) != INGOT_TEAM_OK) return (void *)1;
  for (int round = 0; round < ROUNDS; ++round) {
    job j = {.team = team};
    if (ingot_team_run(team, body, &j) != INGOT_TEAM_OK || j.busy != INGOT_TEAM_BUSY) return (void *)2;
    for (int i = 0; i < 64; ++i) {
      if (j.items[i] < 1 || j.items[i] > WORKERS) return (void *)3;
    }
  }
  ingot_team_destroy(team);
  return NULL;
}

int main(void) {
  pthread_t threads[HOSTS];
  int failures = 0;
  for (int i = 0; i < HOSTS; ++i) {
    if (pthread_create(&threads[i], NULL, host, NULL)) return 9;
  }
  for (int i = 0; i < HOSTS; ++i) {
    void *result;
    pthread_join(threads[i], &result);
    if (result) {
      fprintf(stderr, "host %d failed at step %ld\n", i, (long)result);
      ++failures;
    }
  }
  printf("teams: %d hosts with %d runs of %d workers\n", HOSTS, ROUNDS, WORKERS);
  return failures;
}
