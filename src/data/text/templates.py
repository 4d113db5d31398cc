"""Templates in the form of promptsource (Bach et al., 2022): Jinja for input and target, and for the answers to choose among."""

from dataclasses import dataclass

from src.data.readers.tables import Row

BARS = "|||"  # between the input and the target, and between choices
LONGEST_VALUE = 2048  # characters of what is put into a prompt; Jinja leaves five more alone
# What bars in a row's texts are while it is rendered: as long as what promptsource has there, for it counts when texts are cut.
ESCAPED = "bars-within-the-text-of-this-row"
CUT = f" | string | truncate({LONGEST_VALUE}) }}}}"


@dataclass(frozen=True)
class Template:
    """A way to put a row into words.

    jinja: `input ||| target`.
    choices: the answers to choose among, with bars between; None where the answer is generated.
    """

    name: str
    jinja: str
    choices: str | None = None

    @property
    def variables(self) -> frozenset[str]:
        """The columns that it reads. Raise TemplateFault if it cannot be read."""
        from src.data.text.sandbox import variables  # with Jinja, which image tasks do not need

        return variables(self._prompt) - {"answer_choices"} | (variables(self.choices) if self.choices else frozenset())

    def render(self, row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the parts of a row's text, two as a rule, and its choices.

        What is put into the prompt is cut; choices are not. Raise TemplateFault if that fails.
        """
        from src.data.text.sandbox import render

        escaped = {name: value.replace(BARS, ESCAPED) if isinstance(value, str) else value for name, value in row.items()}
        choices = _split(render(self.choices, escaped)) if self.choices else ()
        answers = {"answer_choices": list(choices)} if self.choices else {}
        return _split(render(self._prompt, {**escaped, **answers})), choices

    @property
    def _prompt(self) -> str:
        """The template as promptsource renders it: the cut is of the last operand of an expression, and every `}}` ends one."""
        return self.jinja.replace("}}", CUT)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.replace(ESCAPED, BARS).strip() for part in text.split(BARS))
