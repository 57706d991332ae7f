import Foundation
import IngotEngine
import IngotErrors
import IngotJSON
import IngotMethods
import IngotRecipes
import IngotTensors

/// A tensor that a test owns: values as f64, stored in memory as `dtype`.
@safe final class TestTensor: @unchecked Sendable {
  // SENDABLE: written before the engine sees it.
  let name: String
  let dtype: DType
  let shape: [Int]
  let bytes: UnsafeMutableRawPointer
  let count: Int

  init(_ name: String, _ dtype: DType, _ shape: [Int], _ values: [Double] = []) {
    self.name = name
    self.dtype = dtype
    self.shape = shape
    count = shape.reduce(1, *)
    unsafe bytes = .allocate(byteCount: max(count * dtype.bits / 8, 1), alignment: 64)
    unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0, count: max(count * dtype.bits / 8, 1))
    for (index, value) in values.enumerated() { set(index, value) }
  }

  deinit { unsafe bytes.deallocate() }

  func set(_ index: Int, _ value: Double) {
    switch dtype {
    case .f32: unsafe bytes.storeBytes(of: Float(value), toByteOffset: index * 4, as: Float.self)
    case .f64: unsafe bytes.storeBytes(of: value, toByteOffset: index * 8, as: Double.self)
    case .f16: unsafe bytes.storeBytes(of: Float16(value), toByteOffset: index * 2, as: Float16.self)
    case .bf16: unsafe bytes.storeBytes(of: bfloat16(Float(value)), toByteOffset: index * 2, as: UInt16.self)
    case .i64: unsafe bytes.storeBytes(of: Int64(value), toByteOffset: index * 8, as: Int64.self)
    default: break
    }
  }

  func value(_ index: Int) -> Double {
    switch dtype {
    case .f32: unsafe Double(bytes.load(fromByteOffset: index * 4, as: Float.self))
    case .f64: unsafe bytes.load(fromByteOffset: index * 8, as: Double.self)
    case .f16: unsafe Double(bytes.load(fromByteOffset: index * 2, as: Float16.self))
    case .bf16: unsafe Double(Float(bitPattern: UInt32(bytes.load(fromByteOffset: index * 2, as: UInt16.self)) << 16))
    case .i64: unsafe Double(bytes.load(fromByteOffset: index * 8, as: Int64.self))
    default: .nan
    }
  }

  var values: [Double] { (0..<count).map { value($0) } }

  var data: [UInt8] { unsafe Array(UnsafeRawBufferPointer(start: bytes, count: count * dtype.bits / 8)) }

  /// Equal bytes. Compare with this inside `#expect`: of two arrays it would work out every difference, which takes minutes for a tensor.
  func hasBytes(of other: TestTensor?) -> Bool { data == other?.data }

  var view: TensorView {
    get throws { try unsafe TensorView(name: name, dtype: dtype, shape: Shape(shape), unsafe: bytes) }
  }
}

/// The bf16 pattern nearest to a value, ties to even.
func bfloat16(_ value: Float) -> UInt16 {
  let bits = value.bitPattern
  if value.isNaN { return UInt16(bits >> 16) | 0x40 }
  return UInt16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)
}

/// Runs a recipe over models in memory and gives the output tensors.
func merge(
  recipe: String, models: [String: [TestTensor]], options: EngineOptions = EngineOptions(), plan planOptions: PlanOptions = PlanOptions(),
  run: RunOptions = RunOptions()
) throws -> (tensors: [String: TestTensor], report: RunReport, plan: Plan) {
  // Views own nothing.
  defer { withExtendedLifetime(models) {} }
  let parsed = try Recipe.parse(Array(recipe.utf8), origin: "recipe.yml", catalog: MethodRegistry.catalog)
  var views: [String: [TensorView]] = [:]
  for (name, tensors) in models { views[name] = try tensors.map { try $0.view } }
  let plan = try Plan.make(parsed, options: planOptions, models: MemoryModels(views))
  let outputs = plan.tensors.map { TestTensor($0.name, $0.dtype, $0.shape.dimensions) }
  let sink = try MemorySink(plan: plan, outputs: outputs.map { try $0.view })
  let report = try Engine(options).run(plan, into: sink, options: run)
  return (Dictionary(uniqueKeysWithValues: outputs.map { ($0.name, $0) }), report, plan)
}

/// A file of `Tests/Golden`.
func golden(_ name: String, file: String = #filePath) throws -> Any {
  let url = URL(fileURLWithPath: file).deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("Golden/\(name)")
  return try JSONSerialization.jsonObject(with: Data(contentsOf: url))
}

/// A generator whose seed a failing test can print.
struct SplitMix: RandomNumberGenerator {
  var state: UInt64
  init(_ seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  /// Roughly normal: the sum of twelve uniforms less six.
  mutating func normal() -> Double {
    var sum = -6.0
    for _ in 0..<12 { sum += Double(next() >> 11) * 0x1p-53 }
    return sum
  }
}
