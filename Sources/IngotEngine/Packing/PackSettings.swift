package import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotMethods
package import IngotRecipes
internal import IngotTensors

extension DeltaPack.Method {
  /// Name, paper, arity and parameters: what checks, help and documents read.
  package var descriptor: MethodDescriptor {
    switch self {
    case .compeft: ComPEFT.descriptor
    case .bitdelta:
      MethodDescriptor(
        name: rawValue, title: "BitDelta", summary: "One bit for each difference of the linear layers; everything else whole.",
        reference: .init("BitDelta, arXiv 2402.10193", url: "https://arxiv.org/abs/2402.10193"), base: .required, models: 1...1,
        parameters: [
          ParameterDescriptor(
            "layers", .choice(["blocks", "attention", "mlp", "all"]),
            "weights of two or more axes that become signs: those of attention and MLP blocks by their names, of one of the two, or all",
            default: .text("blocks"))
        ], scopes: [.tensor])
    case .tall:
      MethodDescriptor(
        name: rawValue, title: "TALL masks", summary: "The sum of the differences, and a mask of each model.",
        reference: .init("TALL-masks, arXiv 2405.07813", url: "https://arxiv.org/abs/2405.07813"), base: .required, models: 1...Int.max,
        parameters: [
          ParameterDescriptor(
            "lambda", .number(NumberRange(from: .closed(0))), "a model has an element where |τ| > lambda · |sum − τ|",
            default: .number(0.4),
            isPerModel: true),
          Self.vectorType,
        ], scopes: [.element])
    case .emr:
      MethodDescriptor(
        name: rawValue, title: "EMR-Merging", summary: "One elected vector, and a mask and a factor of each model.",
        reference: .init("EMR-Merging, arXiv 2405.17461", url: "https://arxiv.org/abs/2405.17461"), base: .required, models: 1...Int.max,
        parameters: [
          ParameterDescriptor(
            "scope", .choice(["model", "tensor_means"]),
            "what a factor is taken over: all elements (the paper), or the sum of the tensors' means (its code)", default: .text("model")),
          Self.vectorType,
        ], scopes: [.model])
    }
  }

  private static var vectorType: ParameterDescriptor {
    ParameterDescriptor(
      "vector_dtype", .choice(["float32", "bfloat16", "float16"]), "the type in which the common vector is stored",
      default: .text("float32"))
  }
}

/// The parameters of a packing, checked.
package struct PackSettings: Sendable {
  private let values: [(name: String, values: [ParameterValue])]

  /// - Parameters: `given` are names and texts; a text with commas has one value for each model. Throws `.invalidArgument` for an unknown name, a value
  ///   out of range, or another number of values than models.
  package init(_ method: DeltaPack.Method, _ given: [(name: String, value: String)], models: Int) throws(IngotError) {
    let descriptor = method.descriptor
    for (name, _) in given where descriptor.parameter(name) == nil {
      let names = descriptor.parameters.map(\.name)
      throw IngotError(
        .invalidArgument, "\(descriptor.name) has no parameter \"\(name.prefix(60))\"",
        hint: nearestName(to: name, among: names).map { "did you mean \($0)?" } ?? "its parameters are \(names.joined(separator: ", "))")
    }
    var values: [(name: String, values: [ParameterValue])] = []
    for parameter in descriptor.parameters {
      guard let text = given.last(where: { $0.name == parameter.name })?.value else {
        if let value = parameter.default { values.append((parameter.name, [value])) }
        continue
      }
      let parts = parameter.isPerModel ? text.split(separator: ",", omittingEmptySubsequences: false).map(String.init) : [text]
      guard parts.count == 1 || parts.count == models else {
        throw IngotError(
          .invalidArgument, "\(parameter.name) has \(parts.count) values, expected one, or one for each of \(models) models",
          subject: parameter.name)
      }
      var checked: [ParameterValue] = []
      for part in parts { checked.append(try parameter.checked(.text(part), subject: parameter.name)) }
      values.append((parameter.name, checked))
    }
    self.values = values
  }

  subscript(name: String) -> ParameterValue? { values.first { $0.name == name }?.values.first }

  /// A number of each model.
  func numbers(_ name: String, models: Int) -> [Float] {
    let own = values.first { $0.name == name }?.values ?? []
    return (0..<models).map { Float((own.count == 1 ? own[0] : own.indices.contains($0) ? own[$0] : .number(0)).number ?? 0) }
  }

  var vectorType: DType {
    switch self["vector_dtype"]?.text {
    case "bfloat16": .bf16
    case "float16": .f16
    default: .f32
    }
  }

  /// As one JSON object.
  var json: String {
    var object = JSONObject()
    func value(_ one: ParameterValue) -> JSONValue {
      switch one {
      case .number(let number): .double(number)
      case .boolean(let flag): .bool(flag)
      case .text(let text): .string(text)
      }
    }
    for (name, own) in values { object[name] = own.count == 1 ? value(own[0]) : .array(own.map(value)) }
    return JSON.text(.object(object))
  }
}
