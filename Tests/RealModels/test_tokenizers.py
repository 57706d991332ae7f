"""Tokenizers in recipes: the merged tokenizer encodes as the field's library says, and every embedding row is where it belongs."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from conftest import Command, write_recipe

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

TEXT = (
    "merge weight tensor layer model token embed river stone cloud winter summer quiet bright yellow purple kernel matrix vector "
    "naïve façade übermut Ωmega \u2126hm e\u0301tude 漢字 かな данные 🙂 don't it's 3.14 2026 <tag> a_b c-d"
)
WORDS = TEXT.split()
KINDS = ["bpe", "wordpiece", "unigram"]
Make = Callable[..., Path]


def corpus(seed: int, count: int, words: list[str] | None = None) -> list[str]:
    """Texts, by seed of different words: each seed's tokenizer learns another vocabulary."""
    rng = random.Random(seed)
    own = words or rng.sample(WORDS, 24) + ["".join(rng.choices("bcdfgaeiou", k=6)) for _ in range(12)]
    return [" ".join(rng.choices(own, k=rng.randint(1, 12))) for _ in range(count)]


def train(kind: str, seed: int, size: int, special: list[str]) -> Any:
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    if kind == "bpe":
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    elif kind == "wordpiece":
        made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=False)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[UNK]", *special], show_progress=False)
    else:
        made = tokenizers.Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=["<unk>", *special], unk_token="<unk>", show_progress=False)
    made.train_from_iterator(corpus(seed, 400), trainer)
    return made


def tiny(kind: str, rows: int, **more: Any) -> Any:
    """A small model of each family that published recipes are about."""
    common = {"vocab_size": rows, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "max_position_embeddings": 64}
    common |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    causal = {**common, "num_hidden_layers": 2, "num_key_value_heads": 2}
    if kind == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(**{**common, "num_hidden_layers": 2, **more}))
    family = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}[kind]
    config = getattr(transformers, family + "Config")(**{**causal, **more})
    return getattr(transformers, family + "ForCausalLM")(config)


@pytest.fixture
def make(folder: Path) -> Make:
    """Writes a model with a tokenizer of its own and returns its directory."""

    def write(
        name: str, seed: int, tokenizer: Any, *, kind: str = "llama", rows: int | None = None, dtype: str = "float32", **config: Any
    ) -> Path:
        torch.manual_seed(seed)
        model = tiny(kind, rows or tokenizer.get_vocab_size(), **config).to(getattr(torch, dtype))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(folder / name)
        wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
        wrapped.save_pretrained(folder / name)
        return folder / name

    return write


def recipe(folder: Path, models: dict[Path, float], **more: Any) -> Path:
    entries = [{"model": str(model), "parameters": {"weight": weight}} for model, weight in models.items()]
    return write_recipe(folder / "recipe.yml", merge_method="linear", models=entries, **more)


def weights_of(model: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(model / "model.safetensors")


def load(model: Path) -> Any:
    """Loads as a user would: no key missing or left over, and finite logits for every token that the tokenizer gives."""
    config = json.loads((model / "config.json").read_text())
    loaded, problems = getattr(transformers, config["architectures"][0]).from_pretrained(model, output_loading_info=True)
    assert not any(problems[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), problems
    ids = transformers.AutoTokenizer.from_pretrained(model)(" ".join(WORDS[:12]))["input_ids"][:60]
    assert ids
    assert max(ids) < config["vocab_size"]
    with torch.no_grad():
        logits = loaded.eval()(torch.tensor([ids])).logits
    assert logits.shape[-1] == config["vocab_size"]
    assert torch.isfinite(logits).all()
    return loaded


def union_of(base: Any, others: list[Any]) -> Any:
    """The merged tokenizer as the library itself makes it: ordinary tokens by number, then the added ones."""
    merged = tokenizers.Tokenizer.from_str(base.to_str())
    for other in others:
        added = {token.content for token in other.get_added_tokens_decoder().values()}
        names = sorted(other.get_vocab(), key=other.get_vocab().__getitem__)
        merged.add_tokens([name for name in names if name not in added and name not in merged.get_vocab()])
    known = {token.content for token in merged.get_added_tokens_decoder().values()}
    for other in others:
        for token in other.get_added_tokens_decoder().values():
            if token.content not in known:
                merged.add_tokens([token])
                known.add(token.content)
    return merged


def assert_same_encoding(model: Path, expected: Any) -> None:
    """Both are loaded as users load them: for some families AutoTokenizer replaces what tokenizer.json says about cutting text."""
    reference = model.parent / (model.name + "-reference")
    shutil.copytree(model, reference, ignore=shutil.ignore_patterns("*.safetensors"))
    expected.save(str(reference / "tokenizer.json"))
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("added_tokens_decoder", None)
    (reference / "tokenizer_config.json").write_text(json.dumps(config))
    found, wanted = (transformers.AutoTokenizer.from_pretrained(path) for path in (model, reference))
    texts = corpus(9, 160, WORDS) + corpus(1, 20) + corpus(2, 16) + ["", " ", "<s>hi</s>", "<|a|>x<|b|> y<|a|>"]
    assert len(texts) == 200
    for text in texts:
        assert found(text, add_special_tokens=False)["input_ids"] == wanted(text, add_special_tokens=False)["input_ids"], text
    assert found.get_vocab() == wanted.get_vocab() == expected.get_vocab()


SPECIAL = ["<s>", "</s>"]


@pytest.mark.parametrize("kind", KINDS)
def test_union(ingot: Command, make: Make, folder: Path, kind: str) -> None:
    first, second = train(kind, 1, 400, [*SPECIAL, "<|a|>"]), train(kind, 2, 380, [*SPECIAL, "<|b|>"])
    a, b = make("a", 1, first), make("b", 2, second)
    ingot.merge(recipe(folder, {a: 1.0, b: 0.0}, tokenizer_source="union"), folder / "out")
    expected = union_of(first, [second])
    assert expected.get_vocab_size() > first.get_vocab_size() + 5
    assert_same_encoding(folder / "out", expected)
    load(folder / "out")
    # Weight 1 leaves the rows of a alone, and gives those that a lacks the row of b.
    merged, own, other = weights_of(folder / "out"), weights_of(a), weights_of(b)
    for name in ["model.embed_tokens.weight", "lm_head.weight"]:
        assert merged[name].shape == (expected.get_vocab_size(), 32)
        for token, row in expected.get_vocab().items():
            known = first.token_to_id(token)
            donor = own[name][known] if known is not None else other[name][second.token_to_id(token)]
            assert np.array_equal(merged[name][row], donor), token
    assert np.array_equal(merged["model.norm.weight"], own["model.norm.weight"])
    assert json.loads((folder / "out" / "config.json").read_text())["vocab_size"] == expected.get_vocab_size()


def test_rows_are_averaged(ingot: Command, make: Make, folder: Path) -> None:
    """Tokens of both are averaged by token, not by number."""
    first, second = train("bpe", 1, 400, SPECIAL), train("bpe", 2, 380, SPECIAL)
    a, b = make("a", 1, first), make("b", 2, second)
    ingot.merge(recipe(folder, {a: 0.5, b: 0.5}, tokenizer_source="union"), folder / "out")
    merged, own, other = (weights_of(path)["lm_head.weight"] for path in (folder / "out", a, b))
    for token, row in union_of(first, [second]).get_vocab().items():
        rows = [table[id] for table, id in ((own, first.token_to_id(token)), (other, second.token_to_id(token))) if id is not None]
        np.testing.assert_allclose(merged[row], np.mean(rows, axis=0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_base(ingot: Command, make: Make, folder: Path, dtype: str) -> None:
    first, second = train("bpe", 1, 400, SPECIAL), train("bpe", 2, 380, SPECIAL)
    a, b = make("a", 1, first, dtype=dtype), make("b", 2, second, dtype=dtype)
    path = recipe(folder, {a: 0.0, b: 1.0}, tokenizer_source="base", base_model=str(a))
    ingot.merge(path, folder / "out")
    assert_same_encoding(folder / "out", first)
    assert (folder / "out" / "tokenizer.json").read_bytes() == (a / "tokenizer.json").read_bytes()
    merged, own, other = (torch_weights(path)["model.embed_tokens.weight"] for path in (folder / "out", a, b))
    assert merged.dtype == getattr(torch, dtype)
    for token, row in first.get_vocab().items():
        known = second.token_to_id(token)
        assert torch.equal(merged[row], own[row] if known is None else other[known]), token
    load(folder / "out")


def torch_weights(model: Path) -> dict[str, Any]:
    import safetensors.torch

    return safetensors.torch.load_file(model / "model.safetensors")


def test_tokenizer_of_a_model(ingot: Command, make: Make, folder: Path) -> None:
    """The tokenizer of the second model, whose files the output has; also of a model that is not merged."""
    first, second, third = (train("bpe", seed, size, SPECIAL) for seed, size in ((1, 400), (2, 380), (3, 360)))
    a, b, c = make("a", 1, first), make("b", 2, second), make("c", 3, third)
    for number, (source, expected) in enumerate([(b, second), (c, third)]):
        out = folder / f"out{number}"
        ingot.merge(recipe(folder, {a: 1.0, b: 0.0}, tokenizer_source=str(source), base_model=str(a)), out)
        assert_same_encoding(out, expected)
        load(out)
        merged, own, other = (weights_of(path)["lm_head.weight"] for path in (out, a, b))
        for token, row in expected.get_vocab().items():
            if first.token_to_id(token) is not None:
                donor = own[first.token_to_id(token)]
            else:
                donor = other[second.token_to_id(token)] if second.token_to_id(token) is not None else np.zeros(32)
            assert np.array_equal(merged[row], donor), token


def test_tokens_by_name(ingot: Command, make: Make, folder: Path) -> None:
    first, second = train("bpe", 1, 400, [*SPECIAL, "<|a|>"]), train("bpe", 2, 380, [*SPECIAL, "<|a|>", "<|b|>"])
    a, b = make("a", 1, first), make("b", 2, second)
    tokens = {
        "<|zero|>": {"source": {"kind": "zero"}},
        "<|nobody|>": None,
        "<|row|>": {"source": {"kind": "model_token", "model": str(b), "token_id": 7}},
        "<|named|>": {"source": {"kind": "model_token", "model": str(b), "token": "<|b|>"}},
        "<|a|>": {"source": str(b), "force": True},
        "</s>": {"source": str(b)},
        "<s>": {"force": True},
    }
    path = recipe(folder, {a: 1.0, b: 0.0}, base_model=str(a), tokenizer={"source": "union", "tokens": tokens, "pad_to_multiple_of": 64})
    ingot.merge(path, folder / "out")
    found = transformers.AutoTokenizer.from_pretrained(folder / "out").get_vocab()
    merged, own, other = (weights_of(path)["model.embed_tokens.weight"] for path in (folder / "out", a, b))
    assert not merged[found["<|zero|>"]].any()
    assert not merged[found["<|nobody|>"]].any()
    assert np.array_equal(merged[found["<|row|>"]], other[7])
    assert np.array_equal(merged[found["<|named|>"]], other[second.token_to_id("<|b|>")])
    assert np.array_equal(merged[found["<|a|>"]], other[second.token_to_id("<|a|>")])
    assert np.array_equal(merged[found["</s>"]], own[first.token_to_id("</s>")])
    assert np.array_equal(merged[found["<s>"]], own[first.token_to_id("<s>")])
    assert len(merged) % 64 == 0
    assert len(found) < len(merged)
    np.testing.assert_allclose(merged[-1], merged[: len(found)].mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-7)
    load(folder / "out")


def test_mean_without_a_base(ingot: Command, make: Make, folder: Path) -> None:
    """A token of two models of three: the third is given the mean of their rows."""
    shared, alone = train("bpe", 1, 400, SPECIAL), train("bpe", 2, 380, SPECIAL)
    a, b, c = make("a", 1, shared), make("b", 2, shared), make("c", 3, alone)
    ingot.merge(recipe(folder, {a: 0.0, b: 0.0, c: 1.0}, tokenizer_source="union"), folder / "out")
    merged, one, two = (weights_of(path)["lm_head.weight"] for path in (folder / "out", a, b))
    tokens = [token for token in shared.get_vocab() if alone.token_to_id(token) is None]
    assert tokens
    for token in tokens:
        row = shared.token_to_id(token)
        mean = ((one[row].astype(np.float64) + two[row]) / 2).astype(np.float32)
        assert np.array_equal(merged[row], mean), token


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "bert"])
@pytest.mark.parametrize("source", ["union", "base"])
def test_published_recipes(ingot: Command, make: Make, folder: Path, kind: str, source: str, ties: bool) -> None:
    """Ties recipes as they are published, with bf16 models of another vocabulary than the base's."""
    family = "wordpiece" if kind == "bert" else "bpe"
    # Qwen's class would add its own end of text.
    special = [*SPECIAL, "<|endoftext|>"] if kind == "qwen2" else SPECIAL
    first, second = train(family, 1, 400, special), train(family, 2, 420, special)
    a = make("a", 1, first, kind=kind, dtype="bfloat16", tie_word_embeddings=ties)
    b = make("b", 2, second, kind=kind, dtype="bfloat16", tie_word_embeddings=ties)
    path = write_recipe(
        folder / "recipe.yml",
        merge_method="ties",
        base_model=str(a),
        models=[{"model": str(b), "parameters": {"density": 0.5, "weight": 0.5}}],
        parameters={"normalize": True},
        dtype="bfloat16",
        tokenizer_source=source,
    )
    ingot.merge(path, folder / "out")
    assert_same_encoding(folder / "out", first if source == "base" else union_of(first, [second]))
    load(folder / "out")


def test_padded_embeddings(ingot: Command, make: Make, folder: Path) -> None:
    """More rows than tokens, as Qwen has them: the union's new tokens follow the tokens, not the rows."""
    first, second = train("bpe", 1, 400, SPECIAL), train("bpe", 2, 380, SPECIAL)
    a, b = make("a", 1, first, rows=512), make("b", 2, second, rows=512)
    ingot.merge(recipe(folder, {a: 1.0, b: 0.0}, tokenizer_source="union"), folder / "out")
    assert_same_encoding(folder / "out", union_of(first, [second]))
    load(folder / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_beyond_the_rows(ingot: Command, make: Make, folder: Path, kind: str) -> None:
    """Tokens without a row are left out of the base and are absent in the others."""
    first, second = train(kind, 1, 400, SPECIAL), train(kind, 2, 380, SPECIAL)
    limit = first.get_vocab_size()
    first.add_tokens(["extra one", "extra two"])
    first.add_special_tokens(["<pad>"])
    second.add_tokens(["extra one"])
    a, b = make("a", 1, first, rows=limit - 3), make("b", 2, second, rows=second.get_vocab_size() - 1)
    result = ingot("merge", recipe(folder, {a: 1.0, b: 0.0}, tokenizer_source="union"), folder / "out", "--sync", "none")
    assert "6 tokens are left out" in result.stderr
    found = transformers.AutoTokenizer.from_pretrained(folder / "out").get_vocab()
    assert "<pad>" not in found
    assert "extra one" not in found
    assert sorted(found.values()) == list(range(len(found)))
    assert len(weights_of(folder / "out")["lm_head.weight"]) == len(found)
    load(folder / "out")


@pytest.mark.parametrize("name", ["alpaca", "chatml", "exaone", "llama3", "mistral"])
def test_builtin_templates(ingot: Command, make: Make, folder: Path, name: str) -> None:
    a = make("a", 1, train("bpe", 1, 300, SPECIAL))
    ingot.merge(recipe(folder, {a: 1.0}, chat_template=name), folder / "out")
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]
    chat += [{"role": "user", "content": "V"}]
    text = transformers.AutoTokenizer.from_pretrained(folder / "out").apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    turns = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in chat)
    headers = "".join(f"<|start_header_id|>{turn['role']}<|end_header_id|>\n\n{turn['content']}<|eot_id|>" for turn in chat)
    assert (
        text
        == {
            "alpaca": "S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n### Response:\n",
            "chatml": turns + "<|im_start|>assistant\n",
            "exaone": "[|system|]S[|endofturn|]\n[|user|]U\n[|assistant|]A[|endofturn|]\n[|user|]V\n[|assistant|]",
            "llama3": "<s>" + headers + "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "mistral": "<s>[INST] S\n\nU [/INST] A</s>[INST] V [/INST]",
        }[name]
    )


def test_common_template(ingot: Command, make: Make, folder: Path) -> None:
    """`auto`: two models of three agree, one in the new layout and one in the old."""
    made = train("bpe", 1, 300, SPECIAL)
    a, b, c = (make(name, seed, made) for seed, name in enumerate("abc"))
    (a / "chat_template.jinja").write_text("A {{ messages[0]['content'] }}")
    (b / "chat_template.jinja").write_text("\nB {{ messages[0]['content'] }}\n")
    config = json.loads((c / "tokenizer_config.json").read_text())
    (c / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "B {{ messages[0]['content'] }}"}))
    ingot.merge(recipe(folder, {a: 1.0, b: 0.0, c: 0.0}, chat_template="auto", tokenizer_source="base"), folder / "out")
    loaded = transformers.AutoTokenizer.from_pretrained(folder / "out")
    assert loaded.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "B x"


def test_plan_names_the_vocabulary(ingot: Command, make: Make, folder: Path) -> None:
    first, second = train("bpe", 1, 400, SPECIAL), train("bpe", 2, 380, SPECIAL)
    a, b = make("a", 1, first), make("b", 2, second)
    path = recipe(folder, {a: 1.0, b: 0.0}, tokenizer={"pad_to_multiple_of": 128})
    size = union_of(first, [second]).get_vocab_size()
    rows = -(-size // 128) * 128
    said = json.loads(ingot("plan", path, "--json").stdout)["vocabulary"]
    shared = [{"model": str(a), "shared": 400}, {"model": str(b), "shared": second.get_vocab_size()}]
    added = size - first.get_vocab_size()
    assert said == {"source": "union", "tokens": size, "added": added, "removed": 0, "rows": rows, "models": shared}
    table = ingot("plan", path).stdout
    assert f"vocabulary (union): {size} tokens, {added} of them added; {rows} rows\n" in table


def edited(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((model / "tokenizer.json").read_text())
    change(content)
    (model / "tokenizer.json").write_text(json.dumps(content))


HOSTILE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "truncated": ("not valid JSON", lambda m: (m / "tokenizer.json").write_text((m / "tokenizer.json").read_text()[:999])),
    "empty": ("not valid JSON", lambda m: (m / "tokenizer.json").write_text("")),
    "list": ("expected an object", lambda m: (m / "tokenizer.json").write_text("[]")),
    "no model": ("no model", lambda m: (m / "tokenizer.json").write_text("{}")),
    "no vocabulary": ("model.vocab", lambda m: edited(m, lambda t: t["model"].pop("vocab"))),
    "kind": ('type "Chars"', lambda m: edited(m, lambda t: t["model"].update(type="Chars"))),
    "text as number": ("expected an integer", lambda m: edited(m, lambda t: t["model"]["vocab"].update(a="1"))),
    "negative": ("has the number -1", lambda m: edited(m, lambda t: t["model"]["vocab"].update(zzz=-1))),
    "huge": ("has the number 99999999", lambda m: edited(m, lambda t: t["model"]["vocab"].update(zzz=99999999))),
    "beyond": ("expected an integer", lambda m: edited(m, lambda t: t["model"]["vocab"].update(zzz=10**30))),
    "shared number": ("have one number, 300", lambda m: edited(m, lambda t: t["model"]["vocab"].update(zzz=300))),
    "twice": ("is there twice", lambda m: edited(m, lambda t: t["added_tokens"].append(t["added_tokens"][0]))),
    "twice in the text": (
        "is there twice",
        lambda m: (m / "tokenizer.json").write_text(
            (m / "tokenizer.json").read_text().replace('"vocab": {', '"vocab": {"zz":1,"zz":1,', 1)
        ),
    ),
    "absent": ("no tokenizer", lambda m: list(map(Path.unlink, m.glob("*token*")))),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_tokenizers(ingot: Command, make: Make, folder: Path, case: str) -> None:
    message, damage = HOSTILE[case]
    a = make("a", 1, train("bpe", 1, 380, SPECIAL), rows=512)
    b = make("b", 2, train("bpe", 2, 380, SPECIAL))
    damage(a)
    result = ingot("merge", recipe(folder, {a: 0.5, b: 0.5}, tokenizer_source="union"), folder / "out", exit_code=None)
    assert result.returncode not in (0, 70)
    assert message in result.stderr
    assert not (folder / "out").exists()
    assert not (folder / "out.partial").exists()


def test_no_union_of_two_kinds(ingot: Command, make: Make, folder: Path) -> None:
    a, b = make("a", 1, train("bpe", 1, 380, SPECIAL)), make("b", 2, train("wordpiece", 2, 380, SPECIAL))
    result = ingot("merge", recipe(folder, {a: 0.5, b: 0.5}, tokenizer_source="union"), folder / "out", exit_code=None)
    assert result.returncode != 0
    assert "a WordPiece tokenizer and that of the base a BPE tokenizer" in result.stderr
    assert not (folder / "out.partial").exists()


def test_rows_that_nobody_has(ingot: Command, make: Make, folder: Path) -> None:
    made = train("bpe", 1, 380, SPECIAL)
    a = make("a", 1, made)
    sources = [str(a), {"kind": "model_token", "model": str(a), "token": "nowhere"}, {"model": str(a), "token_id": 10**6}]
    for source in sources:
        path = recipe(folder, {a: 1.0}, tokenizer={"tokens": {"<|new|>": {"source": source}}})
        result = ingot("plan", path, exit_code=None)
        assert result.returncode != 0
        assert "has no row for" in result.stderr


def test_conflicting_definitions_warn(ingot: Command, make: Make, folder: Path) -> None:
    first, second = train("bpe", 1, 380, SPECIAL), train("bpe", 1, 380, SPECIAL)
    first.add_tokens([tokenizers.AddedToken("<x>", lstrip=True)])
    second.add_tokens([tokenizers.AddedToken("<x>", rstrip=True)])
    a, b = make("a", 1, first), make("b", 2, second)
    result = ingot("plan", recipe(folder, {a: 0.5, b: 0.5}, tokenizer_source="union"))
    assert "1 added tokens are defined otherwise" in result.stderr


def test_resume_sees_another_tokenizer(ingot: Command, make: Make, folder: Path) -> None:
    """The digest of a plan hangs on where rows come from."""
    first, second = train("bpe", 1, 400, SPECIAL), train("bpe", 2, 380, SPECIAL)
    a, b = make("a", 1, first), make("b", 2, second)
    path = recipe(folder, {a: 0.5, b: 0.5}, tokenizer_source="union")
    before = json.loads(ingot("plan", path, "--json").stdout)["digest"]
    assert json.loads(ingot("plan", path, "--json").stdout)["digest"] == before
    table = json.loads((b / "tokenizer.json").read_text())
    vocabulary = table["model"]["vocab"]
    one, two = [name for name in vocabulary if name in first.get_vocab() and name not in SPECIAL][:2]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (b / "tokenizer.json").write_text(json.dumps(table))
    assert json.loads(ingot("plan", path, "--json").stdout)["digest"] != before


def test_every_thread_count_gives_the_same(ingot: Command, make: Make, folder: Path) -> None:
    first, second = train("bpe", 1, 400, SPECIAL), train("bpe", 2, 380, SPECIAL)
    a, b = make("a", 1, first, dtype="bfloat16"), make("b", 2, second)
    path = recipe(folder, {a: 0.3, b: 0.7}, tokenizer={"pad_to_multiple_of": 64})
    digests = [ingot.merge(path, folder / f"out{threads}", "--threads", threads).digests for threads in (1, 3, 8)]
    assert digests[0] == digests[1] == digests[2]
    ingot("verify", folder / "out1")


def test_gaps_take_new_tokens(ingot: Command, make: Make, folder: Path) -> None:
    """Numbers that nobody uses: new tokens come behind the highest, and the library gives every token the number that its row has."""
    first, second = train("bpe", 1, 380, SPECIAL), train("bpe", 2, 380, SPECIAL)
    a, b = make("a", 1, first, rows=400), make("b", 2, second)
    edited(a, lambda t: t["model"]["vocab"].update(zzz=389, zzzz=394))
    ingot.merge(recipe(folder, {a: 1.0, b: 0.0}, tokenizer_source="union"), folder / "out")
    merged = tokenizers.Tokenizer.from_file(str(folder / "out" / "tokenizer.json"))
    vocabulary = merged.get_vocab()
    for token, number in first.get_vocab().items():
        assert vocabulary[token] == number
    assert vocabulary["zzz"] == 389
    assert vocabulary["zzzz"] == 394
    new = [token for token in second.get_vocab() if token not in first.get_vocab()]
    assert new
    assert sorted(vocabulary[token] for token in new) == list(range(395, 395 + len(new)))
    assert sorted(vocabulary.values()) == list(range(395 + len(new)))
    load(folder / "out")
    rows, donor = weights_of(folder / "out")["model.embed_tokens.weight"], weights_of(b)["model.embed_tokens.weight"]
    for token in new:
        assert np.array_equal(rows[vocabulary[token]], donor[second.get_vocab()[token]])
    # Rows of gaps stay what they are.
    assert np.array_equal(rows[380:395], weights_of(a)["model.embed_tokens.weight"][380:395])


def test_numbers_in_configs_follow_their_tokens(ingot: Command, make: Make, folder: Path) -> None:
    """A tokenizer from another model: config.json and generation_config.json name the same tokens by their new numbers."""
    first, second = train("bpe", 1, 380, SPECIAL), train("bpe", 2, 380, ["<pad>", "<odd>", *reversed(SPECIAL)])
    first.add_special_tokens(["<only here>"])
    a, b = make("a", 1, first), make("b", 2, second)
    old, new = first.get_vocab(), second.get_vocab()
    only = old["<only here>"]
    config = json.loads((a / "config.json").read_text())
    config |= {"bos_token_id": old["<s>"], "eos_token_id": [old["</s>"], old["<s>"]], "pad_token_id": None, "image_token_index": only}
    config |= {"text_config": {"eos_token_id": old["</s>"]}, "vision_config": {"bos_token_id": old["<s>"]}, "sep_token_id": only}
    (a / "config.json").write_text(json.dumps(config))
    said = {"eos_token_id": old["</s>"], "suppress_tokens": [old["<s>"]], "forced_decoder_ids": [[1, old["</s>"]]], "top_k": old["<s>"]}
    (a / "generation_config.json").write_text(json.dumps(said))
    other = json.loads((b / "config.json").read_text()) | {"sep_token_id": new["<odd>"]}
    (b / "config.json").write_text(json.dumps(other))
    path = recipe(folder, {a: 1.0, b: 0.0}, base_model=str(a), tokenizer_source=str(b))
    result = ingot("merge", path, folder / "out", "--sync", "none")
    written = json.loads((folder / "out" / "config.json").read_text())
    assert written["bos_token_id"] == new["<s>"] != old["<s>"]
    assert written["eos_token_id"] == [new["</s>"], new["<s>"]]
    assert written["pad_token_id"] is None
    assert written["text_config"]["eos_token_id"] == new["</s>"]
    assert written["vision_config"]["bos_token_id"] == old["<s>"], "a tower has numbers of its own"
    # A token that the output lacks: the tokenizer's own model knows, or nobody does and that is said.
    assert written["sep_token_id"] == new["<odd>"]
    assert written["image_token_index"] == only
    assert "image_token_index is" in result.stderr
    assert "check it" in result.stderr
    generation = json.loads((folder / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == new["</s>"]
    assert generation["suppress_tokens"] == [new["<s>"]]
    assert generation["forced_decoder_ids"] == [[1, new["</s>"]]]
    assert generation["top_k"] == old["<s>"]
    # The base's own tokenizer moves nothing.
    ingot.merge(recipe(folder, {a: 1.0, b: 0.0}, base_model=str(a), tokenizer_source="union"), folder / "same")
    assert (folder / "same" / "generation_config.json").read_bytes() == (a / "generation_config.json").read_bytes()
    kept = json.loads((folder / "same" / "config.json").read_text())
    assert {key: kept[key] for key in config if key.endswith(("_id", "_index"))} == {
        key: config[key] for key in config if key.endswith(("_id", "_index"))
    }


# SentencePiece alone


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def pieces(texts: list[str], kind: int = 2) -> bytes:
    """A SentencePiece model, as its protocol buffer says."""
    made = b""
    for number, text in enumerate(texts):
        made += message(1, message(1, text.encode()) + varint(2 << 3 | 5) + np.float32(-number).tobytes() + varint(3 << 3) + varint(1))
    return made + message(2, varint(3 << 3) + varint(kind) + varint(4 << 3) + varint(len(texts))) + message(3, message(1, b"identity"))


def sentence_piece(model: Path, texts: list[str], added: dict[str, int] | None = None, kind: int = 2) -> None:
    """Gives a model a tokenizer of SentencePiece's alone."""
    for file in [*model.glob("*token*"), *model.glob("chat_template*")]:
        file.unlink()
    (model / "tokenizer.model").write_bytes(pieces(texts, kind))
    decoder = {str(number): {"content": text, "special": True} for text, number in (added or {}).items()}
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": decoder}))


@pytest.fixture
def pieced(make: Make) -> tuple[Path, Path]:
    """Two models with SentencePiece tokenizers of which each knows tokens that the other lacks."""
    made = train("bpe", 1, 300, SPECIAL)
    a, b = make("a", 1, made, rows=64), make("b", 2, made, rows=80)
    first = ["<unk>", "<s>", "</s>", *(f"▁w{i}" for i in range(60))]
    sentence_piece(a, first, {"<s>": 1, "<|x|>": 63})
    sentence_piece(b, [*first[:3], *(f"▁w{59 - i}" for i in range(40))], {"<|x|>": 43, "<|y|>": 44})
    return a, b


def test_a_sentence_piece_tokenizer_is_carried(ingot: Command, pieced: tuple[Path, Path], folder: Path) -> None:
    a, b = pieced
    for source in ["base", str(a)]:
        ingot.merge(recipe(folder, {a: 0.5, b: 0.5}, base_model=str(a), tokenizer_source=source), folder / "out", "--force")
        for name in ["tokenizer.model", "tokenizer_config.json"]:
            assert (folder / "out" / name).read_bytes() == (a / name).read_bytes()
        rows = weights_of(folder / "out")["model.embed_tokens.weight"]
        one, two = (weights_of(model)["model.embed_tokens.weight"] for model in (a, b))
        assert rows.shape == (64, 32)
        # By text: w0 is piece 3 of a and 62 of b, which has only 43 pieces; w59 is piece 62 of a and 3 of b.
        assert np.array_equal(rows[3], one[3])
        assert np.allclose(rows[62], (one[62] + two[3]) / 2, rtol=1e-6)
        assert np.allclose(rows[63], (one[63] + two[43]) / 2, rtol=1e-6)
        assert json.loads((folder / "out" / "config.json").read_text())["vocab_size"] == 64


def test_union_with_sentence_piece(ingot: Command, make: Make, pieced: tuple[Path, Path], folder: Path) -> None:
    a, b = pieced
    result = ingot("merge", recipe(folder, {a: 0.5, b: 0.5}, tokenizer_source="union"), folder / "out", exit_code=None)
    assert result.returncode != 0
    assert "the tokenizer is tokenizer.model, expected tokenizer.json" in result.stderr
    assert "save_pretrained" in result.stderr
    assert not (folder / "out.partial").exists()
    # The same tokenizer in both: nothing is new.
    sentence_piece(b, ["<unk>", "<s>", "</s>", *(f"▁w{i}" for i in range(60))], {"<s>": 1, "<|x|>": 63})
    ingot.merge(recipe(folder, {a: 1.0, b: 0.0}, tokenizer_source="union"), folder / "out")
    assert np.array_equal(*(weights_of(model)["model.embed_tokens.weight"] for model in (folder / "out", a)))
    # A tokenizer.json of the same kind takes the pieces as new tokens.
    c = make("c", 3, train("bpe", 3, 300, SPECIAL))
    ingot.merge(recipe(folder, {c: 1.0, a: 0.0}, tokenizer_source="union"), folder / "mixed")
    merged = tokenizers.Tokenizer.from_file(str(folder / "mixed" / "tokenizer.json")).get_vocab()
    rows, donor = (weights_of(model)["model.embed_tokens.weight"] for model in (folder / "mixed", a))
    assert np.array_equal(rows[merged["▁w7"]], donor[10])
    assert np.array_equal(rows[merged["<|x|>"]], donor[63])


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("tokenizer.model", b"IQ== 0\nIg== 1\n", "no SentencePiece model"),
        ("tokenizer.model", pieces(["a", "b"], 4), "of the kind 4"),
        ("tekken.json", b"{}", "tekken.json alone"),
        ("sentencepiece.bpe.model", pieces(["a"]), "sentencepiece.bpe.model alone"),
    ],
)
def test_other_tokenizers_alone(ingot: Command, make: Make, folder: Path, name: str, content: bytes, found: str) -> None:
    a = make("a", 1, train("bpe", 1, 300, SPECIAL))
    for file in a.glob("*token*"):
        file.unlink()
    (a / name).write_bytes(content)
    result = ingot("plan", recipe(folder, {a: 1.0}, tokenizer_source="base"), exit_code=None)
    assert result.returncode not in (0, 70)
    assert found in result.stderr
    assert "save_pretrained" in result.stderr


# With other parts of a recipe


def test_rule_takes_an_embedding_of_another_size(ingot: Command, make: Make, folder: Path) -> None:
    """`from:` gives one model's rows in the output's order, however many it has."""
    first, second = train("bpe", 1, 400, SPECIAL), train("bpe", 2, 380, SPECIAL)
    a, b = make("a", 1, first), make("b", 2, second)
    rules = [{"match": "*embed_tokens*", "from": str(b)}]
    ingot.merge(recipe(folder, {a: 1.0, b: 0.0}, tokenizer_source="union", tensors=rules), folder / "out")
    merged = tokenizers.Tokenizer.from_file(str(folder / "out" / "tokenizer.json")).get_vocab()
    rows, donor, base = (weights_of(model)["model.embed_tokens.weight"] for model in (folder / "out", b, a))
    for token, number in merged.items():
        own = second.get_vocab().get(token)
        assert np.array_equal(rows[number], base[first.get_vocab()[token]] if own is None else donor[own]), token
    heads = [weights_of(model)["lm_head.weight"] for model in (folder / "out", a)]
    assert np.array_equal(heads[0][: len(heads[1])], heads[1])


def test_documents_with_tokenizers(ingot: Command, make: Make, folder: Path) -> None:
    """A document's merged vocabulary is that of its result, for the document that reads it as for a model on disk."""
    first, second, third = train("bpe", 1, 400, SPECIAL), train("bpe", 2, 380, SPECIAL), train("bpe", 3, 390, SPECIAL)
    a, b, c = make("a", 1, first), make("b", 2, second), make("c", 3, third)
    stage = {"merge_method": "linear", "tokenizer_source": "union"}
    stage["models"] = [{"model": str(a), "parameters": {"weight": 0.5}}, {"model": str(b), "parameters": {"weight": 0.5}}]
    last = {"merge_method": "linear", "tokenizer": {"source": "union", "pad_to_multiple_of": 64}}

    def final(name: object) -> dict[str, Any]:
        entries = [{"model": str(name), "parameters": {"weight": 0.25}}, {"model": str(c), "parameters": {"weight": 0.75}}]
        return {**last, "models": entries}

    for number, content in enumerate([stage, final(folder / "one")]):
        write_recipe(folder / f"{number}.yml", **content)
    ingot.merge(folder / "0.yml", folder / "one")
    apart = ingot.merge(folder / "1.yml", folder / "two")
    documents = [{"name": "both", **stage}, final("both")]
    (folder / "graph.yml").write_text("\n---\n".join(json.dumps(document) for document in documents))
    for index, more in enumerate([(), ("--stage-placement", "stored")][:1]):
        together = ingot.merge(folder / "graph.yml", folder / f"graph{index}", *more)
        assert together.digests == apart.digests
        for file in ["tokenizer.json", "config.json", "tokenizer_config.json"]:
            assert (folder / f"graph{index}" / file).read_bytes() == (folder / "two" / file).read_bytes()
    load(folder / "graph0")


@pytest.mark.parametrize("kind", ["bart", "phi"])
def test_biases_of_tokens(ingot: Command, make: Make, folder: Path, kind: str) -> None:
    """`final_logits_bias` [1, V] and `lm_head.bias` [V] move along with the rows."""
    first, second = train("bpe", 1, 400, SPECIAL), train("bpe", 2, 380, SPECIAL)
    paths = []
    for seed, made in enumerate([first, second]):
        torch.manual_seed(seed)
        size = made.get_vocab_size()
        if kind == "bart":
            config = transformers.BartConfig(
                vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
                encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32, bos_token_id=0, eos_token_id=1, pad_token_id=1,
                forced_eos_token_id=1, decoder_start_token_id=1,
            )  # fmt: skip
            model: Any = transformers.BartForConditionalGeneration(config)
            model.final_logits_bias.copy_(torch.randn(1, size))
            bias = "final_logits_bias"
        else:
            config = transformers.PhiConfig(
                vocab_size=size, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, bos_token_id=0,
                eos_token_id=1,
            )  # fmt: skip
            model = transformers.PhiForCausalLM(config)
            bias = "lm_head.bias"
            torch.nn.init.normal_(model.lm_head.bias)
        path = folder / f"m{seed}"
        model.save_pretrained(path)
        transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>").save_pretrained(path)
        paths.append(path)
    a, b = paths
    ingot.merge(recipe(folder, {a: 0.25, b: 0.75}, tokenizer={"pad_to_multiple_of": 64}), folder / "out")
    merged = tokenizers.Tokenizer.from_file(str(folder / "out" / "tokenizer.json")).get_vocab()
    found, one, two = (weights_of(model)[bias].reshape(-1) for model in (folder / "out", a, b))
    assert found.size == json.loads((folder / "out" / "config.json").read_text())["vocab_size"]
    assert found.size % 64 == 0
    for token, number in merged.items():
        places = [one[first.get_vocab()[token]] if token in first.get_vocab() else None]
        places.append(two[second.get_vocab()[token]] if token in second.get_vocab() else None)
        own, other = (value if value is not None else next(v for v in places if v is not None) for value in places)
        assert np.isclose(found[number], 0.25 * own + 0.75 * other, rtol=1e-5, atol=1e-7), token
    loaded = getattr(transformers, json.loads((a / "config.json").read_text())["architectures"][0])
    _, problems = loaded.from_pretrained(folder / "out", output_loading_info=True)
    assert not any(problems[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), problems
