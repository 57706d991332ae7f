/// How much Ingot takes from files, recipes and callers before it refuses, in one place. docs/limits.md lists every number, and a test
/// compares the two. What is read costs time and memory in proportion to it, so each of these bounds both.
package enum Limit {
  // MARK: JSON

  /// Lists and objects inside each other.
  package static let jsonNesting = 128

  // MARK: Checkpoints

  /// Bytes of a safetensors header: the limit that the format's own library has.
  package static let headerBytes = 100_000_000
  /// Bytes that the tensors of one checkpoint take together, so that sums over checkpoints can be counted.
  package static let checkpointBytes = 1 << 50
  /// Layer counts in a config.json; further ones are not looked at.
  package static let layerCounts = 64
  /// Axes of a tensor.
  package static let rank = 32
  /// Bytes of a shard index.
  package static let indexBytes = 256 << 20
  /// Bytes of a config.json.
  package static let configBytes = 16 << 20
  /// Bytes of a tokenizer.json: more than the largest tokenizer has.
  package static let tokenizerBytes = 256 << 20
  /// The largest number of a token; one beyond it would ask for an embedding that no machine holds.
  package static let tokenNumber = (1 << 24) - 1
  /// Experts that one tensor holds.
  package static let experts = 1 << 16
  /// Numbers without a token that get one because new tokens follow them.
  package static let tokenGaps = 1 << 18
  /// Bytes of a tokenizer's configuration or a chat template.
  package static let tokenizerConfigBytes = 64 << 20
  /// Bytes of any other file of the donor that is held in memory before it is written.
  package static let carriedBytes = 256 << 20
  /// Bytes of a README.md that is looked through for a licence.
  package static let readmeBytes = 4 << 20
  /// Bytes of an ingot.json: more than a record of a million tensors needs.
  package static let recordBytes = 512 << 20
  /// Bytes of a rolling.json, adapter_pack.json or adapter_basis.json.
  package static let rollingBytes = 64 << 20
  /// Bytes of a JSON side file that `ingot diff` compares value by value.
  package static let comparedBytes = 128 << 20
  /// Bytes of the journal of a partial output: 100 bytes a line and ten million tensors.
  package static let journalBytes = 1 << 30
  /// Directories inside each other that are removed with a partial or replaced output.
  package static let removedNesting = 256
  /// Names in one directory.
  package static let directoryNames = 1_000_000

  // MARK: PyTorch files

  /// Bytes of a pickle; one of 100,000 tensors has about 25 MB.
  package static let pickleBytes = 64 << 20
  /// Opcodes of one pickle. A tensor takes about 45.
  package static let pickleOpcodes = 16 << 20
  /// Bytes of a module or a name in a pickle.
  package static let globalBytes = 1 << 10
  /// Entries of a zip archive.
  package static let archiveEntries = 1 << 20
  /// Bytes of a zip archive's directory.
  package static let archiveDirectoryBytes = 128 << 20
  /// Bytes of a tensor whose elements share memory (an expanded one), beyond those that its storage has.
  package static let expandedBytes = 64 << 20

  // MARK: Recipes

  /// Bytes of a recipe.
  package static let recipeBytes = 4 << 20
  /// Values of a recipe after aliases are expanded.
  package static let recipeValues = 250_000
  /// Lists and mappings of a recipe inside each other, aliases expanded.
  package static let recipeNesting = 64
  /// Documents of a recipe.
  package static let recipeDocuments = 256
  /// Tensors that a recipe makes, those of all its documents together.
  package static let plannedTensors = 1 << 20
  /// Bytes that a plan reads or writes in one pass.
  package static let plannedBytes = 1 << 56
  /// Lines of a recipe that begin with `%`.
  package static let recipeDirectives = 64
  /// Bytes of a document's name.
  package static let documentNameBytes = 256
  /// Bytes of a tensor pattern.
  package static let patternBytes = 1000
  /// Groups of a regular expression inside each other.
  package static let patternNesting = 40
  /// The largest number in a regular expression's `{m,n}`.
  package static let patternRepeats = 1000
  /// Steps that a pattern unfolds to.
  package static let patternSteps = 10_000
  /// Rows that an embedding is padded to a multiple of.
  package static let paddingRows = 1 << 20

  // MARK: Callers

  /// Bytes of an extensible struct of ingot.h.
  package static let structBytes = 4096
  /// Rank of an adapter that is made, and the number of a task among those that share directions.
  package static let adapterRank = 1 << 20
  /// Worker threads.
  package static let threads = 4096
}
