"""The site: `make docs` builds it into build/docs, warnings being errors. Nothing here reaches for the network.

Formulas become MathML while the site is built, so that a page needs no MathJax from elsewhere; every command's help is
asked of the command itself; the notebook is shown as it is committed, and not run.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).resolve().parents[1]
# The checkout's own package, in this process and in the commands whose help is shown.
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["COLUMNS"] = "100"

project = "rnndrop_cuda"
author = "the rnndrop_cuda authors"
copyright = f"2026 {author}"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.programoutput",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False

nitpicky = True
nitpick_ignore_regex = [
    # Other projects' names: their inventories would have to be downloaded.
    (r"py:.*", r"(torch|nn|numpy|np|Tensor|PackedSequence|collections|os|IntArray).*"),
    # In the signatures of public functions, but without a public path of their own.
    (r"py:class", r"(.*\.)?(GPU|Coverage|History|Score|Options|Form|Model)"),
    # What an option may be: each is said where the option is.
    (r"py:class", r"PresetOptions|MaskScope|CandidateMask|GateMasks|Init|Backend"),
]

html_theme = "furo"
html_title = "rnndrop_cuda"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
copybutton_exclude = ".linenos, .gp, .go"


def mathml(latex: str, block: bool = False) -> str:
    r"""Where an accent has an index, as in \tilde x_t, docutils would set the index under the letter."""
    return tex2mathml(re.sub(r"\\(tilde|hat)\s*(\w)_", r"\\\1 \2 {}_", latex), as_block=block)


def visit_inline(translator: Any, node: Any) -> None:
    translator.body.append(mathml(node.astext()))
    raise SkipNode


def visit_block(translator: Any, node: Any) -> None:
    translator.body.append(f'<div class="math-block">{mathml(node.astext(), block=True)}</div>')
    raise SkipNode


def public_path(app: Any, env: Any, node: Any, content: Any) -> Any:
    """A link to the public path of a name that a signature or a docstring has by its module's."""
    target, python = str(node.get("reftarget", "")), env.get_domain("py")
    if not target.startswith("rnndrop_cuda."):
        return None
    for package in ("rnndrop_cuda", "rnndrop_cuda.functional", "rnndrop_cuda.seminar"):
        path = f"{package}.{target.rpartition('.')[2]}"
        if path in python.objects:
            builder, document = app.builder, node["refdoc"]
            return python.resolve_xref(env, document, builder, node["reftype"], path, node, content)
    return None


def analyze_without_overloads(self: ModuleAnalyzer, analyze: Any = ModuleAnalyzer.analyze) -> None:
    """Overloads tell a type checker what comes back; a reader wants the one signature that has every keyword."""
    analyze(self)
    self.overloads = {}


def setup(app: Any) -> dict[str, bool]:
    ModuleAnalyzer.analyze = analyze_without_overloads
    app.connect("missing-reference", public_path)
    app.add_html_math_renderer("mathml", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
