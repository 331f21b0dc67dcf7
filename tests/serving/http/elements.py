"""An HTML page as a tree, for tests that look at what a reader sees."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "img", "hr"}


@dataclass
class Element:
    """``text`` is all of the text inside; ``own`` is the text before the first child."""

    tag: str
    attributes: dict[str, str | None]
    children: list["Element"] = field(default_factory=list)
    own: str = ""
    text: str = ""

    def get(self, name: str) -> str | None:
        return self.attributes.get(name)

    def all(self, tag: str, css_class: str = "", **attributes: str) -> list["Element"]:
        """The elements inside with this tag, class and attributes, in the order of the page."""
        found = []
        for child in self.children:
            if (
                child.tag == tag
                and (not css_class or css_class in (child.get("class") or "").split())
                and attributes.items() <= child.attributes.items()
            ):
                found.append(child)
            found += child.all(tag, css_class, **attributes)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data
        if not self.open[-1].children:
            self.open[-1].own += data


def read_page(text: str) -> Element:
    """The tree of a page; each element that is opened must be closed."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    (document,) = reader.open
    return document
