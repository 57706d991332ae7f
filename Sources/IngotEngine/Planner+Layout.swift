internal import IngotCheckpoints
internal import IngotErrors
internal import IngotRecipes
internal import IngotTensors

extension Planner {
  /// Gives every tensor its file and its place there.
  mutating func layOut(_ options: PlanOptions) throws(IngotError) -> (files: [WeightFile], index: ShardLayout.Index?) {
    guard let limit = UInt64(exactly: options.shardSize) else {
      throw IngotError(.invalidArgument, "the shard size is \(options.shardSize) bytes, expected 0 or more")
    }
    // Only what follows from the plan: equal plans give equal bytes.
    let metadata = [
      MetadataEntry("format", "pt"), MetadataEntry("merge_method", recipe.method.name), MetadataEntry("merge_seed", String(seed)),
    ]
    let described = tensors.map { TensorDescription(name: $0.name, dtype: $0.dtype, shape: $0.shape) }
    let layout = try ShardLayout(tensors: described, limit: limit, metadata: metadata)
    var files: [WeightFile] = []
    for (number, shard) in layout.shards.enumerated() {
      guard let size = Int(exactly: shard.layout.fileSize) else {
        throw IngotError(.shape, "an output file of \(shard.layout.fileSize) bytes is beyond what files can be", subject: shard.fileName)
      }
      files.append(WeightFile(name: shard.fileName, header: shard.layout.header, byteCount: size))
      for (place, index) in shard.tensors.enumerated() {
        tensors[index].file = number
        tensors[index].offset = Int(shard.layout.fileOffsets[place])
        tensors[index].byteCount = shard.layout.byteCounts[place]
      }
    }
    return (files, layout.index)
  }
}
