import CTeam
internal import Glibc
package import IngotErrors

/// The memory nodes and processors of the machine, as the calling thread may use them. Read once (a few milliseconds);
/// immutable after that, so any thread may use it.
@safe package final class Topology: Sendable {
  fileprivate let handle: TopologyHandle

  /// Nodes that have memory and allowed processors; at least 1.
  package let nodeCount: Int
  /// Physical cores that affinity and cpusets allow; at least 1.
  package let coreCount: Int
  /// The number of workers by default: the cores, or fewer if the control group's CPU quota says so.
  package let defaultThreads: Int
  /// Whether workers may be bound: several nodes, and the host bound nothing itself.
  package let mayBind: Bool

  /// Reads this machine, or an hwloc `synthetic` description (for tests). `allowed` is a list of processors ("0-3,8") instead of
  /// the calling thread's affinity. Throws `.unsupported` if hwloc fails.
  package init(synthetic: String? = nil, allowed: String? = nil) throws(IngotError) {
    // SAFETY: the strings live for the call, and `why` is a buffer of its own.
    let (made, why) = unsafe withReason { unsafe ingot_topology_create(synthetic, allowed, $0, $1) }
    guard let made = unsafe made else { throw IngotError(.unsupported, "the machine's layout is not readable: \(why)") }
    unsafe handle = TopologyHandle(pointer: made)
    nodeCount = Int(unsafe ingot_topology_nodes(made))
    coreCount = Int(unsafe ingot_topology_cores(made))
    defaultThreads = Int(unsafe ingot_topology_default_threads(made))
    mayBind = unsafe ingot_topology_may_bind(made) != 0
  }

  /// The operating system's number of a node.
  package func osIndex(ofNode node: Int) -> Int {
    // SAFETY: the handle lives as long as self; a node out of range gives -1.
    Int(unsafe ingot_topology_node_os_index(handle.pointer, Int32(clamping: node)))
  }
}

extension Topology {
  /// Asks for the pages of a range to lie on a node, those that are elsewhere already too. A wish, and nothing where workers are not bound.
  func bind(_ memory: UnsafeMutableRawPointer, bytes: Int, node: Int) {
    // SAFETY: the handle lives as long as self; the call changes where pages lie, not what is in them.
    unsafe ingot_node_bind(handle.pointer, memory, bytes, Int32(clamping: node))
  }

  /// Takes the wish back; pages stay where they are.
  func unbind(_ memory: UnsafeMutableRawPointer, bytes: Int) {
    // SAFETY: as above.
    unsafe ingot_node_unbind(handle.pointer, memory, bytes)
  }

  /// Bytes of a range that were touched, and how many of those lie on other nodes; 0 where the system does not tell.
  func touched(_ memory: UnsafeMutableRawPointer, bytes: Int, node: Int) -> (bytes: Int, elsewhere: Int) {
    var present: UInt64 = 0
    var elsewhere: UInt64 = 0
    // SAFETY: as above; both numbers live for the call.
    unsafe ingot_node_pages(handle.pointer, memory, bytes, Int32(clamping: node), &present, &elsewhere)
    let page = Int(sysconf(Int32(_SC_PAGESIZE)))
    return (Int(clamping: present) * page, Int(clamping: elsewhere) * page)
  }
}

/// Where the workers of a team run. Immutable.
@safe package final class Placement: Sendable {
  package let topology: Topology
  fileprivate let handle: PlacementHandle
  /// The node of each worker, 0 ..< topology.nodeCount.
  package let nodes: [Int]

  /// Spreads `workers` over the nodes by their cores. Worker 0, the calling thread, is on `firstNode` (nil: where it runs now).
  package init(_ topology: Topology, workers: Int, firstNode: Int? = nil) throws(IngotError) {
    // SAFETY: the topology lives as long as self, which holds it.
    let made = unsafe ingot_placement_create(topology.handle.pointer, Int32(clamping: workers), Int32(clamping: firstNode ?? -1))
    guard let made = unsafe made else {
      throw IngotError(
        .invalidArgument, "\(workers) workers from node \(firstNode ?? -1) on cannot be placed on \(topology.nodeCount) nodes")
    }
    self.topology = topology
    unsafe handle = PlacementHandle(pointer: made)
    nodes = (0..<workers).map { Int(unsafe ingot_placement_node(made, Int32(clamping: $0))) }
  }

  /// The processors of a worker as a list ("0-3,8").
  package func processors(ofWorker worker: Int) -> String {
    var text = [CChar](repeating: 0, count: 4096)
    // SAFETY: the call writes at most as many bytes as it is told, with a zero at the end.
    unsafe text.withUnsafeMutableBufferPointer { buffer in
      _ = unsafe ingot_placement_processors(handle.pointer, Int32(clamping: worker), buffer.baseAddress, buffer.count)
    }
    return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
  }
}

/// Zeroed memory on one node; page-aligned. Which threads write where is the owner's to arrange.
@safe package final class NodeMemory: @unchecked Sendable {
  // SENDABLE: the address and the size never change; access to the bytes is marked unsafe at each use.
  package let bytes: UnsafeMutableRawBufferPointer
  package let node: Int

  /// Throws `.memory` when there is none.
  package init(byteCount: Int, node: Int, topology: Topology?) throws(IngotError) {
    // SAFETY: a size of 0 or a node out of range is handled by the callee; the memory is freed in deinit.
    let start = unsafe byteCount > 0 ? ingot_node_alloc(topology?.handle.pointer, byteCount, Int32(clamping: node)) : nil
    guard let start = unsafe start else { throw IngotError(.memory, "no memory for a buffer of \(byteCount) bytes") }
    unsafe bytes = UnsafeMutableRawBufferPointer(start: start, count: byteCount)
    self.node = node
  }

  // SAFETY: the last use of the memory.
  deinit { unsafe ingot_node_free(bytes.baseAddress, bytes.count) }
}

/// The threads that do the work. OpenMP's where that is safe in this process, own ones elsewhere (CTeam.h has the rule).
///
/// Every worker computes with round-to-nearest and without flushing subnormals, whatever the host set, and puts back what it
/// found. The calling thread takes part as worker 0, is never bound, and keeps its affinity.
@safe package final class WorkerTeam: @unchecked Sendable {
  // SENDABLE: the C team admits one run at a time and answers busy to any other; the rest is immutable.
  package enum Kind: Int32, Sendable, CaseIterable {
    case automatic = 0
    case openMP = 1
    case pthread = 2
  }

  private let handle: OpaquePointer
  /// What runs: `.openMP` or `.pthread`.
  package let kind: Kind
  /// Workers in a run, or fewer if OpenMP's limits say so.
  package let size: Int
  /// What was chosen and why, for `ingot doctor` and `ingot --version`.
  package let explanation: String
  /// Where the workers run, if they are placed.
  package let placement: Placement?

  /// A team of `threads` workers (0: OMP_NUM_THREADS if set, else the topology's default), maybe fewer. `companionPath` is where
  /// libingot-openmp.so is, if not beside this library. With a topology of several nodes workers are bound to them.
  ///
  /// Throws `.invalidArgument` for an impossible number, `.unsupported` if `kind` is `.openMP` and cannot be, `.memory`.
  package init(
    threads: Int = 0, kind: Kind = .automatic, companionPath: String? = nil, topology: Topology? = nil
  ) throws(IngotError) {
    var made: OpaquePointer?
    // SAFETY: `made` and the strings live for the call, and `why` is a buffer of its own.
    let (status, why) = unsafe withReason {
      unsafe ingot_team_create(Int32(clamping: threads), kind.rawValue, companionPath, &made, $0, $1)
    }
    guard Int(status) == INGOT_TEAM_OK, let team = unsafe made else {
      switch Int(status) {
      case INGOT_TEAM_INVALID: throw IngotError(.invalidArgument, why)
      case INGOT_TEAM_UNAVAILABLE:
        throw IngotError(.unsupported, "OpenMP cannot be used here: \(why)", hint: "choose the automatic or the pthread team")
      default: throw IngotError(.memory, "no memory for a team of \(threads) threads")
      }
    }
    unsafe handle = team
    size = Int(unsafe ingot_team_size(team))
    self.kind = unsafe Kind(rawValue: ingot_team_kind(team)) ?? .pthread
    explanation = why
    if let topology, topology.nodeCount > 1 {
      let placement = try? Placement(topology, workers: Int(unsafe ingot_team_size(team)))
      self.placement = placement
      unsafe ingot_team_place(team, placement?.handle.pointer)
    } else {
      placement = nil
    }
  }

  // SAFETY: the last use of the team; nobody can be inside `run`, which holds a reference.
  deinit { unsafe ingot_team_destroy(handle) }

  /// Runs `body(worker, size)` once on every worker and returns when all have finished. `size` is what this run has, at most
  /// `self.size`: hand work out, never divide it by the requested count.
  ///
  /// Throws `.busy` from inside a body and while another thread runs one.
  package func run(_ body: @Sendable (_ worker: Int, _ size: Int) -> Void) throws(IngotError) {
    let status = withoutActuallyEscaping(body) { body in
      var box = Body(call: body)
      // SAFETY: the box lives until the call returns, and by then no worker uses it any more.
      return unsafe withUnsafeMutablePointer(to: &box) { box in
        unsafe ingot_team_run(
          handle, { user, worker, size in unsafe user?.assumingMemoryBound(to: Body.self).pointee.call(Int(worker), Int(size)) }, box)
      }
    }
    switch Int(status) {
    case INGOT_TEAM_OK: return
    case INGOT_TEAM_BUSY:
      throw IngotError(
        .busy, "the worker team is already running", hint: "use one context per thread, and none from inside a callback of itself")
    default: throw IngotError(.memory, "no memory for the worker team")
    }
  }

  private struct Body {
    let call: @Sendable (Int, Int) -> Void
  }
}

// SENDABLE: owns one C object that is not changed after its creation.
@safe private final class TopologyHandle: @unchecked Sendable {
  let pointer: OpaquePointer
  init(pointer: OpaquePointer) { unsafe self.pointer = pointer }
  // SAFETY: the last use of the object.
  deinit { unsafe ingot_topology_destroy(pointer) }
}

// SENDABLE: owns one C object that is not changed after its creation.
@safe private final class PlacementHandle: @unchecked Sendable {
  let pointer: OpaquePointer
  init(pointer: OpaquePointer) { unsafe self.pointer = pointer }
  // SAFETY: the last use of the object.
  deinit { unsafe ingot_placement_destroy(pointer) }
}

/// Calls a C function that writes one line of reason, and returns both.
private func withReason<T>(_ body: (UnsafeMutablePointer<CChar>?, Int) -> T) -> (T, String) {
  var reason = [CChar](repeating: 0, count: 512)
  // SAFETY: the callee writes at most as many bytes as it is told, with a zero at the end.
  let result = unsafe reason.withUnsafeMutableBufferPointer { buffer in
    unsafe body(buffer.baseAddress, buffer.count)
  }
  return (result, String(decoding: reason.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self))
}
