internal import IngotErrors
internal import IngotJSON
internal import IngotTensors

extension Comparison {
  /// Figures of all tensors that were compared value by value, as if they were one.
  package struct Totals: Sendable, Hashable {
    package var tensors = 0
    package var equal = 0
    package var elements = 0
    package var differing = 0
    package var largest = 0.0
    package var rms = 0.0
    package var ulps: UInt64 = 0
    /// Of all task vectors; nil without a base.
    package var conflicts: Int?
    package var sharedChanges: Int?
  }

  package var totals: Totals {
    var totals = Totals()
    var squares = 0.0
    var count = 0
    for tensor in tensors {
      totals.tensors += 1
      totals.equal += tensor.isEqual ? 1 : 0
      if let differing = tensor.differing {
        totals.elements += tensor.elements
        totals.differing += differing
      }
      if let values = tensor.values {
        totals.largest = max(totals.largest, values.largest)
        totals.ulps = max(totals.ulps, values.ulps)
        squares += values.rms * values.rms * Double(tensor.elements)
        count += tensor.elements
      }
      if let vectors = tensor.taskVectors {
        totals.conflicts = (totals.conflicts ?? 0) + vectors.signs.opposite
        totals.sharedChanges = (totals.sharedChanges ?? 0) + vectors.signs.both
      }
    }
    totals.rms = count > 0 ? (squares / Double(count)).squareRoot() : 0
    return totals
  }

  /// What tensors can be ordered by: the largest difference first, but names from the first on.
  package enum Order: String, Sendable, CaseIterable { case largest, rms, ulps, share, cosine, conflicts, name }

  /// The tensors, those that differ in type or shape first, in one order.
  package func sorted(by order: Order) -> [Tensor] {
    func rank(_ tensor: Tensor) -> Double {
      if tensor.differing == nil, !tensor.isEqual { return .infinity }
      switch order {
      case .largest: return tensor.values?.largest ?? 0
      case .rms: return tensor.values?.rms ?? 0
      case .ulps: return Double(tensor.values?.ulps ?? 0)
      case .share: return tensor.differingShare ?? 0
      case .cosine: return -(tensor.values?.cosine ?? 1)
      case .conflicts: return tensor.taskVectors?.conflictShare ?? -1
      case .name: return 0
      }
    }
    let ranked = tensors.map { (tensor: $0, rank: rank($0)) }
    return ranked.sorted { ($1.rank, $0.tensor.name) < ($0.rank, $1.tensor.name) }.map(\.tensor)
  }

  /// One JSON document with a schema version; `limit` bounds the tensors that are listed, equal ones included.
  package func json(order: Order = .largest, limit: Int? = nil) -> String {
    var document = JSONDocument()
    document.object { document in
      document.field("schema", 1)
      document.field("a", pathA)
      document.field("b", pathB)
      document.field("base", pathBase)
      document.field("equal", isEqual)
      document.object("summary") { entry in
        let totals = totals
        entry.field("tensors", totals.tensors)
        entry.field("equal_tensors", totals.equal)
        entry.field("elements", totals.elements)
        entry.field("differing_elements", totals.differing)
        entry.field("largest_difference", totals.largest)
        entry.field("rms_difference", totals.rms)
        entry.field("largest_ulps", Int(clamping: totals.ulps))
        if let conflicts = totals.conflicts, let shared = totals.sharedChanges {
          entry.field("sign_conflicts", conflicts)
          entry.field("changed_in_both", shared)
        }
      }
      document.list("tensors") { list in
        for tensor in sorted(by: order).prefix(limit ?? .max) { list.object { tensor.write(to: &$0) } }
      }
      for (key, tensors) in [("only_a", onlyA), ("only_b", onlyB)] {
        document.list(key) { list in
          for tensor in tensors {
            list.object { entry in
              entry.field("name", tensor.name)
              entry.field("dtype", tensor.dtype.safetensorsName)
              entry.list("shape") { shape in for extent in tensor.shape.dimensions { shape.value(extent) } }
            }
          }
        }
      }
      document.list("files") { list in
        for file in files { list.object { file.write(to: &$0) } }
      }
      document.list("notices") { list in
        for notice in notices { list.object { notice.write(to: &$0) } }
      }
    }
    return document.line()
  }
}

extension Comparison.Tensor {
  func write(to entry: inout JSONDocument) {
    entry.field("name", name)
    entry.field("equal", isEqual)
    entry.field("dtype_a", dtypeA.safetensorsName)
    entry.field("dtype_b", dtypeB.safetensorsName)
    entry.list("shape_a") { shape in for extent in shapeA.dimensions { shape.value(extent) } }
    entry.list("shape_b") { shape in for extent in shapeB.dimensions { shape.value(extent) } }
    if let differing { entry.field("differing_elements", differing) } else { entry.field("differing_elements", nil) }
    if let share = differingShare { entry.field("differing_share", share) } else { entry.field("differing_share", nil) }
    guard let values else { return entry.field("values", nil) }
    entry.object("values") { entry in
      entry.field("largest_difference", values.largest)
      entry.field("rms_difference", values.rms)
      entry.field("cosine", values.cosine ?? .nan)
      entry.field("norm_a", values.normA)
      entry.field("norm_b", values.normB)
      entry.field("norm_ratio", values.normRatio ?? .nan)
      entry.field("largest_ulps", Int(clamping: values.ulps))
      entry.field("ulp_dtype", values.unit.safetensorsName)
      entry.field("nonfinite_a", values.nonfiniteA)
      entry.field("nonfinite_b", values.nonfiniteB)
    }
    guard let taskVectors else { return }
    entry.object("task_vectors") { entry in
      entry.field("norm_a", taskVectors.normA)
      entry.field("norm_b", taskVectors.normB)
      entry.field("cosine", taskVectors.cosine ?? .nan)
      entry.field("changed_a", taskVectors.signs.first)
      entry.field("changed_b", taskVectors.signs.second)
      entry.field("changed_in_both", taskVectors.signs.both)
      entry.field("sign_conflicts", taskVectors.signs.opposite)
      entry.field("conflict_share", taskVectors.conflictShare ?? .nan)
    }
  }
}

extension FileDifference {
  func write(to entry: inout JSONDocument) {
    entry.field("name", name)
    entry.field("kind", kind.rawValue)
    entry.list("changes") { list in
      for change in changes {
        list.object { entry in
          entry.field("key", change.key)
          entry.field("a", change.a)
          entry.field("b", change.b)
        }
      }
    }
  }
}
