internal import IngotErrors
internal import IngotMethods
internal import IngotTensors

/// The last phase: tiles of the output, computed, rounded and handed on.
extension JobExecution {
  func emit(_ state: Method.State, item: Int, worker: Worker) throws(IngotError) {
    announce(item, worker, isOnce: true) { number in
      let part = output.item(number)
      return (part.segment, segments[part.segment].blocking.cover(part.elements))
    }
    let part = output.item(item)
    let segment = segments[part.segment]
    let width = segment.outputWidth
    let cover = segment.blocking.cover(part.elements)
    let capacity = max(worker.outputBytes / width, segment.blocking.stagingLength)
    let tileLength = segment.blocking.tileLength
    let step = cover.count <= capacity ? max(cover.count, 1) : max(capacity / tileLength, 1) * tileLength
    var chunkStart = cover.lowerBound
    while chunkStart < cover.upperBound {
      let chunk = chunkStart..<min(chunkStart + step, cover.upperBound)
      let area = try unsafe worker.nextOutput(at: segment.tensor.offset + chunk.lowerBound * width, context.writes)
      try unsafe compute(state, chunk, segment: segment, worker: worker, into: area)
      if segment.tensor.dtype == .f16 { unsafe countOverflows(chunk, of: part, at: area, worker) }
      if chunk.upperBound == cover.upperBound {
        if cover != part.elements && !nonfinite.isChecked && worker.hasNonfinite {
          try recount(part.elements, segment: segment, worker: worker)
        }
        nonfinite.collect(worker, segment: segment.index)
      }
      try unsafe output.store(chunk, of: part, from: area, worker: worker)
      chunkStart = chunk.upperBound
    }
    worker.releaseHeld(context.ahead)
  }

  /// Computes the elements of `chunk`, which begins at a tile, into `area`, which holds them in the output's dtype.
  func compute(
    _ state: Method.State, _ chunk: Range<Int>, segment: JobSegment, worker: Worker, into area: UnsafeMutableRawPointer
  ) throws(IngotError) {
    let width = segment.outputWidth
    try loadSides(segment, worker)
    var start = chunk.lowerBound
    while start < chunk.upperBound {
      let range = start..<min(start + segment.blocking.stagingLength, chunk.upperBound)
      if let merge = fused[segment.index] {
        // SAFETY: the area holds the whole chunk in the output's dtype.
        let target = unsafe area + (start - chunk.lowerBound) * width
        try unsafe emitFused(merge, range, segment: segment, worker: worker, into: target)
        start = range.upperBound
        continue
      }
      try forEachTile(range, segment: segment, worker: worker, use: .bypass) { (tile, result) throws(IngotError) in
        method.emit(state, tile, into: result)
        if let scaling = segment.tensor.scaling {
          scale(result, scaling, tile, distance: Int(tile.firstIndex) - range.lowerBound, segment, worker)
        }
        // SAFETY: the area holds the whole chunk in the output's dtype.
        let target = unsafe area + (Int(tile.firstIndex) - chunk.lowerBound) * width
        tile.kernels.store(result, into: unsafe MutableElementSlice(unsafe: target, dtype: segment.tensor.dtype, count: tile.count))
      }
      start = range.upperBound
    }
  }

  /// The last step of activation-informed merging: base + f · (merged − base), the base read anew since the method may have changed it.
  private func scale(
    _ merged: Floats, _ scaling: PlannedScaling, _ tile: Tile, distance: Int, _ segment: JobSegment, _ worker: Worker
  ) {
    let access = segment.inputs[scaling.base]
    let base = tile.inputs[0]
    // SAFETY: elements of the base are valid for the whole read, of which the tile is a part.
    let slice = unsafe ElementSlice(
      unsafe: worker.elements[scaling.base] + distance * access.width, dtype: access.dtype, count: tile.count)
    _ = context.kernels.load(slice, into: base)
    context.kernels.scaleChannels(
      merged, factors: tile.sides[scaling.norms], firstIndex: tile.firstIndex, base: base, into: merged)
  }

  /// Counts what became infinite when it was rounded: the largest float16 is 65,504, the other types reach as far as float32 does.
  private func countOverflows(_ chunk: Range<Int>, of item: OutputItem, at area: UnsafeRawPointer, _ worker: Worker) {
    let segment = segments[item.segment]
    let part = chunk.clamped(to: item.elements)
    let length = segment.blocking.tileLength
    var count = 0
    var start = part.lowerBound
    while start < part.upperBound {
      let end = min(start + length, part.upperBound)
      let runs = worker.runs(inputs: segment.inputs.count, scratch: demands.scratchRows, tileLength: length, count: end - start)
      // SAFETY: the area holds the whole chunk, of which this is a part.
      let stored = unsafe ElementSlice(
        unsafe: area + (start - chunk.lowerBound) * segment.outputWidth, dtype: segment.tensor.dtype, count: end - start)
      count += context.kernels.load(stored, into: runs.output)
      start = end
    }
    nonfinite.collect(overflows: count, segment: item.segment)
  }

  /// Counts again what lies in `range` alone: rows that straddle two items are computed for both.
  private func recount(_ range: Range<Int>, segment: JobSegment, worker: Worker) throws(IngotError) {
    worker.forgetNonfinite()
    for start in stride(from: range.lowerBound, to: range.upperBound, by: segment.blocking.stagingLength) {
      let part = start..<min(start + segment.blocking.stagingLength, range.upperBound)
      for index in segment.inputs.indices {
        unsafe worker.elements[index] = try kept.elements(part, input: index, of: segment, use: .bypass, context: context, worker: worker)
      }
      countNonfinite(part.count, segment: segment, worker: worker)
    }
  }

  /// Computes `range` with the fused kernel: one call for the whole read, or for each row where keep bits begin anew with every row.
  private func emitFused(
    _ merge: FusedMerge, _ range: Range<Int>, segment: JobSegment, worker: Worker, into target: UnsafeMutableRawPointer
  ) throws(IngotError) {
    let inputs = segment.inputs
    for index in inputs.indices {
      unsafe worker.elements[index] = try kept.elements(range, input: index, of: segment, use: .bypass, context: context, worker: worker)
      worker.decodedBytes += range.count * inputs[index].width
    }
    let hasBase: Bool
    switch merge.form {
    case .linear: hasBase = false
    case .deltas: hasBase = true
    }
    let step = segment.blocking.granularity == .row ? segment.blocking.rowLength : range.count
    var start = range.lowerBound
    var bad = 0
    while start < range.upperBound {
      let count = min(step, range.upperBound - start)
      // SAFETY: the target holds the range in the output's dtype.
      let output = unsafe MutableElementSlice(
        unsafe: target + (start - range.lowerBound) * segment.outputWidth, dtype: segment.tensor.dtype, count: count)
      bad += worker.merge(
        merge, hasBase: hasBase, inputs: inputs, distance: start - range.lowerBound, count: count,
        firstIndex: segment.jobBase + UInt64(start),
        masks: merge.needsMasks ? masks.planes(segment, start: start, worker: worker) : nil, elementIndex: UInt64(start),
        kernels: context.kernels,
        into: output)
      start += count
    }
    if bad > 0 { countNonfinite(range.count, segment: segment, worker: worker) }
  }
}
