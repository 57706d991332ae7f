internal import IngotErrors
internal import IngotJSON

/// The parts of a recipe beside models and parameters: tokenizer, chat template, modules, rules for tensors.
extension Schema {
  /// What the parser takes for nothing.
  private static var absent: JSONValue { .object(["enum": .array([.null, .string("")])]) }
  private static var scalar: JSONValue { ["type": ["string", "number", "boolean"]] }

  private static func anyOf(_ schemas: [JSONValue]) -> JSONValue { .object(["anyOf": .array(schemas)]) }

  private static func object(_ properties: KeyValuePairs<String, JSONValue>, required: [String] = []) -> JSONValue {
    .object([
      "type": "object", "properties": .object(properties), "required": .array(required.map { .string($0) }), "additionalProperties": false,
    ])
  }

  private static func integer(_ range: ClosedRange<Int>) -> JSONValue {
    .object(["type": "integer", "minimum": .int(range.lowerBound), "maximum": .int(range.upperBound)])
  }

  // MARK: Tokens

  static var tokenizerSource: JSONValue { anyOf([absent, ["$ref": "#/$defs/reference"]]) }

  static var tokenizer: JSONValue {
    let tokens: JSONValue = .object([
      "type": ["object", "null"], "propertyNames": ["minLength": 1], "additionalProperties": ["$ref": "#/$defs/token"],
    ])
    let rows: JSONValue = anyOf([["type": "null"], integer(1...Limit.paddingRows)])
    return anyOf([
      absent, object(["source": anyOf([["type": "null"], ["$ref": "#/$defs/reference"]]), "tokens": tokens, "pad_to_multiple_of": rows]),
    ])
  }

  /// What a recipe says about one token.
  static var token: JSONValue {
    let force: JSONValue = anyOf([["type": ["boolean", "null"]], ["enum": [0, 1]]])
    return anyOf([["type": "null"], object(["source": embedding, "force": force])])
  }

  private static var embedding: JSONValue {
    let row: JSONValue = anyOf([["type": "null"], integer(0...Int(Int32.max))])
    let zero = object(["kind": ["const": "zero"], "model": true, "token": true, "token_id": true], required: ["kind"])
    let place: JSONValue = anyOf([["type": "null"], ["const": "model_token"]])
    let ofText = object(
      ["kind": place, "model": ["$ref": "#/$defs/reference"], "token": scalar, "token_id": ["type": "null"]], required: ["model", "token"])
    let ofRow = object(
      ["kind": place, "model": ["$ref": "#/$defs/reference"], "token": ["type": "null"], "token_id": row], required: ["model", "token_id"])
    return anyOf([
      ["type": "null"], ["$ref": "#/$defs/reference"], zero, ofText,
      .object(["allOf": [ofRow, ["not": ["properties": ["token_id": ["type": "null"]]]]]]),
    ])
  }

  /// Only one of the two says something.
  static var oneTokenizer: JSONValue {
    let present: JSONValue = .object(["not": absent])
    return .object([
      "not": .object([
        "required": ["tokenizer_source", "tokenizer"], "properties": .object(["tokenizer_source": present, "tokenizer": present]),
      ])
    ])
  }

  static var chatTemplate: JSONValue {
    anyOf([
      absent, .object(["enum": .array((ChatTemplates.names + ["auto"]).map { .string($0) })]),
      ["type": "string", "minLength": 20, "pattern": "\\{"],
    ])
  }

  // MARK: Modules

  static func modules(sources: JSONValue, models: JSONValue, parameters: JSONValue) -> JSONValue {
    let module: JSONValue = .object([
      "type": "object",
      "properties": .object([
        "slices": list(of: slice(sources: sources, parameters: parameters)), "models": models, "parameters": parameters,
      ]),
      "additionalProperties": false, "oneOf": [["required": ["slices"]], ["required": ["models"]]],
    ])
    return .object(["type": "object", "minProperties": 1, "additionalProperties": module])
  }

  // MARK: Rules for tensors

  /// The keys of a rule, and the parameters where the rule names the method that reads them.
  static func tensorRule(_ methods: [MethodDescriptor]) -> JSONValue {
    let names: JSONValue = .object(["enum": .array(methods.map { .string($0.name) } + [.null])])
    // One run of layers, both ends included, or the layers from one on.
    let run = "[0-9]+ *(- *[0-9]*)?"
    let layers: JSONValue = anyOf([
      ["type": "integer", "minimum": 0], .object(["type": "string", "pattern": .string("^ *\(run) *(, *\(run) *)*$")]),
    ])
    var conditions: [JSONValue] = []
    for method in methods {
      let parameters: JSONValue = ["properties": ["parameters": .object(["$ref": .string("#/$defs/\(method.name).parameters")])]]
      let named = ["method", "merge_method"].map { key -> JSONValue in
        .object(["properties": .object([key: .object(["const": .string(method.name)])]), "required": .array([.string(key)])])
      }
      let taken: [JSONValue] = method.name == "passthrough" ? [["required": ["from"]]] : []
      conditions.append(.object(["if": anyOf(named + taken), "then": parameters]))
    }
    // A rule copies from a model, or merges by a method of its own.
    for key in ["method", "merge_method"] {
      conditions.append(
        .object([
          "if": .object(["required": .array([.string("from"), .string(key)])]),
          "then": .object(["properties": .object([key: ["enum": ["passthrough", .null]]])]),
        ]))
    }
    return .object([
      "type": "object", "required": ["match"],
      "properties": .object([
        "match": ["type": "string", "minLength": 1, "maxLength": 1000], "layers": anyOf([["type": "null"], layers, list(of: layers)]),
        "method": names, "merge_method": names, "parameters": ["type": ["object", "null"]], "from": ["$ref": "#/$defs/reference"],
        "dtype": dtype,
      ]),
      "additionalProperties": false,
      "anyOf": .array(["method", "merge_method", "parameters", "from", "dtype"].map { .object(["required": .array([.string($0)])]) }),
      "allOf": .array(conditions),
    ])
  }

  /// Rules that name no method: their parameters are those of the recipe's.
  static func tensorRules(of parameters: JSONValue) -> JSONValue {
    let named: JSONValue = anyOf([["required": ["method"]], ["required": ["merge_method"]], ["required": ["from"]]])
    return .object([
      "type": ["array", "null"],
      "items": .object(["if": .object(["not": named]), "then": .object(["properties": .object(["parameters": parameters])])]),
    ])
  }
}
