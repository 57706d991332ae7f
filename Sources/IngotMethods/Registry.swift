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
    MagMax.self,
    PCB.self,
    Consensus.self,
    EMR.self,
    WIDEN.self,
    TIESSlack.self,
    HiMerging.self,
    Mediator.self,
    Twin.self,
    OneBit.self,
    UniformSoup.self,
    MetricsWeighted.self,
    LMCocktail.self,
    EMA.self,
    SWA.self,
    LAWA.self,
    WMA.self,
    LayerSwap.self,
    SparseSoup.self,
    VaRM.self,
    EvoMerging.self,
    MergeChain.self,
    IsoC.self,
    IsoCTS.self,
    TSVM.self,
    WUDI.self,
    OptMerge.self,
    RTSVM.self,
    RegMean.self,
    Fisher.self,
    OTA.self,
    RCP.self,
    OPCM.self,
    DOP.self,
    DOGE.self,
    SVC.self,
    MaTS.self,
    CustomDiffusion.self,
    Concrete.self,
    TwinSVD.self,
    WISE.self,
  ]

  /// The steps of rolling merges, which the engine's own recipes name and nobody else's.
  package static let rolling: [any MergeMethod.Type] = [
    RollingFold.self, RollingMagMax.self, RollingVote.self, RollingFisher.self, RollingOTA.self, RollingOPCM.self, RollingDOP.self,
    RollingFinish.self,
  ]

  /// The descriptors, for recipe checking, help and docs.
  package static let catalog = MethodCatalog(all.map { $0.descriptor })

  /// The descriptors of everything that a record may name.
  package static let wholeCatalog = MethodCatalog((all + rolling).map { $0.descriptor })

  package static func method(named name: String) -> (any MergeMethod.Type)? { (all + rolling).first { $0.descriptor.name == name } }
}
