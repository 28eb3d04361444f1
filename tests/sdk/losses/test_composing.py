"""Composed losses: their sum, the samples they cover, captured layers, adapters, refusals; slopes of every kind."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edge_runtime.errors import ConfigError
from edge_sdk.batch import Batch, Field
from edge_sdk.config import AugmentConfig, NetworkConfig, OptimiserConfig
from edge_sdk.losses import LossTerm, capture, compose, dice_ce, multi_teacher_kd, pixelwise_kd
from edge_sdk.losses.terms import KINDS
from edge_sdk.students import build_network
from edge_sdk.train import TrainingSet, fit


def _batch(n: int = 4, planes: int = 1, labelled: list[bool] | None = None, scale: float = 3.0) -> Batch:
    generator = torch.Generator().manual_seed(n + planes)
    dense = {
        name: Field(values=torch.randn((n, planes, 16, 16), generator=generator) * scale, kind="dense")
        for name in ("mask", "other")
    }
    labels = torch.randint(0, max(planes, 2), (n, 16, 16), generator=generator)
    return Batch(
        inputs=torch.rand((n, 1, 16, 16), generator=generator),
        labelled=torch.tensor(labelled or [True] * n),
        targets={"mask": Field(values=labels, kind="labels")},
        soft=dense,
    )


def _networks() -> tuple[nn.Module, nn.Module]:
    return build_network(NetworkConfig(width=4, depth=2), seed=1), build_network(
        NetworkConfig(width=6, depth=3), seed=2
    )


LAYERS = {"student_layer": "encoder.0", "teacher_layer": "encoder.0"}


def _term(kind: str, **changes: Any) -> LossTerm:
    extra: dict[str, Any] = dict(LAYERS) if KINDS[kind].family == "feature" else {}
    if kind == "multi_teacher_kd":
        extra["teachers"] = ("mask", "other")
    return LossTerm(kind=kind, **{**extra, **changes})


def test_terms_that_spell_out_the_distillation_loss() -> None:
    batch, logits = _batch(labelled=[True, True, True, False]), torch.randn(4, 1, 16, 16)
    loss = compose(
        [
            LossTerm(kind="pixelwise_kd", name="known", weight=0.3, on="labelled"),
            LossTerm(kind="pixelwise_kd", name="unknown", on="unlabelled"),
            LossTerm(kind="dice_ce", weight=0.7),
        ]
    )
    value = loss(logits, batch)
    soft = batch.soft_target("mask")
    weight = torch.tensor([0.3, 0.3, 0.3, 1.0]).view(-1, 1, 1)
    expected = pixelwise_kd(logits, soft, 2.0, weight) * weight.mean()
    expected = expected + 0.7 * 0.75 * dice_ce(logits[:3], batch.target("mask")[:3])
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(loss.parts) == {"known", "unknown", "dice_ce"}
    total = 0.3 * loss.parts["known"] + loss.parts["unknown"] + 0.7 * loss.parts["dice_ce"]
    assert total.item() == pytest.approx(value.item(), rel=1e-6)


def test_a_batch_without_covered_samples_gives_zero_and_a_graph() -> None:
    logits = torch.randn(2, 1, 16, 16, requires_grad=True)
    value = compose([LossTerm(kind="dice_ce")])(logits, _batch(2, labelled=[False, False]))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_several_outputs_and_teachers_and_levels() -> None:
    batch = _batch(planes=3)
    fine, coarse = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 8, 8)
    outputs = {"mask": fine, "deep": [fine, coarse]}
    loss = compose(
        [
            _term("multi_teacher_kd", output="mask"),
            _term("cross_entropy", output="deep", levels=(1.0, 0.5), smoothing=0.1),
            _term("pixelwise_kd", output="mask", temperature=1.0),
        ]
    )
    loss(outputs, batch)
    teachers = [batch.soft_target("mask"), batch.soft_target("other")]
    assert loss.parts["multi_teacher_kd"].item() == pytest.approx(multi_teacher_kd(fine, teachers).item())
    with pytest.raises(ConfigError, match="output 'nothing' is not there; the network returns"):
        compose([_term("dice", output="nothing")])(outputs, batch)
    with pytest.raises(ConfigError, match="a list of logits"):
        compose([_term("dice", output="mask", levels=(1.0,))])(outputs, batch)
    first = compose([_term("dice", output="0")])((fine, coarse), batch)
    assert first.item() == compose([_term("dice")])(fine, batch).item()


def test_a_live_teacher_answers_the_inputs_it_is_given() -> None:
    student, teacher = _networks()
    batch = _batch()
    logits = student(batch.inputs)
    live = compose([_term("logit_kd", live=True)], teacher=teacher)(logits, batch)
    with torch.no_grad():
        answers = teacher(batch.inputs)
    assert live.item() == pytest.approx(pixelwise_kd(logits, answers).item(), rel=1e-5)
    with pytest.raises(ConfigError, match="a teacher is needed"):
        compose([_term("logit_kd", live=True)])


def test_capture_keeps_the_graph_and_never_leaks() -> None:
    student, _ = _networks()
    with capture(student, ["encoder.0", "stem"]) as found:
        student(torch.rand(1, 1, 16, 16))
        assert found["encoder.0"].shape == (1, 8, 8, 8)
        assert found["stem"].requires_grad
        graph = weakref.ref(found["stem"])
    assert found == {}
    with pytest.raises(ZeroDivisionError), capture(student, ["head"]):
        raise ZeroDivisionError
    with pytest.raises(ConfigError), capture(student, ["head", "nowhere"]):
        pass
    assert not any(layer._forward_hooks for layer in student.modules())
    gc.collect()
    assert graph() is None


def test_unknown_layers_are_named_with_the_nearest() -> None:
    student, teacher = _networks()
    with pytest.raises(ConfigError, match=r"'encoder\.7' is not in the student; nearest: .*encoder\.0"):
        compose([_term("hint", student_layer="encoder.7")], student=student, teacher=teacher)
    with pytest.raises(ConfigError, match="'bottleneck' is not in the teacher"):
        compose([_term("hint", teacher_layer="bottleneck")], student=student, teacher=teacher)
    with pytest.raises(ConfigError, match="student and teacher are needed"):
        compose([_term("hint")], student=student)
    with pytest.raises(ConfigError, match="an example input"):
        compose([_term("hint")], student=student, teacher=teacher)


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(1, 1, 1)
        self.lstm = nn.LSTM(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x[:, 0])[0]  # type: ignore[no-any-return]


def test_layers_that_cannot_be_captured_are_refused() -> None:
    _, teacher = _networks()
    batch, odd = _batch(), _Pair()
    with capture(odd, ["lstm"]), pytest.raises(ConfigError, match="returns tuple"):
        odd(batch.inputs)
    terms = [_term("similarity_preserving", student_layer="unused")]
    with compose(terms, student=odd, teacher=teacher) as loss, pytest.raises(ConfigError, match="did not run"):
        loss(odd(batch.inputs), batch)
    with pytest.raises(ConfigError, match="with compose"):
        compose(terms, student=odd, teacher=teacher)(odd(batch.inputs), batch)
    with loss, pytest.raises(ConfigError, match="in use"), loss:
        pass


def test_hints_train_an_adapter_and_pull_the_student_towards_the_teacher() -> None:
    student, teacher = _networks()
    batch = _batch(8)
    data = TrainingSet(inputs=batch.inputs, labelled=batch.labelled, targets=batch.targets)
    terms = [_term("dice_ce", weight=0.01), _term("hint"), _term("attention_transfer"), _term("relation_angle")]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    with compose(terms, student=student, teacher=teacher, example=batch.inputs[:1]) as loss:
        weights = [value.clone() for value in loss.parameters()]
        assert sum(value.numel() for value in weights) == 8 * 12 + 12
        student.train()
        first = float(loss(student(batch.inputs), batch).detach())
        fit(
            student, data, loss, OptimiserConfig(epochs=12, batch_size=4, threads=1), AugmentConfig(flip=0, min_scale=1)
        )
        student.train()
        assert float(loss(student(batch.inputs), batch).detach()) < first
        assert set(loss.parts) == {"dice_ce", "hint", "attention_transfer", "relation_angle"}
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    for network in (student, teacher):
        assert not any(layer._forward_hooks for layer in network.modules())


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"kind": "pixelwise"}, "near it: pixelwise_kd"),
        ({"kind": "dice", "weight": -1.0}, "weight of dice"),
        ({"kind": "dice", "weight": float("nan")}, "weight"),
        ({"kind": "dice", "temperature": 2.0}, "temperature is no option of dice; it has none"),
        ({"kind": "focal", "gamma": 0.5}, "nothing between 0 and 1"),
        ({"kind": "logit_kd", "temperature": 0.0}, "temperature of logit_kd is 0.0"),
        ({"kind": "hint", "student_layer": "a"}, "needs both"),
        ({"kind": "dice", "student_layer": "a", "teacher_layer": "b"}, "feature terms"),
        ({"kind": "multi_teacher_kd"}, "two or more soft targets"),
        ({"kind": "dice", "on": "unlabelled"}, "no truth"),
        ({"kind": "dice", "live": True}, "live belongs"),
        ({"kind": "logit_kd", "levels": (1.0,)}, "levels"),
        ({"kind": "dice", "levels": (-1.0,)}, "levels"),
        ({"kind": "boundary_kd", "truth_boundary": True}, "on: labelled"),
        ({"kind": "logit_kd", "truth_boundary": True, "on": "labelled"}, "belongs to boundary_kd"),
    ],
)
def test_terms_that_mean_nothing_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossTerm(**settings_)


def test_terms_come_from_settings() -> None:
    text = b'[{"kind": "boundary_kd", "width": 3, "truth_boundary": true, "on": "labelled"}, {"kind": "dice"}]'
    terms = msgspec.json.decode(text, type=list[LossTerm])
    assert terms[0].options() == {"temperature": 2.0, "width": 3.0, "gain": 4.0}
    batch = _batch()
    assert compose(terms)(torch.randn(4, 1, 16, 16), batch).item() > 0
    with pytest.raises(ConfigError, match="at least one term"):
        compose([])
    with pytest.raises(ConfigError, match="there twice"):
        compose([terms[1], terms[1]])


@pytest.mark.parametrize("kind", sorted(KINDS))
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([0.0, 1.0, 100.0, 1e4, 1e15]), planes=st.sampled_from([1, 3]))
def test_slopes_are_finite_in_bf16_and_for_extreme_values(kind: str, seed: int, scale: float, planes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    batch = _batch(planes=planes, scale=scale)
    values = torch.randn((4, planes, 16, 16), generator=generator) * scale
    logits = values.to(torch.bfloat16).requires_grad_()
    term = _term(kind)
    if term.family == "feature":
        body, other = nn.Identity(), nn.Identity()
        term = msgspec.structs.replace(term, student_layer="0", teacher_layer="0")
        student, teacher = nn.Sequential(body), nn.Sequential(other)
        with compose([term], student=student, teacher=teacher, example=batch.soft_target("mask")[:1]) as loss:
            moved = Batch(inputs=batch.soft_target("mask"), labelled=batch.labelled)
            value = loss(student(logits), moved)
            value.backward()
    else:
        value = compose([term])(logits, batch)
        value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
