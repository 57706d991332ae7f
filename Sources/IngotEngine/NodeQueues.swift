internal import IngotTensors

/// The workers of a run by memory node.
struct NodeLayout: Sendable, Hashable {
  /// The node of each worker.
  let nodes: [Int]
  let nodeCount: Int

  /// One node for all.
  init(workers: Int) {
    nodes = Array(repeating: 0, count: workers)
    nodeCount = 1
  }

  /// Workers as `placement` has them, if they are bound to their nodes; else where they run is not known and one queue serves all.
  init(_ placement: Placement?, workers: Int) {
    let isPlaced = placement.map { $0.topology.mayBind && $0.topology.nodeCount > 1 && $0.nodes.count >= workers } ?? false
    nodes = isPlaced ? Array(placement?.nodes.prefix(workers) ?? []) : Array(repeating: 0, count: workers)
    nodeCount = isPlaced ? placement?.topology.nodeCount ?? 1 : 1
  }

  /// Workers on each node.
  var counts: [Int] { nodes.reduce(into: Array(repeating: 0, count: nodeCount)) { $0[$1] += 1 } }
}

/// Which node each tensor of a plan belongs to: in the plan's order each goes to the node that has the fewest bytes for each of its workers.
struct TensorSpread: Sendable {
  /// By tensor of the plan.
  let nodes: [Int]

  init(_ plan: Plan, _ layout: NodeLayout) {
    self.init(
      bytes: layout.nodeCount == 1
        ? []
        : plan.tensors.map { tensor in
          let elements = Double((try? tensor.shape.elementCount()) ?? 0)
          return tensor.streams.reduce(Double(tensor.byteCount)) { $0 + elements * Double($1.dtype.bits) / 8 }
        }, workers: layout.counts)
  }

  /// - Parameters: `bytes` that each tensor moves; `workers` of each node, at least one in all.
  init(bytes: [Double], workers: [Int]) {
    var load = Array(repeating: 0.0, count: workers.count)
    let open = workers.indices.filter { workers[$0] > 0 }
    nodes = bytes.map { bytes in
      func after(_ node: Int) -> Double { (load[node] + bytes) / Double(workers[node]) }
      let best = open.min { after($0) < after($1) } ?? 0
      if load.indices.contains(best) { load[best] += bytes }
      return best
    }
  }

  func node(ofTensor tensor: Int) -> Int { nodes.indices.contains(tensor) ? nodes[tensor] : 0 }
}

/// Consecutive work items of a phase that belong to one tensor of the plan.
struct ItemStretch: Sendable, Hashable {
  var tensor: Int
  var count: Int
}

/// The items of one phase that nobody has claimed yet, by node. A node's workers take theirs from the front; others steal from the back.
struct ItemQueue: Sendable {
  private var queues: [[Range<Int>]]
  /// Where each queue begins: stretches before it are used up.
  private var heads: [Int]

  /// All items in one queue.
  init(total: Int) {
    queues = [total > 0 ? [0..<total] : []]
    heads = [0]
  }

  /// - Parameters: `stretches` cover the phase's items in order.
  init(_ stretches: [ItemStretch], _ spread: TensorSpread, nodeCount: Int) {
    queues = Array(repeating: [], count: nodeCount)
    heads = Array(repeating: 0, count: nodeCount)
    var start = 0
    for stretch in stretches where stretch.count > 0 {
      queues[spread.node(ofTensor: stretch.tensor)].append(start..<start + stretch.count)
      start += stretch.count
    }
  }

  /// The next item of a node's own.
  mutating func claim(_ node: Int) -> Int? {
    guard heads[node] < queues[node].count else { return nil }
    let stretch = queues[node][heads[node]]
    if stretch.count == 1 { heads[node] += 1 } else { queues[node][heads[node]] = stretch.dropFirst() }
    return stretch.lowerBound
  }

  /// The last item of the node that has the most stretches left, the first of equals.
  mutating func steal() -> Int? {
    let left = queues.indices.map { queues[$0].count - heads[$0] }
    guard let most = left.max(), most > 0, let node = left.firstIndex(of: most), let stretch = queues[node].popLast() else { return nil }
    if stretch.count > 1 { queues[node].append(stretch.dropLast()) }
    return stretch.upperBound - 1
  }
}

/// The jobs that nobody has begun yet, by node and in the plan's order.
struct JobQueue: Sendable {
  private var queues: [[Int]]
  private var heads: [Int]

  init(_ jobs: [PlannedJob], _ spread: TensorSpread, nodeCount: Int) {
    queues = Array(repeating: [], count: nodeCount)
    heads = Array(repeating: 0, count: nodeCount)
    for (number, job) in jobs.enumerated() { queues[nodeCount == 1 ? 0 : spread.node(ofTensor: job.tensors.first ?? 0)].append(number) }
  }

  /// The next job of a node's own.
  func next(_ node: Int) -> Int? { heads[node] < queues[node].count ? queues[node][heads[node]] : nil }

  /// The earliest job of any node.
  var earliest: Int? { queues.indices.compactMap(next).min() }

  /// Takes a job that is the next of its node.
  mutating func take(_ job: Int) {
    for node in queues.indices where next(node) == job { heads[node] += 1 }
  }
}

/// What the workers of one memory node did in a run.
package struct NodeReport: Sendable, Hashable {
  /// The operating system's number of the node.
  package var node: Int
  package var workers: Int
  /// Work items, and how many of them belonged to other nodes.
  package var items: Int
  package var stolen: Int
  /// Bytes of the workers' own memory that were touched, and how many of them lie on other nodes; 0 where the system does not tell.
  package var bytes = 0
  package var bytesElsewhere = 0
}
