"""SiteConfig: strict keys, plain case ids, one clear line for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.site.config import SiteConfig
from shared_model.core.errors import InputError


def _config(**changes: object) -> SiteConfig:
    values: dict[str, object] = {
        "site": "north",
        "data": "cases",
        "root": Path("/data/north"),
        "train": ("a", "b"),
        "validation": ("c",),
    }
    return SiteConfig(**{**values, **changes})  # type: ignore[arg-type]


def test_save_and_load_give_the_same_configuration(tmp_path: Path) -> None:
    config = _config(root=tmp_path / "data", cache=tmp_path / "cache", threads=3)
    config.save(tmp_path / "conf" / "site.yaml")
    assert SiteConfig.load(tmp_path / "conf" / "site.yaml") == config


def test_relative_folders_count_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("{site: n, data: cases, root: patients, train: [a], validation: []}")
    assert SiteConfig.load(tmp_path / "site.yaml").root == tmp_path / "patients"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{site: n, data: cases, root: r, train: [a], validation: [], trian: [b]}", "site.yaml:1: trian: unknown key"),
        ("{site: n, data: cases, root: r, train: [a]}", "'validation'"),
        ("{site: n, data: scans, root: r, train: [a], validation: []}", "site.yaml:1: data: 'scans'"),
        ("{site: n, data: dicom, root: r, train: [a_1], validation: []}", "'pseudonyms'"),
        ("{site: n, data: dicom, root: r, train: [a_1], validation: [a_2], pseudonyms: s}", "two plans of patient a"),
        ("{site: n, data: cases, root: r, train: [a], validation: [], names: 3}", "names"),
        ("{site: n, data: cases, root: r, train: a, validation: []}", "train"),
        ("{site: n, data: cases, root: 3, train: [a], validation: []}", "root"),
        ("{site: n, data: cases, root: r, train: [1], validation: []}", "case id 1"),
        ("{site: n, data: cases, root: r, train: [a], validation: [], threads: yes}", "threads"),
        ("{site: a/b, data: cases, root: r, train: [a], validation: []}", "site.yaml:1: site: 'a/b'"),
        ("[1, 2]", "keys and values"),
        ("{site: [", "YAML"),
        ("{site: 2024-99-99, data: cases, root: r, train: [a], validation: []}", "YAML"),
        ("{site: 0x_, data: cases, root: r, train: [a], validation: []}", "YAML"),
        ("[" * 5000, "YAML"),
        ("{site: n, data: cases, root: ~nobody-here/x, train: [a], validation: []}", "root"),
        ("{site: n, data: [cases], root: r, train: [a], validation: []}", "data"),
    ],
)
def test_bad_yaml_names_file_and_key_in_one_line(tmp_path: Path, text: str, names: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        SiteConfig.load(path)
    message = str(caught.value)
    assert names in message
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("line", "text", "says"),
    [
        (1, "site: no spaces", "site: 'no spaces': expected 1 to 32 letters"),
        (2, "data: scans", "data: 'scans': expected one of"),
        (3, "root: 3", "root: expected a path"),
        (6, "  - ../x", "case id '../x' is refused"),
        (8, "  - b", "case 'b' is listed twice"),
        (9, "threads: many", "threads: 'many': expected a whole number"),
        (9, "treads: 2", "treads: unknown key"),
        (9, "site: twice", "site: appears twice"),
        (9, "cache: 2024-99-99", "cache: YAML cannot read this value"),
    ],
)
def test_an_error_names_the_line_of_the_file(tmp_path: Path, line: int, text: str, says: str) -> None:
    lines = ["site: north", "data: cases", "root: r", "train:", "  - a", "  - b", "validation:", "  - c", "threads: 1"]
    path = tmp_path / "site.yaml"
    path.write_text("\n".join([*lines[: line - 1], text, *lines[line:]]))
    with pytest.raises(InputError) as caught:
        SiteConfig.load(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert says in str(caught.value)


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml: no such file"):
        SiteConfig.load(tmp_path / "absent.yaml")


@pytest.mark.parametrize("case_id", ["../x", "a/b", "/etc/passwd", ".hidden", "", "a" * 65, "a\n", "x..", "pt 1"])
def test_path_like_case_ids_are_refused(case_id: str) -> None:
    with pytest.raises(InputError, match="case id"):
        _config(train=(case_id,))


@pytest.mark.parametrize("site", ["", "-a", "a b", "a" * 33, "north\n", "../n"])
def test_bad_site_names_are_refused(site: str) -> None:
    with pytest.raises(InputError, match="site"):
        _config(site=site)


def test_a_case_belongs_to_one_split() -> None:
    with pytest.raises(InputError, match="'b' is listed twice"):
        _config(validation=("b",))
    with pytest.raises(InputError, match="both empty"):
        _config(train=(), validation=())
