package import IngotErrors

extension RankRule {
  /// What the three ways to choose a rank are called where somebody gives them.
  package struct Names: Sendable {
    package var rank: String
    package var energy: String
    package var normFraction: String

    package init(rank: String, energy: String, normFraction: String) {
      self.rank = rank
      self.energy = energy
      self.normFraction = normFraction
    }
  }

  /// The rule of the one that is given; nil where none is. `energy` is a share of the sum of the squared singular values, `normFraction` of the largest one.
  ///
  /// Throws `.invalidArgument` for more than one, and for numbers that are no rank (1 to `Limit.adapterRank`) or no such share.
  package static func chosen(rank: Int?, energy: Double?, normFraction: Double?, names: Names) throws(IngotError) -> RankRule? {
    let given = [(names.rank, rank != nil), (names.energy, energy != nil), (names.normFraction, normFraction != nil)].filter(\.1).map(\.0)
    guard given.count <= 1 else {
      throw IngotError(.invalidArgument, "\(given.joined(separator: " and ")) are given, expected one of them", subject: given.last)
    }
    if let rank {
      guard (1...Limit.adapterRank).contains(rank) else {
        throw IngotError(.invalidArgument, "the rank is \(rank), expected 1 to \(Limit.adapterRank)", subject: names.rank)
      }
      return .fixed(rank)
    }
    if let energy {
      guard energy > 0, energy <= 1 else {
        throw IngotError(.invalidArgument, "\(names.energy) is \(energy), expected more than 0 and at most 1", subject: names.energy)
      }
      return .energy(energy)
    }
    if let normFraction {
      guard normFraction >= 0, normFraction < 1 else {
        throw IngotError(
          .invalidArgument, "\(names.normFraction) is \(normFraction), expected 0 or more and less than 1", subject: names.normFraction)
      }
      return .spectral(normFraction)
    }
    return nil
  }
}
