import Foundation
import IngotErrors
import IngotRecipes
import Testing

@Suite struct DescriptorTests {
  @Test func catalogFindsMethodsAndNearNames() throws {
    #expect(catalog.method("ties")?.title == "TIES")
    #expect(catalog.method("TIES") == nil)
    #expect(catalog.nearestMethod(to: "Multi-Slerp")?.name == "multislerp")
    #expect(catalog.nearestMethod(to: "average") == nil)
    #expect(catalog.nearestMethod(to: "pass-through")?.name == "passthrough")
    #expect(catalog.nearestMethod(to: "LINEAR")?.name == "linear")
    #expect(catalog.nearestMethod(to: String(repeating: "x", count: 1 << 20)) == nil)
    #expect(catalog.hasParameter("density") && !catalog.hasParameter("epsilon"))
    let error = #expect(throws: IngotError.self) { try catalog.require("nothing") }
    #expect(error?.status == .invalidArgument)
    #expect(error?.hint == "the methods are linear, slerp, ties, passthrough, multislerp")
  }

  /// Value, range, whether it is inside.
  @Test(
    arguments: [
      (0, .fraction, true), (1, .fraction, true), (-0.1, .fraction, false), (.nan, .any, false), (.infinity, .any, false),
      (-1e300, .any, true),
      (0, NumberRange(from: .open(0)), false), (1e-300, NumberRange(from: .open(0)), true), (1, NumberRange(to: .open(1)), false),
      (0.999, NumberRange(to: .open(1)), true), (2, NumberRange(from: .closed(2), to: .closed(2)), true),
    ] as [(Double, NumberRange, Bool)]) func ranges(_ value: Double, _ range: NumberRange, _ isInside: Bool)
  {
    #expect(range.contains(value) == isInside)
  }

  @Test func checkedValuesWithoutPositionAreArguments() throws {
    let density = try #require(catalog.method("ties")?.parameter("density"))
    #expect(try density.checked(.text("0.5")) == .number(0.5))
    let error = #expect(throws: IngotError.self) { try density.checked(.number(2)) }
    #expect(
      error
        == IngotError(
          .invalidArgument, "density is 2, expected a number above 0 and at most 1", hint: "the default is 1", subject: "density"))
  }

  @Test func jsonOfADescriptor() throws {
    let ties = try #require(catalog.method("ties"))
    let object = try #require(try JSONSerialization.jsonObject(with: Data(ties.json.utf8)) as? [String: Any])
    #expect(object["name"] as? String == "ties")
    #expect(object["base"] as? String == "required")
    #expect((object["models"] as? [String: Any])?["min"] as? Int == 1)
    #expect((object["models"] as? [String: Any])?["max"] is NSNull)
    #expect((object["reference"] as? [String: Any])?["url"] as? String == "https://arxiv.org/abs/2306.01708")
    let parameters = try #require(object["parameters"] as? [[String: Any]])
    #expect(parameters.map { $0["name"] as? String } == ["weight", "density", "normalize", "lambda", "scope"])
    #expect(parameters[0]["required"] as? Bool == true && parameters[0]["default"] is NSNull && parameters[0]["min"] is NSNull)
    #expect(parameters[1]["min"] as? Double == 0 && parameters[1]["min_excluded"] as? Bool == true && parameters[1]["max"] as? Double == 1)
    #expect(parameters[1]["per_model"] as? Bool == true)
    #expect(parameters[2]["default"] as? Bool == true && parameters[2]["type"] as? String == "boolean")
    #expect(parameters[4]["choices"] as? [String] == ["tensor", "model", "off"] && parameters[4]["paper_default"] as? String == "model")
  }

  @Test func jsonEscapes() throws {
    let odd = MethodDescriptor(
      name: "x", title: "\"\\/\n\t\r\u{1}é😀", summary: "", base: .optional, models: 2...2, parameters: [], scopes: [])
    let object = try #require(try JSONSerialization.jsonObject(with: Data(odd.json.utf8)) as? [String: Any])
    #expect(object["title"] as? String == odd.title)
  }

  @Test func helpText() throws {
    let expected = """
      multislerp: Multi-SLERP

        Barycentre on the sphere

        Models: 2 to 3 models beside the base; base_model may be given
        Scope: tensor

        Parameters
          weight: a number; required; per model
              Share of this model
          max_iter: a whole number from 1 to 100; default 10
              Steps at most
          eps: a number above 0 (norm); default 1e-08
              Smallest norm

      """
    #expect(try #require(catalog.method("multislerp")).help() == expected)
    let narrow = try #require(catalog.method("ties")).help(width: 40)
    #expect(narrow.split(separator: "\n").allSatisfy { $0.count <= 40 })
    #expect(narrow.contains("model under"))
    #expect(try #require(catalog.method("linear")).help().contains("  Notes\n    - Weights that add up"))
  }
}
