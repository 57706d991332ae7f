// ingot.hpp: the C++17 face of ingot.h, which is the manual. Header only.
//
// Objects release what they hold; failures are thrown as ingot::error. An exception that leaves a callback (progress, log, output,
// model_store) is caught there, stops the work, and is thrown again, unchanged, by the call that led to it.
#ifndef INGOT_HPP
#define INGOT_HPP

#include <ingot/ingot.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ingot {

namespace detail {
inline std::string text(const char *s) { return s ? s : ""; }
} // namespace detail

/// What a failed call said: the fields of ingot_error, copied; empty texts and zeroes for what is not known.
struct error : std::runtime_error {
  error(ingot_status code, const ingot_error *e)
      : std::runtime_error(e ? ingot_error_message(e) : ingot_status_name(code)), status(code), hint(detail::text(ingot_error_hint(e))),
        subject(detail::text(ingot_error_subject(e))), origin(detail::text(ingot_error_origin(e))), user_code(ingot_error_user_code(e)) {
    ingot_error_position(e, &line, &column);
  }
  ingot_status status;
  std::string hint, subject, origin;
  int32_t user_code, line = 0, column = 0;
};

namespace detail {
template <auto Destroy> struct destroyer {
  template <typename T> void operator()(T *p) const noexcept { Destroy(p); }
};
template <typename T, auto Destroy> using handle = std::unique_ptr<T, destroyer<Destroy>>;
using owned_text = handle<char, ingot_string_destroy>;
using owned_error = handle<ingot_error, ingot_error_destroy>;

/// The first exception that left a callback; workers call back at once.
struct capture {
  /// Runs a callback; -1 in place of what it throws.
  template <typename Body> int32_t run(Body &&body) noexcept {
    try {
      return body();
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!first_) first_ = std::current_exception();
      return -1;
    }
  }
  void rethrow() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (std::exception_ptr found = std::exchange(first_, nullptr)) std::rethrow_exception(found);
  }
  std::mutex mutex_;
  std::exception_ptr first_;
};

/// Turns a failure into an exception: the one that left a callback, if one did.
inline void check(ingot_status status, ingot_error *e, std::initializer_list<capture *> captures = {}) {
  owned_error owner(e);
  for (capture *c : captures) c ? c->rethrow() : void();
  if (status != INGOT_OK) throw error(status, e);
}
/// Calls call(&out, &error) and owns what it made.
template <typename Handle, typename Call> Handle make(Call &&call, std::initializer_list<capture *> captures = {}) {
  typename Handle::pointer made = nullptr;
  ingot_error *e = nullptr;
  ingot_status status = call(&made, &e);
  Handle handle(made);
  check(status, e, captures);
  return handle;
}
} // namespace detail

/// A tensor somebody else owns; see ingot_tensor_view for who must keep what how long.
struct tensor {
  std::string name;
  int32_t dtype = 0; ///< INGOT_DTYPE_*
  std::vector<int64_t> shape;
  void *data = nullptr;
  std::vector<int64_t> strides = {}; ///< in elements; empty: row-major without gaps
  bool read_only = false;
  /// Borrows from this object.
  ingot_tensor_view view() const {
    uint32_t flags = read_only ? uint32_t{INGOT_TENSOR_READ_ONLY} : 0;
    return {uint32_t{sizeof(ingot_tensor_view)},
            flags,
            name.c_str(),
            dtype,
            static_cast<int32_t>(shape.size()),
            shape.data(),
            strides.empty() ? nullptr : strides.data(),
            data,
            0};
  }
};

namespace detail {
/// Views of many tensors, as an array of pointers.
struct views {
  explicit views(const std::vector<tensor> &tensors) {
    for (const tensor &t : tensors) storage.push_back(t.view()); // all before the first address is taken
    for (const ingot_tensor_view &v : storage) pointers.push_back(&v);
  }
  std::vector<ingot_tensor_view> storage;
  std::vector<const ingot_tensor_view *> pointers;
};
} // namespace detail

using log_function = std::function<void(int32_t level, const char *message, const char *fields_json)>;

class context {
public:
  /// `log` takes the place of the options' own log and log_user.
  explicit context(ingot_context_options o = INGOT_CONTEXT_OPTIONS_INIT, log_function log = nullptr)
      : state_(new state{std::move(log), {}}) {
    if (state_->log) {
      o.log_user = state_.get();
      o.log = [](void *user, int32_t level, const char *message, const char *fields) {
        state *s = static_cast<state *>(user);
        s->captured.run([&] { return s->log(level, message, fields), 0; });
      };
    }
    handle_ = detail::make<decltype(handle_)>([&](auto out, auto e) { return ingot_context_create(out, &o, e); });
  }
  std::string json() const { return detail::text(ingot_context_json(handle_.get())); }
  ingot_context *get() const noexcept { return handle_.get(); }
  detail::capture *captured() const noexcept { return state_ ? &state_->captured : nullptr; }

private:
  struct state {
    log_function log;
    detail::capture captured;
  };
  std::unique_ptr<state> state_; // outlives the handle below
  detail::handle<ingot_context, ingot_context_destroy> handle_;
};

class recipe {
public:
  explicit recipe(std::string_view text, const std::string &origin = "recipe", bool strict = false) {
    ingot_recipe_options o = INGOT_RECIPE_OPTIONS_INIT;
    o.flags = strict ? uint32_t{INGOT_RECIPE_STRICT} : 0;
    const char *start = text.data() ? text.data() : "";
    handle_ = detail::make<decltype(handle_)>(
        [&](auto out, auto e) { return ingot_recipe_parse(start, text.size(), origin.c_str(), out, &o, e); });
  }
  std::string method() const { return detail::text(ingot_recipe_method(handle_.get())); }
  std::string notices_json() const { return detail::text(ingot_recipe_notices_json(handle_.get())); }
  std::vector<std::string> models() const {
    std::vector<std::string> names;
    for (uint64_t i = 0; i < ingot_recipe_model_count(handle_.get()); ++i) names.emplace_back(ingot_recipe_model(handle_.get(), i));
    return names;
  }
  const ingot_recipe *get() const noexcept { return handle_.get(); }

private:
  detail::handle<ingot_recipe, ingot_recipe_destroy> handle_;
};

/// A state dict that recipes can name. The tensors' elements are borrowed until it and all plans made with it are gone.
class model {
public:
  model(const std::string &name, const std::vector<tensor> &tensors, const std::string &config_json = "") {
    ingot_model_options o = INGOT_MODEL_OPTIONS_INIT;
    o.config_json = config_json.empty() ? nullptr : config_json.c_str();
    detail::views v(tensors);
    handle_ = detail::make<decltype(handle_)>(
        [&](auto out, auto e) { return ingot_model_create(name.c_str(), v.pointers.data(), v.pointers.size(), out, &o, e); });
  }
  const ingot_model *get() const noexcept { return handle_.get(); }

private:
  detail::handle<ingot_model, ingot_model_destroy> handle_;
};

/// A file of a model_store; read_at is called from several threads at once.
struct byte_source {
  virtual ~byte_source() = default;
  virtual uint64_t size() = 0;
  virtual void read_at(uint64_t offset, void *to, uint64_t bytes) = 0;
};

/// Opens models for a plan, which shares it.
struct model_store {
  virtual ~model_store() = default;
  /// Null: the model has no such file.
  virtual std::unique_ptr<byte_source> open(const std::string &model, const std::string &file) = 0;
};

/// Where output files go. write_at is called from several threads at once.
struct output {
  virtual ~output() = default;
  virtual void reserve(const std::string &file, uint64_t bytes) { (void)file, (void)bytes; }
  virtual void write_at(const std::string &file, uint64_t offset, const void *from, uint64_t bytes) = 0;
  virtual void commit() {}
};

namespace detail {
/// What a callback's user pointer points at: an object of the caller's, and where its exceptions go.
template <typename Pointer> struct target {
  Pointer object;
  std::shared_ptr<capture> captured;
  template <typename Body> static int32_t run(void *user, Body &&body) {
    target *t = static_cast<target *>(user);
    return t->captured->run([&] { return body(*t->object), 0; });
  }
  static void destroy(void *user) { delete static_cast<target *>(user); }
};
using source_target = target<std::unique_ptr<byte_source>>;
using store_target = target<std::shared_ptr<model_store>>;
using sink_target = target<output *>;

inline int32_t open_source(void *user, const char *model, const char *file, ingot_source *out) {
  int32_t status = store_target::run(user, [&](model_store &s) {
    if (auto found = s.open(model, file)) out->user = new source_target{std::move(found), static_cast<store_target *>(user)->captured};
  });
  if (status != 0 || !out->user) return status != 0 ? status : int32_t{INGOT_E_NOT_FOUND};
  out->size = [](void *u, uint64_t *n) { return source_target::run(u, [&](byte_source &s) { *n = s.size(); }); };
  out->read_at = [](void *u, uint64_t at, void *to, uint64_t n) {
    return source_target::run(u, [&](byte_source &s) { s.read_at(at, to, n); });
  };
  out->release = source_target::destroy;
  return 0;
}

/// A store on its way into a plan, behind a resolver. The library gives a resolver back before a call that fails returns, unless it refuses the
/// options or the resolver struct themselves: then nobody else would.
class lent_store {
public:
  lent_store(const std::shared_ptr<model_store> &store, std::shared_ptr<capture> captured) {
    // A share with a count of its own, which ends with the target.
    std::shared_ptr<model_store> share(store.get(), [store](model_store *) {});
    share_ = share;
    target_ = new store_target{std::move(share), std::move(captured)};
    resolver_.user = target_;
    resolver_.open = open_source;
    resolver_.release = store_target::destroy;
  }
  lent_store(const lent_store &) = delete;
  lent_store &operator=(const lent_store &) = delete;
  ~lent_store() {
    if (!kept_ && !share_.expired()) store_target::destroy(target_);
  }
  const ingot_resolver *resolver() const noexcept { return &resolver_; }
  /// A plan was made, which has it now.
  void keep() noexcept { kept_ = true; }

private:
  std::weak_ptr<model_store> share_;
  store_target *target_ = nullptr;
  ingot_resolver resolver_ = INGOT_RESOLVER_INIT;
  bool kept_ = false;
};

inline ingot_sink sink_of(sink_target &user) {
  ingot_sink s = INGOT_SINK_INIT;
  s.user = &user;
  s.reserve = [](void *u, const char *file, uint64_t n) { return sink_target::run(u, [&](output &o) { o.reserve(file, n); }); };
  s.write_at = [](void *u, const char *file, uint64_t at, const void *from, uint64_t n) {
    return sink_target::run(u, [&](output &o) { o.write_at(file, at, from, n); });
  };
  s.commit = [](void *u) { return sink_target::run(u, [](output &o) { o.commit(); }); };
  return s;
}
} // namespace detail

/// Another answer than 0 cancels.
using progress_function = std::function<int32_t(const ingot_progress &)>;

namespace detail {
/// Runs call(&text, &options, &error) with a progress function; returns the text.
template <typename Call>
std::string run(context &c, ingot_run_options &o, const progress_function &progress, capture *first, capture *second, Call &&call) {
  struct progress_state {
    const progress_function &function;
    capture captured;
  } state{progress, {}};
  if (progress) {
    o.progress_user = &state;
    o.progress = [](void *u, const ingot_progress *p) {
      progress_state *s = static_cast<progress_state *>(u);
      return s->captured.run([&] { return s->function(*p); });
    };
  }
  return make<owned_text>([&](auto text, auto e) { return call(text, &o, e); }, {&state.captured, first, second, c.captured()}).get();
}
} // namespace detail

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

/// What a method reads of a model besides its tensor; see ingot_side_input.
struct side_input {
  std::string name;
  uint64_t input; ///< index of the model, or INGOT_SIDE_OF_BASE
  tensor values;  ///< its name is empty but for row_sums and column_sums
};

namespace detail {
/// Side inputs as an array of pointers.
struct side_views {
  explicit side_views(const std::vector<side_input> &sides) {
    for (const side_input &s : sides) {
      views.push_back(s.values.view());
      if (s.values.name.empty()) views.back().name = nullptr;
    }
    for (std::size_t i = 0; i < sides.size(); ++i)
      storage.push_back({uint32_t{sizeof(ingot_side_input)}, 0, sides[i].name.c_str(), sides[i].input, &views[i]});
    for (const ingot_side_input &s : storage) pointers.push_back(&s);
  }
  std::vector<ingot_tensor_view> views;
  std::vector<ingot_side_input> storage;
  std::vector<const ingot_side_input *> pointers;
};
} // namespace detail

/// Merges one tensor; see ingot_merge_tensors. `sides` take the place of the options' own.
inline void merge_tensors(context &c, const std::string &method, const std::string &parameters_json, const tensor *base,
                          const std::vector<tensor> &inputs, const tensor &out, ingot_merge_options options = INGOT_MERGE_OPTIONS_INIT,
                          const std::vector<side_input> &sides = {}) {
  detail::views v(inputs);
  detail::side_views s(sides);
  if (!sides.empty()) {
    options.sides = s.pointers.data();
    options.side_count = s.pointers.size();
  }
  ingot_tensor_view base_view = base ? base->view() : ingot_tensor_view();
  ingot_tensor_view output_view = out.view();
  if (out.name.empty()) output_view.name = nullptr;
  ingot_error *e = nullptr;
  detail::check(ingot_merge_tensors(c.get(), method.c_str(), parameters_json.c_str(), base ? &base_view : nullptr, v.pointers.data(),
                                    v.pointers.size(), &output_view, &options, &e),
                e, {c.captured()});
}

/// How two checkpoints differ, as JSON; see ingot_checkpoint_compare. `base` may be empty.
inline std::string compare(context &c, const std::string &a, const std::string &b, const std::string &base = "",
                           ingot_run_options o = INGOT_RUN_OPTIONS_INIT, const progress_function &progress = nullptr) {
  const char *name = base.empty() ? nullptr : base.c_str();
  return detail::run(c, o, progress, nullptr, nullptr, [&](auto text, auto options, auto e) {
    return ingot_checkpoint_compare(c.get(), a.c_str(), b.c_str(), name, text, options, e);
  });
}

/// Packs the differences of models to their base, returns the summary as JSON; see ingot_delta_pack.
inline std::string pack(context &c, const std::string &method, const std::string &parameters_json, const std::string &base,
                        const std::vector<std::string> &models, const std::string &directory, ingot_run_options o = INGOT_RUN_OPTIONS_INIT,
                        const progress_function &progress = nullptr) {
  std::vector<const char *> names;
  for (const std::string &m : models) names.push_back(m.c_str());
  return detail::run(c, o, progress, nullptr, nullptr, [&](auto text, auto options, auto e) {
    return ingot_delta_pack(c.get(), method.c_str(), parameters_json.c_str(), base.c_str(), names.data(), names.size(), directory.c_str(),
                            text, options, e);
  });
}

/// What a delta pack holds, as JSON; see ingot_delta_inspect.
inline std::string inspect_pack(const std::string &pack) {
  return detail::make<detail::owned_text>([&](auto out, auto e) { return ingot_delta_inspect(pack.c_str(), out, e); }).get();
}

/// What the headers of a checkpoint say, as JSON; see ingot_checkpoint_inspect.
inline std::string inspect(const std::string &path) {
  return detail::make<detail::owned_text>([&](auto out, auto e) { return ingot_checkpoint_inspect(path.c_str(), out, e); }).get();
}
} // namespace ingot

#endif
