"""Mend what Quarto or smalldocs wrote: requests to other hosts, formulas, the size of figures."""
import io, re
from base64 import b64decode
from html import unescape
from urllib.parse import unquote

from latex2mathml.converter import convert
from PIL import Image

SCREEN_DPI = 100  # dots per inch at which a figure is shown; drawn with more it is sharp on a fine screen
CDN = r"https://(?:cdn\.jsdelivr\.net|cdnjs\.cloudflare\.com)/"  # of KaTeX, requirejs and jquery


def without_requests(text):
    "Take out the scripts and styles of other hosts: no page needs them"
    text = re.sub(rf"<(?:link|script)\b[^>]*{CDN}[^>]*>(?:</script>)?", "", text)
    return re.sub(r"<script\b[^>]*>\s*define\('jquery'.*?</script>", "", text, flags=re.S)


def with_mathml(text):
    "Replace formulas that a script would set by MathML"
    def inline(m): return convert(unescape(m[1]))
    def block(m): return convert(unescape(m[1]), display="block")
    text = re.sub(r'<span class="math inline">\\\((.*?)\\\)</span>', inline, text, flags=re.S)
    return re.sub(r'<span class="math display">\\\[(.*?)\\\]</span>', block, text, flags=re.S)


def with_whole_options(text):
    "Mark the options in shell commands, as Quarto does, so that CSS keeps each on one line"
    def marked(m): return re.sub(r'(?<![\w>-])--[a-z][\w-]*', r'<span class="at">\g<0></span>', m[0])
    return re.sub(r'<pre class="sourceCode (?:sh|bash)\b.*?</pre>', marked, text, flags=re.S)


def picture(src, folder):
    "The picture that an <img> of a page in `folder` shows; None for one that needs no size"
    inside = re.match(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=\s]+)$", src)
    if inside: return Image.open(io.BytesIO(b64decode(inside[1])))
    path = folder/unquote(src)
    local = not re.match(r"[a-z]+:|/", src) and path.suffix.lower() in (".png", ".jpg", ".jpeg")
    return Image.open(path) if local and path.is_file() else None


def sized(tag, folder):
    "An <img> with the width at which it was drawn, whatever its resolution"
    src = re.search(r'\bsrc="([^"]*)"', tag)
    im = picture(src[1], folder) if src else None
    if im is None or "dpi" not in im.info: return tag
    width = round(im.width * SCREEN_DPI / im.info["dpi"][0])
    tag = re.sub(r'\s(?:width|height)="[^"]*"', "", tag)
    return f'<img width="{width}" style="--width: {width}px"{tag[4:]}'


def mend_page(text, folder):
    "Mend the HTML of one page that lies in `folder`"
    text = with_whole_options(with_mathml(without_requests(text)))
    return re.sub(r"<img\b[^>]*>", lambda m: sized(m[0], folder), text)


def mend_style(css):
    "Take the fonts of another host out of a style sheet, in the four ways to write @import"
    return re.sub(r"""@import\s*(?:url\()?\s*['"]?https?:[^)'"]*['"]?\s*\)?[^;{}]*;?""", "", css)


def mend_missing(text, base):
    "Let the links of the page for missing addresses, shown at any depth, start from the site's root"
    return re.sub(r"<head\b[^>]*>", lambda m: f'{m[0]}<base href="{base}">', text, count=1)


def mend(out, base):
    "Mend every page and style sheet of a rendered site"
    for page in out.rglob("*.html"): page.write_text(mend_page(page.read_text(), page.parent))
    for css in out.rglob("*.css"): css.write_text(mend_style(css.read_text()))
    missing = out/"404.html"
    missing.write_text(mend_missing(missing.read_text(), base))
