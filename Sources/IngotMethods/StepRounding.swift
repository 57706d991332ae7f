package import IngotTensors

/// Rounding to a tensor's type after every step, as mergekit computes on a CPU: products and quotients are rounded, sums are taken in f32 and
/// rounded when complete, weights are rounded first. For f32 nothing is rounded.
package struct StepRounding: Sendable {
  package let dtype: DType

  /// Nil unless the recipe asks for it.
  init?(_ segment: MethodRequest.Segment) {
    guard let type = segment.stepType else { return nil }
    dtype = type
  }

  /// The nearest value of the type.
  func rounded(_ x: Float) -> Float {
    switch dtype {
    case .f16: return Float(Float16(x))
    case .bf16:
      guard x.isFinite else { return x }
      let bits = x.bitPattern
      return Float(bitPattern: (bits &+ 0x7fff &+ (bits >> 16 & 1)) & 0xffff_0000)
    default: return x
    }
  }

  /// The sum in f32, rounded.
  func sum(_ values: [Float]) -> Float { rounded(values.reduce(0, +)) }

  func ones(_ count: Int) -> [Float] { [Float](repeating: 1, count: count) }

  /// Rounds the inputs of a tile, in place.
  func round(_ tile: Tile) {
    for row in 0..<tile.inputs.rows { tile.kernels.round(tile.inputs[row], to: dtype) }
  }

  /// Weighs every row, in place.
  func scale(_ rows: FloatTable, by weights: [Float], _ kernels: Kernels) {
    for (row, weight) in weights.enumerated() {
      kernels.scale(rows[row], by: weight, into: rows[row])
      kernels.round(rows[row], to: dtype)
    }
  }
}
