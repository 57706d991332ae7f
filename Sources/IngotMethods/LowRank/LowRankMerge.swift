package import IngotErrors

/// What names the random draws of one module: the same for every thread count and order of modules.
package struct DrawKey: Sendable, Hashable {
  package var seed: UInt64
  /// A hash of the module's name.
  package var stream: UInt64

  package init(seed: UInt64, stream: UInt64) {
    self.seed = seed
    self.stream = stream
  }
}

/// A way to make one adapter of several, module by module.
package protocol LowRankMerge: Sendable {
  /// The most that the result's rank can be for factors of these ranks. Throws `.shape` for ranks that the method cannot combine.
  func rankBound(_ ranks: [Int], outputs: Int, inputs: Int) throws(IngotError) -> Int

  /// The merged factors of one module; its scale is 1. Runs on a measuring workspace too, where it gives the largest rank.
  func merge(_ terms: [LowRankTerm], key: DrawKey, _ algebra: LowRankAlgebra) throws(IngotError) -> LowRank
}

/// What a method is, for lists and help.
package struct LowRankMethod: Sendable {
  package let name: String
  package let summary: String
  /// Where it is from; empty for what has no paper.
  package let paper: String
  /// Options, besides the weights, that change its result.
  package let options: Set<LowRankOptions.Name>
  package let make: @Sendable (LowRankOptions) throws(IngotError) -> any LowRankMerge
}

/// Everything that a method can be told. What a method does not take must not be given.
package struct LowRankOptions: Sendable {
  package enum Name: String, Sendable, CaseIterable, Hashable {
    case rank, density, majority, drop, clusters, start, reweight
  }

  package enum Majority: String, Sendable, CaseIterable {
    /// The sign of the sum.
    case total
    /// The sign that more entries have.
    case frequency
  }

  package enum Start: String, Sendable, CaseIterable {
    /// k-means++ with draws from the seed.
    case random
    /// The first adapter's units.
    case first
  }

  package var rank: RankRule?
  /// The share of entries that trimming keeps.
  package var density: Double?
  package var majority: Majority?
  /// The share of entries that are dropped at random.
  package var drop: Double?
  package var clusters: Int?
  package var start: Start?
  package var reweight: Bool?

  package init() {}

  package var given: [Name] {
    let all: [(Name, Bool)] = [
      (.rank, rank != nil), (.density, density != nil), (.majority, majority != nil), (.drop, drop != nil), (.clusters, clusters != nil),
      (.start, start != nil), (.reweight, reweight != nil),
    ]
    return all.filter(\.1).map(\.0)
  }
}

/// The methods by name.
package enum LowRankMethods {
  package static let all: [LowRankMethod] = [
    LinearFactors.method, ConcatenatedFactors.method, TruncatedSum.method,
    TrimmedFactors.ties, TrimmedFactors.dareLinear, TrimmedFactors.dareTies, TrimmedFactors.magnitudePrune,
    KnOTS.sum, KnOTS.ties, KnOTS.dareTies, LoRALego.method, OrthogonalSubspaces.method, ContinualMerge.method,
  ]

  /// Throws `.invalidArgument` for an unknown name or an option that the method does not take.
  package static func make(_ name: String, _ options: LowRankOptions) throws(IngotError) -> any LowRankMerge {
    guard let method = all.first(where: { $0.name == name }) else {
      throw IngotError(
        .invalidArgument, "there is no method \"\(name.prefix(60))\" for adapters",
        hint: "the methods are " + all.map(\.name).joined(separator: ", "),
        subject: name)
    }
    if let odd = options.given.first(where: { !method.options.contains($0) }) {
      let known = method.options.map(\.rawValue).sorted().joined(separator: ", ")
      throw IngotError(
        .invalidArgument, "\(name) has no option \(odd.rawValue)", hint: known.isEmpty ? "it has none" : "its options are \(known)",
        subject: odd.rawValue)
    }
    if let density = options.density, !(density > 0 && density <= 1) {
      throw IngotError(.invalidArgument, "density is \(density), expected more than 0 and at most 1", subject: "density")
    }
    if let drop = options.drop, !(drop >= 0 && drop < 1) {
      throw IngotError(.invalidArgument, "drop is \(drop), expected 0 or more and less than 1", subject: "drop")
    }
    if let clusters = options.clusters, clusters < 1 {
      throw IngotError(.invalidArgument, "clusters is \(clusters), expected at least 1", subject: "clusters")
    }
    return try method.make(options)
  }
}

extension LowRankAlgebra {
  /// Throws `.shape` unless all ranks are equal.
  static func requireEqual(_ ranks: [Int], for name: String) throws(IngotError) {
    guard let first = ranks.first, let odd = ranks.first(where: { $0 != first }) else { return }
    throw IngotError(
      .shape, "the adapters have the ranks \(first) and \(odd) in one module, expected one rank for \(name)",
      hint: "use cat or svd, or resize them first")
  }
}
