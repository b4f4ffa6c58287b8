"""An equation as a card has it, plain text -> HTML with MathML, which browsers show by themselves.

    y = x * sigmoid(W2 relu(W1 mean(x)))        W with an index, upright functions, a cross
    s_c(p) = w_c . x(p) / |w_c|                 indices, a dot, a fraction

Words of a sentence stay text of the page, so that a long line breaks between them on a phone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "theta": "θ", "lambda": "λ", "lam": "λ", "pi": "π",
    "eps": "ε",
}  # fmt: skip
SIGNS = {"*": "×", ".": "·", "-": "−"}
# Names of values and functions that are no words of a sentence, where no bracket follows them.
NAMES = {"sigmoid", "relu", "softmax", "batchnorm", "gate", "branch", "shortcut", "logits"}
_CLOSE = {"(": ")", "[": "]"}
_AFTER_A_WORD = {f"<mo>{sign}</mo>": sign for sign in ",:;"}
_TOKEN = re.compile(
    r"""(?P<space>\s*)(?:
        (?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)
      | (?P<word>[a-z]{3,}(?:-[a-z]{3,}|'s))
      | (?P<name>[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*'*)
      | (?P<text>"[^"]*")
      | (?P<sign>\S))""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Token:
    """A piece of the text, and whether a space stands before it."""

    kind: str
    text: str
    spaced: bool


@dataclass(frozen=True)
class Piece:
    """MathML of a value, of a sign, or a word in between."""

    kind: str  # "value", "sign", "word"
    html: str
    spaced: bool
    inner: str = ""  # of a value in round brackets: what they hold


def rendered(equation: str) -> str:
    """Returns an equation of some lines as one HTML element."""
    lines = [line for line in equation.splitlines() if line.strip()]
    return f'<div class="equation" markdown="0">{"".join(map(_line, lines))}</div>'


def _line(line: str) -> str:
    depth = (len(line) - len(line.lstrip())) // 2
    pieces = _Reader(line).sequence(None)
    out, math = "", list[Piece]()
    for piece in [*pieces, Piece("word", "", False)]:
        if not math and piece.html in _AFTER_A_WORD:
            piece = Piece("word", _AFTER_A_WORD[piece.html], False)
        if piece.kind != "word":
            math.append(piece)
            continue
        if math:
            out += f'{" " * math[0].spaced}<math displaystyle="true">{_row(math)}</math>'
            math = []
        out += f"{' ' * piece.spaced}{piece.html}"
    return f'<p style="--depth: {depth}">{out.strip()}</p>'


def _row(pieces: list[Piece]) -> str:
    """MathML of pieces; values beside each other are a product, and stand a little apart."""
    out = ""
    for before, piece in zip([None, *pieces], pieces, strict=False):
        worded = "word" in (piece.kind, before.kind if before else "")
        if before and piece.spaced and (worded or "sign" not in (piece.kind, before.kind)):
            out += f'<mspace width="{0.3 if worded else 0.17}em"></mspace>'
        out += f"<mtext>{piece.html}</mtext>" if piece.kind == "word" else piece.html
    return out


class _Reader:
    """Reads tokens from the left; what stands in brackets by recursion."""

    def __init__(self, line: str) -> None:
        self.tokens = [
            Token(str(found.lastgroup), found[str(found.lastgroup)], bool(found["space"]))
            for found in _TOKEN.finditer(line.rstrip())
        ]
        self.at = 0
        self.open: list[str | None] = []  # the brackets that a sequence is in, by their ends

    def peek(self, ahead: int = 0) -> Token:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else Token("end", "", True)

    def take(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def sequence(self, close: str | None) -> list[Piece]:
        pieces: list[Piece] = []
        self.open.append(close)
        while (token := self.peek()).kind != "end" and token.text != close:
            pieces.append(self.fraction())
        self.take()
        self.open.pop()
        return pieces

    def fraction(self) -> Piece:
        """A value, or `value / value` with spaces: without them a slash stays what it is."""
        top = self.power()
        while top.kind == "value" and self.peek().text == "/" and self.peek().spaced:
            self.take()
            below = self.power()
            html = f"<mfrac>{_bare(top)}{_bare(below)}</mfrac>"
            top = Piece("value", html, top.spaced)
        return top

    def power(self) -> Piece:
        base = self.atom()
        while base.kind == "value" and self.peek().text == "^":
            self.take()
            html = f"<msup>{base.html}{self.atom().html}</msup>"
            base = Piece("value", html, base.spaced)
        return base

    def atom(self) -> Piece:
        token = self.take()
        if token.kind == "number":
            return Piece("value", _number(token.text), token.spaced)
        if token.kind == "text":
            return Piece("word", f"<code>{escape(token.text[1:-1])}</code>", token.spaced)
        if token.kind == "word":
            words = [GREEK.get(word, word) for word in token.text.split("-")]
            return Piece("word", "-".join(words), token.spaced)
        if token.kind == "name":
            return self.name(token)
        if token.text in _CLOSE or token.text == "|":
            return self.brackets(token)
        return Piece("sign", f"<mo>{escape(SIGNS.get(token.text, token.text))}</mo>", token.spaced)

    def brackets(self, token: Token) -> Piece:
        close = _CLOSE.get(token.text, "|")
        inner = _row(self.sequence(close))
        html = f'<mrow><mo stretchy="false">{token.text}</mo>{inner}'
        html += f'<mo stretchy="false">{close}</mo></mrow>'
        return Piece("value", html, token.spaced, inner if token.text == "(" else "")

    def name(self, token: Token) -> Piece:
        following = self.peek()
        opens = following.text in _CLOSE or (following.text == "|" and self.open[-1] != "|")
        called = opens and not following.spaced
        if token.text == "x" and self.at > 1 and self.peek(-2).text == following.text:
            return Piece("sign", "<mo>×</mo>", token.spaced)  # p x p windows
        if not called and self.is_word(token):
            return Piece("word", escape(token.text), token.spaced)
        html = _symbol(token.text, called)
        if called:
            inner = self.brackets(self.take())
            if token.text == "sqrt":
                return Piece("value", f"<msqrt>{inner.inner}</msqrt>", token.spaced)
            html = f"<mrow>{html}{inner.html}</mrow>"
        return Piece("value", html, token.spaced)

    def is_word(self, token: Token) -> bool:
        """Whether a name without brackets is a word of a sentence."""
        stem = re.match(r"[A-Za-z]+", token.text)
        name = stem[0] if stem else ""
        if name in GREEK or name in NAMES or stem is None:
            return False
        if token.text == "a":  # the article, before a word that is no function
            following = self.peek()
            called = self.peek(1).text == "(" and not self.peek(1).spaced
            words = following.kind == "name" and len(following.text) > 2
            return words and not called and following.text != "over"
        plain = token.text == name
        defined = self.at == 1 and self.peek().text == "="
        return plain and len(name) > 1 and not defined and not re.fullmatch("[A-Z][a-z]", name)


def _bare(piece: Piece) -> str:
    """A value without its brackets, which a fraction's bar replaces."""
    return f"<mrow>{piece.inner or piece.html}</mrow>"


def _number(text: str) -> str:
    factor, _, power = text.partition("e")
    if not power:
        return f"<mn>{text}</mn>"
    ten = f"<msup><mn>10</mn><mn>{power.replace('-', '−')}</mn></msup>"
    return ten if factor == "1" else f"<mrow><mn>{factor}</mn><mo>×</mo>{ten}</mrow>"


def _symbol(name: str, called: bool) -> str:
    """A name: one letter leans, several stand; digits and what follows `_` are an index."""
    if called and re.fullmatch("[a-z]_[a-z]{3,}", name):
        return f"<mi>{name.replace('_', '-')}</mi>"  # h_swish
    stem, _, index = name.rstrip("'").partition("_")
    primes = "′" * (len(name) - len(name.rstrip("'")))
    if found := re.fullmatch(r"([A-Za-z])(\d+)|([A-Z])([a-z])", stem):
        stem, number = (part for part in found.groups() if part)
        index = f"{number},{index}" if index else number
    html = f"<mi>{GREEK.get(stem, stem)}</mi>"
    index = re.sub(r"(?<=\d)x(?=\d)", "×", index)  # of a kernel, 3x3
    over, below = f"<mo>{primes}</mo>", f"<mi>{index}</mi>"
    if index and primes:
        return f"<msubsup>{html}{below}{over}</msubsup>"
    if index:
        return f"<msub>{html}{below}</msub>"
    return f"<msup>{html}{over}</msup>" if primes else html
