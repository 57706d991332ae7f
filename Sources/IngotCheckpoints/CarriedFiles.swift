package import IngotErrors

/// Which files of the donor's directory go along with the merged weights.
package enum CarriedFiles {
  /// Weights and training state, of this format and of others.
  private static let weightEndings = [
    ".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz", ".npy", ".gguf", ".ggml", ".onnx",
    ".onnx_data", ".onnx.data", ".h5", ".hdf5", ".msgpack", ".ot", ".tflite", ".mlmodel", ".pb", ".xml", ".nemo", ".engine", ".llamafile",
    ".tar", ".tar.gz", ".tgz", ".zip", ".7z", ".lock", ".incomplete", ".pyc",
  ]

  /// Files that the output has of its own, or that describe other weights.
  private static let ownFiles: Set<String> = [
    "config.json", "readme.md", "ingot.json", "mergekit_config.yml", "adapter_config.json", "hf_quant_config.json",
  ]

  /// Directories with the model in another format, or with the traces of a training run.
  private static let otherDirectories: Set<String> = [
    "onnx", "openvino", "coreml", "gguf", "original", "runs", "logs", "__pycache__",
  ]

  /// True for the files that make up a tokenizer.
  package static func isTokenizer(_ name: String) -> Bool {
    let known: Set<String> = [
      "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt",
      "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "chat_template.jinja", "chat_template.json",
    ]
    return known.contains(name) || name.hasPrefix("additional_chat_templates/")
  }

  /// The names to copy, sorted, and a notice when code is among them.
  ///
  /// `names` are relative to the donor's directory. Left out: weights of any format, indices, the README, what the merge writes
  /// itself, hidden files, training checkpoints.
  package static func select(_ names: [String], donor: String) -> (names: [String], notices: [Notice]) {
    let carried = names.filter(isCarried).sorted()
    let code = carried.filter { $0.hasSuffix(".py") }
    guard !code.isEmpty else { return (carried, []) }
    let list = code.prefix(5).joined(separator: ", ") + (code.count > 5 ? ", …" : "")
    let notice = Notice(
      .info, "\(code.count) files of Python code are copied (\(list)); they run when the model is loaded with trust_remote_code",
      subject: donor)
    return (carried, [notice])
  }

  private static func isCarried(_ name: String) -> Bool {
    let lowered = name.lowercased()
    let parts = lowered.split(separator: "/", omittingEmptySubsequences: false)
    guard !name.utf8.contains(0), !parts.contains(where: { $0.isEmpty || $0.hasPrefix(".") }) else { return false }
    for directory in parts.dropLast() {
      if otherDirectories.contains(String(directory)) || directory.hasSuffix(".mlpackage") { return false }
      if directory.hasPrefix("checkpoint-") || directory.hasPrefix("global_step") { return false }
    }
    if parts.count == 1, ownFiles.contains(lowered) { return false }
    return !weightEndings.contains { lowered.hasSuffix($0) }
  }
}
