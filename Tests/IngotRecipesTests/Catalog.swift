import IngotRecipes

private let weight = ParameterDescriptor("weight", .number(.any), "Share of this model", isRequired: true, isPerModel: true)

/// Descriptors that stand in for the real methods, which are in a module above.
let catalog = MethodCatalog([
  MethodDescriptor(
    name: "linear", title: "Linear", summary: "Weighted average of the models",
    reference: .init("Wortsman et al. 2022, Model soups", url: "https://arxiv.org/abs/2203.05482"), base: .none, models: 1...Int.max,
    parameters: [weight, ParameterDescriptor("normalize", .boolean, "Divide by the sum of the weights", default: .boolean(true))],
    scopes: [.element], notes: ["Weights that add up to zero are an error with normalize."]),
  MethodDescriptor(
    name: "slerp", title: "SLERP", summary: "Spherical interpolation between the base and one model", base: .required, models: 1...1,
    parameters: [ParameterDescriptor("t", .number(.fraction), "0 is the base, 1 the other model", isRequired: true)], scopes: [.tensor]),
  MethodDescriptor(
    name: "ties", title: "TIES", summary: "Trim, elect signs, average",
    reference: .init("Yadav et al. 2023", url: "https://arxiv.org/abs/2306.01708"),
    base: .required, models: 1...Int.max,
    parameters: [
      weight,
      ParameterDescriptor(
        "density", .number(NumberRange(from: .open(0), to: .closed(1))), "Part of each difference that is kept", default: .number(1),
        isPerModel: true, partRange: .fraction),
      ParameterDescriptor("normalize", .boolean, "Divide by the sum of the kept weights", default: .boolean(true)),
      ParameterDescriptor("lambda", .number(.any), "Factor of the merged difference", default: .number(1)),
      ParameterDescriptor(
        "scope", .choice(["tensor", "model", "off"]), "What is trimmed together", default: .text("tensor"), paperDefault: .text("model")),
    ], scopes: [.tensor, .model]),
  MethodDescriptor(
    name: "passthrough", title: "Passthrough", summary: "Copy one model", base: .none, models: 1...1,
    parameters: [ParameterDescriptor("scale", .number(.any), "Factor of the values", isPerModel: true)], scopes: [.element]),
  MethodDescriptor(
    name: "multislerp", title: "Multi-SLERP", summary: "Barycentre on the sphere", base: .optional, models: 2...3,
    parameters: [
      weight, ParameterDescriptor("max_iter", .integer(1...100), "Steps at most", default: .number(10)),
      ParameterDescriptor("eps", .number(NumberRange(from: .open(0))), "Smallest norm", default: .number(1e-8), unit: "norm"),
    ], scopes: [.tensor]),
])

func parse(_ text: String, strict: Bool = false) throws -> Recipe {
  try Recipe.parse(Array(text.utf8), origin: "r.yml", catalog: catalog, strict: strict)
}
