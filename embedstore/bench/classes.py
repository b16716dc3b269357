"""Class lists and prompt templates, as `embedstore.model.classes` has them."""

from __future__ import annotations

from embedstore.model.classes import (
    DEFAULT_TEMPLATES,
    ClassName,
    check_templates,
    parse_classes,
    prompts_of,
    read_lines,
)

__all__ = ["DEFAULT_TEMPLATES", "ClassName", "check_templates", "parse_classes", "prompts_of", "read_lines"]
