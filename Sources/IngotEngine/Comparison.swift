internal import IngotCheckpoints
package import IngotErrors
package import IngotTensors

/// Two models side by side, tensor by tensor and file by file.
package struct Comparison: Sendable {
  /// How the values of two tensors of one shape differ. Pairs in which a value is NaN or infinite count in `nonfinite` only.
  package struct Values: Sendable, Hashable {
    /// max |a − b|.
    package var largest: Double
    /// √(Σ (a − b)² / elements).
    package var rms: Double
    /// a·b / (‖a‖ ‖b‖); nil when a norm is 0.
    package var cosine: Double?
    /// ‖a‖ and ‖b‖.
    package var norms: (a: Double, b: Double) { (normA, normB) }
    package var normA: Double
    package var normB: Double
    /// ‖b‖ / ‖a‖; nil when ‖a‖ is 0.
    package var normRatio: Double? { normA > 0 ? normB / normA : nil }
    /// The largest distance in units of the last place of `unit`.
    package var ulps: UInt64
    /// The type in whose last place distances are measured: that of both tensors, else the coarser one, to which both are rounded.
    package var unit: DType
    /// Elements that are NaN or infinite in a, and in b.
    package var nonfiniteA: Int
    package var nonfiniteB: Int
  }

  /// The differences from a base, a − c and b − c.
  package struct TaskVectors: Sendable, Hashable {
    package var normA: Double
    package var normB: Double
    package var cosine: Double?
    package var signs: SignCounts
    /// The share of elements with opposite signs among those that both change; nil when there are none.
    package var conflictShare: Double? { signs.both > 0 ? Double(signs.opposite) / Double(signs.both) : nil }
  }

  /// A tensor that both models have.
  package struct Tensor: Sendable {
    package var name: String
    package var dtypeA: DType
    package var dtypeB: DType
    package var shapeA: Shape
    package var shapeB: Shape
    /// Elements of a.
    package var elements: Int
    /// Same type, shape and bytes.
    package var isEqual: Bool
    /// Elements with other bits (in the type of `Values.unit`, where types differ); nil when shapes differ, or types that cannot be compared.
    package var differing: Int?
    /// Nil for types without arithmetic and for shapes that differ.
    package var values: Values?
    /// Nil without a base, and where the base has no such tensor of this shape.
    package var taskVectors: TaskVectors?

    /// The share of elements that differ.
    package var differingShare: Double? { differing.map { elements > 0 ? Double($0) / Double(elements) : 0 } }
  }

  /// A tensor that one of the models lacks.
  package struct Lone: Sendable, Hashable {
    package var name: String
    package var dtype: DType
    package var shape: Shape
  }

  package let pathA: String
  package let pathB: String
  package let pathBase: String?
  /// In the order of a's bytes.
  package let tensors: [Tensor]
  package let onlyA: [Lone]
  package let onlyB: [Lone]
  /// Configuration and tokenizer files that differ; empty when they were not compared.
  package let files: [FileDifference]
  package let bytesRead: Int
  /// What opening the models had to say.
  package let notices: [Notice]

  /// True when there is nothing to report.
  package var isEqual: Bool { onlyA.isEmpty && onlyB.isEmpty && files.isEmpty && tensors.allSatisfy(\.isEqual) }

  /// What is compared besides the tensors.
  package struct Options: Sendable {
    /// Leaves configuration and tokenizer files out.
    package var tensorsOnly = false
    package init() {}
  }
}

extension Engine {
  /// Compares `a` with `b`, and where `base` is given, what each of them changed about it.
  ///
  /// Reads every byte of both (and of the base) once, on all workers; memory is a worker's staging, below 1 MiB each. Figures do not depend on
  /// threads or instruction set. A quantised model is decoded, unless both are and are compared as they are stored. Throws `.unsupported` for a
  /// scheme that cannot be decoded here, `.io`, `.stale` when a source changes meanwhile, `.cancelled`, `.busy`.
  package func compare(
    _ a: ProvidedModel, _ b: ProvidedModel, base: ProvidedModel? = nil, options: Comparison.Options = .init(), watcher: Watcher = .none
  ) throws(IngotError) -> Comparison {
    let files = options.tensorsOnly ? [] : try FileDifference.find(a.files, b.files)
    var (a, b, base) = try Self.readable(a, b, base)
    let binding = SourceBinding(kernels: kernels)
    try a.bind(to: binding)
    try b.bind(to: binding)
    try base?.bind(to: binding)
    let run = try ComparisonRun(a, b, base: base, kernels: kernels, watcher: watcher)
    let most = max(1, self.options.memoryBudget / ComparisonWorker.byteCount)
    try work { index in
      if index < most { run.work(isCaller: index == 0) }
    }
    let tensors = try run.finish()
    for model in [a, b, base].compactMap(\.self) {
      for source in model.sources { try source.requireUnchanged() }
    }
    func lone(_ model: ProvidedModel, _ other: ProvidedModel) -> [Comparison.Lone] {
      model.checkpoint.tensors.filter { other.checkpoint[$0.name] == nil }.map {
        Comparison.Lone(name: $0.name, dtype: $0.dtype, shape: $0.shape)
      }.sorted { $0.name < $1.name }
    }
    return Comparison(
      pathA: a.path, pathB: b.path, pathBase: base?.path, tensors: tensors, onlyA: lone(a, b), onlyB: lone(b, a), files: files,
      bytesRead: run.bytesRead, notices: [a, b, base].compactMap(\.self).flatMap(\.checkpoint.notices))
  }
}

extension Engine {
  /// The models as they are compared: two quantised ones as they are stored, otherwise all decoded, as a merge would read them.
  private static func readable(
    _ a: ProvidedModel, _ b: ProvidedModel, _ base: ProvidedModel?
  ) throws(IngotError) -> (ProvidedModel, ProvidedModel, ProvidedModel?) {
    let isStored = [a, b].allSatisfy {
      Quantisation.detect(config: $0.checkpoint.config, names: $0.checkpoint.tensors.lazy.map(\.name)) != nil
    }
    func read(_ model: ProvidedModel) throws(IngotError) -> ProvidedModel { isStored ? try model.gathered() : try model.readable() }
    guard let base else { return (try read(a), try read(b), nil) }
    return (try read(a), try read(b), try read(base))
  }
}

extension ProvidedModel {
  fileprivate mutating func bind(to binding: SourceBinding) throws(IngotError) {
    for index in sources.indices { sources[index] = try binding.bound(sources[index]) }
  }
}

extension Comparison.TaskVectors {
  init(_ sums: ComparisonPart.Sums, _ signs: SignCounts) {
    self.init(normA: sums.xx.squareRoot(), normB: sums.yy.squareRoot(), cosine: sums.cosine, signs: signs)
  }
}
