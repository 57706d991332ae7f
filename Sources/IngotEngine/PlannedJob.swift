package import IngotMethods
package import IngotTensors

/// One input tensor of a job: where its bytes lie and what they are.
package struct PlannedInput: Sendable {
  /// Index into the plan's models.
  package var model: Int
  /// Name in that model, which differs from the output's name for renamed layers and tied weights.
  package var name: String
  /// Index into the plan's sources.
  package var source: Int
  /// First byte in the source.
  package var offset: Int
  package var dtype: DType
  /// The shape as stored. The job reads the first elements of it: fewer rows when embeddings are cropped.
  package var shape: Shape

  package init(model: Int, name: String, source: Int, offset: Int, dtype: DType, shape: Shape) {
    self.model = model
    self.name = name
    self.source = source
    self.offset = offset
    self.dtype = dtype
    self.shape = shape
  }
}

/// One tensor of the output and the inputs it is made of.
package struct PlannedTensor: Sendable {
  package var name: String
  package var shape: Shape
  package var dtype: DType
  package var inputs: [PlannedInput]
  /// Index into the plan's output files, and the first byte there.
  package var file: Int
  package var offset: Int
  package var byteCount: Int

  package init(
    name: String, shape: Shape, dtype: DType, inputs: [PlannedInput], file: Int = 0, offset: Int = 0, byteCount: Int = 0
  ) {
    self.name = name
    self.shape = shape
    self.dtype = dtype
    self.inputs = inputs
    self.file = file
    self.offset = offset
    self.byteCount = byteCount
  }
}

/// A unit of work: output tensors that are computed together, and how.
package struct PlannedJob: Sendable {
  package enum Work: Sendable {
    /// The bytes of one input, unchanged.
    case copy(input: Int)
    case merge(any MergeMethod)
  }

  /// Indices into the plan's tensors.
  package var tensors: [Int]
  package var work: Work

  package init(tensors: [Int], work: Work) {
    self.tensors = tensors
    self.work = work
  }
}
