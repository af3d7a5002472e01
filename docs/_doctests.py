"""Examples in docstrings (`>>> ...`) are shown as code: Markdown would take them for quotations."""

import griffe


class Doctests(griffe.Extension):
    """Puts a fence around every paragraph that begins with a prompt."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fence(obj.docstring.value)


def fence(text: str) -> str:
    lines, inside = [], False
    for line in [*text.splitlines(), ""]:
        starts, ends = line.startswith(">>>") and not inside, inside and not line.strip()
        lines += ["```pycon"] * starts + ["```"] * ends + [line]
        inside = (inside or starts) and not ends
    return "\n".join(lines)
