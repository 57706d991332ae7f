package import IngotErrors
package import IngotTensors

/// A model as a recipe names it; what the text means (directory, cache, revision) is decided where checkpoints are opened.
package struct ModelReference: Sendable {
  package enum Location: Sendable, Hashable {
    /// `PATH[@REVISION][+ADAPTER[@REVISION]]…`, unsplit.
    case text(String)
    /// The mapping form `{path: , revision: , task: }`: the path is taken as it stands. A task is of a pack in the place of an adapter.
    case fields(path: String, revision: String?, task: String? = nil)
  }
  package var location: Location
  /// The adapters of the mapping form's `lora`, in the order in which they are applied; in a text they stand behind a `+` each, unsplit.
  package var adapters: [Location]
  /// mergekit's `override_architecture`; Ingot takes tensor names from the checkpoints and does not need it.
  package var overrideArchitecture: String?
  package var position: SourcePosition

  package init(_ location: Location, adapters: [Location] = [], overrideArchitecture: String? = nil, position: SourcePosition) {
    self.location = location
    self.adapters = adapters
    self.overrideArchitecture = overrideArchitecture
    self.position = position
  }

  /// How messages name the model: `PATH[@REVISION][+ADAPTER[@REVISION]]…`.
  package var name: String { ([location] + adapters).map(Self.name).joined(separator: "+") }

  private static func name(_ location: Location) -> String {
    switch location {
    case .text(let text): text
    case .fields(let path, let revision, let task): path + (revision.map { "@" + $0 } ?? "") + (task.map { "#" + $0 } ?? "")
    }
  }

  /// The reference as a bare name, which may be that of another document; nil with a revision or an adapter of
  /// its own.
  package var bareName: String? {
    if !adapters.isEmpty { return nil }
    return switch location {
    case .text(let text): text
    case .fields(let path, nil, nil): path
    case .fields: nil
    }
  }

  /// The names of documents that it may mean: the bare name, else what stands before an adapter.
  package var documentNames: [String] { [bareName, adapted?.stem].compactMap(\.self) }

  /// What stands before the adapters, where that may be a document's name, and each adapter alone.
  private var adapted: (stem: String, adapters: [Location])? {
    switch location {
    case .text(let text) where adapters.isEmpty:
      let parts = text.split(separator: "+", omittingEmptySubsequences: false)
      guard let stem = parts.first, parts.count > 1 else { return nil }
      return (String(stem), parts.dropFirst().map { .text(String($0)) })
    case .text(let text): return text.contains("+") ? nil : (text, adapters)
    case .fields(let path, nil, nil) where !adapters.isEmpty: return (path, adapters)
    case .fields: return nil
    }
  }

  /// What of it must be there before a merge whose documents have these names: nothing of a document, of adapters on one the adapters.
  func external(beside documents: Set<String>) -> [ModelReference] {
    if let name = bareName, documents.contains(name) { return [] }
    guard let adapted, documents.contains(adapted.stem) else { return [self] }
    return adapted.adapters.map { ModelReference($0, position: position) }
  }

  /// Equal for two references that are the same model to a recipe. Structural, as in mergekit: `./m` and `m` differ.
  package var identity: [String] {
    func place(_ location: Location) -> [String]? {
      switch location {
      case .text(let text): [text]
      case .fields(let path, let revision, let task):
        path.utf8.contains(where: "@+#".utf8.contains) ? ["", path, revision ?? "", task ?? ""] : nil
      }
    }
    let architecture = overrideArchitecture.map { ["", $0] } ?? []
    let parts = [location] + adapters
    // The mapping form of plain parts is the same model as their text.
    if parts.allSatisfy({ place($0)?.count != 4 }) { return [name] + architecture }
    return Array(parts.map { place($0) ?? [Self.name($0)] }.joined(separator: ["+"])) + architecture
  }
}

/// What a person asked for: a typed, checked, immutable recipe with the places its parts were written at.
///
/// `models` and `slices` recipes have one form here: a `models` recipe is one slice whose sources have no layer range (all layers).
/// Tensors before the layers belong to the first slice, tensors after them to the last, both at layer position 0.
package struct Recipe: Sendable {
  package enum Form: String, Sendable, Hashable { case models, slices, modules }

  /// Which rule gives a parameter's default: mergekit's, or the method's paper.
  package enum Preset: String, Sendable, Hashable, CaseIterable { case mergekit, paper }

  /// Where results are rounded to the tensors' type: once at the end, or after every step as mergekit does on a CPU.
  package enum Numerics: String, Sendable, Hashable, CaseIterable { case once, stepwise }
  /// What becomes of tensors that some models lack.
  package enum Missing: String, Sendable, Hashable, CaseIterable {
    case error
    /// They are left out.
    case intersection
    /// They are merged from the models that have them, or copied where the method needs more.
    case union
  }

  /// One input of a slice.
  package struct Source: Sendable {
    /// Index into `Recipe.models`.
    package var model: Int
    /// Layers of the model, 0-based; nil: all.
    package var layers: Range<Int>?
    package var settings: Settings
    /// True for the base model of the slice. The method's `baseIsInput` says whether it is merged like the others.
    package var isBase: Bool
    /// True for a base model that the recipe names only under `base_model`.
    package var isImplicit: Bool
    /// The side inputs that belong to this model.
    package var sides: [Side] = []
    package var position: SourcePosition
  }

  /// A run of output layers and the inputs they are merged from, in the recipe's order.
  package struct Slice: Sendable {
    package var sources: [Source]
    package var settings: Settings
    /// Index into `sources` of the base model; nil when the recipe has none for this slice.
    package var base: Int? { sources.firstIndex { $0.isBase } }
    /// The number of output layers; nil: as many as the models have.
    package var layerCount: Int? { sources.first?.layers?.count }
    package var position: SourcePosition
    /// Index into `modules`.
    package var module = 0
    /// True for a slice of one source that leaves the method nothing to merge: its tensors are copied.
    package var isCopied = false
  }

  /// A part of the model and the slices that make it. `models` and `slices` recipes have one, without a name, for the whole model.
  package struct Module: Sendable {
    /// mergekit's name of the part, or the beginning of its tensors' names; nil: the whole model.
    package var name: String?
    /// Indices into `slices`, at least one.
    package var slices: Range<Int>
    package var settings: Settings
    package var position: SourcePosition
  }

  package let origin: String
  /// The text as given; published beside the merged model.
  package let text: [UInt8]
  package let method: MethodDescriptor
  package let methodPosition: SourcePosition
  package let form: Form
  /// Every model once, in the order of first mention among the sources; then a base model that is no source, then models that only the
  /// tokenizer names; then what is no model of the merge: the base of `aim` and the side files. The index is the model's
  /// ordinal, which random draws depend on.
  package let models: [ModelReference]
  /// How many of `models` are models of the merge.
  package let modelCount: Int
  /// Index into `models` of the global `base_model`.
  package let baseModel: Int?
  /// At least one, those of one module together.
  package let slices: [Slice]
  /// At least one.
  package let modules: [Module]
  package let settings: Settings
  package let dtype: DType?
  package let outDType: DType?
  package let seed: UInt64?
  package let preset: Preset
  /// Nil: the donor's tokenizer is carried over, and embeddings are merged row by row as they are.
  package let tokenizer: TokenizerRequest?
  package let chatTemplate: ChatTemplateRequest?
  package let numerics: Numerics
  package let missing: Missing
  /// The side inputs of the whole merge.
  package let sides: [Side]
  package let activationScaling: ActivationScaling?
  /// What is different for single tensors.
  package let rules: [TensorRule]
  /// What the person should know: ignored keys and the like, in the order of the text.
  package internal(set) var notices: [Notice]
  /// What later documents of the same text call this one; nil for the only document, and for the one that is the output.
  package internal(set) var name: String?
  /// The documents whose results this one reads, directly or through another, each after those that it reads itself.
  package internal(set) var stages: [Recipe] = []
  /// The names of all documents of the text, read or not.
  package internal(set) var documentNames: [String] = []

  /// The type of the output's tensors, where the recipe sets it: `out_dtype`, else `dtype`.
  package var outputDType: DType? { outDType ?? dtype }

  /// The models that the recipe and its stages read, without the stages themselves: what has to be there before the merge.
  package var externalModels: [ModelReference] {
    let names = Set(stages.compactMap(\.name))
    var seen: Set<[String]> = []
    return (stages + [self]).flatMap(\.models).flatMap { $0.external(beside: names) }.filter { seen.insert($0.identity).inserted }
  }
}
