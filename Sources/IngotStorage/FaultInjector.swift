import Synchronization

/// The kinds of system call that IngotStorage makes; each goes through `System`.
package enum SystemCall: String, CaseIterable, Sendable, Hashable {
  case open, close, read, write, append, status, truncate, allocate, sync, writeBack, advise, lock, makeDirectory, remove, rename
  case space, list
  /// Asking what of a file is in the page cache; then the queue of reads under way: making it, handing a read to it, waiting for a result,
  /// and the result itself, which can be short.
  case resident, ring, submit, wait, readAhead
}

/// What a test makes of one system call.
package enum Fault: Sendable, Hashable {
  /// The call is not made and fails with this errno. (`close` is made all the same: a descriptor must not leak.)
  case error(Int32)
  /// A read (also one that was under way), write or append moves at most this many bytes. 0 makes a read look like the end of the file.
  case short(Int)
}

/// Counts the system calls of one merge and makes chosen ones fail. Tests give one to `System`; without one every call costs
/// a single predictable branch. Safe on any thread.
package final class FaultInjector: Sendable {
  private struct Rule {
    var call: SystemCall?
    var number: Int
    var fault: Fault
    var repeats: Bool
  }

  private struct State {
    var counts: [SystemCall: Int] = [:]
    var bytes: [SystemCall: Int] = [:]
    var total = 0
    var rules: [Rule] = []
    var fired: [(call: SystemCall, fault: Fault)] = []
    var interludes: [(call: SystemCall, number: Int, body: @Sendable () -> Void)] = []
  }

  private let state = Mutex(State())

  package init() {}

  /// Makes the `number`-th call (from 1) of a kind fail, or of any kind if `call` is nil; `repeats` makes every later one too.
  package func fail(_ call: SystemCall?, number: Int, with fault: Fault, repeats: Bool = false) {
    state.withLock { $0.rules.append(Rule(call: call, number: number, fault: fault, repeats: repeats)) }
  }

  /// Runs `body` just before the `number`-th call (from 1) of a kind: what another process may do at that moment.
  package func interpose(_ call: SystemCall, number: Int, _ body: @escaping @Sendable () -> Void) {
    state.withLock { $0.interludes.append((call, number, body)) }
  }

  /// How many calls of a kind were made or made to fail.
  package func count(_ call: SystemCall) -> Int { state.withLock { $0.counts[call] ?? 0 } }

  /// How many calls of all kinds.
  package var total: Int { state.withLock { $0.total } }

  /// How many bytes calls of this kind (read, readAhead, write, append) moved.
  package func bytes(_ call: SystemCall) -> Int { state.withLock { $0.bytes[call] ?? 0 } }

  /// The faults that happened, in order.
  package var fired: [(call: SystemCall, fault: Fault)] { state.withLock { $0.fired } }

  func next(_ call: SystemCall) -> Fault? {
    let (found, interludes) = state.withLock { state -> (Fault?, [@Sendable () -> Void]) in
      state.total += 1
      let count = (state.counts[call] ?? 0) + 1
      state.counts[call] = count
      let due = state.interludes.filter { $0.call == call && $0.number == count }.map(\.body)
      return (fault(of: call, count: count, in: &state), due)
    }
    for interlude in interludes { interlude() }
    return found
  }

  private func fault(of call: SystemCall, count: Int, in state: inout State) -> Fault? {
    for rule in state.rules {
      if let kind = rule.call, kind != call { continue }
      let at = rule.call == nil ? state.total : count
      guard at == rule.number || (rule.repeats && at > rule.number) else { continue }
      state.fired.append((call, rule.fault))
      return rule.fault
    }
    return nil
  }

  func moved(_ call: SystemCall, bytes: Int) { state.withLock { $0.bytes[call, default: 0] += bytes } }
}
