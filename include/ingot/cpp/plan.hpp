// All that will be done, and doing it. Part of ingot.hpp.
#ifndef INGOT_CPP_PLAN_HPP
#define INGOT_CPP_PLAN_HPP

#include <ingot/cpp/context.hpp>
#include <ingot/cpp/progress.hpp>
#include <ingot/cpp/recipe.hpp>
#include <ingot/cpp/streams.hpp>
#include <ingot/cpp/tensors.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ingot {

class plan {
public:
  /// `models` and `store` take the place of the options' own models and resolver.
  plan(context &c, const recipe &r, const std::vector<const model *> &models = {}, ingot_plan_options o = INGOT_PLAN_OPTIONS_INIT,
       const std::shared_ptr<model_store> &store = nullptr)
      : captured_(std::make_shared<detail::capture>()) {
    std::vector<const ingot_model *> handles;
    for (const model *m : models) handles.push_back(m->get());
    o.models = handles.data();
    o.model_count = handles.size();
    std::optional<detail::lent_store> lent;
    if (store) o.resolver = lent.emplace(store, captured_).resolver();
    handle_ = detail::make<decltype(handle_)>([&](auto out, auto e) { return ingot_plan_create(c.get(), r.get(), out, &o, e); },
                                              {captured_.get(), c.captured()});
    if (lent) lent->keep();
  }
  /// The model of a delta pack and its base; see ingot_delta_plan_apply.
  static plan apply_pack(context &c, const std::string &pack, const std::string &base, ingot_delta_options o = INGOT_DELTA_OPTIONS_INIT) {
    return plan(made_by{}, c, [&](auto out, auto e) { return ingot_delta_plan_apply(c.get(), pack.c_str(), base.c_str(), out, &o, e); });
  }
  /// The differences of a delta pack; see ingot_delta_plan_unpack. `base` may be empty.
  static plan unpack(context &c, const std::string &pack, const std::string &base = "", ingot_delta_options o = INGOT_DELTA_OPTIONS_INIT) {
    const char *name = base.empty() ? nullptr : base.c_str();
    return plan(made_by{}, c, [&](auto out, auto e) { return ingot_delta_plan_unpack(c.get(), pack.c_str(), name, out, &o, e); });
  }
  std::string json() const { return detail::text(ingot_plan_json(handle_.get())); }
  std::string table() const { return detail::text(ingot_plan_table(handle_.get())); }
  std::string digest() const { return detail::text(ingot_plan_digest(handle_.get())); }
  /// The output tensors, without memory.
  std::vector<tensor> tensors() const {
    std::vector<tensor> all;
    for (uint64_t i = 0; i < ingot_plan_tensor_count(handle_.get()); ++i) {
      ingot_tensor_view v = INGOT_TENSOR_VIEW_INIT;
      detail::check(ingot_plan_tensor(handle_.get(), i, &v, nullptr), nullptr);
      all.push_back({v.name, v.dtype, std::vector<int64_t>(v.shape, v.shape + v.rank), nullptr});
    }
    return all;
  }

  /// Each returns the run's report, a JSON object. `progress` takes the place of the options' own progress and progress_user.
  std::string run_to_directory(context &c, const std::string &directory, ingot_run_options o = INGOT_RUN_OPTIONS_INIT,
                               const progress_function &progress = nullptr) const {
    return run(c, o, progress, nullptr, [&](auto report, auto options, auto e) {
      return ingot_plan_run_to_directory(c.get(), get(), directory.c_str(), report, options, e);
    });
  }
  std::string run_to(context &c, output &out, ingot_run_options o = INGOT_RUN_OPTIONS_INIT,
                     const progress_function &progress = nullptr) const {
    detail::sink_target target{&out, std::make_shared<detail::capture>()};
    ingot_sink sink = detail::sink_of(target);
    return run(c, o, progress, target.captured.get(),
               [&](auto report, auto options, auto e) { return ingot_plan_run_to_sink(c.get(), get(), &sink, report, options, e); });
  }
  std::string run_to_tensors(context &c, const std::vector<tensor> &outputs, ingot_run_options o = INGOT_RUN_OPTIONS_INIT,
                             const progress_function &progress = nullptr) const {
    detail::views v(outputs);
    return run(c, o, progress, nullptr, [&](auto report, auto options, auto e) {
      return ingot_plan_run_to_tensors(c.get(), get(), v.pointers.data(), v.pointers.size(), report, options, e);
    });
  }
  const ingot_plan *get() const noexcept { return handle_.get(); }

private:
  struct made_by {}; // or a recipe would be taken for a call
  template <typename Call> plan(made_by, context &c, Call &&call) : captured_(std::make_shared<detail::capture>()) {
    handle_ = detail::make<decltype(handle_)>(std::forward<Call>(call), {c.captured()});
  }

  template <typename Call>
  std::string run(context &c, ingot_run_options &o, const progress_function &progress, detail::capture *sink, Call &&call) const {
    return detail::run(c, o, progress, sink, captured_.get(), std::forward<Call>(call));
  }

  std::shared_ptr<detail::capture> captured_;
  detail::handle<ingot_plan, ingot_plan_destroy> handle_;
};
} // namespace ingot

#endif
