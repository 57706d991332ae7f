internal import IngotErrors

/// The values that were asked for last, shared by all workers. Making one holds up the others, who mostly want the same.
final class RecentValues<Value: Sendable>: @unchecked Sendable {
  // SENDABLE: the list changes under the lock only.
  private let lock = Monitor()
  private let capacity: Int
  /// The one used last comes last.
  private var values: [(key: [Int], value: Value)] = []

  init(capacity: Int) { self.capacity = max(capacity, 1) }

  /// The value of `key`, made now if it is not there.
  func value(_ key: [Int], make: () throws(IngotError) -> Value) throws(IngotError) -> Value {
    lock.lock()
    defer { lock.unlock() }
    if let place = values.firstIndex(where: { $0.key == key }) {
      let found = values.remove(at: place)
      values.append(found)
      return found.value
    }
    // The oldest goes first, so that there is never one too many.
    if values.count >= capacity { values.removeFirst() }
    let made = try make()
    values.append((key, made))
    return made
  }
}
