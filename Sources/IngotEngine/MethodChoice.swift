internal import IngotErrors
internal import IngotMethods
internal import IngotRecipes

/// A method that jobs are made with.
struct MethodChoice {
  let descriptor: MethodDescriptor
  let type: any MergeMethod.Type

  init(_ descriptor: MethodDescriptor) throws(IngotError) {
    guard let type = MethodRegistry.method(named: descriptor.name) else {
      throw IngotError(.internalError, "the method \(descriptor.name) is in the catalogue but not in the registry")
    }
    self.descriptor = descriptor
    self.type = type
  }
}

/// A job over the whole model, or over some tensors of it, that is being put together.
struct SharedJob {
  let method: MethodChoice
  let inputs: [MethodRequest.Input]
  var tensors: [Int] = []
  var segments: [MethodRequest.Segment] = []
}
