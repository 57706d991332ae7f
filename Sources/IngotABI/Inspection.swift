public import CIngot
internal import IngotCheckpoints
internal import IngotEngine
internal import IngotErrors
internal import IngotJSON
internal import IngotRecipes
internal import IngotTensors

// MARK: looking at checkpoints

@c @implementation public func ingot_checkpoint_inspect(
  _ path: UnsafePointer<CChar>?, _ out: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ error: ingot_error_out?
) -> ingot_status {
  unsafe report(to: error) { () throws(IngotError) in
    let out = try unsafe output(out)
    let reference = IngotRecipes.ModelReference(
      .text(try unsafe text(path, "path")), position: SourcePosition(origin: "path", line: 1, column: 1))
    let model = try withoutPosition { () throws(IngotError) in try LocalModels(environment: modelEnvironment()).open(reference) }
    unsafe out.pointee = ownedCString(model.json)
  }
}

/// A path that is an argument has no place in a text.
private func withoutPosition<Result>(_ body: () throws(IngotError) -> Result) throws(IngotError) -> Result {
  do throws(IngotError) {
    return try body()
  } catch {
    var plain = error
    if plain.position?.origin == "path" { plain.position = nil }
    throw plain
  }
}

extension ProvidedModel {
  /// What the headers say.
  fileprivate var json: String {
    var writer = JSONWriter(reserving: 128 * checkpoint.tensors.count + 1024)
    let parameters = checkpoint.tensors.reduce(0) { $0 &+ ((try? $1.shape.elementCount()) ?? 0) }
    let bytes = checkpoint.tensors.reduce(0) { $0 &+ $1.byteCount }
    writer.raw("{\"path\":")
    writer.string(path)
    writer.raw(",\"parameters\":\(parameters),\"bytes\":\(bytes),\"files\":[")
    for (index, shard) in checkpoint.shards.enumerated() {
      writer.raw(index > 0 ? ",{\"name\":" : "{\"name\":")
      writer.string(shard.name)
      writer.raw(",\"bytes\":\(shard.size)}")
    }
    writer.raw("],\"tensors\":[")
    for (index, tensor) in checkpoint.tensors.enumerated() {
      writer.raw(index > 0 ? ",{\"name\":" : "{\"name\":")
      writer.string(tensor.name)
      writer.raw(",\"dtype\":\"\(tensor.dtype.safetensorsName)\",\"shape\":[")
      writer.raw(tensor.shape.dimensions.map(String.init).joined(separator: ","))
      writer.raw("],\"bytes\":\(tensor.byteCount),\"file\":\(tensor.shard)}")
    }
    writer.raw("],\"notices\":")
    writer.append(.array(checkpoint.notices.map(\.json)))
    writer.raw("}")
    return String(decoding: writer.bytes, as: UTF8.self)
  }
}
