import IngotErrors
import IngotRecipes
import Testing

/// A recipe that must fail, and how.
struct Failure: Sendable, CustomTestStringConvertible {
  var text: String
  var status: Status
  var message: String
  var hint: String?
  var subject: String?
  var line: Int
  var column: Int

  init(
    _ text: String, _ message: String, hint: String? = nil, subject: String? = nil, at line: Int, _ column: Int, status: Status = .recipe
  ) {
    self.text = text
    self.status = status
    self.message = message
    self.hint = hint
    self.subject = subject
    self.line = line
    self.column = column
  }

  var testDescription: String { text }
}

private let linear = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n"
private let ties = "merge_method: ties\nbase_model: c\nmodels: [{model: a}]\nparameters:\n  weight: 1\n"
private let slices = "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nslices:\n"

private let numbers: [Failure] = [
  Failure(
    "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1.0e+300}}]\n",
    "weight is 1e+300, which is beyond what float32 holds", hint: "the largest number is 3.4028235e+38",
    subject: "models[0].parameters.weight", at: 2, 42),
  Failure(
    "merge_method: linear\nmodels: [{model: a, parameters: {weight: [1, -3.5e+38]}}]\n",
    "weight is -3.5e+38, which is beyond what float32 holds", at: 2, 46),
  Failure(
    "merge_method: linear\nmodels: [{model: a, parameters: {weight: [{value: 1.0e+39, filter: mlp}]}}]\n",
    "weight is 1e+39, which is beyond what float32 holds", at: 2, 51),
]

private let structure: [Failure] = [
  Failure("[1]", "the recipe is a list of 1, expected a mapping", at: 1, 1),
  Failure("hello", "the recipe is the text \"hello\", expected a mapping", at: 1, 1),
  Failure("models: [{model: a}]\n", "merge_method is missing", subject: "merge_method", at: 1, 1),
  Failure(
    "merge_method:\nmodels: [{model: a}]\n", "found nothing, expected the name of a merge method", subject: "merge_method", at: 1, 14),
  Failure("merge_method: [linear]\nmodels: [{model: a}]\n", "found a list of 1, expected the name of a merge method", at: 1, 15),
  Failure(
    "merge_method: tiess\nmodels: [{model: a}]\n", "unknown merge method \"tiess\"", hint: "did you mean ties?", subject: "merge_method",
    at: 1, 15),
  Failure("merge_method: average\n", "unknown merge method \"average\"", hint: "the methods are linear, slerp", at: 1, 15),
  Failure("merge_method: MultiSLERP\n", "unknown merge method \"MultiSLERP\"", hint: "did you mean multislerp?", at: 1, 15),
  Failure("merge_metod: ties\n", "unknown key 'merge_metod'", hint: "did you mean merge_method?", subject: "merge_metod", at: 1, 1),
  Failure(linear + "paramaters: {}\n", "unknown key 'paramaters'", hint: "did you mean parameters?", at: 3, 1),
  Failure(linear + "dtyp: float32\n", "unknown key 'dtyp'", hint: "did you mean dtype?", at: 3, 1),
  Failure(linear + "outdtype: float32\n", "unknown key 'outdtype'", hint: "did you mean out_dtype?", at: 3, 1),
  Failure(
    "merge_method: linear\nmodules: {text: {models: []}}\n", "the module has neither slices nor models", subject: "modules.text", at: 2, 11),
  Failure("merge_method: linear\n", "none of models, slices and modules has an entry", at: 1, 1),
  Failure("merge_method: linear\nmodels: []\nslices:\n", "none of models, slices and modules has an entry", at: 1, 1),
  Failure(linear + "slices: [{sources: []}]\n", "found models and slices, expected exactly one", subject: "slices", at: 3, 1),
  Failure("merge_method: linear\nmodels: a\n", "models is the text \"a\", expected a list", at: 2, 9),
  Failure(
    "merge_method: linear\nmodels: [a]\n", "found the text \"a\", expected a mapping", hint: "write '- model: PATH'", subject: "models[0]",
    at: 2, 10),
  Failure("merge_method: linear\nmodels: [{parameters: {weight: 1}}]\n", "model is missing", subject: "models[0].model", at: 2, 10),
  Failure(
    "merge_method: linear\nmodels: [{model: a, parameter: {weight: 1}}]\n", "unknown key 'parameter'", hint: "did you mean parameters?",
    subject: "models[0].parameter", at: 2, 21),
  Failure(
    "merge_method: linear\nmodels: [{model: a, parameters: 1}]\n", "found the number 1, expected a mapping",
    subject: "models[0].parameters", at: 2, 33),
  Failure("merge_method: linear\nmodels: [{model: }]\n", "found nothing, expected a model", subject: "models[0].model", at: 2, 18),
  Failure("merge_method: linear\nmodels: [{model: ''}]\n", "the model is an empty text", at: 2, 18),
  Failure("merge_method: linear\nmodels: [{model: \"a\\0b\"}]\n", "the model has a NUL character in it", at: 2, 18),
  Failure("merge_method: linear\nmodels: [{model: [a]}]\n", "found a list of 1, expected a model", at: 2, 18),
  Failure(
    "merge_method: linear\nmodels: [{model: {modl: a}}]\n", "unknown key 'modl'", hint: "did you mean model?",
    subject: "models[0].model.modl", at: 2, 19),
  Failure(
    "merge_method: linear\nmodels: [{model: {model: {path: a, revison: x}}}]\n", "unknown key 'revison'", hint: "did you mean revision?",
    at: 2, 36),
  Failure(
    "merge_method: linear\nmodels: [{model: {model: {revision: x}}}]\n", "path is missing", subject: "models[0].model.model.path", at: 2, 26
  ),
  Failure(linear + "dtype: float8\n", "dtype is \"float8\", expected float32, float16, bfloat16", subject: "dtype", at: 3, 8),
  Failure(linear + "dtype: int64\n", "dtype is \"int64\"", hint: "results are rounded to one of these types only", at: 3, 8),
  Failure(linear + "out_dtype: torch.bfloat61\n", "out_dtype is \"torch.bfloat61\"", hint: "did you mean bfloat16?", at: 3, 12),
  Failure(linear + "dtype: 16\n", "dtype is \"16\"", at: 3, 8),
  Failure(linear + "seed: -1\n", "seed is the number -1, expected a whole number from 0", at: 3, 7),
  Failure(linear + "seed: abc\n", "seed is the text \"abc\"", at: 3, 7),
  Failure(
    linear + "tokenizer_source: union\ntokenizer: {}\n", "found tokenizer_source and tokenizer, expected one of them",
    subject: "tokenizer_source", at: 3, 1),
  Failure(linear + "tokenizer_source: [union]\n", "found a list of 1, expected a model", subject: "tokenizer_source", at: 3, 19),
  Failure(
    linear + "tokenizer: union\n", "found the text \"union\", expected a mapping",
    hint: "write 'tokenizer_source: union' for a source alone", subject: "tokenizer", at: 3, 12),
  Failure(linear + "tokenizer: {sourc: base}\n", "unknown key 'sourc'", hint: "did you mean source?", at: 3, 13),
  Failure(
    linear + "tokenizer: {pad_to_multiple_of: 0}\n", "pad_to_multiple_of is the number 0, expected a whole number from 1",
    subject: "tokenizer.pad_to_multiple_of", at: 3, 33),
  Failure(linear + "tokenizer: {tokens: [x]}\n", "found a list of 1, expected a mapping", subject: "tokenizer.tokens", at: 3, 21),
  Failure(linear + "tokenizer: {tokens: {'': }}\n", "the token is an empty text", at: 3, 22),
  Failure(
    linear + "tokenizer: {tokens: {x: {force: 2}}}\n", "force is the number 2, expected true or false",
    subject: "tokenizer.tokens.x.force", at: 3, 33),
  Failure(
    linear + "tokenizer: {tokens: {x: {source: {kind: zeros}}}}\n", "kind is \"zeros\", expected zero or model_token",
    subject: "tokenizer.tokens.x.source.kind", at: 3, 41),
  Failure(
    linear + "tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}\n", "a model_token has neither token nor token_id",
    hint: "for the row of the same token write 'source: MODEL'", subject: "tokenizer.tokens.x.source", at: 3, 34),
  Failure(
    linear + "tokenizer: {tokens: {x: {source: {model: a, token: b, token_id: 1}}}}\n", "a model_token has token and token_id", at: 3, 34),
  Failure(
    linear + "tokenizer: {tokens: {x: {source: {kind: model_token, model: a, token_id: -1}}}}\n",
    "token_id is the number -1, expected a whole number from 0", subject: "tokenizer.tokens.x.source.token_id", at: 3, 74),
  Failure(linear + "chat_template: chatlm\n", "chat_template is \"chatlm\"", hint: "did you mean chatml?", at: 3, 16),
  Failure(linear + "chat_template: no brace, though it is long\n", "chat_template is \"no brace", at: 3, 16),
  Failure(
    "merge_method: linear\nmodels: [{model: {model: a+b, lora: c}}]\n", "found \"a+b\" beside lora, expected one place for adapters",
    hint: "name the adapters under lora alone, several as a list", subject: "models[0].model", at: 2, 37),
  Failure(
    "merge_method: linear\nmodels: [{model: {model: a, lora: [b, c+d]}}]\n", "found \"c+d\" beside lora, expected one place for adapters",
    subject: "models[0].model", at: 2, 35),
  Failure(
    "merge_method: linear\nmodels: [{model: {model: a, lora: [b, {revision: r}]}}]\n", "path is missing",
    subject: "models[0].model.lora[1].path", at: 2, 39),
  Failure(
    "merge_method: linear\nmodels: [{model: {model: a, lora: [[b]]}}]\n", "found a list of 1, expected a model",
    subject: "models[0].model.lora[0]", at: 2, 36),
  Failure(
    "merge_method: linear\nmodels: [{model: {model: a, lora: {revision: r}}}]\n", "path is missing", subject: "models[0].model.lora.path",
    at: 2, 35),
  Failure(linear + "preset: papers\n", "preset is \"papers\", expected mergekit or paper", at: 3, 9),
]

private let documents: [Failure] = [
  Failure(
    linear + "---\n" + linear, "a second document without a name; the first begins at line 1",
    hint: "the document without a name is the output",
    at: 4, 1),
  Failure(
    "name: x\n" + linear + "---\nname: x\n" + linear, "two documents have the name x; the first begins at line 1", subject: "name", at: 5, 7
  ),
  Failure("name: [x]\n" + linear + "---\n" + linear, "name is a list", subject: "name", at: 1, 7),
  Failure("name: ''\n" + linear + "---\n" + linear, "name is the text \"\", expected a text of 1 to 256 bytes", subject: "name", at: 1, 7),
  Failure(
    "name: x\nmerge_method: linear\nmodels: [{model: x, parameters: {weight: 1}}]\n---\nmerge_method: linear\nmodels: [{model: x, parameters: {weight: 1}}]\n",
    "the documents need one another in a circle: x is read here", subject: "x", at: 3, 18),
  Failure(
    "name: x\nmerge_method: linear\nmodels: [{model: z, parameters: {weight: 1}}]\n---\nname: y\nmerge_method: linear\nmodels: [{model: x, parameters: {weight: 1}}]\n---\n"
      + "name: z\nmerge_method: linear\nmodels: [{model: y, parameters: {weight: 1}}]\n",
    "the documents need one another in a circle: z is read here", subject: "z", at: 3, 18),
  Failure("name: x\n" + linear + "---\n[1]\n", "the recipe is a list", at: 5, 1),
  Failure("name: x\n" + linear + "---\nmerge_methode: linear\n", "unknown key 'merge_methode'", at: 5, 1),
]

private let arity: [Failure] = [
  Failure(
    "base_model: a\ngate_mode: hidden\nexperts:\n  - source_model: b\n",
    "found experts and no merge_method: a configuration of mergekit-moe",
    subject: "experts", at: 3, 1, status: .unsupported),
  Failure(
    "merge_method: ties\nmodels: [{model: a}]\n", "base_model is missing; ties merges differences to a base model",
    hint: "add a line 'base_model: PATH'", subject: "base_model", at: 1, 15),
  Failure("merge_method: ties\nbase_model: ~\nmodels: [{model: a}]\n", "base_model is missing", at: 1, 15),
  Failure(
    "merge_method: slerp\nbase_model: a\nmodels: [{model: b}, {model: c}]\nparameters: {t: 0}\n",
    "found 2 models, expected exactly 1 model beside the base for slerp", subject: "models", at: 3, 1),
  Failure(
    "merge_method: ties\nbase_model: a\nmodels: [{model: a}]\n", "found 0 models, expected 1 model or more beside the base", at: 3, 1),
  Failure("merge_method: multislerp\nmodels: [{model: a}]\n", "found 1 model, expected 2 to 3 models", at: 2, 1),
  Failure(
    "merge_method: passthrough\nmodels: [{model: a}]\nbase_model: b\n",
    "found 2 models, base_model among them, expected exactly 1 model for passthrough", hint: "remove base_model", at: 2, 1),
  Failure(
    "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\nbase_model: b\n",
    "the base model b, one more input of linear, has no weight", hint: "list it with parameters", at: 3, 13),
  Failure("merge_method: ties\nslices:\n  - sources: [{model: a, layer_range: [0, 1]}]\n", "base_model is missing", at: 3, 5),
  Failure(
    slices + "  - sources: [{model: b, layer_range: [0, 1]}]\n", "the base model a is not among the sources of this slice",
    hint: "add it to the slice", subject: "slices[0]", at: 5, 14),
  Failure(
    slices + "  - sources:\n    - {model: a, layer_range: [0, 1]}\n    - {model: a, layer_range: [1, 2]}\n",
    "the base model a is twice in one slice", at: 7, 7),
]

private let layers: [Failure] = [
  Failure(slices + "  - sources: []\n", "the slice has no sources", subject: "slices[0].sources", at: 5, 14),
  Failure(slices + "  - parameters: {t: 1}\n", "sources is missing", subject: "slices[0].sources", at: 5, 5),
  Failure(slices + "  - sources: a\n", "slices[0].sources is the text \"a\", expected a list", at: 5, 14),
  Failure(slices + "  - {sources: [{model: a}]}\n", "layer_range is missing", subject: "slices[0].sources[0].layer_range", at: 5, 16),
  Failure(
    slices + "  - {sources: [{model: a, layers_range: [0, 1]}]}\n", "unknown key 'layers_range'", hint: "did you mean layer_range?", at: 5,
    27),
  Failure(slices + "  - {source: [{model: a}]}\n", "unknown key 'source'", hint: "did you mean sources?", at: 5, 6),
  Failure(
    slices + "  - {sources: [{model: a, layer_range: [0, 1, 2]}]}\n", "layer_range is a list of 3, expected two whole numbers", at: 5, 40),
  Failure(
    slices + "  - {sources: [{model: a, layer_range: [0, x]}]}\n", "layer_range is a list of 2, expected two whole numbers", at: 5, 40),
  Failure(
    slices + "  - {sources: [{model: a, layer_range: [0, 1.5]}]}\n", "layer_range is a list of 2, expected two whole numbers", at: 5, 40),
  Failure(slices + "  - {sources: [{model: a, layer_range: 0-4}]}\n", "layer_range is the text \"0-4\"", at: 5, 40),
  Failure(slices + "  - {sources: [{model: a, layer_range: [4, 4]}]}\n", "layer_range is [4, 4], expected 0 ≤ FIRST < END", at: 5, 40),
  Failure(slices + "  - {sources: [{model: a, layer_range: [-1, 4]}]}\n", "layer_range is [-1, 4]", at: 5, 40),
  Failure(
    slices + "  - {sources: [{model: a, layer_range: [-9223372036854775808, 9223372036854775807]}]}\n",
    "layer_range is [-9223372036854775808", at: 5, 40),
  Failure(
    slices + "  - sources:\n    - {model: a, layer_range: [0, 4]}\n    - {model: b, layer_range: [0, 3]}\n",
    "the layer range has 3 layers, that of the slice's first source 4", subject: "slices[0].sources[1].layer_range", at: 7, 31),
]

private let values: [Failure] = [
  Failure(
    ties + "  density: 1.5\n", "density is 1.5, expected a number above 0 and at most 1", hint: "the default is 1",
    subject: "parameters.density", at: 6, 12),
  Failure(ties + "  density: 0\n", "density is 0, expected a number above 0 and at most 1", at: 6, 12),
  Failure(ties + "  density: false\n", "density is false, expected a number above 0 and at most 1", at: 6, 12),
  Failure(ties + "  density: [0, -0.5]\n", "density is -0.5, expected", subject: "parameters.density[1]", at: 6, 16),
  Failure(ties + "  density: abc\n", "density is \"abc\", expected a number", at: 6, 12),
  Failure(ties + "  density: ''\n", "density is \"\", expected a number", at: 6, 12),
  Failure(ties + "  density:\n", "density has no value, expected a number", at: 6, 11),
  Failure(ties + "  density: .nan\n", "density is nan, expected a number", at: 6, 12),
  Failure(ties + "  lambda: .inf\n", "lambda is inf, expected a number", at: 6, 11),
  Failure(ties + "  lambda: \"1e999\"\n", "lambda is \"1e999\", expected a number", at: 6, 11),
  Failure(ties + "  density: []\n", "density is an empty list, expected a number", at: 6, 12),
  Failure(ties + "  density: [0.5, 2]\n", "density is 2, expected a number above 0", subject: "parameters.density[1]", at: 6, 18),
  Failure(ties + "  density: [0.5, [1]]\n", "found a list of 1, expected a number", subject: "parameters.density[1]", at: 6, 18),
  Failure(
    ties + "  density: [0.5, {value: 1}]\n", "found a mapping with the key 'value', expected a number",
    hint: "a list holds either numbers or entries", at: 6, 18),
  Failure(
    ties + "  density: [{value: 1}, 0.5]\n", "found the number 0.5, expected a mapping", hint: "a list holds either numbers or entries",
    at: 6, 25),
  Failure(ties + "  density: [{filter: x}]\n", "value is missing", subject: "parameters.density[0].value", at: 6, 13),
  Failure(
    ties + "  density: [{value: 1, filters: x}]\n", "unknown key 'filters'", hint: "did you mean filter?",
    subject: "parameters.density[0].filters", at: 6, 24),
  Failure(ties + "  density: [{value: 3, filter: x}]\n", "density is 3", subject: "parameters.density[0].value", at: 6, 21),
  Failure(ties + "  density: [{value: [0.5, 3], filter: x}]\n", "density is 3", subject: "parameters.density[0].value[1]", at: 6, 27),
  Failure(ties + "  density: [{value: [], filter: x}]\n", "found an empty list, expected a number", at: 6, 21),
  Failure(ties + "  density: [{value: {a: 1}, filter: x}]\n", "found a mapping with the key 'a'", at: 6, 21),
  Failure(ties + "  density: [{value: null}]\n", "density has no value", at: 6, 21),
  Failure(ties + "  density: [{value: 1, filter: [x]}]\n", "found a list of 1, expected a part of a tensor name", at: 6, 32),
  Failure(ties + "  densty: 1\n", "unknown key 'densty'", hint: "did you mean density?", subject: "parameters.densty", at: 6, 3),
  Failure(ties + "  normalise: 1\n", "unknown key 'normalise'", hint: "did you mean normalize?", at: 6, 3),
  Failure(ties + "  normalize: maybe\n", "normalize is \"maybe\", expected true or false", at: 6, 14),
  Failure(
    ties + "  normalize: [1, 0]\n", "normalize is a list, expected true or false", hint: "only numbers can change over the layers", at: 6,
    15),
  Failure(ties + "  scope: modle\n", "scope is \"modle\", expected one of tensor, model, off", hint: "did you mean model?", at: 6, 10),
  Failure(ties + "  scope: 1\n", "scope is \"1\", expected one of", at: 6, 10),
  Failure(
    "merge_method: multislerp\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, max_iter: 1.5}\n",
    "max_iter is 1.5, expected a whole number from 1 to 100", at: 3, 35),
  Failure(
    "merge_method: multislerp\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, max_iter: 101}\n", "max_iter is 101", at: 3, 35),
  Failure(
    "merge_method: multislerp\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, eps: 0}\n", "eps is 0, expected a number above 0",
    at: 3, 30),
  Failure(
    "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\n", "t is missing; slerp needs a number from 0 to 1",
    hint: "add 't: …' under parameters", subject: "parameters.t", at: 3, 1),
  Failure("merge_method: slerp\nbase_model: a\nmodels: [{model: b, parameters: {t: 1}}]\n", "t is missing", at: 3, 1),
  Failure(
    "merge_method: ties\nbase_model: c\nmodels:\n  - {model: a, parameters: {weight: 1}}\n  - {model: b}\n",
    "the model b has no weight, expected a number", subject: "parameters.weight", at: 5, 5),
]

@Suite struct RecipeErrorTests {
  @Test(arguments: [numbers, structure, documents, arity, layers, values].flatMap(\.self))
  func saysWhatAndWhere(_ failure: Failure) throws {
    let error = #expect(throws: IngotError.self) { try parse(failure.text) }
    let found = try #require(error)
    #expect(found.status == failure.status)
    #expect(found.message.hasPrefix(failure.message), "\(found.message)")
    #expect(found.position == SourcePosition(origin: "r.yml", line: failure.line, column: failure.column))
    if let hint = failure.hint { #expect(found.hint?.hasPrefix(hint) == true, "\(found.hint ?? "no hint")") }
    if let subject = failure.subject { #expect(found.subject == subject) }
    #expect(!found.message.contains("\n"))
  }

  /// A valid recipe with one byte cut or changed is read or refused; nothing crashes.
  @Test func mutationsNeverCrash() {
    let text = Array(
      "merge_method: ties\nbase_model: c\nslices:\n- sources:\n  - {model: a, layer_range: [0, 4], parameters: {weight: [0, 1]}}\n  - {model: c, layer_range: [0, 4]}\n  parameters: {density: [{value: 0.5, filter: mlp}, {value: [1, .5]}]}\nparameters: {normalize: yes, scope: off}\ndtype: bfloat16\nseed: 3\n"
        .utf8)
    var outcomes = [true: 0, false: 0]
    func attempt(_ text: [UInt8]) {
      outcomes[(try? Recipe.parse(text, origin: "r", catalog: catalog)) != nil, default: 0] += 1
    }
    attempt(text)
    #expect(outcomes[true] == 1)
    for at in text.indices {
      var shorter = text
      shorter.remove(at: at)
      attempt(shorter)
      for byte in "\n :-[]{},'\"&*!09~".utf8 {
        var changed = text
        changed[at] = byte
        attempt(changed)
      }
    }
    #expect(outcomes[true, default: 0] > 100 && outcomes[false, default: 0] > 100)
  }
}
