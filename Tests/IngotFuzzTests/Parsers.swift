import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotJSON
import IngotMethods
import IngotRecipes
import IngotTensors

/// A model directory that exists only in memory.
struct MemoryFiles: ModelFiles {
  let displayPath = "m"
  var files: [String: [UInt8]]

  func fileNames() throws(IngotError) -> [String] { files.keys.sorted() }
  func size(of name: String) throws(IngotError) -> UInt64? { files[name].map { UInt64($0.count) } }
  func read(_ name: String, offset: UInt64, count: Int) throws(IngotError) -> [UInt8] {
    guard let bytes = files[name], offset <= UInt64(bytes.count), count >= 0, count <= bytes.count - Int(offset) else {
      throw IngotError(.io, "read beyond the end", subject: name)
    }
    return Array(bytes[Int(offset)..<(Int(offset) + count)])
  }
  func modificationTime(of name: String) -> Int64 { 0 }
}

func littleEndian(_ value: Int, _ width: Int) -> [UInt8] { (0..<width).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }

/// A safetensors file of these F32 tensors, their bytes zero.
private func safetensors(_ tensors: KeyValuePairs<String, Int>) throws -> [UInt8] {
  let described = tensors.map { TensorDescription(name: $0.key, dtype: .f32, shape: Shape([$0.value])) }
  let layout = try SafetensorsLayout(tensors: described, metadata: [])
  return layout.header + [UInt8](repeating: 0, count: Int(layout.fileSize) - layout.header.count)
}

/// Every byte that a description leads to must be in the file.
private func requireInside(_ checkpoint: Checkpoint, fileSize: Int) throws {
  for tensor in checkpoint.tensors where tensor.byteCount > 0 {
    var end = tensor.byteCount
    if let strides = tensor.strides {
      try require(strides.count == tensor.shape.rank && strides.allSatisfy { $0 >= 0 }, "strides \(strides) of \(tensor.shape)")
      var last = 0
      for (extent, stride) in zip(tensor.shape.dimensions, strides) { last += (extent - 1) * stride }
      end = (last + 1) * (tensor.dtype.bits / 8)
    }
    try require(tensor.fileOffset <= UInt64(fileSize), "\(tensor.name) begins at \(tensor.fileOffset) of \(fileSize) bytes")
    try require(end <= fileSize - Int(tensor.fileOffset), "\(tensor.name) ends beyond the \(fileSize) bytes of its file")
  }
}

func readSafetensors(_ bytes: [UInt8]) throws {
  let checkpoint = try Checkpoint.open(files: MemoryFiles(files: ["model.safetensors": bytes]))
  try requireInside(checkpoint, fileSize: bytes.count)
  var end = checkpoint.tensors.first?.fileOffset ?? 0
  for tensor in checkpoint.tensors {
    try require(tensor.fileOffset == end, "a gap or an overlap before \(tensor.name)")
    end += UInt64(tensor.byteCount)
  }
  try require(end == UInt64(bytes.count), "bytes that belong to no tensor")
}

private let shards = Result {
  (a: try safetensors(["a": 1, "shared.weight": 2]), b: try safetensors(["b": 3]))
}

func readIndex(_ bytes: [UInt8]) throws {
  let shards = try shards.get()
  let files = MemoryFiles(files: ["model.safetensors.index.json": bytes, "a.safetensors": shards.a, "b.safetensors": shards.b])
  let checkpoint = try Checkpoint.open(files: files)
  for tensor in checkpoint.tensors { try require(checkpoint.shards.indices.contains(tensor.shard), "\(tensor.name) in no shard") }
}

/// The scanner's tokens without trees, as the reader of safetensors headers takes them.
private func readTokens(_ bytes: [UInt8]) throws {
  var scanner = JSONScanner(bytes, origin: "text")
  scanner.skipByteOrderMark()
  do {
    while let next = scanner.peek() {
      let start = scanner.offset
      switch next {
      case UInt8(ascii: "\""): _ = try scanner.string()
      case UInt8(ascii: "0")...UInt8(ascii: "9"):
        let value = try scanner.unsignedInteger()
        let written = String(decoding: bytes[start..<scanner.offset], as: UTF8.self)
        try require(UInt64(written) == value, "\(written) was read as \(value)")
      default: try require(scanner.accept(next), "the byte \(next) comes next, and is not accepted")
      }
    }
    try scanner.end()
  } catch let error as IngotError {
    try require(!error.message.isEmpty && error.position != nil, "an error without words or place")
  }
}

func readJSON(_ bytes: [UInt8]) throws {
  try readTokens(bytes)
  let python = try JSON.parse(bytes, origin: "text", options: .python)
  let strict = try? JSON.parse(bytes, origin: "text")
  for (value, options) in [(python, JSON.Options.python)] + (strict.map { [($0, .strict)] } ?? []) {
    let written = JSON.bytes(value)
    let again: [UInt8]
    do throws(IngotError) {
      again = JSON.bytes(try JSON.parse(written, origin: "written", options: options))
    } catch {
      throw FuzzTarget.Violation(words: "what was written cannot be read: \(error)")
    }
    try require(written == again, "read, written and read again it is something else")
  }
}

func readRecipe(_ bytes: [UInt8]) throws {
  let recipe = try Recipe.parse(bytes, origin: "recipe", catalog: MethodRegistry.catalog)
  for notice in recipe.notices { try require(!notice.message.isEmpty, "a notice without words") }
  // Strict is a matter of notices alone.
  do throws(IngotError) {
    _ = try Recipe.parse(bytes, origin: "recipe", catalog: MethodRegistry.catalog, strict: true)
  } catch {
    try require(!recipe.notices.isEmpty, "an error under strict that is no notice otherwise: \(error)")
  }
}

func readPattern(_ bytes: [UInt8]) throws {
  let lines = bytes.split(separator: 0x0A, omittingEmptySubsequences: false)
  guard let text = String(validating: lines.first ?? [], as: UTF8.self), let pattern = try? TensorPattern(text) else { return }
  for line in lines.dropFirst() { _ = pattern.matches(String(decoding: line.prefix(300), as: UTF8.self)) }
}

// MARK: - PyTorch

/// The pickle as torch.save packs it, beside two storages of 24 and 10 bytes.
func torchArchive(pickle: [UInt8]) -> [UInt8] {
  let entries: [(String, [UInt8])] = [
    ("m/data.pkl", pickle), ("m/byteorder", Array("little".utf8)), ("m/data/0", Array(0..<24)), ("m/data/1", Array(0..<10)),
  ]
  var file: [UInt8] = []
  var directory: [UInt8] = []
  for (name, data) in entries {
    let offset = file.count
    file += [0x50, 0x4B, 3, 4] + [UInt8](repeating: 0, count: 22) + littleEndian(name.utf8.count, 2) + [0, 0] + Array(name.utf8) + data
    directory += [0x50, 0x4B, 1, 2] + [UInt8](repeating: 0, count: 16) + littleEndian(data.count, 4) + littleEndian(data.count, 4)
    directory += littleEndian(name.utf8.count, 2) + [UInt8](repeating: 0, count: 12) + littleEndian(offset, 4) + Array(name.utf8)
  }
  let start = file.count
  file += directory + [0x50, 0x4B, 5, 6, 0, 0, 0, 0] + littleEndian(entries.count, 2) + littleEndian(entries.count, 2)
  return file + littleEndian(directory.count, 4) + littleEndian(start, 4) + [0, 0]
}

func readTorch(_ bytes: [UInt8]) throws {
  let checkpoint = try Checkpoint.open(files: MemoryFiles(files: ["pytorch_model.bin": bytes]))
  try requireInside(checkpoint, fileSize: bytes.count)
}

// MARK: - Adapters and tokenizers

private let base = Result {
  try Checkpoint(
    displayPath: "base", shards: [],
    tensors: [("m.weight", [4, 6]), ("m.bias", [4]), ("embed.weight", [8, 6]), ("head.weight", [8, 6])].map { name, shape in
      CheckpointTensor(
        name: name, dtype: .f32, shape: Shape(shape), shard: 0, fileOffset: 0, byteCount: 4 * shape.reduce(1, *))
    }, config: nil)
}

/// A line of the input: a name and extents, as in `base_model.model.m.lora_A.weight 2 6`, and perhaps a type.
private func tensor(_ line: ArraySlice<UInt8>) -> CheckpointTensor? {
  let words = line.split(separator: 0x20)
  guard let name = words.first.flatMap({ String(validating: $0, as: UTF8.self) }), words.count <= 5 else { return nil }
  let rest = words.dropFirst().map { String(decoding: $0, as: UTF8.self) }
  let shape = Shape(rest.compactMap { Int($0) }.filter { $0 >= 0 && $0 < 1 << 16 })
  let dtype = rest.last.flatMap(DType.init(safetensorsName:)) ?? .f32
  guard let byteCount = try? shape.byteCount(dtype) else { return nil }
  return CheckpointTensor(name: name, dtype: dtype, shape: shape, shard: 0, fileOffset: 0, byteCount: byteCount)
}

func readAdapter(_ bytes: [UInt8]) throws {
  let parts = bytes.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false)
  let config = try JSON.parse(Array(parts[0]), origin: "adapter_config.json", options: .python)
  let tensors = parts.count > 1 ? parts[1].split(separator: 0x0A).prefix(64).compactMap(tensor) : []
  let checkpoint = try Checkpoint(displayPath: "adapter", shards: [], tensors: tensors, config: nil)
  let base = try base.get()
  let adapter = try Adapter(
    checkpoint, config: config, base: base, baseName: "base", origin: "adapter_config.json", compile: ProvidedModel.namePattern)
  for target in adapter.targets {
    try require(base[target.base.name] != nil, "a change of \(target.base.name), which the base does not have")
    guard case .lowRank(let change) = target.change else { continue }
    try require(change.scale.isFinite, "a scale that is not finite")
    let inner = [change.a.shape.dimensions[0], change.b.shape.dimensions[1]]
    try require(inner == [change.rank, change.rank], "factors of the ranks \(inner), expected \(change.rank)")
    let outer = [change.b.shape.dimensions[0]] + change.a.shape.dimensions.dropFirst()
    let shape = target.base.shape.dimensions
    try require((change.isTurned ? [shape[1], shape[0]] : shape) == outer, "factors of \(outer) for a weight of \(shape)")
  }
}

func readTokenizer(_ bytes: [UInt8]) throws {
  var file = try TokenizerFile(bytes, origin: "tokenizer.json")
  let vocabulary = file.vocabulary
  for token in vocabulary.tokens {
    try require(vocabulary[token.text] == token.id, "the token \(token.id) is not found by its text")
  }
  for (token, next) in zip(vocabulary.tokens, vocabulary.tokens.dropFirst()) {
    try require(token.id < next.id, "two tokens have the number \(next.id)")
  }
  file.remove(from: vocabulary.extent / 2)
  file.add([(id: vocabulary.extent, token: AddedToken("<|a token of nobody else|>"))])
  _ = file.bytes
}

/// An empty text stands for a file that is not there.
func readSentencePiece(_ bytes: [UInt8]) throws {
  let parts = bytes.split(separator: 0, maxSplits: 2, omittingEmptySubsequences: false).map(Array.init)
  guard parts.count == 3 else { throw IngotError(.format, "not three files") }
  let vocabulary = try Vocabulary(
    sentencePiece: parts[2], config: parts[0].isEmpty ? nil : parts[0], added: parts[1].isEmpty ? nil : parts[1], origin: "tokenizer.model")
  for token in vocabulary.tokens {
    try require(vocabulary[token.text] == token.id, "the token \(token.id) is not found by its text")
  }
}

// MARK: - Packs

func readPackHeader(_ bytes: [UInt8]) throws {
  let parts = bytes.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false)
  var metadata: [MetadataEntry] = []
  for line in parts[0].split(separator: 0x0A) {
    let pair = line.split(separator: 0x3D, maxSplits: 1).map { String(decoding: $0, as: UTF8.self) }
    if pair.count == 2 { metadata.append(MetadataEntry(pair[0], pair[1])) }
  }
  let tensors = parts.count > 1 ? parts[1].split(separator: 0x0A).prefix(64).compactMap(tensor) : []
  let shard = CheckpointShard(name: DeltaPack.fileName, size: 0, modificationTime: 0, headerDigest: 0, metadata: metadata)
  let checkpoint = try Checkpoint(displayPath: "pack", shards: [shard], tensors: tensors, config: nil)
  guard DeltaPack.isPack(checkpoint) else { throw IngotError(.format, "no pack") }
  let pack = try DeltaPack(checkpoint)
  for tensor in pack.tensors {
    try require(tensor.shape.dimensions.allSatisfy { $0 >= 0 }, "the extents \(tensor.shape) of \(tensor.name)")
    try require(tensor.count == (try? tensor.shape.elementCount()), "\(tensor.count) elements of \(tensor.shape)")
    try require(Set(tensor.parts.keys) == Set(DeltaPack.parts(of: tensor.form)), "the parts of \(tensor.name)")
  }
  for name in [nil, "0", pack.tasks.last, "no task of this name"] {
    do {
      let task = try pack.task(name)
      try require(pack.tasks.indices.contains(task), "task \(task) of \(pack.tasks.count)")
    } catch let error as IngotError {
      try require(name == nil || pack.tasks.last != name, "the task \(name ?? "") is not found: \(error)")
    }
  }
}

/// What decodes is, encoded again, the same bytes.
func readRice(_ bytes: [UInt8]) throws {
  var input = FuzzInput(bytes)
  let length = Int(input.number(3)) % (RiceCode.blockElements + 2)
  let count = Int(input.number(2))
  let remainderBits = Int(input.byte()) % 20 - 2
  let code = input.rest
  let elements = try RiceCode.decode(code, count: count, remainderBits: remainderBits, length: length)
  try require(elements.count == count, "\(elements.count) elements, expected \(count)")
  for (element, next) in zip(elements, elements.dropFirst()) {
    try require(element.position < next.position, "positions that do not rise")
  }
  try require(elements.last.map { Int($0.position) < length } ?? true, "a position beyond the block")
  try require(RiceCode.encode(elements, remainderBits: remainderBits) == code, "another code of the same elements")
  // What a packer would choose is no longer, and nothing is longer than it may be.
  try require(RiceCode.size(of: elements).byteCount <= code.count, "a shorter code than the shortest")
  let most = RiceCode.mostBytes(count: count, length: length, remainderBits: remainderBits)
  try require(code.count <= most, "\(code.count) bytes, at most \(most) were expected")
}
