package import IngotErrors
internal import IngotJSON

/// Several adapters looked at side by side: what each changes, and what the inputs that they use have in common.
package struct AdapterSurvey: Sendable {
  package let adapters: [AdapterInspection]
  /// Of each pair with a common module.
  package let overlaps: [AdapterInspection.Overlap]

  /// Opens and reads them once each; memory is that of the largest module. `spectrum` asks for singular values.
  ///
  /// Throws what opening an adapter throws, `.nonFinite` for factors with NaN or infinities, and `.notFound` without OpenBLAS.
  package init(of names: [String], spectrum: Bool, models: LocalModels) throws(IngotError) {
    var opened: [OpenedAdapter] = []
    for name in names { opened.append(try models.openAdapter(named: name)) }
    var adapters: [AdapterInspection] = []
    for adapter in opened { adapters.append(try adapter.inspection(spectrum: spectrum)) }
    var overlaps: [AdapterInspection.Overlap] = []
    for (index, first) in opened.enumerated() {
      for second in opened[(index + 1)...] {
        if let overlap = try first.overlap(with: second) { overlaps.append(overlap) }
      }
    }
    self.adapters = adapters
    self.overlaps = overlaps
  }

  /// One JSON document with a schema version.
  package func json() -> String {
    var document = JSONDocument()
    document.object { document in
      document.field("schema", 1)
      document.list("adapters") { list in
        for adapter in adapters { list.object { adapter.write(to: &$0) } }
      }
      document.list("overlaps") { list in
        for overlap in overlaps {
          list.object { entry in
            entry.field("first", overlap.first)
            entry.field("second", overlap.second)
            entry.field("modules", overlap.modules)
            entry.field("mean", overlap.mean)
            entry.field("largest", overlap.largest)
          }
        }
      }
    }
    return document.line()
  }
}
