internal import IngotEngine
internal import IngotErrors
internal import IngotJSON
internal import IngotMethods

extension RunReport {
  /// The report as the caller gets it: one JSON object.
  var json: String { JSON.text(document) }

  var document: JSONValue {
    .object([
      "bytes_read": .int(bytesRead), "bytes_read_direct": .int(bytesReadAhead), "reading": .string(reading),
      "memory_nodes": .array(nodes.map(Self.json)), "bytes_written": .int(bytesWritten), "bytes_decoded": .int(decodedBytes),
      "seconds": .double(seconds), "threads": .int(threads), "team": .string(team), "isa": .string(instructionSet),
      "blas_core": blasCore.map { .string($0) } ?? .null, "blas_hint": blasHint.map { .string($0) } ?? .null,
      "peak_memory_bytes": .int(peakMemory), "resumed_tensors": .int(resumedTensors),
      "notices": .array(notices.map(\.json)), "findings": .array(findings.map { Self.json($0.finding, of: $0.tensor) }),
    ])
  }

  private static func json(_ node: NodeReport) -> JSONValue {
    .object([
      "node": .int(node.node), "workers": .int(node.workers), "items": .int(node.items), "stolen_items": .int(node.stolen),
      "worker_bytes": .int(node.bytes), "worker_bytes_elsewhere": .int(node.bytesElsewhere),
    ])
  }

  private static func json(_ finding: Finding, of tensor: String) -> JSONValue {
    .object([
      "tensor": .string(tensor), "name": .string(finding.name), "value": .double(finding.value),
      "model": finding.model.map { .int($0) } ?? .null,
    ])
  }
}
