package import IngotErrors
internal import IngotJSON
package import IngotMethods
package import IngotTensors

/// Adapters that are to become a basis with coefficients.
package struct AdapterBasisRequest: Sendable {
  package var adapters: [OpenedAdapter]
  /// The most components of each group.
  package var components: Int
  package var granularity = ReversibleBasis.Granularity.position
  /// False takes the factors as they are stored: only for adapters whose units belong together, such as those trained from one start.
  package var isBalanced = true
  /// Of the tensors; nil: f32.
  package var dtype: DType?
  /// What the models are called; nil: as the adapters were named.
  package var names: [String]?

  package init(adapters: [OpenedAdapter], components: Int) {
    self.adapters = adapters
    self.components = components
  }
}

/// What came of making a basis.
package struct AdapterBasisReport: Sendable {
  package struct Module: Sendable, Hashable {
    package var name: String
    package var components: Int
    /// ‖factors − those of the basis‖ / ‖factors‖ over all models, before rounding.
    package var error: Double
  }

  package var output: String
  package var modules: [Module]
  package var models: [String]
  package var bytes: Int
  /// Values of the basis over those of all adapters' factors.
  package var storageRatio: Double
  package var seconds: Double
  package var notices: [Notice]

  package func json() -> String {
    var document = JSONDocument()
    document.object { document in
      document.field("schema", 1)
      document.field("output", output)
      document.list("models") { list in for model in models { list.value(model) } }
      document.list("modules") { list in
        for module in modules {
          list.object { entry in
            entry.field("name", module.name)
            entry.field("components", module.components)
            entry.field("relative_error", module.error)
          }
        }
      }
      document.field("bytes", bytes)
      document.field("storage_ratio", storageRatio)
      document.field("seconds", seconds)
      document.list("notices") { list in
        for notice in notices { list.object { notice.write(to: &$0) } }
      }
    }
    return document.line()
  }
}
