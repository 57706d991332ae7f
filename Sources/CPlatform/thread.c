#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "CPlatform.h"

struct ingot_thread {
  pthread_t thread;
  void (*body)(void *);
  void *context;
};

static void *thread_main(void *argument) {
  ingot_thread *self = argument;
  self->body(self->context);
  return NULL;
}

ingot_thread *ingot_thread_start(void (*body)(void *), void *context) {
  ingot_thread *self = malloc(sizeof *self);
  if (!self) return NULL;
  self->body = body;
  self->context = context;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int failed = pthread_create(&self->thread, NULL, thread_main, self);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!failed) return self;
  free(self);
  return NULL;
}

void ingot_thread_join(ingot_thread *thread) {
  if (!thread) return;
  pthread_join(thread->thread, NULL);
  free(thread);
}
