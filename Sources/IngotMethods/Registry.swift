internal import IngotErrors
package import IngotRecipes

/// Every method the engine offers, in the order help shows them. Adding a method adds one line here.
package enum MethodRegistry {
  package static let all: [any MergeMethod.Type] = [
    Linear.self,
    Slerp.self,
    TaskArithmetic.self,
    TIES.self,
    DARELinear.self,
    DARETies.self,
    DELLA.self,
    DELLALinear.self,
    Breadcrumbs.self,
    BreadcrumbsTies.self,
    ModelStock.self,
    MultiSlerp.self,
    Karcher.self,
    NearSwap.self,
    RAM.self,
    RAMPlus.self,
    SCE.self,
    ArceeFusion.self,
    NuSlerp.self,
    Passthrough.self,
    IsoC.self,
    IsoCTS.self,
    TSVM.self,
    WUDI.self,
    OptMerge.self,
    RTSVM.self,
    RegMean.self,
    OPCM.self,
    DOP.self,
  ]

  /// The descriptors, for recipe checking, help and docs.
  package static let catalog = MethodCatalog(all.map { $0.descriptor })

  package static func method(named name: String) -> (any MergeMethod.Type)? { all.first { $0.descriptor.name == name } }
}
