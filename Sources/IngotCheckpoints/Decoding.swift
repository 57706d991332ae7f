package import IngotErrors
import IngotJSON
package import IngotTensors

/// What turns a quantised checkpoint into a plain one: which tensors are decoded from which, and which go.
///
/// Three schemes are known: `fp8` with block scales (DeepSeek; quantization_config.weight_block_size, tensors `weight_scale_inv`),
/// compressed-tensors' `float-quantized` (tensors `weight_scale`: one for the tensor, each row or each block), and `mxfp4` (gpt-oss; `_blocks` and
/// `_scales`). All others are refused by name.
package struct Decoding: Sendable {
  /// A tensor and what it is decoded from.
  package struct Tensor: Sendable {
    package enum Form: Sendable {
      /// value = code · scale. The weight is rows × columns after leading axes; block extents in elements.
      case scaled(scale: CheckpointTensor, blockRows: Int, blockColumns: Int)
      /// Blocks [E, O, G, 16] and scales [E, O, G] give [E, 32 G, O], the order in which transformers keeps such weights.
      case mxfp4(scales: CheckpointTensor)
    }
    package var name: String
    package var stored: CheckpointTensor
    package var shape: Shape
    package var form: Form
  }

  package var scheme: String
  package var tensors: [Tensor] = []
  /// Tensors that the plain model does not have: scales, and scales of activations.
  package var removed: [String] = []
  package var notices: [Notice] = []
}

extension Checkpoint {
  /// How to decode the weights; nil when they are plain.
  ///
  /// Throws `.unsupported`, naming the scheme, when it is not known here, and when tensors do not fit it.
  package func decoding() throws(IngotError) -> Decoding? {
    guard let found = Quantisation.detect(config: config, names: tensors.lazy.map(\.name)) else { return nil }
    return try DecodingFinder(checkpoint: self, found: found).find()
  }
}

/// Reads the config of a scheme and pairs tensors with their scales.
private struct DecodingFinder {
  let checkpoint: Checkpoint
  let found: Quantisation

  private var block: JSONValue? {
    for path in Quantisation.configPaths {
      if let block = checkpoint.config?[path: path], (block.asObject?.count ?? 0) > 0 { return block }
    }
    return nil
  }

  private func refusal(_ more: String = "") -> IngotError {
    IngotError(
      .unsupported,
      "the checkpoint is quantised with \(found.scheme) (\(found.evidence))\(more), expected plain weights, fp8 with scales, or mxfp4",
      hint: "use the model's original weights, or dequantise it first", subject: checkpoint.displayPath)
  }

  func find() throws(IngotError) -> Decoding {
    switch found.scheme {
    case "fp8", "fp8 with block scales":
      return try scaled("weight_scale_inv", extents: try blockExtents(block?["weight_block_size"], or: [128, 128]))
    case "compressed-tensors", "fp8 or compressed-tensors":
      return try scaled("weight_scale", extents: try compressedExtents())
    case "mxfp4": return try mxfp4()
    default: throw refusal()
    }
  }

  // MARK: Configs

  private func blockExtents(_ value: JSONValue?, or standard: [Int]?) throws(IngotError) -> [Int]? {
    guard let value, !value.isNull else { return standard }
    let extents = value.asArray?.compactMap(\.asInt) ?? []
    guard extents.count == 2, value.asArray?.count == 2, extents.allSatisfy({ $0 > 0 && $0 <= 1 << 30 }) else {
      throw refusal(" in blocks of \(JSON.text(value).prefix(60))")
    }
    return extents
  }

  /// Block extents of a compressed-tensors config whose every group is FP8 weights; nil where scales are of rows or tensors.
  private func compressedExtents() throws(IngotError) -> [Int]? {
    guard let block else { return nil }
    if let method = block["quant_method"]?.asString, method != "compressed-tensors" { throw refusal() }
    var extents: [Int]?
    for member in block["config_groups"]?.asObject?.members ?? [] {
      let format = member.value["format"]?.asString ?? block["format"]?.asString ?? "no format"
      guard format == "float-quantized" else { throw refusal(", format \(format.prefix(60))") }
      guard let weights = member.value["weights"], !weights.isNull else { continue }
      let strategy = weights["strategy"]?.asString ?? "tensor"
      guard weights["type"]?.asString == "float", weights["num_bits"]?.asInt == 8, ["tensor", "channel", "block"].contains(strategy) else {
        throw refusal(", weights of another kind than FP8 by tensor, channel or block")
      }
      if strategy == "block" { extents = try blockExtents(weights["block_structure"], or: [128, 128]) }
    }
    guard block["config_groups"]?.asObject?.members.isEmpty == false else { throw refusal(", without config_groups") }
    if let groups = block["transform_config"]?["config_groups"]?.asObject, groups.count > 0 {
      throw refusal(", with transforms of the weights")
    }
    if let sparsity = block["sparsity_config"]?["format"]?.asString, sparsity != "dense" {
      throw refusal(", sparse as \(sparsity.prefix(60))")
    }
    return extents
  }

  // MARK: FP8

  /// Last components of scales that belong to activations and caches, not to weights.
  private static let activationScales: Set<String> = ["input_scale", "output_scale", "activation_scale", "k_scale", "v_scale", "q_scale"]

  private func scaled(_ suffix: String, extents: [Int]?) throws(IngotError) -> Decoding {
    var decoding = Decoding(scheme: found.scheme)
    var paired: Set<String> = []
    var dropped = 0
    for scale in checkpoint.tensors {
      let parts = scale.name.utf8.lastIndex(of: UInt8(ascii: "."))
      let last = parts.map { String(scale.name[scale.name.index(after: $0)...]) } ?? scale.name
      if Self.activationScales.contains(last) {
        decoding.removed.append(scale.name)
        dropped += 1
        continue
      }
      guard last.hasSuffix(suffix) else { continue }
      // "weight_scale_inv" belongs to "weight", "gate_up_proj_scale_inv" would be a name of another scheme.
      let name = String(scale.name.dropLast(suffix.count)) + "weight"
      guard let weight = checkpoint[name] else {
        throw IngotError(.format, "the scale has no tensor \(name) beside it", subject: scale.name)
      }
      decoding.tensors.append(try pair(weight, scale, extents))
      decoding.removed.append(scale.name)
      paired.insert(name)
    }
    for tensor in checkpoint.tensors where tensor.dtype.bits == 8 && tensor.dtype.hasArithmetic && !paired.contains(tensor.name) {
      throw IngotError(
        .unsupported, "the tensor is \(tensor.dtype.safetensorsName) and has no \(suffix), in a checkpoint quantised with \(found.scheme)",
        subject: tensor.name)
    }
    if let other = checkpoint.tensors.first(where: { $0.name.hasSuffix("weight_zero_point") || $0.name.hasSuffix("weight_g_idx") }) {
      throw refusal(", with the tensor \(other.name)")
    }
    if dropped > 0 {
      decoding.notices.append(
        Notice(.info, "\(dropped) scales of activations are left out: decoded weights need none", subject: checkpoint.displayPath))
    }
    decoding.notices.append(notice(decoding.tensors.count))
    return decoding
  }

  private func notice(_ count: Int) -> Notice {
    Notice(
      .info, "\(count) tensors quantised with \(found.scheme) are decoded in float32, value times scale", subject: checkpoint.displayPath)
  }

  private func pair(_ weight: CheckpointTensor, _ scale: CheckpointTensor, _ extents: [Int]?) throws(IngotError) -> Decoding.Tensor {
    guard weight.dtype == .f8E4M3 || weight.dtype == .f8E5M2 else {
      throw refusal(", but \(weight.name) is \(weight.dtype.safetensorsName)")
    }
    switch scale.dtype {
    case .f32, .bf16, .f16, .f8E8M0: break
    default: throw refusal(", but \(scale.name) is \(scale.dtype.safetensorsName)")
    }
    guard weight.strides == nil, scale.strides == nil else { throw refusal(", and \(weight.name) does not lie in row-major order") }
    let shape = weight.shape.dimensions
    let rows = shape.dropLast().last ?? 1
    let columns = shape.last ?? 1
    func result(_ blockRows: Int, _ blockColumns: Int) -> Decoding.Tensor {
      Decoding.Tensor(
        name: weight.name, stored: weight, shape: weight.shape,
        form: .scaled(scale: scale, blockRows: max(blockRows, 1), blockColumns: max(blockColumns, 1)))
    }
    let found = scale.shape.dimensions
    let leading = Array(shape.dropLast(2))
    if let extents, shape.count >= 2 {
      let expected = leading + [Self.ceiling(rows, extents[0]), Self.ceiling(columns, extents[1])]
      if found == expected { return result(extents[0], extents[1]) }
    }
    if try scale.shape.elementCount() == 1, leading.allSatisfy({ $0 == 1 }) { return result(rows, columns) }
    if shape.count >= 2, found == leading + [rows, 1] || (leading.isEmpty && found == [rows]) { return result(1, columns) }
    throw IngotError(
      .format,
      "the scale has shape \(scale.shape), the weight \(weight.shape)"
        + (extents.map { " in blocks of \($0[0]) × \($0[1])" } ?? "") + ", expected one scale for each block, each row or the tensor",
      subject: scale.name)
  }

  private static func ceiling(_ count: Int, _ block: Int) -> Int { count / block + (count % block == 0 ? 0 : 1) }

  // MARK: MXFP4

  private func mxfp4() throws(IngotError) -> Decoding {
    var decoding = Decoding(scheme: found.scheme)
    for blocks in checkpoint.tensors where blocks.name.hasSuffix("_blocks") {
      let name = String(blocks.name.dropLast("_blocks".count))
      guard let scales = checkpoint[name + "_scales"] else {
        throw IngotError(.format, "the blocks have no tensor \(name)_scales beside them", subject: blocks.name)
      }
      let shape = blocks.shape.dimensions
      guard blocks.dtype == .u8, scales.dtype == .u8, shape.count == 4, shape[3] == 16, !shape.contains(0),
        scales.shape.dimensions == Array(shape[..<3]),
        blocks.strides == nil, scales.strides == nil
      else {
        throw IngotError(
          .unsupported,
          "found \(blocks.dtype.safetensorsName) \(blocks.shape) with scales \(scales.dtype.safetensorsName) \(scales.shape), expected mxfp4 as gpt-oss has it: U8 [E, O, G, 16] with U8 [E, O, G]",
          subject: blocks.name)
      }
      // The product is that of the blocks times 2, which fits: checked with the plan's sizes.
      let (columns, overflow) = shape[2].multipliedReportingOverflow(by: 32)
      guard !overflow, checkpoint[name] == nil else {
        throw IngotError(.format, "the checkpoint has a tensor \(name) beside its blocks", subject: blocks.name)
      }
      decoding.tensors.append(
        Decoding.Tensor(name: name, stored: blocks, shape: Shape([shape[0], columns, shape[1]]), form: .mxfp4(scales: scales)))
      decoding.removed.append(scales.name)
    }
    guard !decoding.tensors.isEmpty else { throw refusal(", without a tensor that ends in _blocks") }
    decoding.notices.append(notice(decoding.tensors.count))
    return decoding
  }
}
