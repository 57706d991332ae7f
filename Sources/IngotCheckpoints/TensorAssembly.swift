internal import IngotErrors
internal import IngotTensors

/// A tensor that no file holds as it stands: how its elements, in row-major order, are found in the tensors of one checkpoint.
package struct TensorAssembly: Sendable {
  /// A run of columns of a block and where they lie: element (row, column) of the panel is element `offset + row·rowStep + column·columnStep`
  /// of part `part`.
  package struct Panel: Sendable, Hashable {
    package var part: Int
    package var columns: Int
    package var offset: Int
    package var rowStep: Int
    package var columnStep: Int
  }

  /// A stretch of whole rows; blocks follow one another.
  package struct Block: Sendable, Hashable {
    package var rows: Int
    package var panels: [Panel]
    package var columns: Int { panels.reduce(0) { $0 + $1.columns } }
  }

  /// Tensors of the checkpoint, all of one dtype of whole bytes.
  package private(set) var parts: [CheckpointTensor] = []
  package private(set) var blocks: [Block] = []
  private var places: [String: Int] = [:]

  /// A matrix inside a stored tensor.
  struct Matrix {
    var tensor: CheckpointTensor
    var rows: Int
    var columns: Int
    var offset: Int
    var rowStep: Int
    var columnStep: Int

    /// A tensor, or `rows` rows of it from element `offset` on, as it is stored.
    init(_ tensor: CheckpointTensor, rows: Int, columns: Int, offset: Int = 0) {
      self.init(tensor, rows: rows, columns: columns, offset: offset, rowStep: columns, columnStep: 1)
    }

    init(_ tensor: CheckpointTensor, rows: Int, columns: Int, offset: Int, rowStep: Int, columnStep: Int) {
      self.tensor = tensor
      self.rows = rows
      self.columns = columns
      self.offset = offset
      self.rowStep = rowStep
      self.columnStep = columnStep
    }

    /// `count` rows from row `start` on.
    func rows(_ count: Int, from start: Int) -> Matrix {
      Matrix(tensor, rows: count, columns: columns, offset: offset + start * rowStep, rowStep: rowStep, columnStep: columnStep)
    }

    var transposed: Matrix {
      Matrix(tensor, rows: columns, columns: rows, offset: offset, rowStep: columnStep, columnStep: rowStep)
    }
  }

  /// Appends matrices of equal height side by side. Throws `.dtype` when the parts' types differ or have no whole bytes.
  mutating func append(_ matrices: [Matrix]) throws(IngotError) {
    guard let first = matrices.first, first.rows > 0 else { return }
    var panels: [Panel] = []
    for matrix in matrices {
      let part = try place(of: matrix.tensor)
      panels.append(
        Panel(part: part, columns: matrix.columns, offset: matrix.offset, rowStep: matrix.rowStep, columnStep: matrix.columnStep))
    }
    // Rows that lie one after the other are one run.
    if let only = panels.first, panels.count == 1, only.columnStep == 1, only.rowStep == only.columns {
      panels[0].columns *= first.rows
      panels[0].rowStep = panels[0].columns
      blocks.append(Block(rows: 1, panels: panels))
    } else {
      blocks.append(Block(rows: first.rows, panels: panels))
    }
  }

  private mutating func place(of tensor: CheckpointTensor) throws(IngotError) -> Int {
    if let known = places[tensor.name] { return known }
    if let first = parts.first, first.dtype != tensor.dtype {
      throw IngotError(
        .dtype,
        "\(first.name) is \(first.dtype.safetensorsName) and \(tensor.name) is \(tensor.dtype.safetensorsName), expected one type: they are parts of one tensor in the base's layout",
        hint: "convert the model's tensors to one type", subject: tensor.name)
    }
    guard tensor.dtype.bits % 8 == 0 else {
      throw IngotError(
        .unsupported,
        "\(tensor.name) is \(tensor.dtype.safetensorsName), whose elements are no whole bytes, and has another layout in the base",
        subject: tensor.name)
    }
    places[tensor.name] = parts.count
    parts.append(tensor)
    return parts.count - 1
  }
}
