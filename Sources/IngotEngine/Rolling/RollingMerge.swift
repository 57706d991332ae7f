internal import IngotCheckpoints
package import IngotErrors
internal import IngotMethods
internal import IngotRecipes
internal import IngotStorage
internal import IngotTensors

/// One step of a rolling merge: which model goes into which state, and how.
package struct RollingStep: Sendable {
  /// The state's directory: made by the first step, replaced by each further one.
  package var state: String
  /// The model to add, as a recipe names it.
  package var model: String
  /// Needed for the first step; a further one must agree, or leave it open.
  package var method: RollingMethod?
  package var base: String?
  /// By name, such as `beta`: at most the one that the method has.
  package var settings: [String: Double] = [:]
  /// Factor of the model, for the methods that take one.
  package var weight: Double?
  /// The model's side file, for the methods that need one.
  package var side: String?
  /// Adds a model whose files are in the state already.
  package var allowsRepeat = false

  package init(state: String, model: String) {
    self.state = state
    self.model = model
  }
}

/// A merge that is planned, and how to run it: a step of a rolling merge, or its end.
package struct RollingPlan: Sendable {
  package let plan: Plan
  package let destination: String
  /// True when the destination is the state that the plan reads.
  package let replaces: Bool
  /// False for the end.
  let isStep: Bool
  /// The record after the step; norms are still those of before.
  package let state: RollingState
}

extension RollingPlan {
  /// Plans one step. Reads headers and the state's record; writes nothing.
  ///
  /// Throws `.recipe` for a step that contradicts the state or itself, `.stale` for a base that is not the state's, `.exists` for a model that is
  /// in already or a state that is none, and whatever planning throws.
  package static func make(_ step: RollingStep, models provider: any ModelProvider) throws(IngotError) -> RollingPlan {
    let known = try RollingState.read(step.state)
    let method = try step.method(of: known)
    try step.check(method, against: known)
    let position = SourcePosition(origin: "command line", line: 1, column: 1)
    let model = try provider.open(ModelReference(.text(step.model), position: position)).readable()
    let reference = step.base.map { IngotRecipes.ModelReference(.text($0), position: position) } ?? known?.base?.reference(at: position)
    var base: RollingState.Base?
    if let reference {
      let found = try provider.open(reference).readable()
      base = try RollingState.Base(found, reference)
      if let expected = known?.base, expected.digest != base?.digest {
        throw IngotError(
          .stale, "the base model \(reference.name) is not the one that the state was begun with, which was \(expected.reference)",
          hint: "give the same base, unchanged since, or begin another state", subject: step.state)
      }
    }
    var state =
      known
      ?? RollingState(
        method: method, setting: method.setting.flatMap { step.settings[$0.name] ?? $0.default?.number }, base: base)
    if known == nil { state.dtype = model.sharedDType }
    let digest = try PlanDigest.sources([model.planned(step.model)]).description
    if !step.allowsRepeat, let earlier = state.models.firstIndex(of: digest) {
      throw IngotError(
        .exists, "the model \(step.model) is in the state already, as number \(earlier + 1) of \(state.count)",
        hint: "if it is to count again: 'again' (--again)", subject: step.state)
    }
    let weight = step.weight ?? 1
    let text = step.recipe(state, weight: weight, isFirst: known == nil, base: reference)
    state.models.append(digest)
    state.count += 1
    state.weightSum += weight
    var options = PlanOptions()
    options.writesModelCard = false
    // Where the run finds a norm, the record is written after it.
    if method != .opcm { options.extraFiles = [SideFile(name: RollingState.fileName, content: .bytes(state.bytes))] }
    let planes = method.rules.planes
    let models: any ModelProvider = planes.count == 1 ? provider : RollingPlanes(provider, state: step.state, planes: planes, for: .step)
    let plan = try Plan.make(try Self.parse(text), options: options, models: models)
    return RollingPlan(plan: plan, destination: step.state, replaces: known != nil, isStep: true, state: state)
  }

  /// Plans the model that a state makes. `lambda` is the factor of the merged task vector, `dtype` the type of the result: by default the base's,
  /// tensor by tensor, or the first model's. Throws as `make` of a step does.
  package static func finish(
    _ directory: String, to destination: String, lambda: Double? = nil, dtype: String? = nil, models provider: any ModelProvider
  ) throws(IngotError) -> RollingPlan {
    guard let state = try RollingState.read(directory) else {
      throw IngotError(.notFound, "there is no such directory", hint: "the state that 'ingot roll' wrote", subject: directory)
    }
    if lambda != nil, state.base == nil {
      throw IngotError(
        .invalidArgument, "lambda is the factor of a merged task vector, and \(state.method.rawValue) has none", hint: "remove it",
        subject: "lambda")
    }
    let rules = state.method.rules
    guard !rules.isMean || state.weightSum != 0 else {
      throw IngotError(
        .recipe, "the weights of the \(state.count) models sum to zero, so there is no mean", hint: "add a model with another weight",
        subject: directory)
    }
    let position = SourcePosition(origin: RollingState.fileName, line: 1, column: 1)
    var lines = ["merge_method: rolling_finish"]
    if let known = state.base {
      let reference = known.reference(at: position)
      let found = try RollingState.Base(try provider.open(reference).readable(), reference)
      guard found.digest == known.digest else {
        throw IngotError(
          .stale, "the base model \(known.reference) has changed since the state was begun", hint: "bring back the files that were there",
          subject: directory)
      }
      lines.append("base_model: \(reference.yaml)")
    }
    let isSingle = rules.planes.count == 1 || rules.rule == "sum"
    let references =
      isSingle
      ? [ModelReference(.fields(path: directory, revision: nil), position: position)]
      : rules.planes.map { RollingPlanes.reference(directory, plane: $0, at: position) }
    lines.append("models:")
    lines += references.map { "  - model: \($0.yaml)" }
    let factor = (lambda ?? 1) * (state.method == .opcm ? state.normFactor : 1)
    // As in `ota`: where weights are no more than what is added to every one of them.
    let least = state.method == .ota ? 1.1 * Double(state.count) * RollingOTA.epsilon : 0
    lines.append("parameters: {rule: \(rules.rule), divisor: \(rules.isMean ? state.weightSum : 1), lambda: \(factor), least: \(least)}")
    if let dtype = dtype ?? (state.base == nil ? state.dtype : nil) { lines.append("dtype: \(yamlScalar(dtype))") }
    var options = PlanOptions()
    options.writesModelCard = false
    let models: any ModelProvider =
      rules.planes.count == 1 ? provider : RollingPlanes(provider, state: directory, planes: rules.planes, for: .end)
    let plan = try Plan.make(try parse(lines.joined(separator: "\n") + "\n"), options: options, models: models)
    return RollingPlan(plan: plan, destination: destination, replaces: false, isStep: false, state: state)
  }

  private static func parse(_ text: String) throws(IngotError) -> Recipe {
    try Recipe.parse(Array(text.utf8), origin: "rolling merge", catalog: MethodRegistry.wholeCatalog)
  }
}

extension Engine {
  /// Runs a planned step or end. The destination appears, or is replaced, in one rename when everything is there, the record with it: a step is
  /// either in the state or not. What an interrupted step left is discarded by the next.
  package func merge(
    _ rolling: RollingPlan, options: DirectoryOptions = DirectoryOptions(), watcher: Watcher = .none
  ) throws(IngotError) -> RunReport {
    do throws(IngotError) {
      return try merge(rolling.plan, to: rolling.destination, options: options, watcher: watcher) { (report) throws(IngotError) in
        guard rolling.state.method == .opcm, rolling.isStep else { return [] }
        var state = rolling.state
        guard let task = report.finding(RollingOPCM.taskNorm), let norm = report.finding(RollingOPCM.stateNorm) else {
          throw IngotError(.internalError, "a step of opcm that found no norms")
        }
        state.norms.append(task)
        state.stateNorm = norm
        return [SideFile(name: RollingState.fileName, content: .bytes(state.bytes))]
      }
    } catch {
      var failure = error
      // There is nothing to resume: a step is in the state or it is not.
      if failure.status == .cancelled { failure.hint = "nothing has changed: run it again" }
      throw failure
    }
  }
}

extension RollingStep {
  /// The state's method, else that of the step.
  fileprivate func method(of known: RollingState?) throws(IngotError) -> RollingMethod {
    if let method = known?.method ?? method { return method }
    throw IngotError(
      .invalidArgument, "a new state needs a method", hint: "one of " + RollingMethod.allCases.map(\.rawValue).joined(separator: ", "),
      subject: state)
  }

  /// Throws where the step asks for something else than the state is, or than the method takes.
  fileprivate func check(_ used: RollingMethod, against known: RollingState?) throws(IngotError) {
    func contradiction(_ what: String, _ found: String, _ expected: String) -> IngotError {
      IngotError(
        .recipe, "the state was begun with \(what) \(expected), and the step asks for \(found)",
        hint: "leave it out to go on, or begin another state", subject: state)
    }
    if let known {
      if let method, method != known.method { throw contradiction("the method", method.rawValue, known.method.rawValue) }
      if let name = used.setting?.name, let value = settings[name], value != known.setting {
        throw contradiction(name, "\(value)", known.setting.map { "\($0)" } ?? "none")
      }
    }
    func useless(_ name: String) -> IngotError {
      IngotError(.invalidArgument, "\(used.rawValue) takes no \(name)", hint: "remove it", subject: name)
    }
    if base != nil, !used.needsBase { throw useless("base model") }
    if let stray = settings.keys.filter({ $0 != used.setting?.name }).min() { throw useless(stray) }
    if weight != nil, !used.takesWeight { throw useless("weight") }
    if side != nil, used.side == nil { throw useless("side file") }
    if base == nil, known == nil, used.needsBase {
      throw IngotError(.invalidArgument, "\(used.rawValue) needs a base model", hint: "give it as 'base' (--base)", subject: "base")
    }
    if side == nil, let name = used.side {
      throw IngotError(
        .invalidArgument, "\(used.rawValue) needs a side file of \(model), its \(name)", hint: "give it as 'side' (--side)", subject: "side"
      )
    }
    if let setting = used.setting, let value = settings[setting.name] { _ = try setting.checked(.number(value)) }
    if let weight, !(abs(weight) <= Double(Float.greatestFiniteMagnitude)) || (used.rules.weight == .positive && weight <= 0) {
      throw IngotError(
        .invalidArgument, "the weight is \(weight), expected a finite number\(used.rules.weight == .positive ? " above 0" : "")",
        subject: "weight")
    }
  }

  /// The step as a recipe of the rolling methods.
  fileprivate func recipe(_ record: RollingState, weight: Double, isFirst: Bool, base: IngotRecipes.ModelReference?) -> String {
    let position = SourcePosition(origin: "rolling merge", line: 1, column: 1)
    var own = IngotRecipes.ModelReference(.text(model), position: position).yaml
    if let name = record.method.side, let side { own += "\n    side:\n      \(name): \(yamlScalar(side))" }
    let stored = IngotRecipes.ModelReference(.fields(path: state, revision: nil), position: position).yaml
    var lines = ["merge_method: \(record.method.rules.step)"]
    if let base { lines.append("base_model: \(base.yaml)") }
    lines.append("models:")
    // Without a base, buffers that are not merged come from the first: the model that is added.
    let order = isFirst ? [own] : base == nil ? [own, stored] : [stored, own]
    lines += order.map { "  - model: \($0)" }
    let step = RollingPlane.Step(setting: record.setting ?? 0, weight: weight, count: isFirst ? 0 : record.count)
    lines.append("parameters: {" + record.method.parameters(step).map { "\($0.name): \($0.value)" }.joined(separator: ", ") + "}")
    return lines.joined(separator: "\n") + "\ndtype: float32\n"
  }
}

extension RollingState.Base {
  fileprivate init(_ model: ProvidedModel, _ reference: IngotRecipes.ModelReference) throws(IngotError) {
    let place = model.isLocal && model.adapters.isEmpty ? absolutePath(model.path) : nil
    self.init(
      reference: place ?? reference.name, isPath: place != nil,
      digest: try PlanDigest.sources([model.planned(reference.name)]).description)
  }

  fileprivate func reference(at position: SourcePosition) -> IngotRecipes.ModelReference {
    IngotRecipes.ModelReference(isPath ? .fields(path: reference, revision: nil) : .text(reference), position: position)
  }
}

extension IngotRecipes.ModelReference {
  /// The reference as a recipe has it, on one line.
  fileprivate var yaml: String {
    switch location {
    case .text(let text): yamlScalar(text)
    case .fields(let path, let revision, _):
      "{model: {path: \(yamlScalar(path))\(revision.map { ", revision: \(yamlScalar($0))" } ?? "")}}"
    }
  }
}

extension ProvidedModel {
  /// The model as plans identify it.
  fileprivate func planned(_ name: String) -> PlannedModel {
    PlannedModel(
      name: name, path: path, isOnDisk: files is DirectoryFiles,
      adapters: adapters.map { PlannedModel.Adapter(path: $0.path, task: $0.task) },
      shards: checkpoint.shards.map { ShardIdentity($0) })
  }

  /// The type that all tensors with arithmetic share, as a recipe names it.
  fileprivate var sharedDType: String? {
    let found = Set(checkpoint.tensors.lazy.map(\.dtype).filter(\.hasArithmetic).map(\.defaultOutput))
    return found.count == 1 ? found.first?.torchName : nil
  }
}

extension RunReport {
  /// A number that a job of the whole model found.
  fileprivate func finding(_ name: String) -> Double? { findings.first { $0.finding.name == name }?.finding.value }
}
