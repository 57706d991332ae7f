package import IngotErrors
internal import IngotJSON
internal import IngotRecipes
internal import IngotStorage

/// The record of a rolling merge, `rolling.json` beside the state's weights, which are the running objects in f32.
package struct RollingState: Sendable {
  /// The base model, where it was found.
  package struct Base: Sendable, Hashable {
    /// An absolute path, or a reference as it was given.
    package var reference: String
    package var isPath: Bool
    /// Over size, time of change and header of its weight files.
    package var digest: String
  }

  package static let fileName = "rolling.json"

  package var method: RollingMethod
  /// The method's setting, such as `beta` of `ema`; nil for methods without one.
  package var setting: Double?
  package var base: Base?
  /// How many models are in, and the sum of their weights.
  package var count = 0
  package var weightSum = 0.0
  /// The type of the first model's tensors where they share one: that of the result.
  package var dtype: String?
  /// Digests of the sources of the models that are in, in order.
  package var models: [String] = []
  /// Of `opcm`: the norm of each model's task vector, and that of the state.
  package var norms: [Double] = []
  package var stateNorm = 0.0

  package init(method: RollingMethod, setting: Double?, base: Base?) {
    self.method = method
    self.setting = setting
    self.base = base
  }

  /// What the end multiplies the state with, of `opcm`: the models' mean norm over the state's; 0 where the state is zero.
  package var normFactor: Double {
    stateNorm > 0 ? norms.reduce(0, +) / Double(max(norms.count, 1)) / stateNorm : 0
  }

  /// What must stay the same from step to step, as one digest.
  package var identity: String {
    let parts = ["ingot-rolling-1", method.rawValue, setting.map { "\($0)" } ?? "", base?.digest ?? ""]
    return Digest128(of: Array(parts.joined(separator: "\n").utf8)).description
  }

  // MARK: The file

  /// Reads the record of the state `directory`; nil where there is no such directory.
  ///
  /// Throws `.exists` for something else than a state, `.io`, `.format`, `.unsupported`.
  package static func read(_ directory: String) throws(IngotError) -> RollingState? {
    guard let status = try fileStatus(directory) else { return nil }
    guard status.kind == .directory, let file = try RecordFile(fileName, in: directory, limit: Limit.rollingBytes) else {
      throw IngotError(
        .exists, "found a \(status.kind == .directory ? "directory without \(fileName)" : "file"), expected the state of a rolling merge",
        hint: "name a directory that 'ingot roll' wrote, or one that does not exist yet", subject: directory)
    }
    return try RollingState(parsing: file.bytes, path: file.path)
  }

  /// Reads the bytes of a record, which are said to come from `path`. Throws `.format` (with the place), `.unsupported` (of a later version).
  package init(parsing bytes: [UInt8], path: String) throws(IngotError) {
    let root = try JSONValue.record(bytes, path: path)
    let name = try (root["method"] ?? .null).requireString("method", in: path)
    guard let method = RollingMethod(rawValue: name) else {
      let known = RollingMethod.allCases.map(\.rawValue).joined(separator: ", ")
      throw IngotError(.format, "found the method \"\(name.prefix(40))\", expected one of \(known)", subject: path)
    }
    self.init(method: method, setting: method.setting.flatMap { root[$0.name]?.asDouble }, base: nil)
    if let found = root["base"], !found.isNull {
      base = Base(
        reference: try (found["reference"] ?? .null).requireString("base.reference", in: path), isPath: found["is_path"]?.asBool ?? false,
        digest: try (found["digest"] ?? .null).requireString("base.digest", in: path))
    }
    count = try (root["count"] ?? .null).requireInt("count", in: path)
    weightSum = root["weight_sum"]?.asDouble ?? .nan
    dtype = root["dtype"]?.asString
    for model in try (root["models"] ?? .null).requireArray("models", in: path) {
      models.append(try model.requireString("models", in: path))
    }
    if method == .opcm {
      for norm in try (root["norms"] ?? .null).requireArray("norms", in: path) { norms.append(norm.asDouble ?? .nan) }
      stateNorm = root["state_norm"]?.asDouble ?? .nan
    }
    let identity = try (root["identity"] ?? .null).requireString("identity", in: path)
    guard identity == self.identity, count > 0, count == models.count, weightSum.isFinite, method.needsBase == (base != nil),
      (method.setting != nil) == (setting != nil), method.takes(setting: setting), norms.count == (method == .opcm ? count : 0),
      (norms + [stateNorm]).allSatisfy({ $0.isFinite && $0 >= 0 })
    else {
      throw IngotError(
        .format, "the record does not fit itself: method, its setting, base, count, models and norms are not what its identity says",
        hint: "the file was changed by hand; begin again, or bring back the one that was written", subject: path)
    }
  }

  package var bytes: [UInt8] {
    var document = JSONDocument()
    document.object { document in
      document.field("schema", 1)
      document.field("method", method.rawValue)
      if let setting, let name = method.setting?.name { document.field(name, setting) }
      if let base {
        document.object("base") {
          $0.field("reference", base.reference)
          $0.field("is_path", base.isPath)
          $0.field("digest", base.digest)
        }
      }
      document.field("identity", identity)
      document.field("count", count)
      document.field("weight_sum", weightSum)
      document.field("dtype", dtype)
      document.list("models") { list in for model in models { list.value(model) } }
      if method == .opcm {
        document.field("norms", json: JSON.text(.array(norms.map { .double($0) })))
        document.field("state_norm", stateNorm)
      }
    }
    return Array(document.line().utf8)
  }
}

extension RollingMethod {
  /// True where the number may be the method's setting, or there is none.
  fileprivate func takes(setting: Double?) -> Bool {
    guard let setting, let descriptor = self.setting else { return true }
    return (try? descriptor.checked(.number(setting))) != nil
  }
}
