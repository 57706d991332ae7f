// Binding the calling thread to a worker's node, and undoing it.
#ifndef INGOT_PLACEMENT_H
#define INGOT_PLACEMENT_H

#include "CTeam.h"

/// Binds the calling thread to the worker's processors. Returns the binding to give back to `unbind`, null when nothing was done.
void *ingot_placement_bind(const ingot_placement *placement, int worker);
void ingot_placement_unbind(const ingot_placement *placement, void *previous);

#endif
