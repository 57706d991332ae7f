package import IngotErrors
package import IngotTensors

/// A model as a recipe names it; what the text means (directory, cache, revision) is decided where checkpoints are opened.
package struct ModelReference: Sendable {
  package enum Location: Sendable, Hashable {
    /// `PATH` or `PATH@REVISION`, unsplit.
    case text(String)
    /// The mapping form `{path: , revision: }`: the path is taken as it stands.
    case fields(path: String, revision: String?)
  }
  package var location: Location
  /// mergekit's `override_architecture`; Ingot takes tensor names from the checkpoints and does not need it.
  package var overrideArchitecture: String?
  package var position: SourcePosition

  package init(_ location: Location, overrideArchitecture: String? = nil, position: SourcePosition) {
    self.location = location
    self.overrideArchitecture = overrideArchitecture
    self.position = position
  }

  /// How messages name the model: `PATH` or `PATH@REVISION`.
  package var name: String {
    switch location {
    case .text(let text): text
    case .fields(let path, let revision): path + (revision.map { "@" + $0 } ?? "")
    }
  }

  /// Equal for two references that are the same model to a recipe. Structural, as in mergekit: `./m` and `m` differ.
  package var identity: [String] {
    let place =
      switch location {
      case .text(let text): [text]
      case .fields(let path, let revision): path.contains("@") || path.contains("+") ? ["", path, revision ?? ""] : [name]
      }
    return place + (overrideArchitecture.map { ["", $0] } ?? [])
  }
}

/// What a person asked for: a typed, checked, immutable recipe with the places its parts were written at.
///
/// `models` and `slices` recipes have one form here: a `models` recipe is one slice whose sources have no layer range (all layers).
/// Tensors before the layers belong to the first slice, tensors after them to the last, both at layer position 0.
package struct Recipe: Sendable {
  package enum Form: String, Sendable, Hashable { case models, slices }

  /// Which rule gives a parameter's default: mergekit's, or the method's paper.
  package enum Preset: String, Sendable, Hashable, CaseIterable { case mergekit, paper }

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
  }

  package let origin: String
  /// The text as given; published beside the merged model.
  package let text: [UInt8]
  package let method: MethodDescriptor
  package let methodPosition: SourcePosition
  package let form: Form
  /// Every model once, in the order of first mention among the sources; a base model that is no source comes last. The index is the model's
  /// ordinal, which random draws depend on.
  package let models: [ModelReference]
  /// Index into `models` of the global `base_model`.
  package let baseModel: Int?
  /// At least one.
  package let slices: [Slice]
  package let settings: Settings
  package let dtype: DType?
  package let outDType: DType?
  package let seed: UInt64?
  package let preset: Preset
  /// What the person should know: ignored keys and the like, in the order of the text.
  package let notices: [Notice]

  /// The type of the output's tensors, where the recipe sets it: `out_dtype`, else `dtype`.
  package var outputDType: DType? { outDType ?? dtype }
}
