internal import IngotMethods
package import IngotRecipes

/// What a rolling merge computes: one or more running objects that every model is folded into, one model at a time.
package enum RollingMethod: String, Sendable, CaseIterable {
  /// Σ θₜ, at the end divided by their number.
  case runningMean = "running_mean"
  /// Σ wₜ θₜ, at the end divided by Σ wₜ.
  case weightedMean = "weighted_mean"
  /// m₁ = θ₁, mₜ = β mₜ₋₁ + (1 − β) θₜ.
  case ema
  /// m₁ = θ₁, mₜ = (1 − α) θₜ + α/(t − 1) Σ mₖ over k < t: MOS's merge of each task's adapter with those before it.
  case mos
  /// Σ wₜ (θₜ − θ₀), at the end times λ and added to θ₀.
  case taskArithmetic = "task_arithmetic"
  /// Of all θₜ − θ₀ the element of the largest magnitude, of equal ones the last; at the end times λ and added to θ₀.
  case magmax
  /// TIES: of each θₜ − θ₀ the density·n largest magnitudes; at the end the mean of the side of zero with the larger sum, times λ.
  case ties
  /// The same with n the elements of the whole model, as in the paper.
  case tiesModel = "ties_model"
  /// Σ wₜ Fₜ θₜ / Σ wₜ Fₜ, Fₜ the diagonal Fisher information of each model, divided by its norm.
  case fisher
  /// Σ wₜ Pₜ θₜ / Σ wₜ Pₜ, Pₜ the roots of Adam's second moments where their saliency is among the largest, θ₀ where nothing is.
  case ota
  /// D₁ = τ₁, Dₜ = Dₜ₋₁ + τₜ without what it says along the singular directions of Dₜ₋₁; at the end times λ and the mean of ‖τₜ‖ over ‖D‖, added to θ₀.
  case opcm
  /// W₁ = τ₁, Wₜ the minimum of DOP for Wₜ₋₁ and τₜ; at the end times λ and added to θ₀.
  case dop

  package var needsBase: Bool { rules.needsBase }
  package var takesWeight: Bool { rules.weight != .none }
  /// A number that the first step sets for all.
  package var setting: ParameterDescriptor? { rules.setting }
  /// The side input that every model comes with.
  package var side: String? { rules.side }
}

/// A running object of a rolling merge: a tensor for each of the model's, and how a step folds a model into it.
struct RollingPlane: Sendable {
  /// What a step knows besides the model.
  struct Step {
    /// The method's setting, 0 without one.
    var setting: Double
    var weight: Double
    /// Models that are in already; the first step finds no state.
    var count: Int
  }

  /// What stands behind the tensor's name and a # (`RollingName`); the first one has the tensor's own name.
  var name = ""
  /// The plane that the step reads in the place of this one.
  var source: String?
  /// Parameters of the step's method; every plane of a method has the same ones.
  var parameters: @Sendable (Step) -> [(name: String, value: String)] = { RollingPlane.fold(1, $0.weight) }

  /// factor · state + weight · model.
  static func fold(_ factor: Double, _ weight: Double) -> [(name: String, value: String)] {
    [("factor", "\(factor)"), ("weight", "\(weight)")]
  }
}

/// A rolling method as data: everything in which they differ.
struct RollingRules: Sendable {
  enum Weight: Sendable { case none, any, positive }

  /// The registered method of a step.
  var step = "rolling_fold"
  var planes = [RollingPlane()]
  var needsBase = false
  var weight = Weight.none
  var setting: ParameterDescriptor?
  var side: String?
  /// How the planes become a model (`RollingFinish`); whether their sum is divided by that of the weights.
  var rule = "sum"
  var isMean = false

}

extension RollingMethod {
  var rules: RollingRules {
    switch self {
    case .runningMean: RollingRules(isMean: true)
    case .weightedMean: RollingRules(weight: .any, isMean: true)
    case .ema:
      RollingRules(
        planes: [RollingPlane(parameters: { $0.count == 0 ? RollingPlane.fold(1, 1) : RollingPlane.fold($0.setting, 1 - $0.setting) })],
        setting: ParameterDescriptor(
          "beta", .number(NumberRange(from: .closed(0), to: .open(1))), "share of the average so far", default: .number(0.9)))
    case .mos:
      RollingRules(
        planes: [
          RollingPlane(
            source: "sum",
            parameters: {
              $0.count == 0 ? RollingPlane.fold(1, 1) : RollingPlane.fold($0.setting / Double($0.count), 1 - $0.setting)
            }),
          RollingPlane(
            name: "sum",
            parameters: {
              $0.count == 0 ? RollingPlane.fold(1, 1) : RollingPlane.fold(1 + $0.setting / Double($0.count), 1 - $0.setting)
            }),
        ],
        setting: ParameterDescriptor("alpha", .number(.fraction), "share of the mean of those before", default: .number(0.1)))
    case .taskArithmetic: RollingRules(needsBase: true, weight: .any)
    case .magmax: RollingRules(step: "rolling_magmax", planes: [RollingPlane(parameters: { _ in [] })], needsBase: true)
    case .opcm:
      RollingRules(
        step: "rolling_opcm", planes: [RollingPlane(parameters: { [("projection_alpha", "\($0.setting)")] })], needsBase: true,
        setting: ParameterDescriptor(
          "alpha", .number(.fraction), "share of the singular values whose directions are closed to further models", default: .number(0.5)))
    case .dop:
      RollingRules(
        step: "rolling_dop",
        planes: [RollingPlane(parameters: { [("merged_weight", "\($0.setting)"), ("count", "\($0.count)")] })], needsBase: true,
        setting: ParameterDescriptor(
          "alpha", .number(.fraction), "weight of what is merged already against the next model", default: .number(0.8)))
    case .ties, .tiesModel:
      RollingRules(
        step: "rolling_vote",
        planes: ["positive", "negative", "positive_weight", "negative_weight"].enumerated().map { number, part in
          RollingPlane(
            name: number == 0 ? "" : part,
            parameters: {
              [("part", part), ("weight", "\($0.weight)"), ("density", "\($0.setting)"), ("scope", self == .ties ? "tensor" : "model")]
            })
        },
        needsBase: true, weight: .positive,
        setting: ParameterDescriptor("density", .number(.fraction), "share of a task vector that is kept", default: .number(1)),
        rule: "vote")
    case .fisher:
      RollingRules(
        step: "rolling_fisher",
        planes: ["weighted", "information"].enumerated().map { number, part in
          RollingPlane(
            name: number == 0 ? "" : part,
            // As in `fisher`: where no model has information the first one's values stand.
            parameters: { [("part", part), ("weight", "\($0.weight)"), ("fisher_floor", $0.count == 0 ? "0.000001" : "0")] })
        },
        weight: .positive, side: "fisher", rule: "ratio")
    case .ota:
      RollingRules(
        step: "rolling_ota",
        planes: ["weighted", "weights"].enumerated().map { number, part in
          RollingPlane(
            name: number == 0 ? "" : part,
            parameters: { [("part", part), ("weight", "\($0.weight)"), ("density", "\($0.setting)")] })
        },
        needsBase: true, weight: .positive,
        setting: ParameterDescriptor("density", .number(.fraction), "share of a task vector that is kept", default: .number(1)),
        side: "second_moment", rule: "grafted")
    }
  }

  /// The parameters of a step's recipe: each one value, or conditions on the planes' names.
  func parameters(_ step: RollingPlane.Step) -> [(name: String, value: String)] {
    let planes = rules.planes
    guard let first = planes.first?.parameters(step) else { return [] }
    return first.enumerated().map { number, parameter in
      let values = planes.map { $0.parameters(step)[number].value }
      if values.allSatisfy({ $0 == parameter.value }) { return parameter }
      // The first condition whose filter is a part of the name holds, so longer ones go before.
      let named = zip(planes, values).dropFirst().sorted { $0.0.name.utf8.count > $1.0.name.utf8.count }
      let others = named.map { "{filter: \"\(RollingName.name("", object: $0.0.name))\", value: \($0.1)}" }
      return (parameter.name, "[" + (others + ["{value: \(parameter.value)}"]).joined(separator: ", ") + "]")
    }
  }
}
