"""Templates of the report pages. Whatever is put into one is text, and its markup is escaped."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = Environment(
    loader=PackageLoader("portraitgen.metrics.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> Markup:
    """A template of the folder `templates` with these values; the markup can stand in another template."""
    return Markup(_TEMPLATES.get_template(template).render(values))
