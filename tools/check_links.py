"""Check a built site: python tools/check_links.py _docs

Every local link must lead to a file and, with a fragment, to a place in it; and no page may fetch
anything from elsewhere when it is opened (links to follow by hand are fine)."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
    "link": "href",
    "input": "src",
}
NOT_FETCHED = {
    "canonical",
    "author",
    "license",
    "help",
    "next",
    "prev",
    "search",
    "index",
    "alternate",
}
CSS_URL = re.compile(r"(?:@import\s+(?:url\()?|url\()\s*['\"]?((?:https?:)?//[^'\")\s]+)")


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.fetched = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        self.links += [found[key] for key in ("href", "src") if found.get(key)]
        rel = set((found.get("rel") or "").split())
        address = found.get(FETCHED.get(tag, ""), "") or ""
        if address.startswith(("http:", "https:", "//")) and not (
            tag == "link" and rel & NOT_FETCHED
        ):
            self.fetched.append(address)
        self.fetched += CSS_URL.findall(found.get("style") or "")


def check(root):
    """(number of local links, broken links, addresses fetched from elsewhere) of the site in
    folder `root`."""
    root = Path(root).resolve()
    pages = {
        path: Page(path.read_text(encoding="utf-8", errors="replace"))
        for path in sorted(root.rglob("*.html"))
        if "_static" not in path.relative_to(root).parts
    }
    count, broken, outside = 0, [], []
    for path, page in pages.items():
        name = path.relative_to(root).as_posix()
        outside += [f"{name}: {address}" for address in page.fetched]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            count += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            known = (
                target in pages
                and parts.fragment
                and unquote(parts.fragment) not in pages[target].ids
            )
            if not target.exists() or known:
                broken.append(f"{name}: {link}")
    for sheet in sorted(root.rglob("*.css")):
        found = CSS_URL.findall(sheet.read_text(encoding="utf-8", errors="replace"))
        outside += [f"{sheet.relative_to(root).as_posix()}: {address}" for address in found]
    return count, broken, outside


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    count, broken, outside = check(sys.argv[1])
    for line in broken:
        print("broken link   ", line)
    for line in outside:
        print("fetched abroad", line)
    print(f"{count} local links, {len(broken)} broken; {len(outside)} outside requests")
    return 1 if broken or outside or not count else 0


if __name__ == "__main__":
    sys.exit(main())
