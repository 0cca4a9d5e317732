"""Check a built site: where links lead, requests to other hosts, pictures without an alt text."""
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urlsplit

QUIET = {"canonical", "alternate", "author", "license", "me"}  # links that a browser doesn't fetch
FETCHED = re.compile(r"""(?:url\(|@import)\s*['"]?((?:https?:)?//[^)'"\s]+)""")  # by a style sheet


class Links(HTMLParser):
    "One page's links, its ids, the other hosts it asks, and how many pictures have no alt text"
    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.hosts, self.mute, self.style = [], set(), set(), 0, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = {k: v for k, v in attrs if v}
        self.style = tag == "style"
        self.mute += tag == "img" and not attrs.get("alt")
        self.ids |= {attrs[k] for k in ("id", "name") if k in attrs}
        url = attrs.get("src") or attrs.get("href")
        silent = tag == "base" or QUIET & set(attrs.get("rel", "").split())
        if not url or silent or url.startswith(("data:", "mailto:", "javascript:")): return
        if not urlsplit(url).netloc: self.links.append(url)
        elif tag != "a": self.hosts.add(url)

    def handle_data(self, data):
        if self.style: self.hosts |= set(FETCHED.findall(data))

    def handle_endtag(self, tag): self.style = False


def target_of(url, page, out, base):
    "The file of the site and the anchor in it that a link on `page` leads to"
    path, anchor = urldefrag(url)
    path = unquote(urlsplit(path).path)
    place = out/path.removeprefix(base) if path.startswith(base) else page.parent/path
    target = place.resolve() if path else page
    return target/"index.html" if target.is_dir() else target, unquote(anchor)


def check_links(out, base="/"):
    "What is wrong with the site in `out`, published at the path `base`: a line for each mistake"
    pages, wrong = {p: Links(p.read_text()) for p in sorted(out.resolve().rglob("*.html"))}, []
    for page, links in pages.items():
        name = page.relative_to(out.resolve())
        wrong += [f"{name}: asks another host: {url}" for url in sorted(links.hosts)]
        if links.mute: wrong.append(f"{name}: {links.mute} picture(s) without alt text: add #| fig-alt")
        for url in links.links:
            target, anchor = target_of(url, page, out.resolve(), base)
            if not target.is_file(): wrong.append(f"{name}: no such file: {url}")
            elif anchor and target in pages and anchor not in pages[target].ids:
                wrong.append(f"{name}: no such place on the page: {url}")
    for css in sorted(out.rglob("*.css")):
        asked = FETCHED.findall(css.read_text())
        wrong += [f"{css.relative_to(out)}: asks another host: {url}" for url in asked]
    return wrong
