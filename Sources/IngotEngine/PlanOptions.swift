internal import IngotErrors
package import IngotRecipes

/// What planning may be told besides the recipe.
package struct PlanOptions: Sendable {
  /// Bytes of tensor data in one output file; 0 writes one file.
  package var shardSize = 5_000_000_000
  /// Takes the place of the recipe's seed.
  package var seed: UInt64?
  /// How results of documents reach the documents that read them.
  package var stages = StagePlacement.automatic
  /// Takes the place of the recipe's numerics.
  package var numerics: Recipe.Numerics?
  /// Takes the place of the recipe's `missing`.
  package var missing: Recipe.Missing?
  /// Copies the donor's tokenizer files.
  package var carriesTokenizer = true
  /// Writes README.md and mergekit_config.yml.
  package var writesModelCard = true
  /// Tensors of all documents together that are planned at most.
  package var mostTensors = Limit.plannedTensors
  /// Files of the output besides those that follow from the recipe.
  package var extraFiles: [SideFile] = []
  package init() {}
}
