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
  let options: PlanOptions
  let tokenizer: TokenizerPlan?

  /// The model whose config and side files the output gets: the base, else the first.
  private var donor: Int { recipe.baseModel ?? recipe.slices.first?.sources.first?.model ?? 0 }

  func plan(
    index: ShardLayout.Index?, ties: Bool, stacks: [ConfigEdit.StackLayers], vocabularySize: Int?, notices: inout [Notice]
  ) throws(IngotError) -> [SideFile] {
    var files = options.extraFiles
    if let index { files.append(SideFile(name: index.fileName, content: .bytes(index.text))) }
    guard models.indices.contains(donor) else { return files }
    let model = models[donor]
    if let config = model.checkpoint.config {
      let edit = ConfigEdit(
        stacks: stacks, vocabularySize: vocabularySize, dtype: outputDType, tieWordEmbeddings: ties)
      let origin = model.files.map { $0.displayPath + "/config.json" } ?? "config.json"
      let edited = try edit.apply(to: config, origin: origin)
      notices += edited.notices
      files.append(SideFile(name: "config.json", content: .bytes(ConfigEdit.text(edited.config))))
    }
    if let directory = model.files {
      let carried = CarriedFiles.select(try directory.fileNames(), donor: recipe.models[donor].name)
      notices += carried.notices
      let taken = Set(files.map(\.name) + ["README.md", "mergekit_config.yml", "ingot.json", RollingState.fileName])
      for name in carried.names where !taken.contains(name) && (options.carriesTokenizer || !CarriedFiles.isTokenizer(name)) {
        if let file = try Self.carried(name, from: directory) { files.append(file) }
      }
    }
    try TokenizerSideFiles(recipe: recipe, models: models, plan: tokenizer, donor: donor).apply(to: &files, notices: &notices)
    guard options.writesModelCard else { return files }
    files.append(SideFile(name: "README.md", content: .bytes(Array(try card().utf8))))
    files.append(SideFile(name: "mergekit_config.yml", content: .bytes(recipe.text)))
    return files
  }

  /// A file of a model's directory, to be copied.
  static func carried(_ name: String, from directory: any ModelFiles) throws(IngotError) -> SideFile? {
    if let local = directory as? DirectoryFiles {
      guard let size = try directory.size(of: name) else { return nil }
      return SideFile(name: name, content: .copy(from: local.place(of: name), byteCount: Int(clamping: size)))
    }
    // A host's own files have no path here: what its model is called must never be opened as one.
    return try directory.readWhole(name, limit: Limit.carriedBytes).map { SideFile(name: name, content: .bytes($0)) }
  }

  /// The dtype of the output when all its floating tensors share one and it is not the donor's anyway.
  private var outputDType: DType? {
    if let named = recipe.outputDType { return named }
    let found = Set(tensors.lazy.map(\.dtype).filter(\.hasArithmetic))
    return found.count == 1 ? found.first : nil
  }

  /// The models as a card lists them: those of stages in their place.
  func cardSources() throws(IngotError) -> [ModelCard.Source] {
    var sources: [ModelCard.Source] = []
    for (index, model) in models.enumerated() {
      if let stage = model.stage {
        sources += stage.cardSources.filter { source in !sources.contains { $0.reference == source.reference } }
        continue
      }
      var licence: ModelLicence?
      if let bytes = try model.files?.readWhole("README.md", limit: Limit.readmeBytes) {
        licence = ModelLicence.read(fromREADME: String(decoding: bytes, as: UTF8.self))
      }
      sources.append(
        ModelCard.Source(
          reference: try LocalModels.parse(recipe.models[index]), isLocal: model.isLocal, adaptersAreLocal: model.adapters.map(\.isLocal),
          isBase: index == recipe.baseModel, licence: licence))
    }
    return sources
  }

  private func card() throws(IngotError) -> String {
    ModelCard(
      method: recipe.method.name, methodLink: recipe.method.reference?.url, sources: try cardSources(),
      recipe: String(decoding: recipe.text, as: UTF8.self)
    ).render()
  }
}
