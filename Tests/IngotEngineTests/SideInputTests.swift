import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

/// Side files: where they are found, what is checked before anything is written, what is recorded.
@Suite struct SideInputTests {
  /// Two models and a side file of each, of the same names.
  private func arrange() throws -> Scratch {
    let scratch = try Scratch()
    for (name, value) in [("base", 0.5), ("a", 1.0), ("b", 2)] {
      try scratch.model(name, languageModel(layers: 3, value: value), config: languageConfig(layers: 3))
    }
    try scratch.model("fa", languageModel(layers: 3, value: 0.25))
    try scratch.model("fb", languageModel(layers: 3, value: 0.75))
    try scratch.model("norms", Self.norms(layers: 3))
    return scratch
  }

  /// Norms of the input channels of every layer's matrix.
  private static func norms(layers: Int, width: Int = 8) -> [TestTensor] {
    (0..<layers).map { TestTensor("model.layers.\($0).mlp", .f32, [width], (1...width).map { Double($0) }) }
  }

  private static let fisher = """
    merge_method: fisher
    models:
      - {model: @a, side: {fisher: @fa}}
      - {model: @b, side: {fisher: @fb}}

    """
  private static let scaled =
    "merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\naim: {side: @norms, base_model: @base}\n"

  /// The merge must fail with this status and these words, and leave nothing behind.
  private func expect(
    _ status: Status, _ words: [String], _ recipe: String, in scratch: Scratch, sourceLocation: SourceLocation = #_sourceLocation
  ) {
    let error = #expect(throws: IngotError.self, sourceLocation: sourceLocation) { try scratch.merge(recipe) }
    guard let error else { return }
    #expect(error.status == status, "\(error)", sourceLocation: sourceLocation)
    let text = [error.message, error.hint ?? "", error.subject ?? "", error.position?.description ?? ""].joined(separator: "\n")
    for word in words { #expect(text.contains(word), "\(word) in \(error)", sourceLocation: sourceLocation) }
    #expect(!scratch.exists("OUT") && !scratch.exists("OUT.partial"), sourceLocation: sourceLocation)
  }

  // MARK: Recipes

  @Test(arguments: [
    ("merge_method: fisher\nmodels: [{model: a, side: {fisher: f}}, {model: b}]", "2:", "the model b has no side input fisher"),
    ("merge_method: fisher\nbase_model: c\nmodels: [{model: a, side: {fisher: f}}]", "2:", "base model c has no side input fisher"),
    ("merge_method: fisher\nmodels: [{model: a, side: {fishr: f}}]", "2:28", "did you mean fisher?"),
    ("merge_method: fisher\nmodels: [{model: a, side: {fisher: [f, g]}}]", "2:36", "expected one file"),
    ("merge_method: fisher\nmodels: [{model: a, side: {fisher: 1: 2}}]", "2:", ""),
    ("merge_method: fisher\nmodels: [{model: a, side: f}]", "2:27", "expected a mapping"),
    ("merge_method: fisher\nmodels: [{model: a}]\nside: {fisher: f}", "3:8", "fisher differs by model"),
    ("merge_method: linear\nmodels: [{model: a, side: {fisher: f}}]\nparameters: {weight: 1}", "2:21", "linear takes no side inputs"),
    ("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\nside: {fisher: f}", "4:1", "linear takes no side inputs"),
    ("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\naim: {side: f}", "4:1", "names none"),
    ("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\naim: {omega: 1}", "4:1", "side is missing"),
    (
      "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\naim: {side: f, base_model: b, omega: 1.5}", "4:38",
      "from 0 to 1"
    ),
    (
      "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\naim: {side: f, base_model: b, omga: 1}", "4:31",
      "did you mean omega?"
    ),
    (
      "merge_method: rcp\nbase_model: c\nmodels: [{model: a}, {model: b, side: {votes: v}}, {model: c, side: {prior: p}}]", "3:77",
      "base model c has a side input"
    ),
    (
      "merge_method: ota\nbase_model: b\nmodels: [{model: a, side: {second_moment: v}}]\nparameters: {rescale_threshold: 0.5}", "4:33",
      "only with ota_rescale: operator"
    ),
    (
      "merge_method: ota\nbase_model: b\nmodels: [{model: a, side: {second_moment: v}}]\nparameters: {ota_post: ties, power: 1}", "4:37",
      "only with ota_post: precond, which is ties"
    ),
    (
      "merge_method: concrete\nbase_model: b\nmodels: [{model: a}]\nside: {mask: m}\nparameters: {temperature: 1}", "5:27",
      "only with mask_type: continuous"
    ),
    (
      "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\ntensors: [{match: x, method: fisher}]", "4:30",
      "only the recipe's own method has"
    ),
  ]) func mistakes(_ text: String, _ place: String, _ words: String) throws {
    let error = #expect(throws: IngotError.self) { _ = try Recipe(text) }
    #expect(error?.status == .recipe, "\(text)")
    #expect(error?.position?.description.hasPrefix("recipe.yml:\(place)") == true, "\(text): \(String(describing: error?.position))")
    #expect(words.isEmpty || [error?.message ?? "", error?.hint ?? ""].joined().contains(words), "\(text): \(error?.message ?? "")")
  }

  /// Side files are no models of the merge: they change nobody's ordinal, and a tokenizer's union does not look at them.
  @Test func standBehindAllModels() throws {
    let recipe = try Recipe(
      "merge_method: rcp\nbase_model: c\nmodels: [{model: a, side: {prior: p}}, {model: b, side: {gradients: [g, h]}}]\naim: {side: n, omega: 0.2}"
    )
    #expect(recipe.models.map(\.name) == ["a", "b", "c", "p", "g", "h", "n"])
    #expect(recipe.modelCount == 3)
    #expect(recipe.activationScaling?.base == 2 && recipe.activationScaling?.side == 6 && recipe.activationScaling?.omega == 0.2)
    #expect(recipe.externalModels.count == 7)
  }

  // MARK: Files

  @Test func badFiles() throws {
    let scratch = try arrange()
    func fisher(_ file: String) -> String { Self.fisher.replacingOccurrences(of: "@fb", with: "@" + file) }
    expect(.notFound, ["recipe.yml:4:"], fisher("nowhere"), in: scratch)
    try scratch.model("short", languageModel(layers: 2, value: 1))
    expect(.shape, ["short has no fisher of model.layers.2", "recipe.yml:4:"], fisher("short"), in: scratch)
    try scratch.model("wide", languageModel(layers: 3, width: 16, value: 1))
    expect(.shape, ["[12, 16]", "expected [12, 8]", "recipe.yml:4:"], fisher("wide"), in: scratch)
    try scratch.model("whole", languageModel(layers: 3, value: 1, dtype: .i64))
    expect(.dtype, ["I64", "recipe.yml:4:"], fisher("whole"), in: scratch)
    try scratch.write("cut/model.safetensors", (scratch.read("fb/model.safetensors") ?? []).dropLast(4))
    expect(.format, ["model.safetensors"], fisher("cut"), in: scratch)
    try scratch.model("other", [TestTensor("something.else", .f32, [8])])
    func scaled(_ file: String) -> String { Self.scaled.replacingOccurrences(of: "@norms", with: "@" + file) }
    expect(.shape, ["something.else", "without .weight", "recipe.yml:4:"], scaled("other"), in: scratch)
    try scratch.model("narrow", Self.norms(layers: 3, width: 7))
    expect(.shape, ["[7]", "expected [8]", "recipe.yml:4:"], scaled("narrow"), in: scratch)
    expect(.notFound, ["recipe.yml:4:"], scaled("nowhere"), in: scratch)
    // An adapter is no side file.
    expect(.recipe, ["adapter", "recipe.yml:4:"], fisher("fb+@a"), in: scratch)
    // A tensor without its own side tensor may be merged by another method.
    let rest = fisher("short") + "tensors: [{match: '*.layers.2.*', method: linear, parameters: {weight: 1}}]\n"
    try scratch.merge(rest)
    #expect(try scratch.tensors()["model.layers.2.mlp.weight"]?.value(0) == 1.5 + 3.0 / 64)
  }

  /// Every place of a side input that is read element by element; SIDE is the file that is wrong.
  static let places: [(method: String, recipe: String)] = [
    ("fisher", "models: [{model: @a, side: {fisher: @fa}}, {model: @b, side: {fisher: SIDE}}]"),
    ("ota", "base_model: @base\nmodels: [{model: @a, side: {second_moment: @fa}}, {model: @b, side: {second_moment: SIDE}}]"),
    ("rcp", "base_model: @base\nmodels: [{model: @a, side: {prior: SIDE}}, {model: @b, side: {gradients: [@fa, @fb]}}]"),
    ("rcp", "base_model: @base\nmodels: [{model: @a, side: {prior: @fa}}, {model: @b, side: {gradients: [@fb, SIDE]}}]"),
    ("rcp", "base_model: @base\nmodels: [{model: @a}, {model: @b, side: {votes: SIDE}}]"),
    ("wise", "base_model: @base\nmodels: [{model: @a, side: {mask: @fa}}, {model: @b, side: {mask: SIDE}}]"),
    ("concrete", "base_model: @base\nmodels: [{model: @a}]\nside: {mask: [@fa, SIDE]}"),
  ]

  @Test(arguments: places.indices) func badFilesOfEveryMethod(_ number: Int) throws {
    let scratch = try arrange()
    let (method, rest) = Self.places[number]
    func recipe(_ file: String) -> String { "merge_method: \(method)\n\(rest.replacingOccurrences(of: "SIDE", with: "@" + file))\n" }
    expect(.notFound, ["nowhere"], recipe("nowhere"), in: scratch)
    try scratch.model("wide", languageModel(layers: 3, width: 16, value: 1))
    expect(.shape, ["16]", "expected ["], recipe("wide"), in: scratch)
    try scratch.model("whole", languageModel(layers: 3, value: 1, dtype: .i64))
    expect(.dtype, ["I64"], recipe("whole"), in: scratch)
    let bad = languageModel(layers: 3, value: 1)
    bad[0].set(3, .nan)
    try scratch.model("bad", bad)
    let error = #expect(throws: IngotError.self) { try scratch.merge(recipe("bad")) }
    #expect(error?.status == .nonFinite && !scratch.exists("OUT"), "\(error?.message ?? "")")
  }

  @Test func everyMethodHasBadFiles() {
    let names = MethodRegistry.all.filter { method in
      !method.descriptor.sideInputs.isEmpty && !(method is any MatrixMethod.Type || method is any ModelMatrixMethod.Type)
    }.map { $0.descriptor.name }
    #expect(Set(Self.places.map(\.method)) == Set(names))
  }

  /// Second moments as sums: of another length, or only one of the two.
  @Test func badSums() throws {
    let scratch = try arrange()
    let name = "model.layers.1.mlp.weight"
    func moments(_ rows: Int, _ columns: Int?) -> [TestTensor] {
      languageModel(layers: 3, value: 1).filter { $0.name != name } + [TestTensor(name + ".row_sums", .f32, [rows])]
        + (columns.map { [TestTensor(name + ".column_sums", .f32, [$0])] } ?? [])
    }
    let recipe = "merge_method: ota\nbase_model: @base\nmodels: [{model: @a, side: {second_moment: @sums}}]\n"
    let shape = try #require(languageModel(layers: 3, value: 1).first { $0.name == name }).shape
    for (rows, columns) in [(shape[0] + 1, shape[1]), (shape[0], shape[1] - 1)] as [(Int, Int?)] + [(shape[0], nil)] {
      try scratch.model("sums", moments(rows, columns))
      expect(.shape, [name], recipe, in: scratch)
    }
    try scratch.model("sums", moments(shape[0], shape[1]))
    try scratch.merge(recipe)
  }

  @Test(arguments: ["bad", "[1]", "{\"model.layers.0.mlp\": 1}"]) func badAliases(_ text: String) throws {
    let scratch = try arrange()
    try scratch.sideFile("norms/model.safetensors", Self.norms(layers: 3), metadata: ["aliases": text])
    expect(.format, ["aliases"], Self.scaled, in: scratch)
  }

  /// One tensor stands for several modules; a file of another kind is used all the same, with a warning.
  @Test func aliasesAndKinds() throws {
    let scratch = try arrange()
    let (plan, _) = try scratch.merge(Self.scaled, to: "full")
    let aliases = #"{"model.layers.1.mlp": "model.layers.0.mlp", "model.layers.2.mlp": "model.layers.0.mlp"}"#
    try scratch.sideFile(
      "short/model.safetensors", Array(Self.norms(layers: 1)), metadata: ["aliases": aliases, "kind": "activation_norm"])
    let (other, _) = try scratch.merge(Self.scaled.replacingOccurrences(of: "@norms", with: "@short"))
    #expect(plan.tensors.count { $0.scaling != nil } == 3 && other.tensors.count { $0.scaling != nil } == 3)
    #expect(try scratch.tensors("full").allSatisfy { try $1.hasBytes(of: scratch.tensors()[$0]) })
    #expect(!other.notices.contains { $0.severity == .warning })
    try scratch.sideFile("short/model.safetensors", Array(Self.norms(layers: 1)), metadata: ["kind": "fisher"])
    let warned = try scratch.plan(Self.scaled.replacingOccurrences(of: "@norms", with: "@short"))
    #expect(warned.notices.contains { $0.severity == .warning && $0.message.contains("activation_norm") && $0.position?.line == 4 })
    #expect(warned.tensors.count { $0.scaling != nil } == 1)
  }

  /// One file, a directory, shards with an index: the same bytes.
  @Test func formsOfFiles() throws {
    let scratch = try arrange()
    try scratch.model("shards", languageModel(layers: 3, value: 0.75), shards: 3)
    try scratch.merge(Self.fisher)
    let expected = scratch.output()
    for file in ["fb/model.safetensors", "shards"] {
      try scratch.merge(Self.fisher.replacingOccurrences(of: "@fb", with: "@" + file), to: "other")
      let weights = expected["model.safetensors"]
      #expect(weights != nil && scratch.output("other")["model.safetensors"] == weights)
      try scratch.remove("other")
    }
  }

  /// In memory a side file is a model of its own name.
  @Test func inMemory() throws {
    let models = [
      "a": [TestTensor("w", .f32, [2], [1, 1])], "b": [TestTensor("w", .f32, [2], [4, 4])], "f": [TestTensor("w", .f32, [2], [1, 2])],
      "g": [TestTensor("w", .f32, [2], [2, 1])],
    ]
    let recipe = """
      merge_method: fisher
      models: [{model: a, side: {fisher: f}}, {model: b, side: {fisher: g}}]
      parameters: {fisher_norm: none, fisher_floor: 0}
      """
    #expect(try merge(recipe: recipe, models: models).tensors["w"]?.values == [3, 2])
  }

  @Test func nonfiniteValues() throws {
    let scratch = try arrange()
    let bad = languageModel(layers: 3, value: 1)
    bad[0].set(3, .infinity)
    try scratch.model("bad", bad)
    let error = #expect(throws: IngotError.self) { try scratch.merge(Self.fisher.replacingOccurrences(of: "@fb", with: "@bad")) }
    #expect(error?.status == .nonFinite && error?.message.contains("/bad") == true, "\(error?.message ?? "")")
    #expect(!scratch.exists("OUT"))
    let norms = Self.norms(layers: 3)
    norms[1].set(0, .nan)
    try scratch.model("worse", norms)
    var options = DirectoryOptions.quick
    options.force = true
    let other = #expect(throws: IngotError.self) {
      try scratch.merge(Self.scaled.replacingOccurrences(of: "@norms", with: "@worse"), options: options)
    }
    #expect(other?.status == .nonFinite && other?.subject == "model.layers.1.mlp", "\(other?.message ?? "")")
  }

  // MARK: Plans and records

  @Test func plansShowThem() throws {
    let scratch = try arrange()
    let plan = try scratch.plan(Self.fisher)
    #expect(plan.table().contains("fisher fa") && plan.table().contains("fisher fb"))
    #expect(plan.json().contains(#""input": "fisher""#))
    #expect(plan.models.map(\.isSide) == [false, false, true, true])
    let scaled = try scratch.plan(Self.scaled)
    #expect(scaled.table().contains("activation_norm norms") && scaled.json().contains(#""aim_omega": 0.4"#))
    // What decides the bytes is part of the digest.
    #expect(try scratch.plan(Self.scaled.replacingOccurrences(of: "@norms", with: "@norms, omega: 0.5")).digest != scaled.digest)
    #expect(scaled.bytesRead > plan.tensors.reduce(0) { $0 + $1.byteCount })
  }

  @Test func canBeReproduced() throws {
    let scratch = try arrange()
    for recipe in [Self.fisher, Self.scaled] {
      try scratch.merge(recipe)
      #expect(scratch.text("OUT/ingot.json")?.contains(#""side": true"#) == true)
      let same = try Engine().reproduce(scratch("OUT"))
      #expect(same.differences.isEmpty && same.tensors > 0)
      try scratch.remove("OUT")
    }
    try scratch.merge(Self.fisher)
    try moveDirectory(scratch("fb"), to: scratch("moved"))
    let gone = #expect(throws: IngotError.self) { _ = try Engine().reproduce(scratch("OUT")) }
    #expect(gone?.status == .notFound && gone?.message.contains("/fb") == true)
    #expect(try Engine().reproduce(scratch("OUT"), places: [scratch("fb"): scratch("moved")]).differences.isEmpty)
    try scratch.model("moved", languageModel(layers: 3, value: 0.75) + [TestTensor("more", .f32, [1])])
    let changed = #expect(throws: IngotError.self) {
      _ = try Engine().reproduce(scratch("OUT"), places: [scratch("fb"): scratch("moved")])
    }
    #expect(changed?.status == .stale)
  }

  // MARK: Where layers move

  /// A side tensor belongs to the layer that it was taken of, wherever that layer goes.
  @Test func followLayers() throws {
    let scratch = try arrange()
    try scratch.merge(
      """
      merge_method: fisher
      slices:
        - sources:
            - {model: @a, layer_range: [1, 3], side: {fisher: @fa}}
            - {model: @b, layer_range: [0, 2], side: {fisher: @fb}}
      parameters: {fisher_norm: none, fisher_floor: 0}
      """)
    let output = try scratch.tensors()
    for layer in 0..<2 {
      let (first, second) = (Double(layer + 2) / 64, Double(layer + 1) / 64)
      let expected = ((0.25 + first) * (1 + first) + (0.75 + second) * (2 + second)) / (1 + first + second)
      #expect(abs((output["model.layers.\(layer).mlp.weight"]?.value(0) ?? 0) - expected) < 1e-6)
    }
  }

  /// Results of one document as another's model, computed on the way or stored: the same bytes; and as another's side file.
  @Test func documents() throws {
    let scratch = try arrange()
    let text =
      "name: average\n" + Self.fisher + "aim: {side: @norms, base_model: @base}\n---\n"
      + "merge_method: linear\nmodels: [{model: average}, {model: @base}]\nparameters: {weight: 0.5}\n"
    let recipe = try Recipe(text.replacingOccurrences(of: "@", with: scratch.path + "/"))
    var digests: [[Int: String]] = []
    for placement in [StagePlacement.automatic, .stored] {
      var options = PlanOptions()
      options.stages = placement
      let plan = try Plan.make(recipe, options: options, models: LocalModels(environment: [:]))
      let report = try Engine().merge(plan, to: scratch("OUT\(digests.count)"), options: .quick)
      digests.append(report.digests.mapValues(\.description))
    }
    #expect(digests[0] == digests[1] && !digests[0].isEmpty)
    let mean = "name: information\nmerge_method: linear\nmodels: [{model: @fa}, {model: @fb}]\nparameters: {weight: 0.5}\n---\n"
    try scratch.merge(mean + Self.fisher.replacingOccurrences(of: "@fb", with: "information"))
    #expect(scratch.exists("OUT/model.safetensors"))
  }
}

extension Scratch {
  /// One safetensors file with metadata.
  func sideFile(_ name: String, _ tensors: [TestTensor], metadata: [String: String]) throws {
    var header: [String: Any] = ["__metadata__": metadata]
    var offset = 0
    for tensor in tensors {
      let end = offset + tensor.data.count
      header[tensor.name] = ["dtype": tensor.dtype.safetensorsName, "shape": tensor.shape, "data_offsets": [offset, end]]
      offset = end
    }
    let json = Array(try JSONSerialization.data(withJSONObject: header))
    let length = (0..<8).map { UInt8(truncatingIfNeeded: json.count >> (8 * $0)) }
    try write(name, length + json + tensors.flatMap(\.data))
  }
}
