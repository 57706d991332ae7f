internal import CLAPACK

// SAFETY: every function hands its arguments on unchanged; `LinearAlgebra`, the only caller, has checked shapes and strides.

/// The element types that LAPACK has: f32 and f64. The functions take column-major arguments and are for `LinearAlgebra` alone.
package protocol MatrixElement: BinaryFloatingPoint, Sendable {
  static func gemm(
    _ transA: CChar, _ transB: CChar, _ m: Int32, _ n: Int32, _ k: Int32, _ alpha: Self, _ a: UnsafePointer<Self>, _ lda: Int32,
    _ b: UnsafePointer<Self>, _ ldb: Int32, _ beta: Self, _ c: UnsafeMutablePointer<Self>, _ ldc: Int32)
  static func syrk(
    _ trans: CChar, _ n: Int32, _ k: Int32, _ alpha: Self, _ a: UnsafePointer<Self>, _ lda: Int32, _ beta: Self,
    _ c: UnsafeMutablePointer<Self>, _ ldc: Int32)
  static func trsm(
    _ side: CChar, _ uplo: CChar, _ trans: CChar, _ m: Int32, _ n: Int32, _ a: UnsafePointer<Self>, _ lda: Int32,
    _ b: UnsafeMutablePointer<Self>, _ ldb: Int32)
  static func symm(
    _ side: CChar, _ m: Int32, _ n: Int32, _ alpha: Self, _ a: UnsafePointer<Self>, _ lda: Int32, _ b: UnsafePointer<Self>, _ ldb: Int32,
    _ beta: Self, _ c: UnsafeMutablePointer<Self>, _ ldc: Int32)
  static func symv(
    _ n: Int32, _ a: UnsafePointer<Self>, _ lda: Int32, _ x: UnsafePointer<Self>, _ y: UnsafeMutablePointer<Self>)
  static func trsv(
    _ uplo: CChar, _ trans: CChar, _ n: Int32, _ a: UnsafePointer<Self>, _ lda: Int32, _ x: UnsafeMutablePointer<Self>)
  static func potrf(_ uplo: CChar, _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32) -> Int32
  static func potri(_ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32) -> Int32
  static func potrs(
    _ n: Int32, _ rights: Int32, _ a: UnsafePointer<Self>, _ lda: Int32, _ b: UnsafeMutablePointer<Self>, _ ldb: Int32
  ) -> Int32
  static func syevd(
    _ job: CChar, _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ w: UnsafeMutablePointer<Self>,
    _ work: UnsafeMutablePointer<Self>, _ workCount: Int32, _ whole: UnsafeMutablePointer<Int32>, _ wholeCount: Int32
  ) -> Int32
  static func syevr(
    _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ first: Int32, _ last: Int32, _ found: UnsafeMutablePointer<Int32>,
    _ w: UnsafeMutablePointer<Self>, _ z: UnsafeMutablePointer<Self>, _ ldz: Int32, _ support: UnsafeMutablePointer<Int32>,
    _ work: UnsafeMutablePointer<Self>, _ workCount: Int32, _ whole: UnsafeMutablePointer<Int32>, _ wholeCount: Int32
  ) -> Int32
  static func gelqf(
    _ m: Int32, _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ tau: UnsafeMutablePointer<Self>,
    _ work: UnsafeMutablePointer<Self>, _ workCount: Int32
  ) -> Int32
  static func orglq(
    _ m: Int32, _ n: Int32, _ k: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ tau: UnsafePointer<Self>,
    _ work: UnsafeMutablePointer<Self>, _ workCount: Int32
  ) -> Int32
  static func gesdd(
    _ m: Int32, _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ s: UnsafeMutablePointer<Self>,
    _ u: UnsafeMutablePointer<Self>, _ ldu: Int32, _ vt: UnsafeMutablePointer<Self>, _ ldvt: Int32, _ work: UnsafeMutablePointer<Self>,
    _ workCount: Int32, _ whole: UnsafeMutablePointer<Int32>
  ) -> Int32

  /// Σ xᵢ yᵢ over `count` elements: products and sums in f64, element i in lane i mod 16, the lanes folded in one order.
  static func dot(_ x: UnsafePointer<Self>, _ y: UnsafePointer<Self>, _ count: Int) -> Double
}

/// Letters that LAPACK reads.
enum Letter {
  static let n = CChar(UInt8(ascii: "N"))
  static let t = CChar(UInt8(ascii: "T"))
  static let v = CChar(UInt8(ascii: "V"))
  static let l = CChar(UInt8(ascii: "L"))
  static let r = CChar(UInt8(ascii: "R"))
  static let s = CChar(UInt8(ascii: "S"))
  /// The upper triangle of a column-major matrix, which is the lower one of the same memory read by rows.
  static let u = CChar(UInt8(ascii: "U"))
}

extension Float: MatrixElement {
  package static func gemm(
    _ transA: CChar, _ transB: CChar, _ m: Int32, _ n: Int32, _ k: Int32, _ alpha: Self, _ a: UnsafePointer<Self>, _ lda: Int32,
    _ b: UnsafePointer<Self>, _ ldb: Int32, _ beta: Self, _ c: UnsafeMutablePointer<Self>, _ ldc: Int32
  ) { unsafe ingotl_gemm_f32(transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) }

  package static func syrk(
    _ trans: CChar, _ n: Int32, _ k: Int32, _ alpha: Self, _ a: UnsafePointer<Self>, _ lda: Int32, _ beta: Self,
    _ c: UnsafeMutablePointer<Self>, _ ldc: Int32
  ) { unsafe ingotl_syrk_f32(Letter.u, trans, n, k, alpha, a, lda, beta, c, ldc) }

  package static func trsm(
    _ side: CChar, _ uplo: CChar, _ trans: CChar, _ m: Int32, _ n: Int32, _ a: UnsafePointer<Self>, _ lda: Int32,
    _ b: UnsafeMutablePointer<Self>, _ ldb: Int32
  ) { unsafe ingotl_trsm_f32(side, uplo, trans, Letter.n, m, n, 1, a, lda, b, ldb) }

  package static func symm(
    _ side: CChar, _ m: Int32, _ n: Int32, _ alpha: Self, _ a: UnsafePointer<Self>, _ lda: Int32, _ b: UnsafePointer<Self>, _ ldb: Int32,
    _ beta: Self, _ c: UnsafeMutablePointer<Self>, _ ldc: Int32
  ) { unsafe ingotl_symm_f32(side, Letter.u, m, n, alpha, a, lda, b, ldb, beta, c, ldc) }

  package static func symv(
    _ n: Int32, _ a: UnsafePointer<Self>, _ lda: Int32, _ x: UnsafePointer<Self>, _ y: UnsafeMutablePointer<Self>
  ) { unsafe ingotl_symv_f32(Letter.u, n, a, lda, x, y) }

  package static func trsv(
    _ uplo: CChar, _ trans: CChar, _ n: Int32, _ a: UnsafePointer<Self>, _ lda: Int32, _ x: UnsafeMutablePointer<Self>
  ) { unsafe ingotl_trsv_f32(uplo, trans, n, a, lda, x) }

  package static func potrf(_ uplo: CChar, _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32) -> Int32 {
    unsafe ingotl_potrf_f32(uplo, n, a, lda)
  }

  package static func potri(_ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32) -> Int32 {
    unsafe ingotl_potri_f32(Letter.u, n, a, lda)
  }

  package static func potrs(
    _ n: Int32, _ rights: Int32, _ a: UnsafePointer<Self>, _ lda: Int32, _ b: UnsafeMutablePointer<Self>, _ ldb: Int32
  ) -> Int32 { unsafe ingotl_potrs_f32(Letter.u, n, rights, a, lda, b, ldb) }

  package static func syevd(
    _ job: CChar, _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ w: UnsafeMutablePointer<Self>,
    _ work: UnsafeMutablePointer<Self>, _ workCount: Int32, _ whole: UnsafeMutablePointer<Int32>, _ wholeCount: Int32
  ) -> Int32 { unsafe ingotl_syevd_f32(job, Letter.u, n, a, lda, w, work, workCount, whole, wholeCount) }

  package static func syevr(
    _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ first: Int32, _ last: Int32, _ found: UnsafeMutablePointer<Int32>,
    _ w: UnsafeMutablePointer<Self>, _ z: UnsafeMutablePointer<Self>, _ ldz: Int32, _ support: UnsafeMutablePointer<Int32>,
    _ work: UnsafeMutablePointer<Self>, _ workCount: Int32, _ whole: UnsafeMutablePointer<Int32>, _ wholeCount: Int32
  ) -> Int32 {
    unsafe ingotl_syevr_f32(Letter.u, n, a, lda, first, last, 0, found, w, z, ldz, support, work, workCount, whole, wholeCount)
  }

  package static func gelqf(
    _ m: Int32, _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ tau: UnsafeMutablePointer<Self>,
    _ work: UnsafeMutablePointer<Self>, _ workCount: Int32
  ) -> Int32 { unsafe ingotl_gelqf_f32(m, n, a, lda, tau, work, workCount) }

  package static func orglq(
    _ m: Int32, _ n: Int32, _ k: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ tau: UnsafePointer<Self>,
    _ work: UnsafeMutablePointer<Self>, _ workCount: Int32
  ) -> Int32 { unsafe ingotl_orglq_f32(m, n, k, a, lda, tau, work, workCount) }

  package static func gesdd(
    _ m: Int32, _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ s: UnsafeMutablePointer<Self>,
    _ u: UnsafeMutablePointer<Self>, _ ldu: Int32, _ vt: UnsafeMutablePointer<Self>, _ ldvt: Int32, _ work: UnsafeMutablePointer<Self>,
    _ workCount: Int32, _ whole: UnsafeMutablePointer<Int32>
  ) -> Int32 { unsafe ingotl_gesdd_f32(Letter.s, m, n, a, lda, s, u, ldu, vt, ldvt, work, workCount, whole) }

  package static func dot(_ x: UnsafePointer<Self>, _ y: UnsafePointer<Self>, _ count: Int) -> Double {
    unsafe ingotl_dot_f32(x, y, count)
  }
}

extension Double: MatrixElement {
  package static func gemm(
    _ transA: CChar, _ transB: CChar, _ m: Int32, _ n: Int32, _ k: Int32, _ alpha: Self, _ a: UnsafePointer<Self>, _ lda: Int32,
    _ b: UnsafePointer<Self>, _ ldb: Int32, _ beta: Self, _ c: UnsafeMutablePointer<Self>, _ ldc: Int32
  ) { unsafe ingotl_gemm_f64(transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) }

  package static func syrk(
    _ trans: CChar, _ n: Int32, _ k: Int32, _ alpha: Self, _ a: UnsafePointer<Self>, _ lda: Int32, _ beta: Self,
    _ c: UnsafeMutablePointer<Self>, _ ldc: Int32
  ) { unsafe ingotl_syrk_f64(Letter.u, trans, n, k, alpha, a, lda, beta, c, ldc) }

  package static func trsm(
    _ side: CChar, _ uplo: CChar, _ trans: CChar, _ m: Int32, _ n: Int32, _ a: UnsafePointer<Self>, _ lda: Int32,
    _ b: UnsafeMutablePointer<Self>, _ ldb: Int32
  ) { unsafe ingotl_trsm_f64(side, uplo, trans, Letter.n, m, n, 1, a, lda, b, ldb) }

  package static func symm(
    _ side: CChar, _ m: Int32, _ n: Int32, _ alpha: Self, _ a: UnsafePointer<Self>, _ lda: Int32, _ b: UnsafePointer<Self>, _ ldb: Int32,
    _ beta: Self, _ c: UnsafeMutablePointer<Self>, _ ldc: Int32
  ) { unsafe ingotl_symm_f64(side, Letter.u, m, n, alpha, a, lda, b, ldb, beta, c, ldc) }

  package static func symv(
    _ n: Int32, _ a: UnsafePointer<Self>, _ lda: Int32, _ x: UnsafePointer<Self>, _ y: UnsafeMutablePointer<Self>
  ) { unsafe ingotl_symv_f64(Letter.u, n, a, lda, x, y) }

  package static func trsv(
    _ uplo: CChar, _ trans: CChar, _ n: Int32, _ a: UnsafePointer<Self>, _ lda: Int32, _ x: UnsafeMutablePointer<Self>
  ) { unsafe ingotl_trsv_f64(uplo, trans, n, a, lda, x) }

  package static func potrf(_ uplo: CChar, _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32) -> Int32 {
    unsafe ingotl_potrf_f64(uplo, n, a, lda)
  }

  package static func potri(_ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32) -> Int32 {
    unsafe ingotl_potri_f64(Letter.u, n, a, lda)
  }

  package static func potrs(
    _ n: Int32, _ rights: Int32, _ a: UnsafePointer<Self>, _ lda: Int32, _ b: UnsafeMutablePointer<Self>, _ ldb: Int32
  ) -> Int32 { unsafe ingotl_potrs_f64(Letter.u, n, rights, a, lda, b, ldb) }

  package static func syevd(
    _ job: CChar, _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ w: UnsafeMutablePointer<Self>,
    _ work: UnsafeMutablePointer<Self>, _ workCount: Int32, _ whole: UnsafeMutablePointer<Int32>, _ wholeCount: Int32
  ) -> Int32 { unsafe ingotl_syevd_f64(job, Letter.u, n, a, lda, w, work, workCount, whole, wholeCount) }

  package static func syevr(
    _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ first: Int32, _ last: Int32, _ found: UnsafeMutablePointer<Int32>,
    _ w: UnsafeMutablePointer<Self>, _ z: UnsafeMutablePointer<Self>, _ ldz: Int32, _ support: UnsafeMutablePointer<Int32>,
    _ work: UnsafeMutablePointer<Self>, _ workCount: Int32, _ whole: UnsafeMutablePointer<Int32>, _ wholeCount: Int32
  ) -> Int32 {
    unsafe ingotl_syevr_f64(Letter.u, n, a, lda, first, last, 0, found, w, z, ldz, support, work, workCount, whole, wholeCount)
  }

  package static func gelqf(
    _ m: Int32, _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ tau: UnsafeMutablePointer<Self>,
    _ work: UnsafeMutablePointer<Self>, _ workCount: Int32
  ) -> Int32 { unsafe ingotl_gelqf_f64(m, n, a, lda, tau, work, workCount) }

  package static func orglq(
    _ m: Int32, _ n: Int32, _ k: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ tau: UnsafePointer<Self>,
    _ work: UnsafeMutablePointer<Self>, _ workCount: Int32
  ) -> Int32 { unsafe ingotl_orglq_f64(m, n, k, a, lda, tau, work, workCount) }

  package static func gesdd(
    _ m: Int32, _ n: Int32, _ a: UnsafeMutablePointer<Self>, _ lda: Int32, _ s: UnsafeMutablePointer<Self>,
    _ u: UnsafeMutablePointer<Self>, _ ldu: Int32, _ vt: UnsafeMutablePointer<Self>, _ ldvt: Int32, _ work: UnsafeMutablePointer<Self>,
    _ workCount: Int32, _ whole: UnsafeMutablePointer<Int32>
  ) -> Int32 { unsafe ingotl_gesdd_f64(Letter.s, m, n, a, lda, s, u, ldu, vt, ldvt, work, workCount, whole) }

  package static func dot(_ x: UnsafePointer<Self>, _ y: UnsafePointer<Self>, _ count: Int) -> Double {
    unsafe ingotl_dot_f64(x, y, count)
  }
}
