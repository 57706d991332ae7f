package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// The merge step of Evo-Merging: the A factors of adapters are sparsified by magnitude, then all factors are added with signed weights.
///
/// Of the n values of a `lora_A` tensor of model i the round(density · n) of largest magnitude stay, one at least where density is above 0 (density
/// is the paper's α); `lora_B` tensors stay whole, any other tensor is sparsified like A. Then Σ wᵢ · that, a negative weight (the paper's β)
/// turning a model round. Thresholds are exact. Shapes: any, equal. Arithmetic: f32, terms in model order; what was dropped adds nothing.
/// A and B are added apart, so that their product has terms of all pairs of models, as in the authors' code.
/// Bytes: inputs up to three times where some are sparsified, else once; the output once.
/// Source: Black-box Model Merging for Language-Model-as-a-Service, arXiv 2509.12951.
package struct EvoMerging: ThresholdMerge {
  package static let descriptor = MethodDescriptor(
    name: "evo_merging", title: "Evo-Merging", summary: "Sparsifies the A factors of adapters and adds all factors with signed weights.",
    formula: "Σ wᵢ S(θᵢ), S keeping the density · n largest magnitudes of lora_A and all of lora_B",
    reference: .init("Evo-Merging, arXiv 2509.12951", url: "https://arxiv.org/abs/2509.12951"), base: .none, models: 1...Int.max,
    parameters: [
      ParameterDescriptor("weight", .number(.any), "factor of the model, 1/N where not given; negative turns it round", isPerModel: true),
      .densityFromZero, .ties(paper: "ge"),
    ],
    scopes: [.tensor],
    notes: [
      "density and weight are the paper's α and β; the search for them is ingot's search in Python, or the caller's",
      "A and B are added apart: the product of the sums has terms of all pairs of models",
      "a density above 0 keeps one element at least; 0 drops the model's A",
    ],
    example: """
      merge_method: evo_merging
      models:
        - model: adapters/law
          parameters: {weight: 0.8, density: 0.5}
        - model: adapters/medicine
          parameters: {weight: -0.4, density: 1}
      """)

  private let weights: [Float]
  package let initial: MagnitudeSearches

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.averagedSegment(of: "evo_merging")
    let share = 1 / Double(request.inputs.count)
    weights = request.inputs.indices.map { Float(segment.number("weight", model: $0) ?? share) }
    let population = UInt64(try segment.shape.elementCount())
    let isDense = segment.name.contains("lora_B") && !segment.name.contains("lora_A")
    initial = MagnitudeSearches(
      request.inputs.indices.map { model in
        let density = isDense ? 1 : segment.number("density", model: model) ?? 1
        let keep = density > 0 ? max(UInt64((density * Double(population)).rounded(.toNearestOrEven)), 1) : 0
        return MagnitudeSearch(population: population, keep: keep, ties: segment.tieRule(), blocks: (population + 65_535) / 65_536)
      })
  }

  package var demands: Demands { Demands() }

  package func gather(_ state: State, _ tile: Tile, _ statistic: BlockStatistic) {
    for model in weights.indices { state.gather(model, tile.inputs[model], tile, statistic) }
  }

  package func fused(_ state: State, segment: Int) -> FusedMerge? {
    state.keepsEverything ? FusedMerge(.linear(divisor: 1), terms: weights.map { FusedMerge.Term(weight: $0) }) : nil
  }

  package func emit(_ state: State, _ tile: Tile, into output: Floats) {
    if state.keepsEverything {
      tile.kernels.linearCombination(tile.inputs, weights: weights, into: output)
      return
    }
    for model in weights.indices { state.trim(model, tile.inputs[model], tile) }
    tile.kernels.weightedSum(tile.inputs, weights: weights, into: output)
  }

  package func findings(_ state: State) -> [Finding] {
    state.cuts.enumerated().flatMap { model, cut in
      cut == .everything || cut == .nothing
        ? [] : [Finding("threshold", Double(cut.magnitude), model: model), Finding("tied", Double(cut.tied), model: model)]
    }
  }
}
