package import IngotErrors
package import IngotRecipes
package import IngotTensors

/// Everything about one job that is known before any tensor data is read.
package struct MethodRequest: Sendable {
  /// One input of the job, in recipe order; the base, when there is one, stands first.
  package struct Input: Sendable {
    /// How messages name the model.
    package var model: String
    /// The model's ordinal in the recipe: part of the random stream's identity.
    package var ordinal: Int
    package var isBase: Bool

    package init(model: String, ordinal: Int, isBase: Bool) {
      self.model = model
      self.ordinal = ordinal
      self.isBase = isBase
    }
  }

  /// Where in the model a tensor stands.
  package enum Place: Sendable, Hashable {
    /// A layer of a stack of text layers, of an encoder's or a decoder's, counted from 0, and how many the stack has. Only known to methods whose
    /// descriptor says that they need layers.
    case layer(Int, of: Int)
    /// Rows of tokens at the input, and at the output.
    case embedding, head
    case elsewhere
  }

  /// One tensor of the job (jobs of tensor scope have exactly one).
  package struct Segment: Sendable {
    /// Name of the output tensor.
    package var name: String
    package var shape: Shape
    /// Parameters asked once per tensor, by name; defaults are filled in.
    package var parameters: [String: ParameterValue]
    /// Parameters asked per model: one dictionary per input, in input order.
    package var modelParameters: [[String: ParameterValue]]
    /// Random stream of each input: XXH3-64 of output tensor name and the model's ordinal.
    package var streams: [UInt64]
    /// Under `numerics: stepwise` the type to which inputs and the result of every step are rounded; nil rounds once at the end.
    package var stepType: DType?
    package var place = Place.elsewhere

    /// True for tensors with one row for each token of the vocabulary: embeddings and output heads.
    package var isVocabulary = false
    /// The side tensors that the tiles of this tensor come with.
    package var sides: [SideTensor]

    package init(
      name: String, shape: Shape, parameters: [String: ParameterValue], modelParameters: [[String: ParameterValue]], streams: [UInt64],
      stepType: DType? = nil, sides: [SideTensor] = []
    ) {
      self.sides = sides
      self.name = name
      self.shape = shape
      self.parameters = parameters
      self.modelParameters = modelParameters
      self.streams = streams
      self.stepType = stepType
    }

    /// A per-tensor number, or nil when the recipe and the method leave it open.
    package func number(_ name: String) -> Double? { parameters[name]?.number }

    /// A per-tensor switch; numbers count as true unless zero, as in mergekit.
    package func flag(_ name: String, default fallback: Bool) -> Bool { parameters[name]?.boolean ?? fallback }

    package func text(_ name: String) -> String? { parameters[name]?.text }

    /// A number of one model, or nil when open.
    package func number(_ name: String, model: Int) -> Double? {
      model < modelParameters.count ? modelParameters[model][name]?.number : nil
    }

    /// A number of one model that the method cannot do without. Throws `.recipe`.
    package func required(_ name: String, model: Int, of input: Input) throws(IngotError) -> Double {
      if let value = number(name, model: model) { return value }
      throw IngotError(
        .recipe, "parameter '\(name)' is missing for model \(input.model) at tensor \(self.name)",
        hint: "give '\(name)' under the model's parameters, or once under the recipe's parameters", subject: self.name)
    }
  }

  package var inputs: [Input]
  package var segments: [Segment]
  package var seed: UInt64

  package init(inputs: [Input], segments: [Segment], seed: UInt64) {
    self.inputs = inputs
    self.segments = segments
    self.seed = seed
  }

  /// True when the first input is the base model.
  package var hasBase: Bool { inputs.first?.isBase ?? false }

  /// The inputs that are not the base.
  package var modelCount: Int { inputs.count - (hasBase ? 1 : 0) }

  /// The first (for tensor scope the only) segment. Throws when the engine made an empty job.
  package func onlySegment() throws(IngotError) -> Segment {
    guard let segment = segments.first else { throw IngotError(.internalError, "a job without tensors") }
    return segment
  }
}
