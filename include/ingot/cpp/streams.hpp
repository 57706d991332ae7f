// Models from elsewhere, and outputs that go elsewhere. Part of ingot.hpp.
#ifndef INGOT_CPP_STREAMS_HPP
#define INGOT_CPP_STREAMS_HPP

#include <ingot/cpp/errors.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace ingot {

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
} // namespace ingot

#endif
