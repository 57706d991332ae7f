internal import IngotCheckpoints
internal import IngotErrors
internal import IngotMethods
internal import IngotRecipes
internal import IngotStorage
internal import IngotTensors

extension Planner {
  /// What a method is told of one output tensor: its parameters, those of each input, and where it stands in the model.
  func makeSegment(
    _ output: OutputTensor, _ inputs: [OutputTensor.Input], shape: Shape, rule: Int?, _ cache: ParameterCache
  ) throws(IngotError) -> MethodRequest.Segment {
    let tensor = try cache.parameters(output: output.name, slice: output.slice, at: output.position, rule: rule)
    var perModel: [[String: ParameterValue]] = []
    var streams: [UInt64] = []
    for input in inputs {
      perModel.append(
        try cache.parameters(
          output: output.name, input: input.tensor.name, source: input.source ?? 0, slice: output.slice, at: output.position,
          rule: rule))
      streams.append(Self.stream(output.name, ordinal: input.model))
    }
    var segment = MethodRequest.Segment(
      name: output.name, shape: shape, parameters: tensor, modelParameters: perModel, streams: streams)
    if let layer = output.layer, let count = output.layerCount {
      segment.place = .layer(layer, of: count)
    } else if TensorNames.isInputEmbedding(output.name) {
      segment.place = .embedding
    } else if TensorNames.isEmbedding(output.name) {
      segment.place = .head
    }
    segment.isVocabulary = TensorNames.vocabularyAxis(output.name, shape) != nil
    return segment
  }

  /// XXH3-64 of the output tensor's name, a zero byte and the model's ordinal in 8 bytes, little-endian.
  static func stream(_ name: String, ordinal: Int) -> UInt64 {
    var bytes = Array(name.utf8)
    bytes.append(0)
    for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: ordinal >> (8 * shift))) }
    return xxh3(bytes)
  }
}
