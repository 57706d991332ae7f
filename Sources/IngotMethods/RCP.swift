package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Reasoning capability as prior: a domain model's changes are added to a reasoning model where most samples of the domain say that they help
/// more than they harm what the reasoning model knows.
///
/// The first model is the reasoning model R, the second the domain model D. Each sample k votes b_kj = +1 where
/// g^D_kj θ_Dj + λ F_j (θ_Rj − θ_Dj)² ≤ 0, else −1: g^D_k is the gradient of D's loss on the sample (`gradients` of the second model, one file for
/// each sample), F the prior of R (`prior` of the first model: the mean over reasoning samples of (g θ_R)², as the released code has it),
/// λ is `rcp_lambda`. Where the votes' sum is above 0 the result is θ_R + (θ_D − θ₀), elsewhere θ_R itself. A sum that was counted before can be given as
/// `votes` of the second model, in place of both.
/// Shapes: any, equal. Arithmetic: f32. Bytes: each input and side file once, the output once.
/// Degenerate: an even split does not add; without gradient and prior an element is added, as in the released code.
/// Source: RCP-Merging, arXiv 2508.03140.
package struct RCP: MergeMethod {
  package typealias State = Void

  package static let descriptor = MethodDescriptor(
    name: "rcp", title: "RCP-Merging", summary: "Adds a domain model to a reasoning model where its samples vote for it.",
    formula: "θ₁ + τ₂ where Σₖ bₖ > 0, else θ₁, with bₖ = +1 where gₖ θ₂ + λ F (θ₁ − θ₂)² ≤ 0, else −1",
    reference: .init("RCP-Merging, arXiv 2508.03140", url: "https://arxiv.org/abs/2508.03140"), base: .required, models: 2...2,
    parameters: [
      ParameterDescriptor(
        "rcp_lambda", .number(NumberRange(from: .closed(0))), "weight of the reasoning model's prior", default: .number(1000))
    ],
    scopes: [.element],
    sideInputs: [
      SideInputDescriptor(
        "prior", .tensor, "of the reasoning model, which stands first: mean of (gradient times weight)² over reasoning samples",
        isRequired: false),
      SideInputDescriptor(
        "gradients", .tensor, "of the domain model, which stands second: the gradient of its loss on each sample", isRequired: false,
        isList: true),
      SideInputDescriptor(
        "votes", .tensor, "of the domain model: the sum of the samples' votes, in place of prior and gradients", isRequired: false),
    ],
    notes: ["an even split of the votes leaves the reasoning model's value"],
    example: """
      merge_method: rcp
      base_model: models/base
      models:
        - model: models/reasoning
          side: {prior: sides/reasoning_prior}
        - model: models/medicine
          side:
            gradients:
              - sides/medicine_gradient_0
              - sides/medicine_gradient_1
              - sides/medicine_gradient_2
      dtype: bfloat16
      """)

  package static var cropsToBase: Bool { true }

  private let lambda: Float
  private let prior: Int?
  /// Where among the side tensors the samples' gradients are, or the votes alone.
  private let gradients: [Int]
  private let votes: Int?

  package init(_ request: MethodRequest) throws(IngotError) {
    let segment = try request.onlySegment()
    guard request.hasBase, request.inputs.count == 3 else {
      throw IngotError(
        .recipe, "rcp takes the base, a reasoning model and a domain model, found \(request.inputs.count) inputs for \(segment.name)",
        subject: segment.name)
    }
    lambda = Float(segment.number("rcp_lambda") ?? 1000)
    let (reasoning, domain) = (request.inputs[1].model, request.inputs[2].model)
    func stray(_ name: String, of model: String, belongsTo: String) -> IngotError {
      IngotError(
        .recipe, "\(name) is given beside \(model)", hint: "it belongs to the \(belongsTo)", subject: "side.\(name)")
    }
    if segment.sideCount("prior", model: 2) > 0 { throw stray("prior", of: domain, belongsTo: "reasoning model, the first") }
    for name in ["gradients", "votes"] where segment.sideCount(name, model: 1) > 0 {
      throw stray(name, of: reasoning, belongsTo: "domain model, the second")
    }
    prior = segment.side("prior", model: 1)
    votes = segment.side("votes", model: 2)
    var gradients: [Int] = []
    for item in 0..<segment.sideCount("gradients", model: 2) {
      if let place = segment.side("gradients", model: 2, item: item) { gradients.append(place) }
    }
    self.gradients = gradients
    guard (votes == nil) != gradients.isEmpty else {
      throw IngotError(
        .recipe, "rcp has \(votes == nil ? "neither gradients nor votes" : "both gradients and votes") of \(domain), expected one of them",
        hint: "give the second model 'side: {gradients: [PATH, …]}' or 'side: {votes: PATH}'", subject: "side")
    }
    guard (votes == nil) == (prior != nil) else {
      throw IngotError(
        .recipe, votes == nil ? "rcp has no prior of \(reasoning)" : "rcp has a prior of \(reasoning) beside votes, which it is part of",
        hint: votes == nil ? "give the first model 'side: {prior: PATH}'" : "remove one of them", subject: "side.prior")
    }
  }

  package var demands: Demands { Demands(scratchRows: votes == nil ? 1 : 0) }

  package func emit(_ state: Void, _ tile: Tile, into output: Floats) {
    let (base, reasoning, domain) = (tile.inputs[0], tile.inputs[1], tile.inputs[2])
    var sum = tile.scratch[0]
    if let votes {
      sum = tile.sides[votes]
    } else if let prior {
      for (number, place) in gradients.enumerated() {
        tile.kernels.vote(
          gradient: tile.sides[place], domain, reasoning, prior: tile.sides[prior], lambda: lambda, begins: number == 0, into: sum)
      }
    }
    tile.kernels.addVoted(reasoning, domain, base: base, votes: sum, into: output)
  }
}
