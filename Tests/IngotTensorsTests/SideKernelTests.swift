import Foundation
import IngotTensors
import Testing

/// Steps that read side inputs: every instruction set against the scalar one bit by bit, and against their definitions.
@Suite struct SideKernelTests {
  typealias Operation = CombinationTests.Operation

  private static let weighting = Weighting(scales: [1, 0.5, 0], floors: [1e-3, 0, 0.5], floor: .least, least: 0.01)
  private static let added = Weighting(scales: [1, 2, 1], floors: [0.25, 0.5, 0], floor: .added)

  static let operations: [Operation] = [
    Operation(name: "channels") { $0.scaleChannels($1[0], factors: $1[2].prefix(21), firstIndex: 5, base: $1[1], into: $2) },
    Operation(name: "one channel") { $0.scaleChannels($1[0], factors: $1[2].prefix(1), firstIndex: 0, base: $1[1], into: $2) },
    Operation(name: "weighted mean") { $0.weightedMean($1, weights: $1, weighting, fallback: $1[1], into: $2) },
    Operation(name: "weighted or plain mean") { $0.weightedMean($1, weights: $1, added, into: $2) },
    Operation(name: "saliency") { $0.saliency($1[0], $1[1], into: $2) },
    Operation(name: "saliency alone") { $0.saliency($1[0], nil, into: $2) },
    Operation(name: "square roots") {
      $0.precondition($1[0], kept: $1[1], power: 0.5, factor: 2, epsilon: 1e-26, scale: 0.5, into: $2)
    },
    Operation(name: "powers") { $0.precondition($1[0], kept: nil, power: 0.7, factor: 1, epsilon: 1e-12, scale: 1, into: $2) },
    Operation(name: "first powers") { $0.precondition($1[0], kept: nil, power: 1, factor: 1, epsilon: 0, scale: 1, into: $2) },
    Operation(name: "outer product") { $0.outerProduct(rows: $1[0], columns: $1[1].prefix(37), firstIndex: 7, into: $2) },
    Operation(name: "votes") { kernels, rows, output in
      kernels.vote(gradient: rows[0], rows[1], rows[2], prior: rows[0], lambda: 3, begins: true, into: output)
      kernels.vote(gradient: rows[1], rows[1], rows[2], prior: rows[0], lambda: 0.5, begins: false, into: output)
    },
    Operation(name: "mask of logits") { $0.mask($1[0], MaskRule(.share, isLogit: true), firstIndex: 3, into: $2) },
    Operation(name: "drawn mask") { $0.mask($1[0], MaskRule(.drawn, isLogit: true, seed: 5, stream: 9), firstIndex: 3, into: $2) },
    Operation(name: "relaxed mask") {
      $0.mask($1[0], MaskRule(.relaxed, isLogit: true, temperature: 0.5, seed: 5, stream: 9), firstIndex: 6, into: $2)
    },
    Operation(name: "masked") { kernels, rows, output in
      kernels.mask(rows[0], MaskRule(.rounded, isLogit: false), firstIndex: 0, into: output)
      kernels.mask(rows[1], .values, firstIndex: 0, multiplies: true, into: output)
    },
    Operation(name: "voted") { $0.addVoted($1[0], $1[1], base: $1[2], votes: $1[0], into: $2) },
  ]

  @Test(arguments: fastSets, operations) func raggedRunsMatchTheReference(_ set: InstructionSet, _ operation: Operation) {
    for kind in [Kind.normal, .bfloatDifferences, .denormals, .anyBits] {
      for count in raggedLengths {
        let rows = CombinationTests.rows(kind, count)
        let found = CombinationTests.result(operation, set, rows, shift: 1)
        let reference = CombinationTests.result(operation, .scalar, rows, shift: 0)
        #expect(found.bits == reference.bits, "\(operation.name), \(kind), \(count)")
        #expect(found.bordersAreIntact)
      }
    }
  }

  @Test(arguments: InstructionSet.available) func masks(_ set: InstructionSet) {
    let kernels = Kernels(set)
    let logits = (0..<1003).map { Float($0 - 501) / 16 }
    let (x, output) = (Memory(logits), Memory(count: logits.count))
    kernels.mask(x.floats, MaskRule(.share, isLogit: true), firstIndex: 0, into: output.floats)
    for (logit, share) in zip(logits, output.values) {
      let expected = 1 / (1 + exp(-Double(logit)))
      #expect(abs(Double(share) - expected) <= 1e-7 * expected)
    }
    kernels.mask(x.floats, MaskRule(.rounded, isLogit: true), firstIndex: 0, into: output.floats)
    #expect(output.values == logits.map { $0 > 0 ? 1 : 0 })
    // Draws: those of the definition, and about as many as the share says.
    let even = Memory([Float](repeating: 0.25, count: 4096)), drawn = Memory(count: 4096)
    kernels.mask(even.floats, MaskRule(.drawn, isLogit: false, seed: 3, stream: 7), firstIndex: 11, into: drawn.floats)
    for (index, value) in drawn.values.enumerated() {
      let word = Philox.word(seed: 3, stream: 7, index: UInt64(index) + 11)
      #expect(value == ((Double(word) + 0.5) * 0x1p-32 < 0.25 ? 1 : 0))
    }
    #expect(abs(drawn.values.reduce(0, +) - 1024) < 150)
    let relaxed = Memory(count: 4096)
    kernels.mask(even.floats, MaskRule(.relaxed, isLogit: false, seed: 3, stream: 7), firstIndex: 11, into: relaxed.floats)
    for (index, value) in relaxed.values.enumerated() {
      let u = (Double(Philox.word(seed: 3, stream: 7, index: UInt64(index) + 11)) + 0.5) * 0x1p-32
      let t = (log(0.25 / 0.75) + log(u / (1 - u))) / 0.5
      #expect(abs(Double(value) - 1 / (1 + exp(-t))) <= 1e-6)
    }
  }

  @Test(arguments: InstructionSet.available) func definitions(_ set: InstructionSet) {
    let kernels = Kernels(set)
    let x = Rows([[1, 2, -0.0, 4], [5, 6, -0.0, 8]], shift: 0)
    let w = Rows([[3, 0, 0, -1], [1, 0, 0, 2]], shift: 0)
    let output = Memory(count: 4)
    kernels.weightedMean(x.table, weights: w.table, Weighting(scales: [1, 1], floors: [0, 0]), into: output.floats)
    #expect(output.values == [2, 4, 0, 8] && output.values[2].sign == .minus)
    kernels.weightedMean(
      x.table, weights: w.table, Weighting(scales: [1, 1], floors: [0, 0], least: 2), fallback: x.table[0], into: output.floats)
    #expect(output.values == [2, 2, 0, 4])
    // Second moments far below what f32 squares to.
    let moments = Memory([1e-30, 4e-30, 0, 1]), deltas = Memory([1e-3, 1e-3, 1, 0])
    kernels.saliency(moments.floats, deltas.floats, into: output.floats)
    #expect(output.values[1] / output.values[0] == 4 && output.values[0] > 1e-18)
    #expect(output.values[2] == .leastNonzeroMagnitude && output.values[3] == .leastNonzeroMagnitude)
    kernels.precondition(moments.floats, kept: deltas.floats, power: 0.5, factor: 1, epsilon: 0, scale: 1, into: output.floats)
    #expect(output.values == [1e-15, 2e-15, 0, 0])
    kernels.precondition(moments.floats, kept: nil, power: 1.5, factor: 1, epsilon: 0, scale: 1, into: output.floats)
    #expect(abs(Double(output.values[1]) / 8e-45 - 1) < 0.2 && output.values[3] == 1 && output.values[2] == 0)
    // Beyond the last row nothing is written.
    let product = Memory([9, 9, 9, 9]), rows = Memory([2, 3]), columns = Memory([5, 7])
    kernels.outerProduct(rows: rows.floats, columns: columns.floats, firstIndex: 1, into: product.floats)
    #expect(product.values == [14, 15, 21, 9])
  }
}
