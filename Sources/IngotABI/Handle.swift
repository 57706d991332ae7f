internal import IngotErrors

/// The kinds of objects a caller holds by handle.
enum HandleKind: UInt64 {
  case error = 1
  case context = 2
  case model = 3
  case recipe = 4
  case plan = 5
}

/// A class whose instances cross the C boundary.
protocol HandleObject: AnyObject, Sendable {
  static var kind: HandleKind { get }
  /// How messages name the C type.
  static var typeName: String { get }
}

/// What a handle points at: a seal that says what it is, and the object.
///
/// The seal depends on the address, so a copied block is not a handle; destruction clears it. The first two words stay unused:
/// the allocator keeps its own links there once the memory is freed, so the cleared seal stays readable until the memory is put
/// to another use. This finds most mistakes; it cannot find all.
@unsafe
private struct HandleBlock {
  var unused: (UInt64, UInt64) = (0, 0)
  var seal: UInt64
  var object: UnsafeMutableRawPointer?

  static func seal(_ kind: HandleKind, at address: UInt) -> UInt64 {
    (0x1A6E_0707_5EA1_0000 | kind.rawValue) ^ UInt64(address)
  }
}

extension HandleObject {
  /// Gives the caller a handle that owns one reference to this object.
  func makeHandle() -> OpaquePointer {
    let block = UnsafeMutablePointer<HandleBlock>.allocate(capacity: 1)
    // SAFETY: the block was just allocated; +1 on the object, given back in `destroy`.
    unsafe block.initialize(
      to: HandleBlock(
        seal: HandleBlock.seal(Self.kind, at: UInt(bitPattern: block)), object: Unmanaged.passRetained(self).toOpaque()))
    return OpaquePointer(block)
  }

  /// The object of a live handle of this kind; nil for anything else that can be told from one.
  static func find(_ handle: OpaquePointer?) -> Self? {
    guard let block = unsafe block(handle), let object = unsafe block.pointee.object else { return nil }
    // SAFETY: the seal says that `object` is a retained instance of Self; +0 here, the result is a strong reference.
    return unsafe Unmanaged<Self>.fromOpaque(object).takeUnretainedValue()
  }

  /// The same, or `.invalidArgument`; `parameter` is the name in the header.
  static func require(_ handle: OpaquePointer?, _ parameter: String) throws(IngotError) -> Self {
    if let found = unsafe find(handle) { return found }
    guard unsafe handle != nil else { throw nullArgument(parameter) }
    throw IngotError(
      .invalidArgument, "\(parameter) is not a live \(typeName): it was destroyed, or is a pointer to something else",
      subject: parameter)
  }

  /// Clears the seal and gives the handle's reference back; ignores NULL and what is no live handle of this kind.
  static func destroy(_ handle: OpaquePointer?) {
    guard let block = unsafe block(handle), let object = unsafe block.pointee.object else { return }
    unsafe block.pointee.seal = 0
    unsafe block.pointee.object = nil
    unsafe block.deallocate()
    // SAFETY: the -1 for the +1 of `makeHandle`; the seal made sure that it happens once.
    unsafe Unmanaged<Self>.fromOpaque(object).release()
  }

  private static func block(_ handle: OpaquePointer?) -> UnsafeMutablePointer<HandleBlock>? {
    let address = UInt(bitPattern: handle)
    guard address != 0, unsafe address % UInt(MemoryLayout<HandleBlock>.alignment) == 0 else { return nil }
    // SAFETY: the C contract: a handle points at memory of ours. Only the seal decides whether more than the seal is read.
    let block = unsafe UnsafeMutablePointer<HandleBlock>(bitPattern: address)
    guard let block = unsafe block, unsafe block.pointee.seal == HandleBlock.seal(kind, at: address) else { return nil }
    return unsafe block
  }
}

/// The error for a NULL where the header allows none.
func nullArgument(_ parameter: String) -> IngotError {
  IngotError(.invalidArgument, "\(parameter) is NULL", subject: parameter)
}
