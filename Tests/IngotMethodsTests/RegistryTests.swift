import IngotErrors
import IngotJSON
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// What every descriptor owes to recipes, help and documents.
@Suite struct RegistryTests {
  static let methods = MethodRegistry.all.map { $0.descriptor }

  @Test func namesAreUniqueAndFound() {
    #expect(Set(Self.methods.map(\.name)).count == Self.methods.count)
    #expect(Set(Self.methods.map(\.title)).count == Self.methods.count)
    for method in Self.methods {
      #expect(MethodRegistry.method(named: method.name)?.descriptor == method)
      #expect(MethodRegistry.catalog.method(method.name) == method)
    }
    #expect(MethodRegistry.method(named: "no_such_method") == nil)
    for name in ["linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "passthrough"] {
      #expect(MethodRegistry.method(named: name) != nil, "\(name)")
    }
  }

  @Test(arguments: methods) func describesItself(_ method: MethodDescriptor) {
    let isPlain = { (text: String) in text.utf8.allSatisfy { $0 >= 0x61 && $0 <= 0x7a || $0 >= 0x30 && $0 <= 0x39 || $0 == 0x5f } }
    #expect(isPlain(method.name) && !method.name.isEmpty)
    #expect(!method.title.isEmpty)
    #expect(method.summary.hasSuffix(".") && method.summary.count > 10 && !method.summary.contains("\n"))
    #expect(!method.scopes.isEmpty)
    if let reference = method.reference {
      #expect(!reference.text.isEmpty)
      #expect(reference.url?.hasPrefix("https://") != false)
    }
    #expect(method.notes.allSatisfy { !$0.isEmpty && !$0.hasSuffix(".") })
    #expect(method.formula.map { !$0.isEmpty && !$0.hasSuffix(".") && !$0.contains("\n") } == true)
    #expect(Set(method.parameters.map(\.name)).count == method.parameters.count)
    for parameter in method.parameters {
      #expect(isPlain(parameter.name) && !parameter.name.isEmpty)
      #expect(!parameter.summary.isEmpty && !parameter.summary.hasSuffix("."), "\(parameter.name)")
      #expect(!(parameter.isRequired && parameter.default != nil), "\(parameter.name)")
      // A default must be a value that the parameter takes, in the form it takes it.
      for value in [parameter.default, parameter.paperDefault] {
        guard let value else { continue }
        #expect((try? parameter.checked(value)) == value, "\(parameter.name)")
      }
      if case .choice(let names) = parameter.kind { #expect(Set(names).count == names.count && names.count > 1) }
    }
  }

  /// mergekit has one name for DELLA's half width and RAM's threshold, and takes a density of 0 where it draws, not where it trims; a method offers
  /// the scopes it can have.
  private static let twofold: Set<String> = ["epsilon", "scope", "density"]

  /// One name means one thing: type and range of a parameter are the same wherever it appears.
  @Test func parametersAgreeBetweenMethods() {
    var seen: [String: (method: String, parameter: ParameterDescriptor)] = [:]
    for method in Self.methods {
      for parameter in method.parameters where !Self.twofold.contains(parameter.name) {
        if let (other, first) = seen[parameter.name] {
          #expect(parameter.kind == first.kind, "\(parameter.name) of \(method.name) and \(other)")
          #expect(parameter.isPerModel == first.isPerModel, "\(parameter.name) of \(method.name) and \(other)")
        } else {
          seen[parameter.name] = (method.name, parameter)
        }
      }
    }
  }

  /// Every required side input of every model; of methods that choose among optional ones, what makes a choice.
  private static func sides(_ method: MethodDescriptor, inputs: Int, hasBase: Bool) -> [SideTensor] {
    let shape = Shape([4, 8])
    if method.name == "rcp" {
      return [SideTensor(input: "votes", model: 2, part: .elements, shape: shape)]
    }
    return method.sideInputs.filter(\.isRequired).flatMap { input in
      ((hasBase ? 1 : 0)..<inputs).map { SideTensor(input: input.name, model: $0, part: .elements, shape: shape) }
    }
  }

  @Test(arguments: methods.filter { !$0.sideInputs.isEmpty }) func describesSideInputs(_ method: MethodDescriptor) {
    #expect(Set(method.sideInputs.map(\.name)).count == method.sideInputs.count)
    for input in method.sideInputs {
      #expect(!input.summary.isEmpty && !input.summary.hasSuffix("."))
      #expect(method.help().contains(input.name) && method.json.contains("\"name\": \"\(input.name)\""))
    }
  }

  /// The inputs that a descriptor allows at least, with its required parameters, make a method; none of its promises fails to hold.
  @Test(arguments: methods) func makesItself(_ descriptor: MethodDescriptor) throws {
    let method = try #require(MethodRegistry.method(named: descriptor.name))
    let hasBase = descriptor.base == .required
    let count = descriptor.models.lowerBound + (hasBase ? 1 : 0)
    func values(perModel: Bool) -> [String: ParameterValue] {
      var values: [String: ParameterValue] = [:]
      for parameter in descriptor.parameters where parameter.isPerModel == perModel {
        // A loss is needed or not depending on other parameters.
        values[parameter.name] = parameter.default ?? (parameter.isRequired || parameter.name == "loss" ? .number(0.5) : nil)
      }
      return values
    }
    func request(inputs: Int) -> MethodRequest {
      MethodRequest(
        inputs: (0..<inputs).map { .init(model: "m\($0)", ordinal: $0, isBase: hasBase && $0 == 0) },
        segments: [
          .init(
            name: "w", shape: Shape([4, 8]), parameters: values(perModel: false),
            modelParameters: (0..<inputs).map { _ in values(perModel: true) }, streams: (0..<inputs).map(UInt64.init),
            sides: Self.sides(descriptor, inputs: inputs, hasBase: hasBase))
        ], seed: 0)
    }
    let made = try method.init(request(inputs: count))
    #expect(made.demands.scratchRows >= 0 && made.demands.maskPlanes >= 0)
    // No tensor at all is an error, not a crash.
    #expect(throws: IngotError.self) { _ = try method.init(MethodRequest(inputs: [], segments: [], seed: 0)) }
    for parameter in descriptor.parameters where parameter.isRequired {
      var missing = request(inputs: count)
      missing.segments[0].parameters[parameter.name] = nil
      for model in 0..<count { missing.segments[0].modelParameters[model][parameter.name] = nil }
      let error = #expect(throws: IngotError.self) { _ = try method.init(missing) }
      #expect(error?.status == .recipe && error?.message.contains(parameter.name) == true)
    }
  }
}
