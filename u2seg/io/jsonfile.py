"""Read JSON that came from anywhere: errors name the file, nothing is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from u2seg.errors import UserError


def read_json(path: Path | str) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: if the file is missing, unreadable, not UTF-8, not JSON, nested too deeply
            or holds NaN or infinity; names the file and the reason.
    """
    path = Path(path)
    try:
        # Windows editors put a byte order mark before the text.
        text = path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        return json.loads(text, parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply to be read") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def read_json_object(path: Path | str, *required: str) -> dict[str, Any]:
    """Return the content of a JSON file that must be an object with the ``required`` keys.

    Raises:
        UserError: as ``read_json``, or if it is not an object, or a key is missing.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, found {type(content).__name__}")
    missing = [key for key in required if key not in content]
    if missing:
        found = ", ".join(sorted(content)[:12]) or "none"
        raise UserError(f"{path} lacks the key {missing[0]!r}; its keys are {found}")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
