package import IngotErrors
package import IngotRecipes

/// Layer swapping: the first and the last layers of a language expert around the middle layers of a task expert, with bands of both between.
///
/// Of L layers 0 … bottom−1 and L−top … L−1 are the language expert's (the first model), the `bottom_transition` layers above the bottom and the
/// `top_transition` layers below the top are w · language + (1 − w) · task with w = `transition_weight`, the rest are the task expert's (the second
/// model). What is not mixed is copied byte for byte. Shapes: any, equal. Arithmetic: f32.
/// Degenerate: more bottom, top and transition layers than there are is an error. Layers are those of the text, of an encoder, of a decoder; towers
/// count as outside. Bytes: one input for a copied tensor, both for a mixed one; the output once.
/// Source: Bandarkar et al., Layer Swapping for Zero-Shot Cross-Lingual Transfer, arXiv 2410.01335.
package struct LayerSwap: AveragingMethod {
  package static let descriptor = MethodDescriptor(
    name: "layer_swap", title: "Layer Swapping", summary: "Bottom and top layers of one expert around the middle layers of another.",
    formula: "θ₁ in the bottom and top layers, θ₂ in the middle, w θ₁ + (1 − w) θ₂ in the transition bands, w = transition_weight",
    reference: .init("Layer Swapping, arXiv 2410.01335", url: "https://arxiv.org/abs/2410.01335"), base: .none, models: 2...2,
    parameters: [
      layers("bottom", "layers from the first on that are the language expert's", 5),
      layers("top", "layers up to the last that are the language expert's", 2),
      layers("bottom_transition", "layers above the bottom that are a mean of both", 1),
      layers("top_transition", "layers below the top that are a mean of both", 1),
      ParameterDescriptor(
        "transition_weight", .number(.fraction), "share of the language expert in what is a mean of both", default: .number(0.5)),
      source("embedding_source", "embeddings"), source("head_source", "the output head"),
      source("rest_source", "the final norm and everything else outside the layers"),
    ],
    scopes: [.element], needsLayers: true,
    notes: [
      "the first model is the language expert, the second the task expert; both are fine-tunes of one base",
      "the defaults of bottom, top and transitions are those reported for 32 layers; that embeddings, norm and head come from the language expert, and the transition weight, are ours",
      "tensors that are not mixed are copied byte for byte",
    ],
    example: """
      merge_method: layer_swap
      models:
        - model: models/french
        - model: models/maths
      parameters: {bottom: 4, top: 2, bottom_transition: 1, top_transition: 1}
      dtype: bfloat16
      """)

  private static func layers(_ name: String, _ summary: String, _ count: Double) -> ParameterDescriptor {
    ParameterDescriptor(name, .integer(0...Int.max), summary, default: .number(count))
  }

  private static func source(_ name: String, _ what: String) -> ParameterDescriptor {
    ParameterDescriptor(
      name, .choice(["language", "task", "average"]), "where \(what) come from; average mixes by transition_weight",
      default: .text("language"))
  }

  package let combination: KnownCombination

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.averagedSegment(of: "layer_swap")
    guard request.inputs.count == 2 else {
      throw IngotError(
        .recipe, "layer_swap takes the language expert and the task expert, found \(request.inputs.count) inputs for \(segment.name)",
        hint: "list two models and no base_model", subject: segment.name)
    }
    let share = try Self.share(segment)
    combination = KnownCombination([share, 1 - share])
  }

  /// How much of the tensor is the language expert's.
  private static func share(_ segment: MethodRequest.Segment) throws(IngotError) -> Double {
    let mixed = segment.number("transition_weight") ?? 0.5
    func source(_ name: String) -> Double {
      switch segment.text(name) {
      case "task": 0
      case "average": mixed
      default: 1
      }
    }
    guard case .layer(let layer, let count) = segment.place else {
      return source(segment.place == .embedding ? "embedding_source" : segment.place == .head ? "head_source" : "rest_source")
    }
    func layers(_ name: String) -> Int { segment.number(name).flatMap { Int(exactly: $0) } ?? 0 }
    let (bottom, top) = (layers("bottom"), layers("top"))
    let (above, below) = (layers("bottom_transition"), layers("top_transition"))
    let wanted = [bottom, above, below, top]
    guard wanted.allSatisfy({ $0 <= count }), wanted.reduce(0, +) <= count else {
      throw IngotError(
        .recipe,
        "bottom \(bottom), bottom_transition \(above), top_transition \(below) and top \(top) are more layers than the \(count) there are",
        hint: "lower one of them", subject: segment.name)
    }
    if layer < bottom || layer >= count - top { return 1 }
    return layer < bottom + above || layer >= count - top - below ? mixed : 0
  }
}
