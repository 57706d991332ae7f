package import IngotJSON

extension MethodCatalog {
  /// The recipe language as a JSON Schema (draft 2020-12), for editors and validators: keys, methods, and each method's parameters with
  /// their types and ranges, from the descriptors.
  ///
  /// It is stricter than the parser in one way: keys without an effect, which the parser only warns about, are not valid. It knows nothing
  /// that needs arithmetic or models: layer ranges of one length, sums of weights, models that exist.
  package var recipeSchema: JSONValue {
    var definitions = JSONObject()
    definitions["reference"] = Schema.reference
    definitions["side_file"] = Schema.sideFile
    definitions["layer_range"] = .object([
      "type": "array", "items": ["type": "integer", "minimum": 0], "minItems": 2, "maxItems": 2,
    ])
    definitions["token"] = Schema.token
    definitions["tensor_rule"] = Schema.tensorRule(methods)
    for method in methods {
      definitions["\(method.name).parameters"] = Schema.parameters(method.parameters)
      definitions["\(method.name).side"] = Schema.sides(method, isPerModel: false)
      definitions["\(method.name).model_side"] = Schema.sides(method, isPerModel: true)
      definitions["\(method.name).model_parameters"] = Schema.parameters(method.parameters.filter(\.isPerModel))
    }
    var properties = JSONObject()
    for key in RecipeParser.topKeys + ["name"] + RecipeParser.immaterialTopKeys.sorted() { properties[key] = .bool(true) }
    properties["merge_method"] = .object(["enum": .array(methods.map { .string($0.name) })])
    properties["base_model"] = .object(["$ref": "#/$defs/reference"])
    properties["dtype"] = Schema.dtype
    properties["out_dtype"] = Schema.dtype
    properties["seed"] = .object(["type": "integer", "minimum": 0, "maximum": .int(UInt64.max)])
    properties["preset"] = .object(["enum": .array(Recipe.Preset.allCases.map { .string($0.rawValue) })])
    properties["numerics"] = .object(["enum": .array(Recipe.Numerics.allCases.map { .string($0.rawValue) })])
    properties["missing"] = .object(["enum": .array(Recipe.Missing.allCases.map { .string($0.rawValue) })])
    properties["models"] = Schema.list(of: Schema.source(parameters: .bool(true), side: .bool(true), hasLayers: false))
    properties["aim"] = Schema.activationScaling
    properties["slices"] = Schema.list(of: Schema.slice(sources: .bool(true), parameters: .bool(true)))
    properties["modules"] = Schema.modules(sources: .bool(true), models: .bool(true), parameters: .bool(true))
    properties["tensors"] = .object(["type": ["array", "null"], "items": ["$ref": "#/$defs/tensor_rule"]])
    properties["tokenizer_source"] = Schema.tokenizerSource
    properties["tokenizer"] = Schema.tokenizer
    properties["chat_template"] = Schema.chatTemplate
    return .object([
      "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Recipe of a model merge",
      "description": "mergekit's recipe language as Ingot reads it.", "type": "object", "required": ["merge_method"],
      "properties": .object(properties), "additionalProperties": false,
      "oneOf": .array(["models", "slices", "modules"].map { .object(["required": [.string($0)]]) }),
      "allOf": .array([Schema.oneTokenizer] + methods.map(Schema.rule)), "$defs": .object(definitions),
    ])
  }
}

/// The parts of the schema.
enum Schema {
  /// A side file takes no adapter.
  static let sideFile: JSONValue = [
    "anyOf": [
      ["type": "string", "minLength": 1],
      [
        "type": "object", "required": ["path"], "properties": ["path": ["type": "string"], "revision": ["type": "string"]],
        "additionalProperties": false,
      ],
    ]
  ]

  static var reference: JSONValue {
    let text: JSONValue = ["type": "string"]
    func place(_ properties: JSONValue) -> JSONValue {
      let parts: JSONValue = ["type": "object", "required": ["path"], "properties": properties, "additionalProperties": false]
      return ["anyOf": [["type": "string", "minLength": 1], parts]]
    }
    let model = place(["path": text, "revision": text])
    let adapter = place(["path": text, "revision": text, "task": ["type": ["string", "integer"]]])
    return [
      "anyOf": [
        ["type": "string", "minLength": 1],
        [
          "type": "object", "required": ["model"],
          "properties": [
            "model": model, "lora": .object(["anyOf": .array([adapter, list(of: adapter)])]), "override_architecture": ["type": "string"],
          ],
          "additionalProperties": false,
        ],
      ]
    ]
  }

  static var dtype: JSONValue {
    ["anyOf": [["type": "null"], ["type": "string", "pattern": "^((torch\\.)?(float32|float16|bfloat16)|[a-z]+[0-9]*)?$"]]]
  }

  static func list(of item: JSONValue) -> JSONValue { .object(["type": "array", "minItems": 1, "items": item]) }

  /// The side inputs that belong to models, or to the merge.
  static func sides(_ method: MethodDescriptor, isPerModel: Bool) -> JSONValue {
    let one: JSONValue = ["$ref": "#/$defs/side_file"]
    var properties = JSONObject()
    for input in method.sideInputs where input.isPerModel == isPerModel {
      var schema = JSONObject()
      schema["description"] = .string(input.summary)
      schema["anyOf"] = .array(input.isList ? [one, list(of: one)] : [one])
      properties[input.name] = .object(schema)
    }
    return .object(["type": ["object", "null"], "properties": .object(properties), "additionalProperties": false])
  }

  static var activationScaling: JSONValue {
    [
      "anyOf": [
        ["type": "null"],
        [
          "type": "object", "required": ["side"],
          "properties": [
            "side": ["$ref": "#/$defs/side_file"], "omega": ["type": ["number", "null"], "minimum": 0, "maximum": 1],
            "base_model": ["$ref": "#/$defs/reference"],
          ],
          "additionalProperties": false,
        ],
      ]
    ]
  }

  static func source(parameters: JSONValue, side: JSONValue, hasLayers: Bool) -> JSONValue {
    var properties = JSONObject()
    properties["model"] = ["$ref": "#/$defs/reference"]
    properties["parameters"] = parameters
    properties["side"] = side
    if hasLayers {
      properties["layer_range"] = ["$ref": "#/$defs/layer_range"]
      properties["residual_weight"] = .bool(true)
    }
    return .object([
      "type": "object", "required": hasLayers ? ["model", "layer_range"] : ["model"], "properties": .object(properties),
      "additionalProperties": false,
    ])
  }

  static func slice(sources: JSONValue, parameters: JSONValue) -> JSONValue {
    .object([
      "type": "object", "required": ["sources"],
      "properties": .object([
        "sources": sources, "base_model": ["$ref": "#/$defs/reference"], "parameters": parameters, "residual_weight": true,
      ]),
      "additionalProperties": false,
    ])
  }

  /// What holds when a recipe names this method.
  static func rule(_ method: MethodDescriptor) -> JSONValue {
    let all: JSONValue = .object(["$ref": .string("#/$defs/\(method.name).parameters")])
    let ofModels: JSONValue = .object(["$ref": .string("#/$defs/\(method.name).model_parameters")])
    let side: JSONValue = .object(["$ref": .string("#/$defs/\(method.name).side")])
    let sideOfModels: JSONValue = .object(["$ref": .string("#/$defs/\(method.name).model_side")])
    let sources = list(of: source(parameters: ofModels, side: sideOfModels, hasLayers: true))
    let models = list(of: source(parameters: ofModels, side: sideOfModels, hasLayers: false))
    var consequence = JSONObject()
    consequence["properties"] = .object([
      "parameters": all, "side": side, "models": models, "slices": list(of: slice(sources: sources, parameters: all)),
      "modules": modules(sources: sources, models: models, parameters: all), "tensors": tensorRules(of: all),
    ])
    // A slice may name its own.
    if method.base == .required {
      consequence["anyOf"] = [
        ["required": ["base_model"]], ["required": ["slices"]],
        ["required": ["modules"], "properties": ["modules": ["additionalProperties": ["required": ["slices"]]]]],
      ]
    }
    return .object([
      "if": .object(["properties": .object(["merge_method": .object(["const": .string(method.name)])]), "required": ["merge_method"]]),
      "then": .object(consequence),
    ])
  }

  static func parameters(_ descriptors: [ParameterDescriptor]) -> JSONValue {
    var properties = JSONObject()
    for parameter in descriptors { properties[parameter.name] = setting(parameter) }
    for key in RecipeParser.immaterialParameters.sorted() { properties[key] = .bool(true) }
    return .object(["type": ["object", "null"], "properties": .object(properties), "additionalProperties": false])
  }

  /// A value, values over the layers where it is a number, or either under name filters.
  private static func setting(_ parameter: ParameterDescriptor) -> JSONValue {
    let one = value(parameter, isPart: true)
    var part = [one]
    if case .number = parameter.kind { part.append(list(of: one)) }
    let plain = [value(parameter)] + part.dropFirst()
    let condition: JSONValue = .object([
      "type": "object", "required": ["value"],
      "properties": .object(["value": .object(["anyOf": .array(part)]), "filter": ["type": ["string", "null"]]]),
      "additionalProperties": false,
    ])
    var schema = JSONObject()
    schema["description"] = .string(parameter.meaning)
    if let value = parameter.default { schema["default"] = json(value) }
    schema["anyOf"] = .array(plain + [condition, list(of: condition)])
    return .object(schema)
  }

  /// One value. Numbers may be written as texts and booleans may stand for 1 and 0, as mergekit takes them.
  private static func value(_ parameter: ParameterDescriptor, isPart: Bool = false) -> JSONValue {
    switch parameter.kind {
    case .number(let whole):
      let range = isPart ? parameter.partRange ?? whole : whole
      var number = JSONObject()
      number["type"] = "number"
      bound(range.lower, "minimum", "exclusiveMinimum", &number)
      bound(range.upper, "maximum", "exclusiveMaximum", &number)
      return .object(["anyOf": [.object(number), ["type": "boolean"], ["type": "string", "pattern": "^[-+0-9.eE_]+$"]]])
    case .integer(let range):
      var number = JSONObject()
      number["type"] = "integer"
      if range.lowerBound != .min { number["minimum"] = .int(range.lowerBound) }
      if range.upperBound != .max { number["maximum"] = .int(range.upperBound) }
      return .object(["anyOf": [.object(number), ["type": "string", "pattern": "^[-+0-9_]+$"]]])
    case .boolean: return ["type": ["boolean", "number"]]
    // A choice may be called `off` or `1`, which YAML takes for something else.
    case .choice(let names): return .object(["enum": .array(names.map { .string($0) })])
    }
  }

  private static func bound(_ bound: NumberRange.Bound?, _ closed: String, _ open: String, _ number: inout JSONObject) {
    switch bound {
    case .closed(let value)?: number[closed] = .double(value)
    case .open(let value)?: number[open] = .double(value)
    case nil: break
    }
  }

  private static func json(_ value: ParameterValue) -> JSONValue {
    switch value {
    case .number(let number): .double(number)
    case .boolean(let flag): .bool(flag)
    case .text(let text): .string(text)
    }
  }
}
