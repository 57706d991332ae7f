// ingot.hpp: the C++17 face of ingot.h, which is the manual. Header only: it includes all of ingot/cpp.
//
// Objects release what they hold; failures are thrown as ingot::error. An exception that leaves a callback (progress, log, output,
// model_store) is caught there, stops the work, and is thrown again, unchanged, by the call that led to it.
#ifndef INGOT_HPP
#define INGOT_HPP

#include <ingot/ingot.h>

#include <ingot/cpp/adapters.hpp>
#include <ingot/cpp/checkpoints.hpp>
#include <ingot/cpp/context.hpp>
#include <ingot/cpp/errors.hpp>
#include <ingot/cpp/plan.hpp>
#include <ingot/cpp/progress.hpp>
#include <ingot/cpp/recipe.hpp>
#include <ingot/cpp/rolling.hpp>
#include <ingot/cpp/single_tensor.hpp>
#include <ingot/cpp/streams.hpp>
#include <ingot/cpp/tensors.hpp>

#endif
