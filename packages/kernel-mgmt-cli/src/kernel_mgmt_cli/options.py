"""Options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "TYPE_HELP",
    "AsJson",
    "Cwd",
    "Env",
    "ImageMode",
    "Images",
    "Others",
    "Param",
    "Timeout",
]

AsJson = Annotated[bool, typer.Option("--json", help="Write a JSON array instead of a table.")]

#: What a kernel type is, for people.
TYPE_HELP = (
    "A kernel type's id; of python3 and the like, provider/ can be left out when only one has it."
)
Cwd = Annotated[Path | None, typer.Option(metavar="DIR", help="The kernel's working directory.")]
Env = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Set an environment variable of the kernel."),
]
Param = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=JSON",
        help="Set a launch parameter of the provider; what is not JSON is a string.",
    ),
]
Timeout = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="How long the kernel may take to start.")
]


class ImageMode(StrEnum):
    """How a console shows images."""

    AUTO = "auto"
    KITTY = "kitty"
    ITERM = "iterm"
    SIXEL = "sixel"
    FILE = "file"


Images = Annotated[
    ImageMode,
    typer.Option(
        help="How to show images: as the terminal seems to be able to, by one of three "
        "protocols, or saved in a file that is named."
    ),
]
Others = Annotated[
    bool,
    typer.Option(
        "--others", help="Show what other clients of the kernel run, and its output, marked."
    ),
]
