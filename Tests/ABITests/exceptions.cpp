// ingot.hpp: results, errors as exceptions, and exceptions that leave callbacks.
#include <ingot/ingot.hpp>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <type_traits>

static int checks, failures;
#define CHECK(condition)                                                           \
  do {                                                                             \
    ++checks;                                                                      \
    if (!(condition)) {                                                            \
      ++failures;                                                                  \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                              \
  } while (0)
#define CHECK_THROWS(type, expression, test) \
  do {                                       \
    bool thrown = false;                     \
    try {                                    \
      expression;                            \
    } catch (const type &caught) {           \
      thrown = true;                         \
      CHECK(test);                           \
    }                                        \
    CHECK(thrown);                           \
  } while (0)

static_assert(std::is_move_constructible_v<ingot::context> && !std::is_copy_constructible_v<ingot::context>);
static_assert(std::is_move_constructible_v<ingot::plan> && !std::is_copy_constructible_v<ingot::plan>);

struct surprise {
  int number;
};

static const char recipe_text[] = "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 1}}\n"
                                  "  - {model: b, parameters: {weight: 3}}\nnote: hello\n";

struct file_source : ingot::byte_source {
  const std::string &bytes;
  bool fails;
  explicit file_source(const std::string &b, bool f) : bytes(b), fails(f) {}
  uint64_t size() override {
    if (bytes.empty()) throw surprise{7};
    return bytes.size();
  }
  void read_at(uint64_t offset, void *to, uint64_t count) override {
    if (fails && offset > 8) throw surprise{5};
    std::memcpy(to, bytes.data() + offset, count);
  }
};

struct files : ingot::model_store {
  std::map<std::string, std::string> contents;
  std::atomic<bool> fails{false}, fails_open{false};
  static inline int alive = 0;
  files() { ++alive; }
  ~files() override { --alive; }
  std::unique_ptr<ingot::byte_source> open(const std::string &model, const std::string &file) override {
    if (fails_open) throw surprise{4};
    auto found = contents.find(model + "/" + file);
    if (found == contents.end()) return nullptr;
    return std::make_unique<file_source>(found->second, fails);
  }
};

struct outputs : ingot::output {
  std::map<std::string, std::string> contents;
  bool fails = false, fails_reserve = false, fails_commit = false;
  int commits = 0;
  std::mutex mutex;
  void reserve(const std::string &file, uint64_t bytes) override {
    if (fails_reserve) throw surprise{8};
    contents[file].resize(bytes);
  }
  void write_at(const std::string &file, uint64_t offset, const void *from, uint64_t bytes) override {
    if (fails) throw surprise{6};
    std::lock_guard<std::mutex> lock(mutex);
    std::memcpy(&contents.at(file)[offset], from, bytes);
  }
  void commit() override {
    ++commits;
    if (fails_commit) throw std::bad_alloc();
  }
};

static std::string safetensors(float a, float b) {
  std::string header = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  uint64_t length = header.size();
  float values[2] = {a, b};
  return std::string(reinterpret_cast<char *>(&length), 8) + header + std::string(reinterpret_cast<char *>(values), 8);
}

static void memory_models() {
  int logs = 0;
  ingot::context c(INGOT_CONTEXT_OPTIONS_INIT, [&](int32_t, const char *, const char *) { ++logs; });
  float a[2] = {1, 2}, b[2] = {5, 6}, out[2] = {0, 0};
  ingot::model ma("a", {{"w", INGOT_DTYPE_F32, {2}, a}}), mb("b", {{"w", INGOT_DTYPE_F32, {2}, b}});
  ingot::recipe r(recipe_text, "r.yml");
  CHECK(r.method() == "linear" && r.models() == (std::vector<std::string>{"a", "b"}) && r.notices_json().find("note") != std::string::npos);
  ingot::plan p(c, r, {&ma, &mb});
  CHECK(logs > 0);
  std::vector<ingot::tensor> tensors = p.tensors();
  CHECK(tensors.size() == 1 && tensors[0].name == "w" && tensors[0].shape == std::vector<int64_t>{2});
  tensors[0].data = out;
  std::string report = p.run_to_tensors(c, tensors);
  CHECK(out[0] == 4 && out[1] == 5 && report.front() == '{');
  CHECK(p.digest().size() == 32 && p.json().find("\"w\"") != std::string::npos && p.table().find("w") != std::string::npos);

  ingot::plan moved(std::move(p));
  CHECK_THROWS(surprise,
               moved.run_to_tensors(c, tensors, INGOT_RUN_OPTIONS_INIT, [](const ingot_progress &) -> int32_t { throw surprise{3}; }),
               caught.number == 3);
  CHECK_THROWS(ingot::error, moved.run_to_tensors(c, tensors, INGOT_RUN_OPTIONS_INIT, [](const ingot_progress &) { return 17; }),
               caught.status == INGOT_E_CANCELLED && caught.user_code == 17);
  moved.run_to_tensors(c, tensors, INGOT_RUN_OPTIONS_INIT, [](const ingot_progress &) { return 0; }); // nothing is left behind

  ingot::tensor result{"", INGOT_DTYPE_F32, {2}, out};
  ingot::merge_tensors(c, "linear", R"({"weight": [3, 1]})", nullptr, {{"", INGOT_DTYPE_F32, {2}, a}, {"", INGOT_DTYPE_F32, {2}, b}},
                       result);
  CHECK(out[0] == 2 && out[1] == 3);
  float fa[2] = {3, 1}, fb[2] = {1, 0};
  ingot::merge_tensors(c, "fisher", R"({"fisher_norm": "none", "fisher_floor": 0})", nullptr,
                       {{"", INGOT_DTYPE_F32, {2}, a}, {"", INGOT_DTYPE_F32, {2}, b}}, result, INGOT_MERGE_OPTIONS_INIT,
                       {{"fisher", 0, {"", INGOT_DTYPE_F32, {2}, fa}}, {"fisher", 1, {"", INGOT_DTYPE_F32, {2}, fb}}});
  CHECK(out[0] == 2 && out[1] == 2);

  ingot::context throwing(INGOT_CONTEXT_OPTIONS_INIT, [](int32_t, const char *, const char *) { throw surprise{2}; });
  CHECK_THROWS(surprise, ingot::plan(throwing, r, {&ma, &mb}), caught.number == 2);
}

static void stores_and_outputs() {
  ingot::context c;
  ingot::recipe r(recipe_text);
  {
    auto store = std::make_shared<files>();
    store->contents["a/model.safetensors"] = safetensors(1, 2);
    store->contents["b/model.safetensors"] = safetensors(5, 6);
    ingot::plan p(c, r, {}, INGOT_PLAN_OPTIONS_INIT, store);
    outputs out;
    p.run_to(c, out);
    float found[2];
    const std::string &bytes = out.contents["model.safetensors"];
    CHECK(out.commits == 1 && bytes.size() > 8);
    if (bytes.size() > 8) std::memcpy(found, bytes.data() + bytes.size() - 8, 8);
    CHECK(found[0] == 4 && found[1] == 5);
    outputs failing;
    failing.fails = true;
    CHECK_THROWS(surprise, p.run_to(c, failing), caught.number == 6);
    CHECK(failing.commits == 0);
    outputs unready, uncommitted;
    unready.fails_reserve = true;
    CHECK_THROWS(surprise, p.run_to(c, unready), caught.number == 8);
    uncommitted.fails_commit = true;
    CHECK_THROWS(std::bad_alloc, p.run_to(c, uncommitted), uncommitted.commits == 1);
    store->contents["a/config.json"] = "";
    CHECK_THROWS(surprise, ingot::plan(c, r, {}, INGOT_PLAN_OPTIONS_INIT, store), caught.number == 7);
    store->contents.erase("a/config.json");
    store->fails_open = true;
    CHECK_THROWS(surprise, ingot::plan(c, r, {}, INGOT_PLAN_OPTIONS_INIT, store), caught.number == 4);
    store->fails_open = false;
    store->fails = true;
    outputs unused;
    CHECK_THROWS(surprise, ingot::plan(c, r, {}, INGOT_PLAN_OPTIONS_INIT, store).run_to(c, unused), caught.number == 5);
  }
  CHECK(files::alive == 0);
}

// What works on directories: results as JSON, failures as errors.
static void directories() {
  ingot::context c;
  CHECK(ingot::inspect_adapters({}).find("\"overlaps\"") != std::string::npos);
  CHECK_THROWS(ingot::error, ingot::inspect_adapters({"./nowhere"}), caught.status == INGOT_E_NOT_FOUND);
  CHECK_THROWS(ingot::error, ingot::merge_adapters(c, "linear", {"./nowhere"}, "./never"), caught.status == INGOT_E_NOT_FOUND);
  CHECK_THROWS(ingot::error, ingot::extract_adapter(c, "{}", "./a", "./b", "./never"), caught.status == INGOT_E_INVALID_ARGUMENT);
  CHECK_THROWS(ingot::error, ingot::resize_adapter(c, R"({"rank": 2})", "./nowhere", "./never"), caught.status == INGOT_E_NOT_FOUND);
  CHECK_THROWS(ingot::error, ingot::roll(c, "./never", "./nowhere", "ema"), caught.status == INGOT_E_NOT_FOUND);
  CHECK_THROWS(ingot::error, ingot::roll(c, "./never", "./nowhere"), caught.status == INGOT_E_INVALID_ARGUMENT);
  CHECK_THROWS(ingot::error, ingot::finish_rolling(c, "./nowhere", "./never"), caught.status == INGOT_E_NOT_FOUND);
}

// Refused options are not taken over by the library: what was made for them here must go all the same, and not twice.
static void refused_options() {
  ingot::context c;
  ingot::recipe r(recipe_text);
  ingot_plan_options bad_size = INGOT_PLAN_OPTIONS_INIT, bad_flags = bad_size, bad_value = bad_size, no_files = bad_size;
  bad_size.struct_size = 4;
  bad_flags.flags = 1u << 30;
  bad_value.numerics = 77;
  no_files.flags = INGOT_PLAN_NO_FILES;
  auto refuses = [&](const ingot_plan_options &o, ingot_status status) {
    CHECK_THROWS(ingot::error, ingot::plan(c, r, {}, o, std::make_shared<files>()), caught.status == status && files::alive == 0);
    CHECK(files::alive == 0);
  };
  refuses(bad_size, INGOT_E_INVALID_ARGUMENT);
  refuses(bad_flags, INGOT_E_UNSUPPORTED);
  refuses(bad_value, INGOT_E_INVALID_ARGUMENT); // here the library has taken it over, and given it back
  refuses(no_files, INGOT_E_NOT_FOUND);
  ingot::context moved(std::move(c));
  CHECK_THROWS(ingot::error, ingot::plan(c, r, {}, INGOT_PLAN_OPTIONS_INIT, std::make_shared<files>()),
               caught.status == INGOT_E_INVALID_ARGUMENT);
  CHECK(files::alive == 0);

  float a[2] = {1, 2}, b[2] = {5, 6}, out[2];
  ingot::model ma("a", {{"w", INGOT_DTYPE_F32, {2}, a}}), mb("b", {{"w", INGOT_DTYPE_F32, {2}, b}});
  ingot::plan p(moved, r, {&ma, &mb});
  ingot_run_options run = INGOT_RUN_OPTIONS_INIT;
  run.flags = 1u << 30;
  outputs unused;
  CHECK_THROWS(ingot::error, p.run_to(moved, unused, run), caught.status == INGOT_E_UNSUPPORTED && unused.contents.empty());
  std::vector<ingot::tensor> tensors = p.tensors();
  tensors[0].data = out;
  CHECK_THROWS(ingot::error, p.run_to_tensors(moved, tensors, run), caught.status == INGOT_E_UNSUPPORTED);
}

static void errors() {
  CHECK_THROWS(ingot::error, ingot::recipe("merge_method: linaer\n", "x.yml"),
               caught.status == INGOT_E_RECIPE && caught.line == 1 && caught.column > 0 && caught.origin == "x.yml" &&
                   caught.hint.find("linear") != std::string::npos && std::strlen(caught.what()) > 0);
  ingot::context c;
  CHECK_THROWS(ingot::error, ingot::compare(c, "./nowhere", "./nowhere"), caught.status == INGOT_E_NOT_FOUND);
  CHECK_THROWS(ingot::error, ingot::pack(c, "tall", "{}", "./nowhere", {"./elsewhere"}, "out"), caught.status == INGOT_E_NOT_FOUND);
  CHECK_THROWS(ingot::error, ingot::inspect_pack("./nowhere"), caught.status == INGOT_E_NOT_FOUND);
  CHECK_THROWS(ingot::error, ingot::plan::unpack(c, "./nowhere"), caught.status == INGOT_E_NOT_FOUND);
  CHECK_THROWS(ingot::error, ingot::plan::apply_pack(c, "./nowhere", "b"), caught.status == INGOT_E_NOT_FOUND);
  CHECK_THROWS(ingot::error, ingot::inspect("./nowhere"), caught.status == INGOT_E_NOT_FOUND && caught.line == 0);
  CHECK_THROWS(std::runtime_error, ingot::recipe{std::string_view()}, true);
  ingot_context_options o = INGOT_CONTEXT_OPTIONS_INIT;
  o.isa = "scalar";
  CHECK(ingot::context(o).json().find("scalar") != std::string::npos);
}

int main() {
  memory_models();
  stores_and_outputs();
  directories();
  refused_options();
  errors();
  std::printf("exceptions: %d checks, %d failed\n", checks, failures);
  return failures != 0;
}
