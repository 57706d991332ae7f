internal import IngotCheckpoints
internal import IngotErrors
internal import IngotRecipes
internal import IngotTensors

/// Checks of single methods, of tokenizers and of the way models come in.
extension MergekitCheck {
  static let methods: [MergekitCheck] = [
    MergekitCheck(
      name: "sampled-quartiles", kind: .difference,
      mergekit: "takes quartiles of a million elements drawn at random where a tensor has more",
      here: "quartiles are those of all elements",
      find: { context throws(IngotError) in
        guard context.method == "arcee_fusion" else { return nil }
        return present(try context.tensors { count, _, _ in count > 1_000_000 })
      }),
    MergekitCheck(
      name: "float32-fusion", kind: .bug, mergekit: "writes float32 with this method, whatever dtype says",
      here: "the result has the dtype asked for, else the models' own",
      find: { context throws(IngotError) in context.method == "arcee_fusion" && context.mergesSixteenBits ? [] : nil }),
    MergekitCheck(
      name: "float32-ramplus", kind: .bug, mergekit: "writes float32 with this method, whatever dtype says",
      here: "the result has the dtype asked for, else the models' own",
      find: { context throws(IngotError) in context.method == "ramplus_tl" && context.mergesSixteenBits ? [] : nil }),
    MergekitCheck(
      name: "nothing-selected", kind: .bug,
      mergekit: "writes a tensor with one axis too many where select_topk × elements is below 1",
      here: "such a tensor is the base's",
      find: { context throws(IngotError) in
        guard context.method == "sce" else { return nil }
        let shares = context.numbers("select_topk")
        guard let least = shares.min(), least > 0, least < 1 else { return nil }
        return present(
          try context.tensors { count, _, _ in count > 0 && Int(Float(count) * Float(least)) == 0 })
      }),
    MergekitCheck(
      name: "leading-one", kind: .bug, mergekit: "stops on tensors whose first axis has length one when nuslerp_flatten is false",
      here: "they are merged like others",
      find: { context throws(IngotError) in
        guard context.method == "nuslerp", context.turnsOff("nuslerp_flatten") else { return nil }
        return present(try context.tensors { _, shape, _ in shape.rank > 1 && shape.dimensions[0] == 1 })
      }),
  ]

  static let inputs: [MergekitCheck] = [
    MergekitCheck(
      name: "zero-rows", kind: .bug, mergekit: "crashes on a token whose source is 'kind: zero'", here: "its rows are zeros",
      find: { context throws(IngotError) in
        present(context.recipe.tokenizer?.tokens.filter { $0.embedding == .zero }.map(\.text) ?? [])
      }),
    MergekitCheck(
      name: "token-without-source", kind: .bug, mergekit: "stops with a NotImplementedError on a token whose entry has no source",
      here: "its rows are those of tokens that the recipe does not name",
      find: { context throws(IngotError) in
        present(context.recipe.tokenizer?.tokens.filter { $0.embedding == nil }.map(\.text) ?? [])
      }),
    MergekitCheck(
      name: "absent-token", kind: .bug, mergekit: "crashes on a token that none of the merged models has", here: "its row is zeros",
      find: { context throws(IngotError) in present(context.absentTokens) }),
    MergekitCheck(
      name: "token-beyond-rows", kind: .bug, mergekit: "ends in a KeyError on a token whose number is beyond its model's embeddings",
      here: "the token counts as absent there",
      find: { context throws(IngotError) in
        guard let plan = context.tokenizer else { return nil }
        return present(
          zip(context.recipe.models, zip(context.models, plan.vocabularies)).filter { _, model in
            let (rows, vocabulary) = (TokenizerPlanner.rowLimit(model.0), model.1)
            return vocabulary.tokens.contains { $0.id >= rows && plan.vocabulary[$0.text] != nil }
          }.map(\.0.name))
      }),
    MergekitCheck(
      name: "numbers-by-chance", kind: .bug, mergekit: "gives the new tokens of a union numbers that depend on a hash seed",
      here: "they follow the recipe's order of the models",
      find: { context throws(IngotError) in
        guard context.recipe.tokenizer?.source == .union else { return nil }
        return (context.tokenizer?.planned.added ?? 0) > 1 ? [] : nil
      }),
    MergekitCheck(
      name: "configured-tokens", kind: .bug,
      mergekit:
        "leaves bos, eos and other numbers of tokens in config.json as they are under another model's tokenizer, and writes no generation_config.json",
      here: "they are the numbers that the same tokens have in the output",
      find: { context throws(IngotError) in
        guard let plan = context.tokenizer, plan.donor != context.donorIndex else { return nil }
        return [context.recipe.models[plan.donor].name]
      }),
    MergekitCheck(
      name: "sentencepiece", kind: .difference, mergekit: "turns a SentencePiece tokenizer into a tokenizer.json",
      here: "the tokenizer's own files are carried over as they are",
      find: { context throws(IngotError) in
        guard let plan = context.tokenizer, plan.isOfSentencePiece else { return nil }
        return [context.recipe.models[plan.donor].name]
      }),
    MergekitCheck(
      name: "adapter-cache", kind: .difference,
      mergekit: "needs --lora-merge-cache, and writes a whole model with the adapter applied there",
      here: "adapters are applied while the base is read",
      find: { context throws(IngotError) in
        present(
          context.recipe.models.filter { reference in
            (try? LocalModels.parse(reference))?.adapters.isEmpty == false
          }.map(\.name))
      }),
    MergekitCheck(
      name: "adapter-chain", kind: .difference, mergekit: "takes one adapter behind a model", here: "several are applied, in their order",
      find: { context throws(IngotError) in
        present(context.recipe.models.filter { ((try? LocalModels.parse($0))?.adapters.count ?? 0) > 1 }.map(\.name))
      }),
    MergekitCheck(
      name: "unnamed-modules", kind: .bug, mergekit: "leaves out every module that the recipe does not name",
      here: "it is copied from the base",
      find: { context throws(IngotError) in
        guard context.recipe.form == .modules else { return nil }
        return present(context.outputs.filter { $0.isCopied && $0.inputs.first?.source == nil }.map(\.name))
      }),
  ]
}
