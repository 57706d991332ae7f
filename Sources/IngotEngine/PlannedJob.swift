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

/// A side tensor of a job: what it is to the method, and where its bytes lie.
package struct PlannedSide: Sendable {
  package var tensor: SideTensor
  /// Its model is the side file.
  package var source: PlannedInput

  /// True when it is read element by element with the tensor; else every worker holds all of it.
  package var isStreamed: Bool { tensor.part == .elements }

  /// Elements as stored; a plan's are known to fit a number.
  var elementCount: Int { (try? source.shape.elementCount()) ?? 0 }
}

/// The last step of activation-informed merging for one tensor.
package struct PlannedScaling: Sendable, Hashable {
  package var omega: Double
  /// Where in the tensor's `streams` the base is.
  package var base: Int
  /// Where in its `sides` the activation norms are.
  package var norms: Int
}

/// One tensor of the output and the inputs it is made of.
package struct PlannedTensor: Sendable {
  package var name: String
  package var shape: Shape
  package var dtype: DType
  package var inputs: [PlannedInput]
  /// The method's side tensors in its order, then what only the last step reads.
  package var sides: [PlannedSide] = []
  package var scaling: PlannedScaling?
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

  /// All that is read element by element: the inputs, then side tensors.
  package var streams: [PlannedInput] { sides.isEmpty ? inputs : inputs + sides.filter(\.isStreamed).map(\.source) }

  /// The side tensors that workers hold whole.
  package var wholeSides: [PlannedSide] { sides.filter { !$0.isStreamed } }
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
