import IngotEngine
import IngotErrors
import IngotMethods
import IngotTensors
import Testing

/// What random masks and choices among equals look like over a million elements and more: every figure within four standard deviations.
/// Draws are fixed by the seed, so none of this comes and goes.
@Suite struct MaskStatisticsTests {
  static let rows = 1024
  static let columns = 1024
  static let count = rows * columns
  static let models = ["a", "b", "c"]

  /// Two tensors, three models and a base of zeros; magnitudes of a row are distinct and in no order.
  static let tensors: [String: [TestTensor]] = {
    var random = SplitMix(77)
    var result: [String: [TestTensor]] = [:]
    for name in ["base"] + models {
      result[name] = ["first", "second"].map { tensorName in
        let tensor = TestTensor(tensorName, .f32, [rows, columns])
        guard name != "base" else { return tensor }
        for row in 0..<rows {
          // A full cycle through 1...columns that starts anywhere.
          let start = Int(random.next() % UInt64(columns))
          for column in 0..<columns { tensor.set(row * columns + column, Double((start + 389 * column) % columns + 1)) }
        }
        return tensor
      }
    }
    return result
  }()

  /// Which elements of a model stay in each tensor. The other models are there with weight 0, so that every model has its place.
  static func masks(_ method: String, model: String, seed: UInt64) throws -> [[Bool]] {
    let list = models.map { "  - {model: \($0), parameters: {weight: \($0 == model ? 1 : 0)}}\n" }.joined()
    let epsilon = method.hasPrefix("della") ? ", epsilon: 0.2" : ""
    let recipe = "merge_method: \(method)\nbase_model: base\nmodels:\n\(list)parameters: {density: 0.4, rescale: false\(epsilon)}\n"
    var options = PlanOptions()
    options.seed = seed
    let result = try merge(recipe: recipe, models: tensors, plan: options)
    return try ["first", "second"].map { name in
      let output = try #require(result.tensors[name])
      return (0..<count).map { unsafe output.bytes.load(fromByteOffset: 4 * $0, as: Float.self) != 0 }
    }
  }

  /// The distance of a share of `n` draws from its expectation, in standard deviations.
  private func deviations(_ kept: Int, of n: Int, _ p: Double) -> Double {
    (Double(kept) - p * Double(n)) / (p * (1 - p) * Double(n)).squareRoot()
  }

  /// The keep probability of each element: even for DARE, by rank for DELLA.
  private func probabilities(_ method: String, model: String, tensor: Int) throws -> [Float] {
    guard method == "della_linear" else { return [Float](repeating: 0.4, count: Self.count) }
    let values = try #require(Self.tensors[model])[tensor]
    return (0..<Self.count).map { index in
      unsafe 0.2 + 0.4 * (values.bytes.load(fromByteOffset: 4 * index, as: Float.self) - 1) / Float(Self.columns - 1)
    }
  }

  /// What a mask is beside its probabilities: values of mean 0 and variance 1 if the draws are what they should be.
  private func residuals(_ mask: [Bool], _ probabilities: [Float]) -> [Float] {
    zip(mask, probabilities).map { kept, p in (kept ? 1 - p : -p) / (p * (1 - p)).squareRoot() }
  }

  /// The correlation of two runs of residuals, the second `lag` elements further on, in standard deviations.
  private func correlation(_ x: [Float], _ y: [Float], lag: Int = 0) -> Double {
    let count = x.count - lag
    // The kernel that sums products is tested on its own; it makes a million of them cheap.
    return unsafe x.withUnsafeBufferPointer { first in
      unsafe y.withUnsafeBufferPointer { second in
        guard let a = first.baseAddress, let b = second.baseAddress else { return .nan }
        let lanes = UnsafeMutablePointer<Double>.allocate(capacity: Lanes.width)
        defer { unsafe lanes.deallocate() }
        unsafe lanes.initialize(repeating: 0, count: Lanes.width)
        let sums = unsafe Lanes(unsafe: lanes)
        // SAFETY: count values from either address on; the kernel only reads them.
        unsafe Kernels(.best).accumulateDot(
          Floats(unsafe: UnsafeMutablePointer(mutating: a), count: count),
          Floats(unsafe: UnsafeMutablePointer(mutating: b + lag), count: count),
          into: sums)
        return sums.folded() / Double(count).squareRoot()
      }
    }
  }

  @Test(arguments: ["dare_linear", "della_linear"]) func masksAreIndependent(_ method: String) throws {
    let ones = [Float](repeating: 1, count: Self.count)
    var masks: [(name: String, values: [Float])] = []
    for (model, seed) in [("a", 1), ("b", 1), ("c", 1), ("a", 2)] as [(String, UInt64)] {
      for (tensor, mask) in try Self.masks(method, model: model, seed: seed).enumerated() {
        let values = residuals(mask, try probabilities(method, model: model, tensor: tensor))
        masks.append(("model \(model), tensor \(tensor), seed \(seed)", values))
      }
    }
    for (index, (name, mask)) in masks.enumerated() {
      #expect(abs(correlation(mask, ones)) < 4, "\(name), kept share")
      #expect(abs(correlation(mask, mask, lag: 1)) < 4, "\(name), neighbours")
      #expect(abs(correlation(mask, mask, lag: Self.columns)) < 4, "\(name), rows")
      for (other, second) in masks[..<index] { #expect(abs(correlation(mask, second)) < 4, "\(name) and \(other)") }
    }
  }

  /// DELLA: the share that stays in each tenth of a row's ranks is the mean of its probabilities.
  @Test func sharesOfRanks() throws {
    let mask = try Self.masks("della_linear", model: "b", seed: 3)[0]
    let tensor = try #require(Self.tensors["b"]?.first)
    var (kept, seen, expected) = ([Int](repeating: 0, count: 10), [Int](repeating: 0, count: 10), [Double](repeating: 0, count: 10))
    for index in 0..<Self.count {
      let rank = Int(tensor.value(index)) - 1
      let tenth = rank * 10 / Self.columns
      seen[tenth] += 1
      expected[tenth] += 0.2 + 0.4 * Double(rank) / Double(Self.columns - 1)
      if mask[index] { kept[tenth] += 1 }
    }
    for tenth in 0..<10 {
      #expect(abs(deviations(kept[tenth], of: seen[tenth], expected[tenth] / Double(seen[tenth]))) < 4, "tenth \(tenth)")
    }
    #expect(kept[9] > 2 * kept[0])
  }

  /// A fifth of the elements has the threshold's magnitude: which of them stay favours no rows.
  @Test func tiesFavourNoRows() throws {
    let (rows, columns) = (4096, 1024)
    let base = TestTensor("w", .bf16, [rows, columns])
    let model = TestTensor("w", .bf16, [rows, columns])
    var random = SplitMix(5)
    for index in 0..<rows * columns {
      let bits = random.next()
      let place = Double(bits >> 40) * 0x1p-24
      // Two fifths above the tied magnitude, two fifths below it.
      let magnitude = place < 0.4 ? 0.25 + place / 4 : place < 0.6 ? 0.5 : 0.75 + (place - 0.6) / 4
      model.set(index, bits & 1 == 0 ? magnitude : -magnitude)
    }
    for density in [0.45, 0.5, 0.58] {
      let recipe =
        "merge_method: ties\nbase_model: base\nmodels: [{model: a, parameters: {weight: 1}}]\nparameters: {density: \(density)}\n"
      let result = try merge(recipe: recipe, models: ["base": [base], "a": [model]])
      let output = try #require(result.tensors["w"])
      let byRow: [Int] = (0..<rows).map { row in
        (0..<columns).reduce(0) { kept, column in
          unsafe output.bytes.load(fromByteOffset: 2 * (row * columns + column), as: UInt16.self) & 0x7fff != 0 ? kept + 1 : kept
        }
      }
      #expect(byRow.reduce(0, +) == Int(density * Double(rows * columns)))
      for start in stride(from: 0, through: rows - 200, by: 100) {
        let kept = byRow[start..<start + 200].reduce(0, +)
        #expect(abs(deviations(kept, of: 200 * columns, density)) < 4, "density \(density), rows from \(start)")
      }
      // Rows that are spread out, too.
      for phase in 0..<20 {
        let group = stride(from: phase, to: 4000, by: 20).map { byRow[$0] }
        #expect(abs(deviations(group.reduce(0, +), of: 200 * columns, density)) < 4, "density \(density), every 20th row from \(phase)")
      }
    }
  }
}
