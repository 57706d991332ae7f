import IngotErrors
import IngotTensors
import Testing

@Suite struct InstructionSetTests {
  @Test func theScalarSetIsAlwaysLast() {
    #expect(InstructionSet.available.last == .scalar)
    #expect(InstructionSet.compiled.last == .scalar)
    #expect(InstructionSet.best == InstructionSet.available.first)
    #expect(Set(InstructionSet.available).isSubset(of: InstructionSet.compiled))
    #if arch(x86_64)
      #expect(InstructionSet.compiled.map(\.name) == ["avx512", "avx2", "baseline", "scalar"])
    #elseif arch(arm64)
      #expect(InstructionSet.available.map(\.name) == ["neon", "scalar"])
    #endif
  }

  @Test(arguments: InstructionSet.available) func aForcedSetRunsItsOwnKernels(_ set: InstructionSet) throws {
    let forced = try InstructionSet.named(set.name)
    #expect(forced == set)
    let before = forced.callCount
    let x = Memory([1, 2, 3]), output = Memory(count: 3)
    for _ in 0..<10 { Kernels(forced).scale(x.floats, by: 2, into: output.floats) }
    #expect(output.values == [2, 4, 6])
    // Other tests may run meanwhile, so at least.
    #expect(forced.callCount >= before + 10)
  }

  @Test(arguments: ["", "avx", "AVX2", "neon512"]) func unknownNamesListTheKnownOnes(_ name: String) {
    let error = #expect(throws: IngotError.self) { try InstructionSet.named(name) }
    #expect(error?.status == .invalidArgument)
    #expect(error?.subject == name)
    for set in InstructionSet.available { #expect(error?.hint?.contains(set.name) == true) }
  }
}

/// The views bound what they give away.
@Suite struct FloatsTests {
  @Test func slicesAreClipped() {
    let memory = Memory([1, 2, 3, 4, 5]), floats = memory.floats
    #expect(floats.slice(from: 1, count: 3).count == 3)
    #expect(floats.slice(from: 1, count: 3)[0] == 2)
    #expect(floats.slice(from: 4, count: 9).count == 1)
    #expect(floats.slice(from: 9, count: 9).count == 0)
    #expect(floats.slice(from: -3, count: 2)[0] == 1)
    #expect(floats.slice(from: 0, count: -2).count == 0)
    #expect(floats.prefix(.max).count == 5)
    #expect(floats.slice(from: .max, count: .max).count == 0)
  }

  @Test func accessOutOfRangeIsHarmless() {
    let memory = Memory([1, 2, 3]), floats = memory.floats
    floats[3] = 9
    floats[-1] = 9
    floats[1] = 7
    #expect(floats[3] == 0 && floats[-1] == 0 && floats[.max] == 0)
    #expect(memory.values == [1, 7, 3])
    #expect(memory.bordersAreIntact)
  }

  @Test func tablesGiveEmptyRunsBeyondTheirRows() {
    let rows = Rows([[1, 2], [3, 4]], shift: 0), table = rows.table
    #expect(table[1][0] == 3)
    #expect(table[2].count == 0 && table[-1].count == 0)
    #expect(table.dropFirst().rows == 1 && table.dropFirst()[0][1] == 4)
    #expect(table.dropFirst().dropFirst().dropFirst().rows == 0)
    #expect(table.prefix(1).count == 1 && table.prefix(9).count == 2)
    let output = Memory(count: 2)
    Kernels(.best).scale(table[7], by: 2, into: output.floats)
    Kernels(.best).linearCombination(table.dropFirst().dropFirst(), weights: [1], into: output.floats)
    #expect(output.values == [0, 0])
  }

  @Test func elementSlicesMoveByWholeElements() {
    let memory = Memory(bytes: [UInt8](0..<16)), output = Memory(count: 2)
    let slice = memory.elements(.bf16, count: 8).slice(from: 2, count: 2)
    Kernels(.best).load(slice, into: output.floats)
    #expect(output.bits == [0x0504_0000, 0x0706_0000])
    #expect(memory.elements(.f32, count: 4).slice(from: 3, count: 5).count == 1)
  }

  @Test func keepBitsCountAndSlice() {
    let memory = Memory(bytes: [UInt8]([0b1010_0001, 0xff, 0b0000_0111])), bits = memory.keepBits(count: 18)
    #expect(bits[0] && !bits[1] && bits[7] && bits[17] && !bits[18] && !bits[-1])
    #expect(bits.keptCount == 3 + 8 + 2)
    #expect(bits.slice(from: 8, count: 8).keptCount == 8)
    #expect(bits.slice(from: 16, count: 80).count == 2)
    #expect([0, 1, 8, 9, .max].map(KeepBits.byteCount) == [0, 1, 1, 2, 1 << 60])
  }
}
