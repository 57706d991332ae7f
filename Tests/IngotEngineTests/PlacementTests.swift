import CTeam
import Foundation
import IngotErrors
import Testing

@testable import IngotEngine

struct PlacementTests {
  static let bindingVariables = ["OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY", "GOMP_CPU_AFFINITY"]
  static let hostBinds = bindingVariables.contains { ProcessInfo.processInfo.environment[$0] != nil }

  @Test func thisMachine() throws {
    let topology = try Topology()
    #expect(topology.nodeCount >= 1 && topology.coreCount >= 1)
    #expect(topology.defaultThreads >= 1 && topology.defaultThreads <= topology.coreCount)
    #expect(topology.coreCount <= ProcessInfo.processInfo.processorCount)
    let placement = try Placement(topology, workers: 3)
    #expect(placement.nodes.allSatisfy { (0..<topology.nodeCount).contains($0) })
    #expect(!placement.processors(ofWorker: 0).isEmpty)
  }

  @Test(arguments: [
    ("numa:1 core:4 pu:1", 1, 4), ("numa:2 core:2 pu:1", 2, 4), ("numa:2 core:4 pu:2", 2, 8), ("numa:8 core:4 pu:2", 8, 32),
    ("pack:2 numa:2 core:3 pu:1", 4, 12), ("numa:2(memory=1099511627776) core:2 pu:1", 2, 4),
  ]) func syntheticShapes(_ description: String, _ nodes: Int, _ cores: Int) throws {
    let topology = try Topology(synthetic: description)
    #expect(topology.nodeCount == nodes)
    #expect(topology.coreCount == cores)
    #expect(topology.defaultThreads == cores)
    #expect(topology.mayBind == (nodes > 1 && !Self.hostBinds))
  }

  @Test(arguments: [
    "", "nonsense:x", "numa:0", "pu:1000000000", "numa:9 core:99999 pu:1", "70000", "256 257", "pu:99999999999999999999",
  ]) func badDescriptions(_ description: String) {
    do throws(IngotError) {
      _ = try Topology(synthetic: description)
      Issue.record("no error")
    } catch {
      #expect(error.status == .unsupported)
    }
  }

  @Test func workersAreSpread() throws {
    let topology = try Topology(synthetic: "numa:2 core:4 pu:1")
    #expect(try Placement(topology, workers: 8, firstNode: 0).nodes == [0, 1, 0, 1, 0, 1, 0, 1])
    #expect(try Placement(topology, workers: 3, firstNode: 1).nodes == [1, 0, 1])
    #expect(try Placement(topology, workers: 1, firstNode: 1).nodes == [1])
    let placement = try Placement(topology, workers: 2, firstNode: 0)
    #expect(placement.processors(ofWorker: 0) == "0-3")
    #expect(placement.processors(ofWorker: 1) == "4-7")
    #expect(placement.processors(ofWorker: 2) == "" && placement.processors(ofWorker: -1) == "")
    let eight = try Topology(synthetic: "numa:8 core:2 pu:2")
    let nodes = try Placement(eight, workers: 16, firstNode: 0).nodes
    #expect((0..<8).allSatisfy { node in nodes.filter { $0 == node }.count == 2 })
  }

  /// Workers in proportion to the cores that are allowed on each node.
  @Test func restrictedProcessors() throws {
    let topology = try Topology(synthetic: "numa:2 core:4 pu:1", allowed: "0-3,4")
    #expect(topology.nodeCount == 2 && topology.coreCount == 5)
    #expect(!topology.mayBind)
    let nodes = try Placement(topology, workers: 5, firstNode: 0).nodes
    #expect(nodes.filter { $0 == 0 }.count == 4)
    let one = try Topology(synthetic: "numa:2 core:4 pu:1", allowed: "5-6")
    #expect(one.nodeCount == 1 && one.coreCount == 2 && one.osIndex(ofNode: 0) == 1)
    // One of two threads of a core is still a core.
    #expect(try Topology(synthetic: "numa:1 core:4 pu:2", allowed: "0,2,3").coreCount == 2)
    for list in ["99", "", "x"] {
      #expect(throws: IngotError.self) { _ = try Topology(synthetic: "numa:2 core:4 pu:1", allowed: list) }
    }
  }

  /// Processors whose own node has no memory count for another node; nothing is placed on an empty one.
  @Test func nodeWithoutMemory() throws {
    let topology = try Topology(synthetic: "[numa(memory=0)] pack:2 [numa] core:2 pu:1")
    #expect(topology.nodeCount == 2)
    #expect(topology.coreCount == 4)
  }

  /// Fast memory beside the processors' own node adds no processors.
  @Test func twoNodesOfTheSameProcessors() throws {
    let topology = try Topology(synthetic: "pack:2 [numa] [numa] core:2 pu:1")
    #expect(topology.nodeCount == 2)
    let placement = try Placement(topology, workers: 4, firstNode: 0)
    #expect(placement.nodes == [0, 1, 0, 1])
    #expect(placement.processors(ofWorker: 1) == "2-3")
  }

  @Test(arguments: [(0, 0), (-1, 0), (4097, 0), (1, 2)]) func badPlacements(_ workers: Int, _ node: Int) throws {
    let topology = try Topology(synthetic: "numa:2 core:2 pu:1")
    #expect(throws: IngotError.self) { _ = try Placement(topology, workers: workers, firstNode: node) }
  }

  @Test func nodeMemory() throws {
    for topology in [nil, try Topology(), try Topology(synthetic: "numa:2 core:2 pu:1")] {
      let memory = try NodeMemory(byteCount: 1_000_001, node: 1, topology: topology)
      #expect(unsafe memory.bytes.count == 1_000_001)
      #expect(unsafe Int(bitPattern: memory.bytes.baseAddress) % 4096 == 0)
      #expect(unsafe memory.bytes.allSatisfy { $0 == 0 })
      unsafe memory.bytes.initializeMemory(as: UInt8.self, repeating: 7)
      #expect(unsafe memory.bytes[1_000_000] == 7)
    }
    for count in [0, -1, Int.max] {
      #expect(throws: IngotError.self) { _ = try NodeMemory(byteCount: count, node: 0, topology: nil) }
    }
  }

  /// Quotas of the control group, of its parents, and of both versions, from trees of files.
  @Test(
    arguments: [
      ("0::/\n", ["sys/fs/cgroup/cpu.max": "150000 100000\n"], 1500),
      ("0::/a/b\n", ["sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n"], 2000),
      ("0::/a\n", ["sys/fs/cgroup/a/cpu.max": "400000 100000\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"], 500),
      ("0::/\n", ["sys/fs/cgroup/cpu.max": "max 100000\n"], 0), ("0::/\n", [:], 0), ("", [:], 0), ("garbage\n:::\n", [:], 0),
      (
        "4:cpuset:/x\n3:cpu,cpuacct:/job\n",
        ["sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "300000\n", "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n"], 3000
      ),
      ("3:cpu:/docker/abc\n", ["sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"], 1000),
      ("3:cpu:/\n", ["sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"], 0),
      ("3:cpuacct:/\n", ["sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"], 0),
      ("0::/\n", ["sys/fs/cgroup/cpu.max": "9223372036854775807 1\n"], 0), ("0::/\n", ["sys/fs/cgroup/cpu.max": "-5 0\n"], 0),
    ] as [(String, [String: String], Int)]) func cgroupQuota(_ own: String, _ files: [String: String], _ thousandths: Int) throws
  {
    let root = NSTemporaryDirectory() + "/ingot-cgroup-\(UUID().uuidString)"
    defer { try? FileManager.default.removeItem(atPath: root) }
    for (name, text) in files.merging(["proc/self/cgroup": own], uniquingKeysWith: { a, _ in a }) {
      let url = URL(fileURLWithPath: root + "/" + name)
      try FileManager.default.createDirectory(at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
      try Data(text.utf8).write(to: url)
    }
    #expect(unsafe ingot_cgroup_cpu_quota(root) == Int64(thousandths))
  }
}
