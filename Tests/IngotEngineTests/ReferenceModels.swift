import IngotTensors

/// Three fine-tunes of one base, with tensors that try the engine's edges.
struct ReferenceModels: Sendable {
  /// Base first.
  let models: [String: [TestTensor]]

  struct Part {
    var name: String
    var shape: [Int]
    /// Of base, a, b, c.
    var dtypes: [DType]
  }

  /// Three blocks of 65,536 and a ragged end, flat and as rows; a 1-D and a 3-D tensor.
  static let small = [
    Part(name: "model.flat.weight", shape: [197_385], dtypes: [.f32, .f32, .f32, .f32]),
    Part(name: "model.rows.weight", shape: [178, 1111], dtypes: [.bf16, .bf16, .f16, .f32]),
    Part(name: "model.small.bias", shape: [37], dtypes: [.f16, .f16, .f16, .f16]),
    Part(name: "model.cube.weight", shape: [3, 5, 7], dtypes: [.f32, .bf16, .f32, .f16]),
  ]

  /// Beyond what a selection collects whole, with many equal magnitudes.
  static let large = [
    Part(name: "model.large.weight", shape: [241, 1111], dtypes: [.bf16, .bf16, .bf16, .bf16]),
    Part(name: "model.small.bias", shape: [37], dtypes: [.f16, .f16, .f16, .f16]),
    Part(name: "model.flat32.weight", shape: [270_001], dtypes: [.f32, .f32, .f32, .f32]),
  ]

  /// Layers, and the embedding that their method may read by its rows.
  static let layered =
    [
      Part(name: "model.embed_tokens.weight", shape: [57, 33], dtypes: [.f32, .bf16, .f32, .f32]),
      Part(name: "model.norm.weight", shape: [33], dtypes: [.f32, .f32, .f32, .f32]),
      Part(name: "lm_head.weight", shape: [57, 33], dtypes: [.f32, .f32, .f32, .f32]),
    ]
    + (0..<4).flatMap { layer in
      [
        Part(name: "model.layers.\(layer).mlp.up_proj.weight", shape: [71 + layer, 33], dtypes: [.f32, .f32, .f32, .bf16]),
        Part(name: "model.layers.\(layer).input_layernorm.weight", shape: [33], dtypes: [.bf16, .bf16, .bf16, .bf16]),
      ]
    }

  init(_ parts: [Part], seed: UInt64 = 7) {
    var models: [String: [TestTensor]] = [:]
    for part in parts {
      var random = SplitMix(seed ^ UInt64(part.shape.reduce(1, *)))
      let base = TestTensor(part.name, part.dtypes[0], part.shape)
      let others = part.dtypes.dropFirst().map { TestTensor(part.name, $0, part.shape) }
      for index in 0..<base.count {
        // Four uniforms of 16 bits make one roughly normal value.
        let value = Self.bell(random.next())
        base.set(index, value)
        let draws = random.next()
        for (model, other) in others.enumerated() {
          // One element in eight stays as in the base, a few are far away.
          let draw = draws >> (8 * UInt64(model))
          let delta = draw & 7 == 0 ? 0 : Self.bell(random.next()) * (draw & 127 == 1 ? 2 : 0.05)
          other.set(index, base.value(index) + delta)
        }
      }
      models["base", default: []].append(base)
      for (name, tensor) in zip(MethodCase.models, others) { models[name, default: []].append(tensor) }
    }
    self.models = models
  }

  private static func bell(_ bits: UInt64) -> Double {
    var sum = -2.0
    for part in 0..<4 { sum += Double(bits >> (16 * UInt64(part)) & 0xffff) * 0x1p-16 }
    return sum
  }

  /// The exact values for the reference.
  func tensors() -> [ReferenceTensor] {
    let base = models["base"] ?? []
    return base.indices.map { index in
      ReferenceTensor(
        name: base[index].name, rowLength: base[index].shape.last ?? 1, axes: base[index].shape.count,
        stride: base[index].shape.dropFirst().reduce(1, *), base: base[index].values,
        models: MethodCase.models.map { models[$0]?[index].values ?? [] })
    }
  }
}
