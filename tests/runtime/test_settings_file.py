"""YAML to a struct: unknown keys at every depth, and the text in messages."""

from __future__ import annotations

import msgspec
import pytest

from edge_runtime.errors import ConfigError, MissingDependencyError
from edge_runtime.settings_file import parse_yaml, read_yaml, to_struct

pytest.importorskip("yaml")


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Strict."""


class Round(Base, frozen=True, tag_field="kind", tag="round"):
    radius: float = 1.0


class Square(Base, frozen=True, tag_field="kind", tag="square"):
    side: float = 1.0


class Part(Base, frozen=True):
    width: int = 1
    shapes: tuple[Round | Square, ...] = ()

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"width is {self.width}; at least 1 is needed")


class Whole(Base, frozen=True):
    name: str
    part: Part = Part()
    maybe: Part | None = None
    notes: dict[str, str] = {}


def whole(text: str) -> Whole:
    return to_struct(parse_yaml(text, "f.yaml"), Whole, "f.yaml")


def test_values_arrive():
    text = "name: a\npart: {width: 3, shapes: [{kind: square, side: 2}]}\nmaybe: {width: 2}\nnotes: {any: key}\n"
    found = whole(text)
    assert found == Whole(
        name="a", part=Part(width=3, shapes=(Square(side=2.0),)), maybe=Part(width=2), notes={"any": "key"}
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\npart: {widht: 3}", "unknown key 'part.widht'; did you mean 'width'? known keys: width, shapes"),
        ("name: a\nzzz: 3", "unknown key 'zzz'; known keys: name, part, maybe, notes"),
        ("name: a\nmaybe: {wide: 3}", "unknown key 'maybe.wide'"),
        ("nam: a\nprat: 1", "unknown key 'nam'; did you mean 'name'? .*; unknown key 'prat'; did you mean 'part'?"),
        ("name: a\npart: {shapes: [{kind: round, side: 1}]}", r"unknown key 'part.shapes\[0\].side'"),
        ("name: a\npart: {shapes: [{kind: star}]}", r"part.shapes\[0\]: kind is 'star'; one of round, square"),
        ("name: a\npart: {width: x}", "Expected `int`, got `str` - at `\\$.part.width`"),
        ("name: a\npart: {width: 0}", "width is 0; at least 1"),
        ("part: {}", "missing required field `name`"),
        ("- 1", "Expected `object`, got `array`"),
        ("", "missing required field `name`"),
        ("3: x\nname: a", "unknown key '3'"),
    ],
)
def test_what_is_wrong_is_named(text, words):
    with pytest.raises(ConfigError, match=f"^f.yaml: .*{words}".replace("? ", r"\? ").replace("?;", r"\?;")):
        whole(text)


@pytest.mark.parametrize("text", ["a: [", "\x00", "a: b: c", "!!python/name:os.system"])
def test_not_yaml(text):
    with pytest.raises(ConfigError, match=r"f\.yaml: not valid YAML"):
        parse_yaml(text, "f.yaml")


def test_files(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("a: 1\n")
    assert read_yaml(path, "settings file") == {"a": 1}
    path.write_text("# nothing\n")
    assert read_yaml(path, "settings file") == {}
    path.write_text("word\n")
    with pytest.raises(ConfigError, match=r"settings file .*s\.yaml holds a str; a mapping"):
        read_yaml(path, "settings file")
    path.write_bytes(b"\xff\xfe\x00")
    for bad in (path, tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(ConfigError, match=r"settings file .* cannot be read"):
            read_yaml(bad, "settings file")


def test_without_pyyaml_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match=r"pocus-edge-runtime\[cli\]"):
        parse_yaml("a: 1", "f.yaml")
