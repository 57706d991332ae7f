"""Four experts of one base, each trained on its own classes only, and what merge methods want to know of them.

A base is trained a little on all ten digits; from it one expert for each task, and one model on everything, which bounds what a merge may
reach. The side inputs come from `ingot.collect`, of a torch module with the same weights on the expert's own training images.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from classifier import LAYERS, Array, Labels, Trained, Weights, digits, forward, initial, save, train
from sklearn.model_selection import train_test_split

TASKS: tuple[tuple[int, ...], ...] = ((0, 1, 2), (3, 4, 5), (6, 7), (8, 9))
TEST, VALIDATION = 540, 257  # images; the other 1000 are for training
BASE_IMAGES = 50  # so few that the base leaves much to the experts
FISHER_EXAMPLES = 100
SIDES = ("fisher", "gram", "second_moment")  # side inputs, one of each for every expert
NORMS = "activation_norms"  # of the base


@dataclass(frozen=True)
class Images:
    pixels: Array
    labels: Labels

    def of(self, classes: Sequence[int]) -> Images:
        chosen = np.isin(self.labels, classes)
        return Images(self.pixels[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Repetition:
    """One split of the images, the models trained on it, and where they lie."""

    folder: Path
    training: Images
    validation: Images
    test: Images
    base: Weights
    joint: Weights
    experts: tuple[Weights, ...]

    @property
    def base_path(self) -> Path:
        return self.folder / "base"

    @property
    def expert_paths(self) -> list[Path]:
        return [self.folder / f"expert-{''.join(map(str, classes))}" for classes in TASKS]

    def side_paths(self, name: str) -> list[Path]:
        return [self.folder / "sides" / f"{path.name}-{name}.safetensors" for path in self.expert_paths]

    @property
    def norms_path(self) -> Path:
        return self.folder / "sides" / f"base-{NORMS}.safetensors"


def prepare(folder: Path, seed: int, sides: Collection[str]) -> Repetition:
    """Trains the models of repetition `seed` and writes them, and the side inputs of these kinds, into `folder`, which must not exist."""
    pixels, labels = digits()
    rest, test, rest_labels, test_labels = train_test_split(pixels, labels, test_size=TEST, random_state=seed, stratify=labels)
    split = train_test_split(rest, rest_labels, test_size=VALIDATION, random_state=seed, stratify=rest_labels)
    training, validation = Images(split[0], split[2]), Images(split[1], split[3])
    generator = np.random.default_rng(seed)
    few = generator.permutation(len(training.labels))[:BASE_IMAGES]
    start = initial(generator)
    base = train(start, training.pixels[few], training.labels[few], passes=6, rate=2e-3, generator=generator, batch=32).weights

    def continued(images: Images) -> Trained:
        return train(base, images.pixels, images.labels, passes=10, rate=1e-3, generator=generator, batch=64)

    trained = [continued(training.of(classes)) for classes in TASKS]
    joint = continued(training).weights
    made = Repetition(folder, training, validation, Images(test, test_labels), base, joint, tuple(each.weights for each in trained))
    save(base, made.base_path)
    for path, weights in zip(made.expert_paths, made.experts):
        save(weights, path)
    collect_sides(made, trained, sides)
    return made


def collect_sides(made: Repetition, trained: Sequence[Trained], kinds: Collection[str]) -> None:
    """Diagonal Fisher information, Gram matrices and Adam's second moments of every expert, and the base's activation norms."""
    if not kinds:
        return
    from ingot import collect

    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    made.norms_path.parent.mkdir()
    for index, (classes, each) in enumerate(zip(TASKS, trained)):
        pixels, model = torch.from_numpy(made.training.of(classes).pixels), module(each.weights)
        if "fisher" in kinds:
            collect.fisher(model, [pixels[:FISHER_EXAMPLES]], made.side_paths("fisher")[index], labels="exact")
        if "gram" in kinds:
            collect.gram_matrices(model, [pixels], made.side_paths("gram")[index])
        if "second_moment" in kinds:
            collect.second_moments(model, _adam(torch, model, each), made.side_paths("second_moment")[index])
    if NORMS in kinds:
        collect.activation_norms(module(made.base), [torch.from_numpy(made.training.pixels)], made.norms_path)


def _adam(torch: Any, model: Any, trained: Trained) -> Any:
    """An optimizer of torch's in the state that the training ended with."""
    optimizer = torch.optim.Adam(model.parameters())
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {"exp_avg_sq": torch.from_numpy(trained.second_moments[name])}
    return optimizer


def module(weights: Weights) -> Any:
    """The network of classifier.py as a torch module, whose parameters have the same names."""
    torch: Any = importlib.import_module("torch")
    nn: Any = torch.nn

    def linear(name: str) -> Any:
        rows, columns = weights[f"{name}.weight"].shape
        return nn.Linear(columns, rows)

    def container(forward: Callable[[Any], Any] | None = None, **parts: Any) -> Any:
        made = nn.Module()
        for name, part in parts.items():
            setattr(made, name, part)
        if forward is not None:
            made.forward = forward
        return made

    def layer(index: int) -> Any:
        up, down = (linear(f"model.layers.{index}.mlp.{kind}_proj") for kind in ("up", "down"))
        return container(lambda x: x + down(torch.relu(up(x))), mlp=container(up_proj=up, down_proj=down))

    first, last, layers = linear("model.input_proj"), linear("classifier"), nn.ModuleList(layer(index) for index in range(LAYERS))

    def scores(images: Any) -> Any:
        x = torch.relu(first(images))
        for each in layers:
            x = each(x)
        return last(x)

    made = container(scores, model=container(input_proj=first, layers=layers), classifier=last)
    made.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return made


# Scores


def scores(weights: Weights, images: Images) -> Array:
    return forward(weights, images.pixels)[0]


def loss(weights: Weights, images: Images) -> float:
    """Mean cross-entropy over all ten classes."""
    values = scores(weights, images).astype(np.float64)
    shifted = values - values.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-logs[np.arange(len(images.labels)), images.labels].mean())


def task_accuracy(weights: Weights, images: Images, classes: Sequence[int]) -> float:
    """Percent of a task's images that are told apart from the task's other classes."""
    own = images.of(classes)
    chosen = scores(weights, own)[:, list(classes)].argmax(axis=1)
    return 100 * float(np.mean(np.asarray(classes)[chosen] == own.labels))
