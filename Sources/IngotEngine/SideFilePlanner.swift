internal import IngotCheckpoints
internal import IngotErrors
internal import IngotJSON
internal import IngotRecipes
internal import IngotTensors

/// The output's files besides the weights: index, config, the donor's other files, model card, recipe.
struct SideFilePlanner {
  let recipe: Recipe
  let models: [ProvidedModel]
  let tensors: [PlannedTensor]

  /// Bytes of one side file that a plan keeps in memory, for models that are no directory.
  private static let carriedBytes: UInt64 = 256 << 20

  /// The model whose config and side files the output gets: the base, else the first.
  private var donor: Int { recipe.baseModel ?? recipe.slices.first?.sources.first?.model ?? 0 }

  func plan(
    index: ShardLayout.Index?, ties: Bool, layers: [ConfigEdit.LayerSource]?, vocabularySize: Int?, notices: inout [Notice]
  ) throws(IngotError) -> [SideFile] {
    var files: [SideFile] = []
    if let index { files.append(SideFile(name: index.fileName, content: .bytes(index.text))) }
    guard models.indices.contains(donor) else { return files }
    let model = models[donor]
    if let config = model.checkpoint.config {
      let edit = ConfigEdit(
        layers: layers, vocabularySize: vocabularySize, dtype: outputDType, tieWordEmbeddings: ties)
      let origin = model.files.map { $0.displayPath + "/config.json" } ?? "config.json"
      let edited = try edit.apply(to: config, origin: origin)
      notices += edited.notices
      files.append(SideFile(name: "config.json", content: .bytes(ConfigEdit.text(edited.config))))
    }
    if let directory = model.files {
      let carried = CarriedFiles.select(try directory.fileNames(), donor: recipe.models[donor].name)
      notices += carried.notices
      let taken = Set(files.map(\.name) + ["README.md", "mergekit_config.yml", "ingot.json"])
      for name in carried.names where !taken.contains(name) {
        if let local = directory as? DirectoryFiles {
          let size = try directory.size(of: name) ?? 0
          files.append(SideFile(name: name, content: .copy(from: local.place(of: name), byteCount: Int(clamping: size))))
        } else if let bytes = try directory.readWhole(name, limit: Self.carriedBytes) {
          // A host's own files have no path here: what its model is called must never be opened as one.
          files.append(SideFile(name: name, content: .bytes(bytes)))
        }
      }
    }
    files.append(SideFile(name: "README.md", content: .bytes(Array(try card().utf8))))
    files.append(SideFile(name: "mergekit_config.yml", content: .bytes(recipe.text)))
    return files
  }

  /// The dtype of the output when all its floating tensors share one and it is not the donor's anyway.
  private var outputDType: DType? {
    if let named = recipe.outputDType { return named }
    let found = Set(tensors.lazy.map(\.dtype).filter(\.hasArithmetic))
    return found.count == 1 ? found.first : nil
  }

  private func card() throws(IngotError) -> String {
    var sources: [ModelCard.Source] = []
    for (index, model) in models.enumerated() {
      var licence: ModelLicence?
      if let bytes = try model.files?.readWhole("README.md", limit: 4 << 20) {
        licence = ModelLicence.read(fromREADME: String(decoding: bytes, as: UTF8.self))
      }
      sources.append(
        ModelCard.Source(
          reference: try LocalModels.parse(recipe.models[index]), isLocal: model.isLocal, isBase: index == recipe.baseModel,
          licence: licence))
    }
    return ModelCard(
      method: recipe.method.name, methodLink: recipe.method.reference?.url, sources: sources,
      recipe: String(decoding: recipe.text, as: UTF8.self)
    ).render()
  }
}
