package import IngotTensors

/// The factors of activation-informed merging, of the activation norms of a module's input channels.
///
/// f_c = 1 − (|s_c| / max |s|) (1 − ω): what of the difference to the base is left in channel c. ω = 1 changes nothing, ω = 0 leaves the most active
/// channel as it is in the base. Without any activity (an expert that was never chosen) every factor is 1. In f64, rounded once.
/// Source: Activation-Informed Merging of Large Language Models, arXiv 2502.02421.
package enum ActivationFactors {
  /// In place: norms become factors.
  package static func make(_ norms: Floats, omega: Double) {
    var most = 0.0
    for index in 0..<norms.count { most = max(most, Double(abs(norms[index]))) }
    for index in 0..<norms.count {
      let share = most > 0 ? Double(abs(norms[index])) / most : 0
      norms[index] = Float(1 - share * (1 - omega))
    }
  }
}
