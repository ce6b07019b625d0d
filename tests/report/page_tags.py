"""A page taken apart with the standard library's parser."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "wbr"}


class Tags(HTMLParser):
    """Collects tags, attributes, and the text of cells and of everything else; checks that what is opened is closed.

    Args:
        page: HTML.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    @property
    def text(self) -> str:
        """All words, as a reader sees them."""
        return " ".join("".join(self.texts).split())

    def all(self, attribute: str) -> list[str]:
        """Every value of an attribute."""
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]

    def attributes(self, tag: str, attribute: str) -> list[str]:
        """The values of an attribute of one kind of tag."""
        return [attributes[attribute] for name, attributes in self.tags if name == tag]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.append(" ")
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in {"script", "style"}:
            self.scripts += [data] if self._open[-1] == "script" else []
            return
        self.texts.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data
