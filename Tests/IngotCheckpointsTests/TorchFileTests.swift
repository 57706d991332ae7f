import IngotCheckpoints
import IngotErrors
import IngotTensors
import Testing

@Suite("PyTorch files")
struct TorchFileTests {
  static func open(_ bytes: [UInt8], _ name: String = "m.pt") throws(IngotError) -> Checkpoint {
    try Checkpoint.open(files: MemoryFiles(files: [name: bytes])) { UInt128($0.count) }
  }

  static func refused(_ bytes: [UInt8], sourceLocation: SourceLocation = #_sourceLocation) throws -> IngotError {
    try #require(throws: IngotError.self, sourceLocation: sourceLocation) { try open(bytes) }
  }

  static let formats: [[UInt8]] = [zip(sampleEntries()), zip(sampleEntries(), zip64: true), sampleLegacy()]

  @Test("the tensors of both formats", arguments: [0, 1, 2])
  func tensors(_ format: Int) throws {
    let bytes = Self.formats[format]
    let checkpoint = try Self.open(bytes)
    #expect(checkpoint.tensors.map(\.name) == ["w", "t", "h"])
    let matrix = try #require(checkpoint["w"])
    #expect(matrix.dtype == .f32 && matrix.shape == Shape([2, 3]) && matrix.strides == nil && matrix.byteCount == 24)
    #expect(Array(bytes[Int(matrix.fileOffset)..<Int(matrix.fileOffset) + 24]) == Array(0..<24))
    let transposed = try #require(checkpoint["t"])
    #expect(transposed.shape == Shape([3, 2]) && transposed.strides == [1, 3] && transposed.fileOffset == matrix.fileOffset)
    let half = try #require(checkpoint["h"])
    #expect(half.dtype == .f16 && half.byteCount == 8)
    #expect(Array(bytes[Int(half.fileOffset)..<Int(half.fileOffset) + 8]) == Array(2..<10))
  }

  @Test("a cut at any byte is an error", arguments: [0, 1, 2])
  func truncation(_ format: Int) throws {
    let bytes = Self.formats[format]
    for length in bytes.indices { _ = try Self.refused(Array(bytes.prefix(length))) }
    _ = try Self.refused(bytes + [0])
  }

  @Test("flipped bytes never stop the process, and every place stays inside of the file", arguments: [0, 1, 2])
  func flips(_ format: Int) throws {
    let original = Self.formats[format]
    var random = SplitMix(UInt64(2024 + format))
    var opened = 0
    for _ in 0..<10_000 {
      var bytes = original
      for _ in 0..<Int.random(in: 1...3, using: &random) {
        bytes[Int.random(in: bytes.indices, using: &random)] ^= UInt8.random(in: 1...255, using: &random)
      }
      guard let checkpoint = try? Self.open(bytes) else { continue }
      opened += 1
      for tensor in checkpoint.tensors where tensor.byteCount > 0 {
        var last = 0
        for (axis, extent) in tensor.shape.dimensions.enumerated() { last += (extent - 1) * (tensor.strides?[axis] ?? 0) }
        let end = tensor.strides == nil ? tensor.byteCount : (last + 1) * tensor.dtype.bits / 8
        #expect(Int(tensor.fileOffset) + end <= bytes.count)
      }
    }
    // Flips in the data change no description.
    #expect(opened > 0)
  }

  // MARK: Hostile pickles

  @Test(
    "what Python would call is refused by name and place",
    arguments: [
      ("os", "system", "the global os.system"), ("builtins", "eval", "the global builtins.eval"),
      ("torch", "load", "the global torch.load"), ("collections", "Counter", "the global collections.Counter"),
      ("torch._utils", "_rebuild_qtensor", "the global torch._utils._rebuild_qtensor"),
      ("__torch__.m", "Model", "the global __torch__.m.Model"), ("a\u{1B}b", "c", "the global a?b.c"),
    ])
  func globals(_ module: String, _ name: String, _ words: String) throws {
    let reduced = archive { pickle in
      pickle.global(module, name)
      pickle.text("touch /tmp/x")
      pickle.op(0x85, 0x52)
    }
    let stacked = archive { pickle in
      pickle.text(module)
      pickle.text(name)
      pickle.op(0x93)
    }
    for bytes in [reduced, stacked] {
      let error = try Self.refused(bytes)
      #expect(error.status == .unsupported)
      #expect(error.message.contains(words) && error.message.contains("at byte "), "\(error.message)")
      #expect(error.message.contains("nothing of the file was executed"))
    }
    #expect(try Self.refused(reduced).message.contains("at byte 9 of data.pkl"))
  }

  @Test(
    "opcodes that checkpoints do not need are refused by name",
    arguments: [
      (0x69, "INST"), (0x6F, "OBJ"), (0x81, "NEWOBJ"), (0x92, "NEWOBJ_EX"), (0x82, "EXT1"), (0x32, "DUP"), (0x30, "POP"),
      (0x8F, "EMPTY_SET"),
      (0x56, "UNICODE"), (0x70, "PUT"), (0x97, "NEXT_BUFFER"),
    ] as [(UInt8, String)])
  func opcodes(_ opcode: UInt8, _ name: String) throws {
    let error = try Self.refused(archive { $0.op(opcode) })
    #expect(error.status == .unsupported && error.message.contains("the opcode \(name) at byte 9"), "\(error.message)")
  }

  @Test("tricks with the stack, the memo and attributes")
  func tricks() throws {
    let cases: [(String, (inout PickleWriter) -> Void)] = [
      ("memo entry 7", { $0.op(0x68, 7) }),
      ("too few values", { $0.op(0x28, 0x71, 0) }),
      ("too few values", { $0.op(0x28, 0x85) }),
      ("needs a MARK", { $0.op(0x74) }),
      ("REDUCE of what", { $0.op(0x4E, 0x29, 0x52) }),
      (
        "a call of a type",
        {
          $0.global("builtins", "int")
          $0.op(0x29, 0x52)
        }
      ),
      (
        "BUILD on what is no dict",
        {
          $0.op(0x5D, 0x7D)
          $0.op(0x62)
        }
      ),
      (
        "BUILD on what is no dict",
        {
          $0.op(0x7D)
          $0.text("__class__")
          $0.op(0x62)
        }
      ),
      (
        "such a factory",
        {
          $0.global("collections", "defaultdict")
          $0.global("torch._utils", "_rebuild_parameter")
          $0.op(0x85, 0x52)
        }
      ),
      ("SETITEM on what", { $0.op(0x5D, 0x4E, 0x4E, 0x73) }),
      ("APPEND to what", { $0.op(0x7D, 0x4E, 0x61) }),
      ("persistent identifier", { $0.op(0x4E, 0x51) }),
      ("no pickle opcode", { $0.op(0xFF) }),
      ("pickle protocol 9", { $0.op(0x80, 9) }),
      ("not one value", { $0.op(0x4E, 0x4E, 0x2E) }),
      ("not UTF-8", { $0.op(0x8C, 1, 0xFF) }),
      ("end of the data", { $0.op(0x58, 0xFF, 0xFF, 0xFF, 0xFF) }),
      ("end of the data", { $0.op(0x8D, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF) }),
    ]
    for (words, body) in cases {
      let error = try Self.refused(archive(body))
      #expect(error.message.contains(words), "\(error.message)")
      #expect(error.subject == "models/test/m.pt")
    }
  }

  @Test("cycles and a million levels cost no stack; a pickle inside of a text is a text")
  func depth() throws {
    let deep = archive { pickle in
      pickle.op(0x29)
      for _ in 0..<1_000_000 { pickle.op(0x85) }
    }
    #expect(try Self.refused(deep).message.contains("no tensor"))
    let cycle = archive { pickle in
      // A list that holds itself, and a dict that does.
      pickle.op(0x5D, 0x71, 1, 0x68, 1, 0x61)
    }
    #expect(try Self.refused(cycle).message.contains("no tensor"))
    let nested = archive { pickle in
      pickle.text("cos\nsystem\n(S'touch x'\ntR.")
    }
    #expect(try Self.refused(nested).message.contains("no tensor"))
  }

  // MARK: Tensors

  @Test("tensors that leave their storage or blow it up")
  func geometry() throws {
    let cases: [(offset: Int, shape: [Int], strides: [Int], words: String)] = [
      (1, [2, 3], [3, 1], "leaves its storage"), (0, [7], [1], "leaves its storage"), (0, [2], [6], "leaves its storage"),
      (7, [0], [1], "leaves its storage"), (0, [2, 3], [1], "unexpected extents"), (-1, [1], [1], "unexpected extents"),
      (0, [-1], [1], "unexpected extents"), (0, [2], [-1], "unexpected extents"),
      (0, [1 << 30, 1 << 30, 1 << 30], [0, 0, 0], "63 bits"), (0, [1 << 30], [0], "is expanded"),
      (6, [1 << 30, 0, 1 << 30, 1 << 30], [1, 1, 1, 1], "63 bits"),
      (0, [2, 2], [Int(Int32.max), Int(Int32.max)], "leaves its storage"),
      (0, [Int](repeating: 1, count: 33), [Int](repeating: 1, count: 33), "unexpected extents"),
    ]
    for (offset, shape, strides, words) in cases {
      let bytes = archive { $0.tensor(storage: "0", count: 6, offset: offset, shape: shape, strides: strides) }
      #expect(try Self.refused(bytes).message.contains(words), "\(shape)")
    }
    let empty = archive { $0.tensor(storage: "0", count: 6, offset: 6, shape: [1 << 20, 0, 1 << 10], strides: [1, 1, 1]) }
    #expect(try Self.open(empty)["w"]?.byteCount == 0)
  }

  @Test("storages that the file does not have, or has otherwise")
  func storages() throws {
    #expect(
      try Self.refused(archive { $0.tensor(storage: "9", count: 6, shape: [6], strides: [1]) }).message.contains("no entry data/9"))
    #expect(try Self.refused(archive { $0.tensor(storage: "0", count: 5, shape: [5], strides: [1]) }).message.contains("expected 20"))
    #expect(
      try Self.refused(archive { $0.tensor(storage: "0", type: "QInt8Storage", count: 24, shape: [24], strides: [1]) }).message.contains(
        "torch.QInt8Storage"))
    let other = archive { pickle in
      pickle.op(0x28)
      pickle.tensor(storage: "0", count: 6, shape: [6], strides: [1])
      pickle.tensor(storage: "0", type: "HalfStorage", count: 12, shape: [6], strides: [1])
      pickle.op(0x74)
    }
    #expect(try Self.refused(other).message.contains("two types or sizes"))
  }

  @Test("entries that are no tensors are left out with a notice, a nested state dict is found")
  func entries() throws {
    var pickle = PickleWriter()
    pickle.op(0x7D, 0x28)
    pickle.text("epoch")
    pickle.int(3)
    pickle.text("state_dict")
    pickle.op(0x7D, 0x28)
    pickle.text("w")
    pickle.tensor(storage: "0", count: 6, shape: [6], strides: [1])
    pickle.text("n")
    pickle.int(1)
    pickle.op(0x75, 0x75, 0x2E)
    let checkpoint = try Self.open(zip(sampleEntries(pickle: pickle.bytes)))
    #expect(checkpoint.tensors.map(\.name) == ["w"])
    #expect(checkpoint.notices.count == 2)
    #expect(checkpoint.notices[0].message.contains("taken from \"state_dict\"; 1 other entries"))
    #expect(checkpoint.notices[1].message.contains("1 entries that are no tensors are left out (\"n\")"))
  }

  // MARK: Archives

  @Test("archives that torch.save would not write")
  func archives() throws {
    func changed(_ place: Int, _ change: (inout ZipEntry) -> Void) -> [UInt8] {
      var entries = sampleEntries()
      change(&entries[place])
      return zip(entries)
    }
    let cases: [(String, [UInt8])] = [
      ("compressed (method 8)", changed(2) { $0.method = 8 }), ("encrypted", changed(2) { $0.flags = 1 }),
      ("no plain relative path", changed(2) { $0.name = "/m/data/0" }), ("no plain relative path", changed(2) { $0.name = "m/../data/0" }),
      ("no plain relative path", changed(2) { $0.name = "m\\data" }), ("two entries called", changed(3) { $0.name = "m/data/0" }),
      ("overlap", changed(3) { $0.claimedOffset = 10 }), ("overlap", changed(2) { $0.claimedSize = 60 }),
      ("outside of the data", changed(4) { $0.claimedSize = 1 << 30 }), ("not little-endian", changed(1) { $0.data = Array("big".utf8) }),
      ("found 2 entries FOLDER/data.pkl", changed(4) { $0.name = "n/data.pkl" }),
      ("found 0 entries FOLDER/data.pkl", changed(0) { $0.name = "m/other.pkl" }),
      ("TorchScript", changed(4) { $0.name = "m/constants.pkl" }), ("10 bytes, expected 24", changed(2) { $0.data = Array(0..<10) }),
      ("another name", [UInt8](zip(sampleEntries())).replacing(Array("m/version".utf8), by: Array("m/VERSION".utf8))),
    ]
    for (words, bytes) in cases { #expect(try Self.refused(bytes).message.contains(words), "\(words)") }
    #expect(try Self.refused(Array("neither".utf8)).message.contains("neither a zip archive nor a pickle"))
    #expect(try Self.refused([0x80, 2, 0x4E, 0x2E]).message.contains("torch.save did not write"))
  }

  // MARK: Directories

  @Test("which file is read")
  func files() throws {
    let bytes = Self.formats[0]
    var files = MemoryFiles(files: ["pytorch_model.bin": bytes, "training_args.bin": [], "optimizer.pt": [], "rng_state_0.pth": []])
    #expect(try Checkpoint.open(files: files).tensors.count == 3)
    files.files["consolidated.00.pth"] = bytes
    files.files["pytorch_model.bin"] = nil
    #expect(try Checkpoint.open(files: files).shards.map(\.name) == ["consolidated.00.pth"])
    files.files["other.pt"] = bytes
    #expect(try #require(throws: IngotError.self) { try Checkpoint.open(files: files) }.message.contains("2 PyTorch files"))
    #expect(try Checkpoint.open(files: files, fileName: "other.pt").tensors.count == 3)
    files.files["model.safetensors"] = try zeros(["only": 1])
    #expect(try Checkpoint.open(files: files).tensors.map(\.name) == ["only"])
  }

  @Test("shards through pytorch_model.bin.index.json, which may name no safetensors")
  func shards() throws {
    let index = #"{"weight_map":{"w":"a.bin","t":"a.bin","h":"b.bin"}}"#
    var files = MemoryFiles(files: [
      "pytorch_model.bin.index.json": Array(index.utf8), "a.bin": Self.formats[0], "b.bin": Self.formats[2],
    ])
    let checkpoint = try Checkpoint.open(files: files)
    #expect(checkpoint.tensors.map(\.name) == ["w", "t", "h"] && checkpoint["h"]?.shard == 1)
    #expect(checkpoint.notices.count == 2)
    files.files["pytorch_model.bin.index.json"] = Array(#"{"weight_map":{"w":"a.safetensors"}}"#.utf8)
    #expect(try #require(throws: IngotError.self) { try Checkpoint.open(files: files) }.message.contains("ends in .bin"))
  }
}

extension [UInt8] {
  /// The first occurrence of `old` replaced by bytes of the same number.
  func replacing(_ old: [UInt8], by new: [UInt8]) -> [UInt8] {
    guard let start = indices.first(where: { self[$0...].starts(with: old) }) else { return self }
    var result = self
    result.replaceSubrange(start..<start + old.count, with: new)
    return result
  }
}
