package import IngotErrors
import IngotJSON
package import IngotTensors

/// A pack that is yet to be written: what goes into its header, and where every part of it lies.
package struct DeltaPackLayout: Sendable {
  /// A tensor before it is packed.
  package struct Tensor: Sendable {
    package var name: String
    package var shape: Shape
    package var form: DeltaPack.Form
    /// The type of its values: of a masked tensor's vector, or of a whole tensor.
    package var dtype: DType
    /// Bytes of its Rice codes.
    package var codeBytes = 0

    package init(name: String, shape: Shape, form: DeltaPack.Form, dtype: DType, codeBytes: Int = 0) {
      self.name = name
      self.shape = shape
      self.form = form
      self.dtype = dtype
      self.codeBytes = codeBytes
    }
  }

  package let file: SafetensorsLayout
  private let offsets: [String: Int]

  /// - Parameters: `scales` is how many there are, nil for a method without; `parameters` is a JSON object.
  package init(
    method: DeltaPack.Method, baseDigest: String, baseName: String, tasks: [String], parameters: String, tensors: [Tensor], scales: Int?
  ) throws(IngotError) {
    var described: [TensorDescription] = []
    for tensor in tensors {
      let count = try tensor.shape.elementCount()
      let (bytes, blocks) = ((count + 7) / 8, (count + RiceCode.blockElements - 1) / RiceCode.blockElements)
      let masks = tensor.form == .masked ? tasks.count : 1
      for part in DeltaPack.parts(of: tensor.form) {
        let (dtype, shape): (DType, [Int]) =
          switch part {
          case .codes: (.u8, [tensor.codeBytes])
          case .blocks: (.u32, [blocks, 3])
          case .bits: (.u8, [masks, bytes])
          case .checks: (.u32, [masks, blocks])
          case .vector, .whole: (tensor.dtype, tensor.shape.dimensions)
          }
        described.append(TensorDescription(name: DeltaPack.partName(part, tensor.name), dtype: dtype, shape: Shape(shape)))
      }
    }
    if let scales { described.append(TensorDescription(name: DeltaPack.scalesName, dtype: .f32, shape: Shape([scales]))) }
    described.append(TensorDescription(name: DeltaPack.errorsName, dtype: .f64, shape: Shape([tasks.count])))
    let entries = tensors.map { tensor in
      JSONValue.array([
        .string(tensor.name), .string(tensor.form.rawValue), .array(tensor.shape.dimensions.map { .int($0) }),
      ])
    }
    file = try SafetensorsLayout(
      tensors: described,
      metadata: [
        MetadataEntry("format", DeltaPack.format), MetadataEntry("version", DeltaPack.version), MetadataEntry("method", method.rawValue),
        MetadataEntry("base", baseDigest), MetadataEntry("base_name", baseName),
        MetadataEntry("tasks", JSON.text(.array(tasks.map { .string($0) }))), MetadataEntry("parameters", parameters),
        MetadataEntry("tensors", JSON.text(.array(entries))),
      ])
    var offsets: [String: Int] = [:]
    for (tensor, offset) in zip(described, file.fileOffsets) { offsets[tensor.name] = Int(clamping: offset) }
    self.offsets = offsets
  }

  /// The first byte of a stored tensor. Throws `.internalError` for one that is not in the layout.
  package func offset(of name: String) throws(IngotError) -> Int {
    guard let offset = offsets[name] else { throw IngotError(.internalError, "no such part was laid out", subject: name) }
    return offset
  }
}
