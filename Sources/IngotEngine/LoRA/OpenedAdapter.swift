package import IngotCheckpoints
package import IngotErrors
package import IngotJSON
package import IngotTensors

/// A PEFT adapter whose header and config were read: what it holds, and where its tensors' bytes are.
package struct OpenedAdapter: Sendable {
  /// As the caller named it.
  package let name: String
  /// Where it was found.
  package let path: String
  package let config: JSONValue
  package let contents: AdapterContents
  package var notices: [Notice] { model.checkpoint.notices }
  /// Tensors in row-major order.
  let model: ProvidedModel
  private let places: [String: Int]

  /// Throws `.notFound` without an adapter_config.json, and what `AdapterContents.init` throws.
  package init(_ adapter: ProvidedModel, files: any ModelFiles, name: String) throws(IngotError) {
    let (config, origin) = try adapter.adapterConfig(in: files)
    model = try adapter.readable()
    contents = try AdapterContents(model.checkpoint, config: config, origin: origin, compile: ProvidedModel.namePattern)
    for module in contents.modules where module.inputs == 0 || module.outputs == 0 {
      throw IngotError(.shape, "A is \(module.a.shape) and B is \(module.b.shape), expected inputs and outputs", subject: module.name)
    }
    self.name = name
    self.config = config
    path = adapter.path
    places = Dictionary(contents.modules.enumerated().map { ($1.name, $0) }, uniquingKeysWith: { first, _ in first })
  }

  package func module(_ name: String) -> AdapterContents.Module? { places[name].map { contents.modules[$0] } }

  /// What the adapter's tensors are read from.
  func bytes(_ tensor: CheckpointTensor) throws(IngotError) -> StoredBytes { try StoredBytes(tensor, of: model) }

  /// The values of a tensor, in row-major order.
  func values(_ tensor: CheckpointTensor) throws(IngotError) -> [Float] {
    try FloatReader(try bytes(tensor), tensor.dtype).values(0, try tensor.shape.elementCount())
  }

  /// The type of the first factor, as results are written.
  package var dtype: DType { contents.modules.first?.a.dtype.defaultOutput ?? .f32 }

  func requireUnchanged() throws(IngotError) {
    for source in model.sources { try source.requireUnchanged() }
  }
}
