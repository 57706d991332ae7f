internal import IngotErrors
internal import IngotTensors

/// Norms of the task vectors of a model-wide job, whole and as far as they are kept, by rounds of power iteration over the data.
///
/// Of a matrix the largest singular value, after ten steps x ← AᵀAx / ‖AᵀAx‖ from a fixed start; of an embedding or a head the largest norm of a column;
/// of any other tensor the Euclidean norm. Factors √(in / out) and the like, which belong to these norms, are the same for both and left out. Every
/// round adds up one sum for each column, of the whole and of the kept matrix; tiles must be whole rows.
struct OperatorNorms: Sendable {
  enum Kind: Sendable, Equatable {
    case vector
    /// The largest norm of a column.
    case columns(Int)
    /// The largest singular value, of so many columns.
    case matrix(Int)

    var isMatrix: Bool {
      if case .matrix = self { return true }
      return false
    }

    /// Sums that one matrix of the kind takes.
    var length: Int {
      switch self {
      case .vector: 1
      case .columns(let length), .matrix(let length): length
      }
    }
  }

  static let steps = 10

  private let kinds: [Kind]
  private let models: Int
  /// Where each tensor's sums begin.
  private let starts: [Int]
  let sumCount: Int
  private var step = 0
  /// Unit vectors, as the sums lie.
  private var vectors: [Float] = []
  /// Of each tensor and model the norm of the whole, then of what is kept.
  private var norms: [Double]

  /// Throws `.recipe` without a base.
  init(_ request: MethodRequest) throws(IngotError) {
    guard request.hasBase else {
      throw IngotError(
        .recipe, "ota_rescale: operator scales differences to a base model, and the recipe names none",
        hint: "add base_model, or leave ota_rescale out", subject: request.segments.first?.name)
    }
    let kinds = request.segments.map { segment -> Kind in
      let dimensions = segment.shape.dimensions
      guard dimensions.count == 2, dimensions.allSatisfy({ $0 > 0 }) else { return .vector }
      return segment.isVocabulary ? .columns(dimensions[1]) : .matrix(dimensions[1])
    }
    self.kinds = kinds
    models = request.modelCount
    var starts: [Int] = []
    var end = 0
    for kind in kinds {
      starts.append(end)
      end += 2 * models * kind.length
    }
    self.starts = starts
    sumCount = end
    norms = [Double](repeating: 0, count: 2 * models * kinds.count)
    vectors = [Float](repeating: 0, count: end)
    for (kind, start) in zip(kinds, starts) {
      guard case .matrix(let length) = kind else { continue }
      // Positive and unequal, so that no ordinary matrix has its first singular vector at a right angle to it.
      let values = (0..<length).map { 1 + Double(UInt32(truncatingIfNeeded: UInt64($0) &* 2_654_435_761)) * 0x1p-32 }
      let norm = values.reduce(0) { $0 + $1 * $1 }.squareRoot()
      for copy in 0..<2 * models {
        for (column, value) in values.enumerated() { vectors[start + copy * length + column] = Float(value / norm) }
      }
    }
  }

  var isDone: Bool { step >= Self.steps || (step > 0 && !kinds.contains(where: \.isMatrix)) }

  /// Adds the rows of a tile of one model's task vector to its sums; `vector` is scratch as long as a row.
  func add(_ values: Floats, model: Int, isKept: Bool, _ tile: Tile, vector: Floats, to sums: ColumnSums) {
    let kind = kinds[tile.segment]
    if step > 0 && !kind.isMatrix { return }
    let length = kind.length
    let start = starts[tile.segment] + (2 * model + (isKept ? 1 : 0)) * length
    let own = sums.slice(from: start, count: length)
    let x = vector.prefix(length)
    if kind.isMatrix { for column in 0..<length { x[column] = vectors[start + column] } }
    for first in stride(from: 0, to: values.count, by: max(tile.rowLength, 1)) {
      let row = values.slice(from: first, count: tile.rowLength)
      switch kind {
      case .vector: own[0] += tile.dot(row, row)
      case .columns: for column in 0..<length { own[column] += Double(row[column]) * Double(row[column]) }
      case .matrix: tile.kernels.accumulate(row, scaledBy: tile.dot(row, x), into: own)
      }
    }
  }

  mutating func settle(_ sums: ColumnSums) {
    for (segment, kind) in kinds.enumerated() {
      for copy in 0..<2 * models {
        let start = starts[segment] + copy * kind.length
        let own = sums.slice(from: start, count: kind.length)
        let place = 2 * models * segment + copy
        switch kind {
        case .vector where step == 0: norms[place] = own[0].squareRoot()
        case .columns(let length) where step == 0:
          var largest = 0.0
          for column in 0..<length { largest = max(largest, own[column]) }
          norms[place] = largest.squareRoot()
        case .matrix(let length):
          var (square, product) = (0.0, 0.0)
          for column in 0..<length {
            square += own[column] * own[column]
            product += own[column] * Double(vectors[start + column])
          }
          norms[place] = max(product, 0).squareRoot()
          let size = square.squareRoot()
          for column in 0..<length { vectors[start + column] = size > 0 ? Float(own[column] / size) : 0 }
        default: break
        }
      }
    }
    step += 1
  }

  /// What gives the kept part the norm of the whole; 0 where it has at most `least` times that, or nothing.
  func factor(_ segment: Int, model: Int, least: Double) -> Float {
    let place = 2 * (models * segment + model)
    let (whole, kept) = (norms[place], norms[place + 1])
    return kept > 0 && kept > least * whole ? Float(whole / kept) : 0
  }
}
