internal import IngotCheckpoints
internal import IngotErrors
internal import IngotMethods
internal import IngotRecipes
internal import IngotTensors

/// Models as the recipes of a rolling merge with several planes see them, so that an ordinary merge makes all planes of a state.
///
/// In a step every merged tensor NAME of a model or a side file is there once more for each plane, as NAME#PLANE, with the same bytes; of the
/// state NAME#PLANE is what the plane's step reads. At the end the state is one model for each plane, told apart by the reference's revision.
struct RollingPlanes: ModelProvider {
  enum Use { case step, end }

  private let inner: any ModelProvider
  private let state: String
  private let planes: [RollingPlane]
  private let use: Use
  /// True where `inner` knows the state by the names that tell its running objects apart.
  private let keepsNames: Bool

  init(_ inner: any ModelProvider, state: String, planes: [RollingPlane], for use: Use, keepsNames: Bool = false) {
    self.inner = inner
    self.keepsNames = keepsNames
    self.state = state
    self.planes = planes
    self.use = use
  }

  /// The state, as a recipe names one of its planes at the end.
  static func reference(_ state: String, plane: RollingPlane, at position: SourcePosition) -> IngotRecipes.ModelReference {
    IngotRecipes.ModelReference(.fields(path: state, revision: plane.name.isEmpty ? "main" : plane.name), position: position)
  }

  func open(_ reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    guard case .fields(state, let revision, nil) = reference.location else {
      let model = try inner.open(reference)
      return use == .end ? model : try expanded(try model.readable())
    }
    var plain = reference
    if !keepsNames { plain.location = .fields(path: state, revision: nil) }
    let model = try inner.open(plain)
    switch use {
    case .step: return try mapped(model)
    case .end: return try selected(revision ?? "main", of: model)
    }
  }

  func adapting(_ model: ProvidedModel, as reference: IngotRecipes.ModelReference) throws(IngotError) -> ProvidedModel {
    try inner.adapting(model, as: reference)
  }

  /// Every tensor for every plane.
  private func expanded(_ model: ProvidedModel) throws(IngotError) -> ProvidedModel {
    var tensors: [CheckpointTensor] = []
    for tensor in model.checkpoint.tensors {
      guard RollingName.isFirst(tensor.name) else {
        throw IngotError(
          .unsupported, "the name of this tensor has a #, which this rolling merge keeps for its own tensors",
          hint: "another method, or another name", subject: tensor.name)
      }
      tensors.append(tensor)
      guard tensor.dtype.hasArithmetic else { continue }
      for plane in planes where !plane.name.isEmpty {
        var copy = tensor
        copy.name = RollingName.name(tensor.name, object: plane.name)
        tensors.append(copy)
      }
    }
    return try model.replacing(tensors)
  }

  /// What each plane's step reads, under the plane's name.
  private func mapped(_ model: ProvidedModel) throws(IngotError) -> ProvidedModel {
    var tensors: [CheckpointTensor] = []
    for tensor in model.checkpoint.tensors where RollingName.isFirst(tensor.name) {
      guard tensor.dtype.hasArithmetic else {
        tensors.append(tensor)
        continue
      }
      for plane in planes {
        var read = try self.tensor(tensor.name, plane.source ?? plane.name, of: model)
        read.name = RollingName.name(tensor.name, object: plane.name)
        tensors.append(read)
      }
    }
    return try model.replacing(tensors)
  }

  /// One plane under the tensors' own names.
  private func selected(_ revision: String, of model: ProvidedModel) throws(IngotError) -> ProvidedModel {
    var tensors: [CheckpointTensor] = []
    for tensor in model.checkpoint.tensors where RollingName.isFirst(tensor.name) {
      guard tensor.dtype.hasArithmetic, revision != "main" else {
        tensors.append(tensor)
        continue
      }
      var read = try self.tensor(tensor.name, revision, of: model)
      read.name = tensor.name
      tensors.append(read)
    }
    return try model.replacing(tensors)
  }

  private func tensor(_ name: String, _ plane: String, of model: ProvidedModel) throws(IngotError) -> CheckpointTensor {
    let wanted = RollingName.name(name, object: plane)
    guard let tensor = model.checkpoint[wanted] else {
      throw IngotError(
        .format, "the state has no tensor \(wanted), expected one for each of the method's running objects", hint: "begin again",
        subject: state)
    }
    return tensor
  }
}

extension ProvidedModel {
  /// The same files with other tensors.
  fileprivate func replacing(_ tensors: [CheckpointTensor]) throws(IngotError) -> ProvidedModel {
    var model = self
    model.checkpoint = try Checkpoint(
      displayPath: checkpoint.displayPath, shards: checkpoint.shards, tensors: tensors, config: checkpoint.config,
      notices: checkpoint.notices)
    return model
  }
}
