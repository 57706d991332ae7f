import CKernels

/// Decoding of quantised storage. Every value is its code's value times its scale in f32, rounded once.
extension Kernels {
  /// value of code i · scales[(first + i) / block], of FP8 codes (F8_E4M3, F8_E5M2); stops where the scales end.
  package func loadScaled(_ source: ElementSlice, scales: Floats, first: Int, block: Int, into output: Floats) {
    guard source.dtype.bits == 8, first >= 0, block > 0 else { return }
    let (reach, overflow) = scales.count.multipliedReportingOverflow(by: block)
    let n = min(source.count, output.count, overflow ? Int.max : max(reach - first, 0))
    // SAFETY: source and output hold at least n values, and (first + n - 1) / block is below the number of scales.
    unsafe ingotk_load_scaled(set, source.dtype.rawValue, source.address, scales.base, first, block, output.base, n)
  }

  /// 2^(e − 127) of E8M0 codes; 255 is NaN.
  package func loadPowers(_ source: ElementSlice, into output: Floats) {
    guard source.dtype.bits == 8 else { return }
    // SAFETY: both hold at least that many values.
    unsafe ingotk_load_powers(set, source.address, output.base, min(source.count, output.count))
  }

  /// Code `index` of each block times the block's scale: `blocks` are 16 bytes each (32 codes E2M1, the low nibble first), `scales` E8M0.
  package func loadMXFP4(blocks: ElementSlice, index: Int, scales: ElementSlice, into output: Floats) {
    guard blocks.dtype.bits == 8, scales.dtype.bits == 8, (0..<32).contains(index) else { return }
    let n = min(blocks.count / 16, scales.count, output.count)
    // SAFETY: n blocks of 16 bytes, n scales and n results are there.
    unsafe ingotk_load_mxfp4(set, blocks.address, 16, index, scales.address, output.base, n)
  }
}
