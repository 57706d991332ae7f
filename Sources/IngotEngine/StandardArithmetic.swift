internal import CTeam
package import IngotErrors

/// Runs `body` on this thread as workers run: rounding to nearest, subnormals kept, traps masked. The thread's own state is put back.
///
/// What is read and planned on a caller's thread decides bytes too: a parameter of 0.1 must not depend on how its host rounds.
package func withStandardArithmetic<Result>(_ body: () throws(IngotError) -> Result) throws(IngotError) -> Result {
  let before = ingot_fp_enter()
  defer { ingot_fp_set_control(before) }
  return try body()
}
