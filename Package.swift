// swift-tools-version: 6.2
// Ingot: an embeddable engine that merges neural-network checkpoints.
import PackageDescription

/// scripts/test sets this: no warning may stay, but a newer compiler's new warning must not stop a user's build.
let warningsAreErrors = Context.environment["INGOT_WARNINGS_AS_ERRORS"] != nil

/// scripts/sanitize sets this: the sanitizers' runtimes are in the program that loads the library, which may then leave symbols open.
let isSanitized = Context.environment["INGOT_SANITIZE"] != nil

/// scripts/fuzz sets this: the fuzz targets become a library for libFuzzer instead of a test.
let isFuzzing = Context.environment["INGOT_FUZZ"] != nil

/// For code that does what a C program does: every line of it would be marked.
let features: [SwiftSetting] =
  [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
  ] + (warningsAreErrors ? [.treatAllWarnings(as: .error)] : [])

/// One set of settings for every Swift target: Swift 6 mode comes from the tools version.
let strict: [SwiftSetting] = [.strictMemorySafety()] + features

/// The engine's tests are optimised in debug builds too: their own arithmetic (references in float64, generated models) takes most of their time otherwise.
/// What a view of memory points into must then be kept alive by name.
let optimised: [SwiftSetting] = strict + [.unsafeFlags(["-O"])]

/// C leaves share the language level; vector code picks its instruction set per function, not per file.
let c11: [CSetting] = [
  .unsafeFlags(["-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden", "-O3"] + (warningsAreErrors ? ["-Werror"] : []))
]

let openMPFlags = ["-fopenmp", "-I/usr/lib/llvm-14/lib/clang/14.0.6/include"]

/// Tests/Corpora is replayed in every test run; libFuzzer's entry is compiled for scripts/fuzz alone.
let fuzzDependencies: [Target.Dependency] = [
  "IngotABI", "IngotEngine", "IngotMethods", "IngotRecipes", "IngotStorage", "IngotCheckpoints", "IngotTensors", "IngotJSON", "IngotErrors",
  "CIngot",
]
let fuzzTargets: Target =
  isFuzzing
  ? .target(
    name: "IngotFuzzTests", dependencies: fuzzDependencies, path: "Tests/IngotFuzzTests", exclude: ["CorpusTests.swift"],
    swiftSettings: features)
  : .testTarget(name: "IngotFuzzTests", dependencies: fuzzDependencies, exclude: ["Fuzzer.swift"], swiftSettings: features)

let package = Package(
  name: "ingot",
  products: [
    // The names on disk are given by scripts/install: two products of one name would shadow each other.
    .library(name: "ingot-engine", type: .dynamic, targets: ["IngotLibrary"]),
    .library(name: "ingot-openmp", type: .dynamic, targets: ["COpenMPTeam"]),
    .executable(name: "ingot", targets: ["ingot-cli"]),
  ] + (isFuzzing ? [.library(name: "ingot-fuzz", type: .static, targets: ["IngotFuzzTests"])] : []),
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2")
  ],
  targets: [
    // C leaves.
    .target(name: "CKernels", exclude: ["kernels"], cSettings: c11),  // kernels/ is included by isa/*.c
    .target(name: "CPlatform", cSettings: c11, linkerSettings: [.linkedLibrary(":liburing.a")]),
    .target(name: "CTeam", cSettings: c11, linkerSettings: [.linkedLibrary("hwloc"), .linkedLibrary("dl"), .linkedLibrary("pthread")]),
    .target(
      name: "COpenMPTeam",
      cSettings: [.unsafeFlags(["-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden"] + openMPFlags)],
      linkerSettings: [
        // It holds no Swift: without the first three it would ask for the shared Swift runtime, at the toolchain's path.
        .unsafeFlags(["-static-stdlib", "-nostartfiles", "-Xlinker", "--as-needed", "-L/usr/lib/llvm-14/lib", "-lomp"])
      ]),
    .target(name: "CLAPACK", cSettings: c11, linkerSettings: [.linkedLibrary("dl"), .linkedLibrary("pthread")]),  // OpenBLAS: by dlopen
    .systemLibrary(name: "CYaml", path: "Sources/CYaml", providers: [.apt(["libyaml-dev"])]),
    .systemLibrary(name: "CIngot", path: "include"),

    // The engine, from the bottom up; a target imports only targets above it.
    .target(name: "IngotErrors", swiftSettings: strict),
    .target(name: "IngotJSON", dependencies: ["IngotErrors"], swiftSettings: strict),
    .target(name: "IngotTensors", dependencies: ["CKernels", "IngotErrors"], swiftSettings: strict),
    .target(name: "IngotLinearAlgebra", dependencies: ["CLAPACK", "IngotTensors", "IngotErrors"], swiftSettings: strict),
    .target(name: "IngotCheckpoints", dependencies: ["IngotTensors", "IngotJSON", "IngotErrors"], swiftSettings: strict),
    .target(name: "IngotStorage", dependencies: ["CPlatform", "IngotErrors"], swiftSettings: strict),
    .target(name: "IngotRecipes", dependencies: ["IngotTensors", "IngotJSON", "IngotErrors", "CYaml"], swiftSettings: strict),
    .target(
      name: "IngotMethods", dependencies: ["IngotCheckpoints", "IngotLinearAlgebra", "IngotTensors", "IngotRecipes", "IngotErrors"],
      swiftSettings: strict),
    .target(
      name: "IngotEngine",
      dependencies: [
        "IngotMethods", "IngotLinearAlgebra", "IngotRecipes", "IngotStorage", "IngotCheckpoints", "IngotTensors", "IngotJSON",
        "IngotErrors", "CTeam", "CPlatform",
      ], swiftSettings: strict),
    .target(
      name: "IngotABI",
      dependencies: [
        "IngotEngine", "IngotMethods", "IngotRecipes", "IngotStorage", "IngotCheckpoints", "IngotTensors", "IngotJSON", "IngotErrors",
        "CIngot",
      ], swiftSettings: strict),
    .target(
      name: "IngotLibrary", dependencies: ["IngotABI"], swiftSettings: strict + (isSanitized ? [] : [.unsafeFlags(["-static-stdlib"])]),
      linkerSettings: [
        // lld: gold, Swift's default, lists local symbols among the dynamic ones.
        .unsafeFlags(
          [
            "-use-ld=lld", "-Xlinker", "--version-script=cmake/ingot.map", "-Xlinker", "-soname=libingot.so.0", "-Xlinker", "-z",
            "-Xlinker", "nodelete",
          ] + (isSanitized ? [] : ["-static-stdlib", "-Xlinker", "-z", "-Xlinker", "defs"]))
      ]),
    .executableTarget(
      name: "ingot-cli",
      dependencies: [
        "IngotEngine", "IngotLinearAlgebra", "IngotMethods", "IngotRecipes", "IngotStorage", "IngotCheckpoints", "IngotTensors",
        "IngotJSON", "IngotErrors",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ], swiftSettings: strict,
      // An installed command finds the OpenMP team beside the library.
      linkerSettings: [.unsafeFlags(["-use-ld=lld", "-Xlinker", "-rpath", "-Xlinker", "$ORIGIN/../lib"])]),

    // Tests.
    .testTarget(name: "IngotTensorsTests", dependencies: ["IngotTensors", "IngotErrors", "CKernels"], swiftSettings: strict),
    .testTarget(
      name: "IngotLinearAlgebraTests", dependencies: ["IngotLinearAlgebra", "IngotTensors", "IngotErrors"], swiftSettings: strict),
    .testTarget(name: "IngotJSONTests", dependencies: ["IngotJSON", "IngotErrors"], swiftSettings: strict),
    .testTarget(
      name: "IngotCheckpointsTests", dependencies: ["IngotCheckpoints", "IngotTensors", "IngotJSON", "IngotErrors"],
      swiftSettings: strict),
    .testTarget(name: "IngotStorageTests", dependencies: ["IngotStorage", "IngotErrors", "CPlatform"], swiftSettings: strict),
    .testTarget(
      name: "IngotRecipesTests", dependencies: ["IngotRecipes", "IngotJSON", "IngotTensors", "IngotErrors"], swiftSettings: strict),
    .testTarget(
      name: "IngotMethodsTests",
      dependencies: ["IngotMethods", "IngotLinearAlgebra", "IngotRecipes", "IngotTensors", "IngotJSON", "IngotErrors"],
      swiftSettings: strict),
    .testTarget(
      name: "IngotEngineTests",
      dependencies: [
        "IngotEngine", "IngotMethods", "IngotLinearAlgebra", "IngotRecipes", "IngotStorage", "IngotCheckpoints", "IngotTensors",
        "IngotJSON", "IngotErrors", "CTeam",
      ], swiftSettings: optimised),
  ] + [fuzzTargets],
  cLanguageStandard: .gnu11
)
