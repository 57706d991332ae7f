package import IngotTensors

/// A side tensor of one tensor of a job, as its method sees it: `Tile.sides` has them in the order of `MethodRequest.Segment.sides`.
package struct SideTensor: Sendable, Hashable {
  /// What its values belong to.
  package enum Part: String, Sendable, Hashable {
    /// One value for each element; it is read with the tensor, and a tile has the same elements of it. All others a tile has whole.
    case elements
    /// The sums of the rows, and of the columns, of a matrix of such values.
    case rowSums = "row_sums"
    case columnSums = "column_sums"
    /// One value for each column.
    case channels
    /// n × n values for n columns, or its packed upper triangle.
    case gram
    /// The same for m rows: m × m values.
    case outputGram = "output_gram"
    /// Any number of rows, of one value for each column.
    case rows
    /// The same for n rows: of a weight that is stored as [in, out].
    case gramOfRows = "transposed"
    /// m × m values for the m columns of such a weight.
    case outputGramOfColumns = "transposed_output_gram"
  }

  /// The descriptor's name of the side input.
  package var input: String
  /// Index into the request's inputs; nil for what belongs to the whole merge.
  package var model: Int?
  /// Its place in a list of files.
  package var item: Int
  package var part: Part
  /// As stored.
  package var shape: Shape

  package init(input: String, model: Int?, item: Int = 0, part: Part, shape: Shape) {
    self.input = input
    self.model = model
    self.item = item
    self.part = part
    self.shape = shape
  }
}

/// The side tensors of a tile, in the order of the request: of those with one value for each element the tile's, all others whole. Borrowed
/// like the tile. Tensors that are held whole must not be changed, except by `MergeMethod.prepare`.
@safe
package struct SideTensors {
  private let runs: UnsafePointer<Floats>?
  package let count: Int
  /// Those with one value for each element as rows, in the same order.
  package let streamed: FloatTable

  package init(unsafe runs: UnsafePointer<Floats>?, count: Int, streamed: FloatTable) {
    unsafe self.runs = runs
    self.count = count
    self.streamed = streamed
  }

  /// A side tensor; an empty run for a number out of range.
  package subscript(index: Int) -> Floats {
    guard index >= 0, index < count, let runs = unsafe runs else { return .empty }
    // SAFETY: the index is checked; the engine keeps as many runs as it counts.
    return unsafe runs[index]
  }
}

extension MethodRequest.Segment {
  /// Where in `sides` a side tensor is; nil when there is none.
  package func side(_ input: String, model: Int? = nil, item: Int = 0, part: SideTensor.Part = .elements) -> Int? {
    sides.firstIndex { $0.input == input && $0.model == model && $0.item == item && $0.part == part }
  }

  /// How many files a model's side input has for this tensor.
  package func sideCount(_ input: String, model: Int? = nil) -> Int { sides.count { $0.input == input && $0.model == model } }
}
