public import CIngot
internal import IngotCheckpoints
internal import IngotEngine
internal import IngotErrors
internal import IngotJSON
internal import IngotRecipes

// MARK: models made of tensors

// SAFETY: of this file: pointers are the caller's, used as ingot.h says, after a check for NULL.

@c @implementation public func ingot_model_create(
  _ name: UnsafePointer<CChar>?, _ tensors: UnsafePointer<UnsafePointer<ingot_tensor_view>?>?, _ count: UInt64,
  _ out: UnsafeMutablePointer<OpaquePointer?>?, _ options: UnsafePointer<ingot_model_options>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    let out = try unsafe output(out)
    let options = try unsafe ingot_model_options.copy(ofOptional: options)
    let checked = try unsafe CheckedTensor.all(tensors, count, "tensors")
    unsafe out.pointee = try ModelObject(
      name: text(name, "name"), tensors: checked, config: optionalText(options.config_json, "config_json")
    ).makeHandle()
  }
}

@c @implementation public func ingot_model_name(_ model: OpaquePointer?) -> UnsafePointer<CChar>? {
  unsafe ModelObject.find(model)?.cName.pointer
}

@c @implementation public func ingot_model_destroy(_ model: OpaquePointer?) { unsafe ModelObject.destroy(model) }

/// A model made of the caller's tensors.
final class ModelObject: HandleObject {
  static let kind = HandleKind.model
  static let typeName = "ingot_model"

  let name: String
  let cName: CText
  let views: [TensorView]
  let memory: [MemoryRange]
  let config: JSONValue?

  init(name: String, tensors: [CheckedTensor], config: String?) throws(IngotError) {
    guard !name.isEmpty else { throw IngotError(.invalidArgument, "the model's name is empty", subject: "name") }
    guard !tensors.isEmpty else { throw IngotError(.invalidArgument, "the model has no tensors, expected at least one", subject: name) }
    var names: Set<String> = []
    for tensor in tensors where !names.insert(tensor.view.name).inserted {
      throw IngotError(.invalidArgument, "model \(name) has two tensors of this name", subject: tensor.view.name)
    }
    self.name = name
    cName = CText(name)
    views = tensors.map(\.view)
    memory = tensors.map(\.memory)
    self.config = try config.map { (text) throws(IngotError) in
      let parsed = try JSON.parse(text, origin: "config_json", options: .python)
      _ = try parsed.requireObject("config_json", in: "config_json")
      return parsed
    }
  }
}

/// The models a plan may use: those made of tensors by name, then the fallback.
struct HostModels: ModelProvider {
  private let memory: MemoryModels
  private let models: [String: ModelObject]

  /// Throws `.invalidArgument` when two models have one name.
  init(_ models: [ModelObject], fallback: (any ModelProvider)?) throws(IngotError) {
    var byName: [String: ModelObject] = [:]
    for model in models where byName.updateValue(model, forKey: model.name) != nil {
      throw IngotError(.invalidArgument, "two models of this name were given", subject: model.name)
    }
    self.models = byName
    memory = MemoryModels(byName.mapValues(\.views), fallback: fallback)
  }

  func adapting(_ model: ProvidedModel, as reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    try memory.adapting(model, as: reference)
  }

  func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    var provided = try memory.open(reference)
    guard let config = models[reference.name]?.config else { return provided }
    let found = provided.checkpoint
    provided.checkpoint = try Checkpoint(
      displayPath: found.displayPath, shards: found.shards, tensors: found.tensors, config: config, notices: found.notices)
    return provided
  }
}
