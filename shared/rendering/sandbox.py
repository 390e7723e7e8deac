"""The environments that templates are compiled in, and one compiled part (a subject, an html, a text).

In addition to jinja2's own sandbox there are a closed language (`syntax`), a bounded cost (`budget`) and plain values
(`values`): a field is an entry of an object, never an attribute of a Python value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.lexer import TokenStream
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.rendering.budget import MAX_OUTPUT_CHARS, MAX_SOURCE_CHARS, refill
from shared.rendering.computed import Computed, computed_names
from shared.rendering.delimiters import TagLexer
from shared.rendering.errors import RenderError, TagError
from shared.rendering.filters import FILTERS, METHODS, TESTS
from shared.rendering.interpolation import interpolation
from shared.rendering.mistakes import explained
from shared.rendering.operations import OPERATIONS
from shared.rendering.printed import printed_names
from shared.rendering.syntax import check_and_rewrite
from shared.rendering.values import MissingVariable, finalize

_LOOP_FIELDS = frozenset({"first", "index", "index0", "last", "length", "revindex", "revindex0"})
# errors that jinja2, Python's compiler or an expression raises because of a template's or a value's content
_FAILURES = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    SyntaxError,
    RecursionError,
    MemoryError,
)


class _Environment(ImmutableSandboxedEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Mapping):
            found = obj.get(argument, self) if isinstance(argument, str) else self
            return MissingVariable(name=str(argument)) if found is self else found
        if isinstance(obj, MissingVariable):
            # the missing name is that of the object, not of its field
            return obj
        if isinstance(obj, (list, tuple, range, str)) and isinstance(argument, int):
            return obj[argument] if -len(obj) <= argument < len(obj) else MissingVariable(name=str(argument))
        if isinstance(obj, LoopContext) and argument in _LOOP_FIELDS:
            return getattr(obj, argument)
        raise RenderError(f"this value has no field {str(argument)[:80]!r}")


def _environment(*, autoescape: bool, trim: bool) -> _Environment:
    environment = _Environment(
        autoescape=autoescape,
        undefined=MissingVariable,
        finalize=finalize,
        keep_trailing_newline=True,
        trim_blocks=trim,
        lstrip_blocks=trim,
        cache_size=0,
    )
    environment.globals.clear()
    environment.filters = {**FILTERS, **OPERATIONS, **{f"*.{name}": method for name, method in METHODS.items()}}
    environment.tests = dict(TESTS)
    return environment


HTML = _environment(autoescape=True, trim=True)
PLAIN = _environment(autoescape=False, trim=True)
# for texts derived from html, where every line break is intended
PLAIN_AS_IS = _environment(autoescape=False, trim=False)

_Root = Callable[[Context], Iterator[str]]


def parse(
    source: str, environment: _Environment, language: str = ""
) -> tuple[nodes.Template, frozenset[str], Computed]:
    """Parse and check a source; return it with the names that it prints unguarded, and its computed names.

    Raises RenderError.
    """
    if len(source) > MAX_SOURCE_CHARS:
        raise RenderError(f"the template is longer than {MAX_SOURCE_CHARS} characters")
    lexer = TagLexer(environment, source)
    try:
        source.encode()
        parser = Parser(environment, "")
        parser.stream = TokenStream(lexer.tokens(), None, None)
        tree = parser.parse()
        printed, computed = printed_names(tree), computed_names(tree)
        return check_and_rewrite(tree, language), printed, computed
    except TagError as error:
        raise explained(error, lexer.tags) from None
    except TemplateSyntaxError as error:
        raise explained(TagError(error.message or "syntax error", error.lineno), lexer.tags) from None
    except RecursionError:
        raise RenderError("the template is nested too deeply") from None
    except UnicodeEncodeError:
        raise RenderError("the template has half of a surrogate pair") from None
    except (ValueError, OverflowError) as error:
        raise RenderError(f"the template cannot be read: {error}") from None


def _compiled(tree: nodes.Template, environment: _Environment) -> tuple[_Root, frozenset[str]]:
    """Return the code of a checked template, and the names that it needs from outside; raises RenderError."""
    try:
        variables = frozenset(meta.find_undeclared_variables(tree))
        code = environment.compile(tree)
    except _FAILURES as error:
        raise RenderError(f"the template cannot be compiled: {type(error).__name__}") from error
    namespace = {"environment": environment, "__file__": "<template>"}
    exec(code, namespace)  # noqa: S102 - jinja2's way to load the code that it generated from the checked tree
    root: _Root = namespace["root"]  # type: ignore[assignment]  # the name that jinja2 gives it
    return root, variables


class _Variables(Context):
    """The context of one rendering; all of a part's contexts share what jinja2 derives from the environment."""

    def __init__(self, environment: _Environment, eval_ctx: nodes.EvalContext, values: Mapping[str, Any]) -> None:
        # instead of the base's `__init__`, which takes longer than a short part
        self.parent = values  # type: ignore[assignment]  # only read
        self.vars = {}
        self.environment = environment
        self.eval_ctx = eval_ctx
        self.exported_vars = set()
        self.name = None
        self.globals_keys = set()
        self.blocks = {}


class Part:
    """One compiled part of a template; `variables` are the names that it needs from outside.

    `printed` are those that it prints without a guard, `computed` those that must be numbers or dates. `interpolation`
    is the part if it only inserts variables, else None.
    """

    def __init__(self, source: str, name: str, environment: _Environment = PLAIN, language: str = "") -> None:
        self.name = name
        self._environment = environment
        self._eval_ctx = nodes.EvalContext(environment, name)
        refill()
        try:
            tree, printed, self.computed = parse(source, environment, language)
            self.interpolation = interpolation(tree, escapes=bool(environment.autoescape))
            self._root, self.variables = _compiled(tree, environment)
        except RenderError as error:
            raise error.within(name) from error.__cause__
        self.printed = printed & self.variables

    def render(self, values: Mapping[str, Any], cap: int = MAX_OUTPUT_CHARS) -> str:
        """Render with values; raises RenderError, with the variable's name if one is missing."""
        if self.interpolation is not None:
            filled = self.interpolation.fill(values, cap)
            if filled is not None:
                return filled
        refill()
        try:
            pieces = list(self._root(_Variables(self._environment, self._eval_ctx, values)))
            length = sum(map(len, pieces))
        except RenderError as error:
            raise error.within(self.name) from None
        except _FAILURES as error:
            raise RenderError(f"a value does not fit: {type(error).__name__}", part=self.name) from error
        if length > cap:
            raise RenderError(f"the output is longer than {cap} characters", part=self.name)
        return "".join(pieces)
