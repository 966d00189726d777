"""From a template to a page that is one file: nothing is fetched, every value is escaped, no other script runs."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def rendered(template: str, scripts: Sequence[str], **values: Any) -> str:
    """The page of a template below `caml/analysis`, which extends `pages/base.html.jinja`.

    `scripts` are the names of those in `pages/` that it runs, in order. Raises jinja2.UndefinedError where the template
    asks for a value that is not given.
    """
    environment = Environment(
        loader=PackageLoader("caml.analysis", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    here = resources.files("caml.analysis.pages")
    script = "\n" + "\n".join(here.joinpath(f"{name}.js").read_text("utf-8") for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The one text that is not escaped is ours, and the page's policy lets no other script run.
    return environment.get_template(template).render(
        script=Markup(script), script_digest=f"sha256-{digest}", **values
    )
