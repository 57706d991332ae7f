import Foundation
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

@testable import IngotEngine

/// Several memory nodes: queues of their own, stealing, and the same bytes. The layouts are hwloc's synthetic ones.
@Suite struct NodeTests {
  // MARK: Queues

  /// All items, each once, the own ones in order.
  @Test func itemsOfANode() {
    let spread = TensorSpread(bytes: [10, 10, 10], workers: [1, 1])
    #expect(spread.nodes == [0, 1, 0])
    var queue = ItemQueue(
      [.init(tensor: 0, count: 3), .init(tensor: 1, count: 0), .init(tensor: 1, count: 2), .init(tensor: 2, count: 1)], spread, nodeCount: 2
    )
    #expect(queue.claim(1) == 3 && queue.claim(1) == 4 && queue.claim(1) == nil)
    // From the back of the other node's.
    #expect(queue.claim(0) == 0)
    #expect(queue.steal() == 5 && queue.steal() == 2)
    #expect(queue.claim(0) == 1 && queue.claim(0) == nil && queue.steal() == nil)
    var whole = ItemQueue(total: 3)
    #expect((0..<4).map { _ in whole.claim(0) } == [0, 1, 2, nil])
    var empty = ItemQueue(total: 0)
    #expect(empty.claim(0) == nil && empty.steal() == nil)
  }

  /// Nothing is lost or handed out twice, whoever asks.
  @Test func everyItemOnce() {
    var random = SplitMix(5)
    for nodes in [1, 2, 3, 8] {
      let stretches = (0..<40).map { ItemStretch(tensor: $0, count: Int(random.next() % 7)) }
      let spread = TensorSpread(bytes: stretches.map { Double($0.count) }, workers: Array(repeating: 2, count: nodes))
      var queue = ItemQueue(stretches, spread, nodeCount: nodes)
      var seen: [Int] = []
      while let item = random.next() % 3 == 0 ? queue.steal() : queue.claim(Int(random.next() % UInt64(nodes))) ?? queue.steal() {
        seen.append(item)
      }
      #expect(seen.sorted() == Array(0..<stretches.reduce(0) { $0 + $1.count }))
    }
  }

  /// Bytes in proportion to workers, and none to a node without.
  @Test func spreadByBytes() {
    var random = SplitMix(9)
    let bytes = (0..<300).map { _ in Double(random.next() % 1000 + 1) }
    let spread = TensorSpread(bytes: bytes, workers: [3, 0, 1])
    var load = [0.0, 0, 0]
    for (tensor, node) in spread.nodes.enumerated() { load[node] += bytes[tensor] }
    #expect(load[1] == 0)
    #expect(abs(load[0] / load[2] - 3) < 0.1)
    #expect(TensorSpread(bytes: [], workers: [1, 1]).node(ofTensor: 3) == 0)
  }

  /// Each node begins with its own jobs, in the plan's order.
  @Test func jobsOfANode() {
    let jobs = (0..<4).map { PlannedJob(tensors: [$0], work: .copy(input: 0)) }
    var queue = JobQueue(jobs, TensorSpread(bytes: [4, 3, 2, 3], workers: [1, 1]), nodeCount: 2)
    #expect(queue.next(0) == 0 && queue.next(1) == 1 && queue.earliest == 0)
    queue.take(1)
    #expect(queue.next(0) == 0 && queue.next(1) == 2)
    queue.take(0)
    queue.take(2)
    #expect(queue.next(0) == 3 && queue.next(1) == nil && queue.earliest == 3)
    queue.take(3)
    #expect(queue.earliest == nil)
  }

  // MARK: Merges

  static let methods = [
    MethodCase(method: "linear"), MethodCase(method: "ties", densities: [0.5, 0.2, 0.9]),
    MethodCase(method: "ties", densities: [0.1, 0.5, 0.01], scope: "model"), MethodCase(method: "della", densities: [0.5, 0.3, 0.8]),
  ]

  /// Layouts, the processors that are allowed, and the nodes that have queues.
  struct Layout: CustomStringConvertible {
    var synthetic: String
    var allowed: String?
    var nodes: Int
    var description: String { synthetic + (allowed.map { ", \($0)" } ?? "") }
  }

  static let layouts = [
    Layout(synthetic: "numa:1 core:4 pu:1", nodes: 1), Layout(synthetic: "numa:2 core:4 pu:1", nodes: 2),
    Layout(synthetic: "numa:8 core:1 pu:1", nodes: 8), Layout(synthetic: "numa:8 core:2 pu:2", nodes: 8),
    // Processors without memory, and memory without processors.
    Layout(synthetic: "[numa(memory=0)] pack:2 [numa] core:2 pu:1", nodes: 2),
    Layout(synthetic: "pack:2 [numa] [numa] core:2 pu:1", nodes: 2),
    // Where the host restricts the process nothing is bound, and one queue serves all.
    Layout(synthetic: "numa:2 core:4 pu:1", allowed: "0-3,4", nodes: 1), Layout(synthetic: "numa:2 core:4 pu:1", allowed: "5-6", nodes: 1),
  ]

  @Test(arguments: methods) func bytesDependOnNoLayout(_ item: MethodCase) throws {
    let plan = try Plan.make(try Recipe(item.recipe), models: try MemoryModels(BitIdentityTests.models.models))
    let expected = try Engine().run(plan, into: NullSink()).digests
    for layout in Self.layouts {
      for threads in [3, 8] {
        var options = EngineOptions()
        options.threads = threads
        options.team = threads == 3 ? .openMP : .pthread
        options.topology = try Topology(synthetic: layout.synthetic, allowed: layout.allowed)
        let report = try Engine(options).run(plan, into: NullSink())
        #expect(report.digests == expected, "\(layout), \(threads) threads")
        if PlacementTests.hostBinds || layout.nodes == 1 {
          #expect(PlacementTests.hostBinds || layout.nodes > 1 || report.nodes.isEmpty)
          continue
        }
        #expect(report.nodes.count == layout.nodes)
        #expect(report.nodes.reduce(0) { $0 + $1.workers } == report.threads)
        #expect(report.nodes.reduce(0) { $0 + $1.items } >= plan.tensors.count)
        #expect(report.nodes.allSatisfy { $0.stolen <= $0.items && ($0.workers > 0 || $0.items == 0) })
        // A layout that is not this machine's says nothing of where pages are.
        #expect(report.nodes.allSatisfy { $0.bytes == 0 && $0.bytesElsewhere == 0 })
      }
    }
  }

  /// A run into a directory and one that is resumed, on two nodes.
  @Test func directoryOnTwoNodes() throws {
    let (scratch, recipe) = try DirectoryMergeTests.arrange(MethodCase(method: "ties", densities: [0.5, 0.2, 0.9]))
    try scratch.merge(recipe, to: "whole")
    let plan = try scratch.plan(recipe)
    try DirectoryMergeTests.interrupt(scratch, plan)
    var options = EngineOptions()
    options.threads = 4
    options.topology = try Topology(synthetic: "numa:2 core:2 pu:1")
    var resumed = DirectoryOptions.quick
    resumed.resume = true
    let report = try Engine(options).merge(plan, to: scratch("OUT"), options: resumed)
    #expect(report.resumedTensors > 0)
    #expect(scratch.output() == scratch.output("whole"))
  }
}
