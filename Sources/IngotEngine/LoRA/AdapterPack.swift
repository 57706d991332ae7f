internal import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
internal import IngotLinearAlgebra
package import IngotMethods
package import IngotRecipes
internal import IngotStorage
internal import IngotTensors

/// An adapter that is to be stored with few bits, module by module.
package struct AdapterPackRequest: Sendable {
  package var adapter: OpenedAdapter
  package var bits: ColumnBits
  /// The first pattern that matches a module's name decides; then `bits`.
  package var rules: [(pattern: TensorPattern, bits: ColumnBits)] = []

  package init(adapter: OpenedAdapter, bits: ColumnBits) {
    self.adapter = adapter
    self.bits = bits
  }
}

extension Engine {
  /// Stores an adapter with few bits: of each module the singular values, and the singular vectors as `ColumnBits` says. Whole tensors are copied.
  ///
  /// Throws `.unsupported` for DoRA and biases of factors, `.nonFinite`, `.memory` when one module does not fit the budget, and what writing throws.
  package func pack(
    _ request: AdapterPackRequest, to destination: String, options: AdapterOutputOptions = .init(), watcher: Watcher = .none
  ) throws(IngotError) -> AdapterReport {
    let start = Watcher.now()
    let run = try AdapterPackRun(request, kernels: kernels, algebra: try LinearAlgebra.load())
    let written = try write(run, to: destination, options: options, watcher: watcher, since: start)
    return AdapterReport(
      output: destination, modules: run.reports, wholeTensors: request.adapter.contents.whole.count, bytes: written.bytes,
      seconds: written.seconds, threads: 1, workspaceBytes: written.workspaceBytes, notices: written.notices)
  }

  /// Makes an adapter in PEFT's layout of what `pack` wrote. Throws `.notFound`, `.format` and what writing throws.
  package func unpack(
    adapter directory: String, dtype: String? = nil, to destination: String, models provider: any ModelProvider,
    options: AdapterOutputOptions = .init(), watcher: Watcher = .none
  ) throws(IngotError) -> AdapterReport {
    let job = try AdapterUnpacking(directory, dtype, provider)
    return try write(job, to: destination, options: options, notices: [], watcher: watcher)
  }
}

/// One pack under way.
private final class AdapterPackRun: FactorDirectory {
  static let recordName = AdapterPackRecord.fileName
  static let weightsName = AdapterPackRecord.weights

  private let request: AdapterPackRequest
  private let kernels: Kernels
  private let algebra: LinearAlgebra
  let record: AdapterPackRecord
  private(set) var reports: [AdapterModuleReport] = []

  init(_ request: AdapterPackRequest, kernels: Kernels, algebra: LinearAlgebra) throws(IngotError) {
    self.request = request
    self.kernels = kernels
    self.algebra = algebra
    let contents = request.adapter.contents
    if contents.settings.usesDora || contents.modules.contains(where: { $0.bias != nil }) {
      throw IngotError(
        .unsupported, "the adapter \(contents.settings.usesDora ? "uses DoRA" : "has biases of factors"), and a pack holds factors only",
        hint: "apply it to its base, and extract the difference", subject: request.adapter.name)
    }
    guard !contents.modules.isEmpty else { throw IngotError(.format, "the adapter changes no module", subject: request.adapter.name) }
    record = AdapterPackRecord(
      config: request.adapter.config, fanInFanOut: contents.settings.fanInFanOut, dtype: request.adapter.dtype,
      modules: contents.modules.map { module in
        let bits = request.rules.first { $0.pattern.matches(module.name) }?.bits ?? request.bits
        return .init(
          name: module.name, isEmbedding: module.isEmbedding, inputShape: module.inputShape, outputs: module.outputs,
          bits: bits.bits(rank: min(module.rank, module.inputs, module.outputs)))
      })
  }

  private var wholes: [TensorDescription] {
    request.adapter.contents.whole.map {
      TensorDescription(name: AdapterPackRecord.wholePrefix + $0.name, dtype: $0.tensor.dtype, shape: $0.tensor.shape)
    }
  }

  var tensors: [TensorDescription] { record.modules.flatMap { AdapterPackRecord.tensors($0) } + wholes }

  var identity: String {
    "lora pack \(request.adapter.name) \(request.bits)" + request.rules.map { " \($0.pattern.text)=\($0.bits)" }.joined()
  }

  var notices: [Notice] { request.adapter.notices }

  var recordBytes: [UInt8] { record.bytes }

  var moduleNames: [String] { record.modules.map(\.name) }

  func requireUnchanged() throws(IngotError) { try request.adapter.requireUnchanged() }

  func workspaceBytes(of place: Int) throws(IngotError) -> Int {
    let workspace = MatrixWorkspace.measuring()
    let low = LowRankAlgebra(algebra, workspace)
    let (stored, found) = try decomposed(place, low)
    _ = try distance(stored, found, low)
    return workspace.peak + 4096
  }

  /// The module's change with its scale, and its singular value decomposition with signs that do not depend on how it was stored.
  private func decomposed(_ place: Int, _ low: LowRankAlgebra) throws(IngotError) -> (stored: LowRank, found: LowRankSVD) {
    let module = request.adapter.contents.modules[place]
    let stored = try request.adapter.factors(of: module, low)
    stored.b.scale(by: module.scale)
    return (stored, try low.svd(stored))
  }

  private func distance(_ stored: LowRank, _ found: LowRankSVD, _ low: LowRankAlgebra) throws(IngotError) -> (norm: Double, error: Double?)
  {
    // The vectors are what was decoded; the values go into one of them.
    let product = LowRank(b: found.u, a: found.v)
    product.b.scaleColumns(by: found.values)
    let (whole, own) = (try low.inner(stored, stored), try low.inner(product, product))
    let apart = max(0, whole - 2 * (try low.inner(stored, product)) + own)
    let share = whole > 0 ? apart / whole : 0
    return (max(own, 0).squareRoot(), whole > 0 ? (share < 1e-14 ? 0 : share.squareRoot()) : nil)
  }

  func write(_ place: Int, to writer: TensorFileWriter, _ file: OutputFile, _ workspace: MatrixWorkspace) throws(IngotError) {
    try workspace.scope { () throws(IngotError) in
      try algebra.withThreads(1) { () throws(IngotError) in try pack(place, record.modules[place], writer, file, workspace) }
    }
  }

  func writeRest(to writer: TensorFileWriter, _ file: OutputFile) throws(IngotError) {
    for whole in request.adapter.contents.whole { try writer.copy(try request.adapter.bytes(whole.tensor), to: file) }
  }

  private func pack(
    _ place: Int, _ module: AdapterPackRecord.Module, _ writer: TensorFileWriter, _ file: OutputFile, _ workspace: MatrixWorkspace
  ) throws(IngotError) {
    let low = LowRankAlgebra(algebra, workspace)
    let (stored, found) = try decomposed(place, low)
    let values = (0..<module.rank).map { Float(found.values[$0]) }
    var parts: [(codes: [UInt8], scales: [Float])] = []
    for matrix in [found.v, found.u] {
      var part: (codes: [UInt8], scales: [Float]) = ([], [])
      for (column, bits) in module.bits.enumerated() {
        let encoded = QuantizedColumn.encode((0..<matrix.rows).map { matrix[$0, column] }, bits: bits)
        part.codes += encoded.codes
        part.scales.append(encoded.scale)
        let decoded = QuantizedColumn.decode(encoded.codes[...], bits: bits, scale: encoded.scale, count: matrix.rows)
        for (row, value) in decoded.enumerated() { matrix[row, column] = value }
      }
      // Columns that no group has are not there.
      for column in module.rank..<max(matrix.columns, module.rank) { matrix.columns(column..<column + 1).fill(0) }
      parts.append(part)
    }
    try writer.write(values, to: file, kernels)
    for part in parts { try writer.write(part.scales, to: file, kernels) }
    for part in parts { try writer.write(part.codes, to: file) }
    let (norm, error) = try distance(stored, found, low)
    reports.append(
      AdapterModuleReport(
        name: module.name, outputs: module.outputs, inputs: module.inputs, rank: module.rank, norm: norm, error: error))
  }
}

/// An adapter out of a pack: √σ times the decoded vectors in both factors.
struct AdapterUnpacking: AdapterJob {
  let layout: AdapterLayout
  let usesAllThreads = false
  let configs: [JSONValue]
  let base: String? = nil
  let identity: String
  private let record: AdapterPackRecord
  private let stored: ProvidedModel
  private let wholes: [CheckpointTensor]

  init(_ directory: String, _ type: String?, _ provider: any ModelProvider) throws(IngotError) {
    let record = try AdapterPackRecord(directory)
    let path = RecordFile.path(of: AdapterPackRecord.weights, in: directory)
    let position = SourcePosition(origin: "command line", line: 1, column: 1)
    stored = try provider.open(IngotRecipes.ModelReference(.fields(path: path, revision: nil), position: position)).readable()
    for expected in record.modules.flatMap({ AdapterPackRecord.tensors($0) }) {
      guard let tensor = stored.checkpoint[expected.name], tensor.shape == expected.shape, tensor.dtype == expected.dtype else {
        let found = stored.checkpoint[expected.name].map { "\($0.dtype.safetensorsName) \($0.shape)" } ?? "no such tensor"
        throw IngotError(
          .format, "found \(found), expected \(expected.dtype.safetensorsName) \(expected.shape) as the record says",
          hint: "the files are not of one pack", subject: expected.name)
      }
    }
    var dtype = record.dtype
    if let type {
      guard let wanted = DType.allCases.first(where: { $0.torchName == type }), wanted.isOutput else {
        throw IngotError(.dtype, "results cannot be written as \(type.prefix(40))", hint: "use float32, float16 or bfloat16")
      }
      dtype = wanted
    }
    wholes = stored.checkpoint.tensors.filter { $0.name.hasPrefix(AdapterPackRecord.wholePrefix) }
    configs = [record.config]
    layout = AdapterLayout(
      modules: record.modules.map {
        AdapterLayout.Module(name: $0.name, isEmbedding: $0.isEmbedding, inputShape: $0.inputShape, outputs: $0.outputs, rank: $0.rank)
      },
      whole: wholes.map {
        TensorDescription(name: String($0.name.dropFirst(AdapterPackRecord.wholePrefix.count)), dtype: $0.dtype, shape: $0.shape)
      }, dtype: dtype, fanInFanOut: record.fanInFanOut)
    identity = "lora unpack \(directory)"
    self.record = record
  }

  func compute(_ place: Int, _ algebra: LowRankAlgebra) throws(IngotError) -> ComputedModule {
    let module = record.modules[place]
    let result = try algebra.empty(outputs: module.outputs, inputs: module.inputs, rank: module.rank)
    if !algebra.workspace.isMeasuring {
      let values = try numbers(module, ".values")
      for (factor, letter) in [(result.a, "lora_A"), (result.b, "lora_B")] {
        let scales = try numbers(module, ".\(letter).scales")
        let codes = try bytes(module, ".\(letter).codes")
        var first = 0
        for (column, bits) in module.bits.enumerated() {
          let count = QuantizedColumn.byteCount(factor.rows, bits: bits)
          let root = Double(max(values[column], 0)).squareRoot()
          let decoded = QuantizedColumn.decode(codes[first..<first + count], bits: bits, scale: scales[column], count: factor.rows)
          for (row, value) in decoded.enumerated() { factor[row, column] = value * root }
          first += count
        }
      }
    }
    return ComputedModule(factors: result, bias: nil, norm: try algebra.norm(result), error: nil)
  }

  private func tensor(_ module: AdapterPackRecord.Module, _ name: String) throws(IngotError) -> CheckpointTensor {
    guard let tensor = stored.checkpoint[AdapterContents.prefix + module.name + name] else {
      throw IngotError(.internalError, "a tensor that was there", subject: module.name)
    }
    return tensor
  }

  private func numbers(_ module: AdapterPackRecord.Module, _ name: String) throws(IngotError) -> [Float] {
    let tensor = try tensor(module, name)
    let values = try FloatReader(try StoredBytes(tensor, of: stored), tensor.dtype).values(0, module.rank)
    guard values.count == module.rank, values.allSatisfy(\.isFinite) else {
      throw IngotError(.nonFinite, "the pack has values that are NaN or infinite", hint: "make it again", subject: tensor.name)
    }
    return values
  }

  private func bytes(_ module: AdapterPackRecord.Module, _ name: String) throws(IngotError) -> [UInt8] {
    let tensor = try tensor(module, name)
    return try StoredBytes(tensor, of: stored).allBytes()
  }

  func whole(_ index: Int) throws(IngotError) -> any DerivedTensor { try StoredBytes(wholes[index], of: stored) }

  func magnitude(_ module: Int) throws(IngotError) -> any DerivedTensor { throw IngotError(.internalError, "a pack has no magnitudes") }

  func requireUnchanged() throws(IngotError) {
    for source in stored.sources { try source.requireUnchanged() }
  }
}
