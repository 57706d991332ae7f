internal import IngotTensors

/// How a model stores experts and projections: the layout that the output keeps.
package struct DonorLayout: Sendable {
  enum Arrangement: Hashable, Sendable {
    case separate(NameLayouts.ExpertNames)
    /// True with the last two axes exchanged.
    case batched(isTransposed: Bool)
  }

  struct ExpertForm: Hashable, Sendable {
    var container: String
    var arrangement: Arrangement
  }

  struct Projection: Sendable {
    var isFused: Bool
    /// Rows of the parts where the donor holds them apart.
    var rows: [Int]?
    /// How a fused tensor is arranged, where not part by part.
    var groups: HeadGroups?
  }

  private(set) var experts: [String: ExpertForm] = [:]
  private(set) var routers: [String: String] = [:]
  private(set) var projections: [String: Projection] = [:]

  package init(_ donor: Checkpoint) {
    for stack in ExpertStack.all(of: donor) where experts[stack.key] == nil {
      guard let form = stack.form(in: donor) else { continue }
      experts[stack.key] = form
      routers[stack.key] = NameLayouts.routers.first { donor[stack.stem + "." + $0] != nil }
    }
    for tensor in donor.tensors {
      for name in ProjectionName.all(tensor.name) where projections[name.key] == nil {
        var rows: [Int] = []
        if !name.isFused {
          rows = name.rule.parts.compactMap { donor[name.stem + $0 + name.ending]?.shape.dimensions.first }
          // A part alone is a projection of its own, as in a perceptron without a gate.
          if rows.count < name.rule.parts.count { continue }
        }
        let groups = name.isFused && name.rule.isGrouped ? HeadGroups(name.rule.fused, config: donor.config) : nil
        projections[name.key] = Projection(isFused: name.isFused, rows: name.isFused ? nil : rows, groups: groups)
      }
    }
  }

  /// False when no other layout of what the donor holds is known: nothing to match.
  package var isEmpty: Bool { experts.isEmpty && projections.isEmpty }
}

/// A name as layer-free place: the same for every layer, and for models that lie at different depths of their files.
enum LayoutKey {
  static func key(_ components: ArraySlice<Substring>) -> String {
    var parts: [Substring] = []
    for component in components {
      if component.utf8.allSatisfy({ $0 >= 48 && $0 <= 57 }) {
        parts.append("#")
      } else if !NameLayouts.wrappers.contains(String(component)) {
        parts.append(canonical(component))
      }
    }
    return parts.joined(separator: ".")
  }

  private static func canonical(_ component: Substring) -> Substring {
    for names in NameLayouts.expertContainers where names.contains(String(component)) {
      return names.first.map { Substring($0) } ?? component
    }
    return component
  }
}

/// The name of a projection that may be fused or split: `STEM` + name + `.weight` or `.bias`.
struct ProjectionName {
  let stem: String
  let rule: NameLayouts.FusedNames
  let isFused: Bool
  let ending: String
  let key: String

  /// What the name may be: `q_proj` is a part of more than one tensor.
  static func all(_ name: String) -> [ProjectionName] {
    guard let ending = [".weight", ".bias"].first(where: name.hasSuffix) else { return [] }
    let components = name.dropLast(ending.count).split(separator: ".", omittingEmptySubsequences: false)
    guard let last = components.last, !components.contains("experts") else { return [] }
    let rules = NameLayouts.fusedProjections.filter { last == $0.fused || $0.parts.contains(String(last)) }
    guard !rules.isEmpty else { return [] }
    let place = LayoutKey.key(components.dropLast())
    let stem = String(name.dropLast(ending.count + last.utf8.count))
    return rules.map { rule in
      ProjectionName(
        stem: stem, rule: rule, isFused: last == rule.fused, ending: ending, key: "\(place) \(rule.fused) \(rule.parts[0])\(ending)")
    }
  }
}
