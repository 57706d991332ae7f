internal import IngotErrors
internal import IngotRecipes
internal import IngotTensors

extension ParameterDescriptor {
  /// Shared by the methods that keep one model for each task.
  static let task = ParameterDescriptor(
    "task", .integer(0...Int.max), "whose own model is made, counted from 1 in the recipe's order without the base; 0 makes the merged one",
    default: .number(0))

  /// How much of what a model alone has is added.
  static let share = ParameterDescriptor(
    "weight", .number(.any), "share of what is the model's own that is added; 0 adds nothing", default: .number(0), isPerModel: true)

  static let lambda = ParameterDescriptor("lambda", .number(.any), "factor of the merged task vector", default: .number(1))
}

extension MethodRequest {
  /// A number that holds for all tensors of a job. Throws `.recipe` where two of them differ.
  func uniform(_ name: String, default fallback: Double) throws(IngotError) -> Double {
    let first = segments.first?.number(name) ?? fallback
    if let other = segments.first(where: { ($0.number(name) ?? fallback) != first }) {
      throw differing(name, "\(first)", other.name)
    }
    return first
  }

  /// A number of one input that holds for all tensors of a job. Throws `.recipe` where two of them differ.
  func uniform(_ name: String, model: Int, default fallback: Double) throws(IngotError) -> Double {
    let first = segments.first?.number(name, model: model) ?? fallback
    if let other = segments.first(where: { ($0.number(name, model: model) ?? fallback) != first }) {
      throw differing(name, "\(first)", other.name)
    }
    return first
  }

  /// A choice that holds for all tensors of a job. Throws `.recipe` where two of them differ.
  func uniform(text name: String) throws(IngotError) -> String? {
    let first = segments.first?.text(name)
    if let other = segments.first(where: { $0.text(name) != first }) { throw differing(name, first ?? "none", other.name) }
    return first
  }

  private func differing(_ name: String, _ first: String, _ tensor: String) -> IngotError {
    IngotError(
      .recipe, "'\(name)' is \(first) at \(segments.first?.name ?? "") and another at \(tensor), but tensors with one statistic share it",
      hint: "give '\(name)' as one value, without filters or a gradient", subject: tensor)
  }

  /// Which of the models (from 0, the base not counted) the parameter `task` or its namesake asks for; nil for none. Throws `.recipe` when
  /// there is no such model.
  func chosenModel(_ name: String = "task") throws(IngotError) -> Int? {
    let number = try uniform(name, default: 0)
    if number == 0 { return nil }
    guard let chosen = Int(exactly: number), chosen <= modelCount else {
      throw IngotError(
        .recipe, "'\(name)' is \(number), but there are \(modelCount) models beside the base", hint: "count from 1", subject: name)
    }
    return chosen - 1
  }

  /// The factor of each model's own part at one tensor: its `weight`, or 1 for the model that `task` asks for. Throws `.recipe` for both.
  func shares(_ segment: Segment) throws(IngotError) -> [Float] {
    var shares = (1..<max(inputs.count, 1)).map { Float(segment.number("weight", model: $0) ?? 0) }
    guard let task = try chosenModel() else { return shares }
    if shares.contains(where: { $0 != 0 }) {
      throw IngotError(
        .recipe, "both 'task' and 'weight' say whose own part is added", hint: "give one of them", subject: "task")
    }
    shares[task] = 1
    return shares
  }

  /// How many elements and blocks the job has: what a search over all of it starts from.
  func population() throws(IngotError) -> (elements: UInt64, blocks: UInt64) {
    var (elements, blocks): (UInt64, UInt64) = (0, 0)
    for segment in segments {
      let count = UInt64(try segment.shape.elementCount())
      elements += count
      blocks += (count + 65_535) / 65_536
    }
    return (elements, blocks)
  }
}
