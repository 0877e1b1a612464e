"""Buttons that cannot work say why, as long as the book has no repository.

Colab, Binder and GitHub open files at the repository's address, which does not exist until
`make set-repository` sets it (`unpublished` in `_config.yml`). Until then, these links lead
to the page on publishing and say so.
"""

import re
from html import escape

PAGE, PLACE = "book/publishing", "#not-yet-published"
WHY = "does not work yet: the book's repository is not set"
SERVICES = ("https://colab.research.google.com/github/", "https://mybinder.org/v2/gh/")


def explain(app, page, template, context, doctree):
    """Make a page's buttons and links to the repository say that it is not set."""
    if not app.config.unpublished or "pathto" not in context:
        return
    address = app.config.html_theme_options["repository_url"]
    there = context["pathto"](PAGE).removesuffix("#") + PLACE  # "#": this page
    leads_out = (address, *SERVICES)
    waiting = list(context.get("header_buttons", []))
    while waiting:
        button = waiting.pop()
        waiting += button.get("buttons", [])
        if button.get("url", "").startswith(leads_out):
            button["url"] = there
            button["tooltip"] = f"{button.get('text') or button['tooltip']} {WHY}"
    if "body" in context:
        link = "|".join(map(re.escape, leads_out))
        context["body"] = re.sub(
            rf'href="(?:{link})[^"]*"',
            f'href="{escape(there)}" title="This link {escape(WHY)}"',
            context["body"],
        )


def setup(app):
    app.add_config_value("unpublished", False, "html")
    app.connect("html-page-context", explain, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
