package import IngotErrors
package import IngotMethods
package import IngotTensors

/// How one tensor is cut into blocks, tiles and output pieces. A function of shape, granularity and output dtype, nothing else.
package struct Blocking: Sendable, Hashable {
  /// Elements of a block when rows do not matter.
  package static let blockElements = 65_536
  /// Elements of a tile of f32 scratch.
  package static let tileElements = 4096
  /// Bytes of output that one work item covers, and over which one partial digest is taken.
  package static let pieceBytes = 1 << 20

  package let granularity: Granularity
  /// Elements of the tensor.
  package let count: Int
  package let rowLength: Int
  /// Elements of a block: the last one may be shorter.
  package let blockLength: Int
  /// Elements of a tile.
  package let tileLength: Int

  package init(shape: Shape, granularity: Granularity) throws(IngotError) {
    self.granularity = granularity
    count = try shape.elementCount()
    rowLength = max(shape.rowLength, 1)
    switch granularity {
    case .block:
      blockLength = Self.blockElements
      tileLength = Self.tileElements
    case .row:
      blockLength = max(1, Self.blockElements / rowLength) * rowLength
      tileLength = max(1, Self.tileElements / rowLength) * rowLength
    case .tensor:
      blockLength = max(count, 1)
      tileLength = max(count, 1)
    }
  }

  package var blockCount: Int { (count + blockLength - 1) / blockLength }

  package func block(_ index: Int) -> Range<Int> { index * blockLength..<min((index + 1) * blockLength, count) }

  /// The elements of the output that work item `index` writes, for an output of `bytesPerElement`.
  ///
  /// Items end at multiples of 1 MiB of output, so that each takes whole partial digests. When one row is longer than that, or the tensor is one
  /// block, the tensor is one item.
  package func item(_ index: Int, bytesPerElement: Int) -> Range<Int> {
    let length = itemLength(bytesPerElement: bytesPerElement)
    return min(index * length, count)..<min((index + 1) * length, count)
  }

  package func itemCount(bytesPerElement: Int) -> Int {
    let length = itemLength(bytesPerElement: bytesPerElement)
    return (count + length - 1) / length
  }

  private func itemLength(bytesPerElement: Int) -> Int {
    let piece = Self.pieceBytes / max(bytesPerElement, 1)
    switch granularity {
    case .block: return piece
    case .row: return rowLength > piece ? max(count, 1) : piece
    case .tensor: return max(count, 1)
    }
  }

  /// The elements that must be computed to write `item`: whole rows, or whole tensors, around it.
  package func cover(_ item: Range<Int>) -> Range<Int> {
    switch granularity {
    case .block: return item
    case .row: return item.lowerBound / rowLength * rowLength..<min((item.upperBound + rowLength - 1) / rowLength * rowLength, count)
    case .tensor: return 0..<count
    }
  }

  /// Elements that a worker reads at once.
  package var stagingLength: Int { min(blockLength, max(count, 1)) }
}
