"""Known answers: which are asked for, how they are written down, and how they are read.

``docs/reference/known_answers.md`` describes the format. Answers come from an independent implementation
and never from this package's kernels; ``tests/make_answers.py`` makes those of the built-in algorithms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from . import Algorithm, Parameter, get

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = [
    "Answer",
    "Answers",
    "Question",
    "alike",
    "basis",
    "each_its_own",
    "grouped",
    "load",
    "make",
    "pattern",
    "questions",
    "tags_of_tags",
    "usual",
]

FORMAT = 1
_LENGTH = 32
TAGS_OF_TAGS = 3
_MOST_OUTPUT = 200
_LARGEST_KEY = 64
_OUTPUTS = ((1, 0), (33, 0), (131, 0), (200, 0), (10, 1), (70, 63), (5, (1 << 40) + 3))

Message = int | str | tuple[int, ...]
"""Bytes of the pattern; bytes in hexadecimal; or for a hash of tuples, bytes of the pattern in each."""

_MOST_BYTES = 1 << 30


def pattern(size: int, start: int = 0) -> bytes:
    """``size`` bytes of the endless sequence 0, 1, ..., 250, 0, 1, ..., from ``start`` on. Its period is
    prime, and so coprime to every block and chunk size."""
    if not 0 <= size <= _MOST_BYTES:
        raise ValueError(f"a message of the pattern has up to {_MOST_BYTES} bytes, not {size}")
    first = start % 251
    return (bytes(range(251)) * ((first + size) // 251 + 1))[first : first + size]


@dataclass(frozen=True)
class Question:
    """What is hashed, and with which parameters."""

    message: Message
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """As they are written down: for bytes, how many of the pattern from its second byte on, or
    hexadecimal."""
    length: int | None = None
    """Bytes of extendable output; None for the algorithm's own length."""
    seek: int = 0
    """Where in the output they start."""

    @property
    def size(self) -> int:
        """Bytes in the message."""
        if isinstance(self.message, str):
            return len(self.message) // 2
        return self.message if isinstance(self.message, int) else sum(self.message)

    def content(self) -> Any:
        """The message: bytes, or for a hash of tuples a tuple of them."""
        if isinstance(self.message, str):
            return bytes.fromhex(self.message)
        if isinstance(self.message, int):
            return pattern(self.message)
        return tuple(pattern(size, i) for i, size in enumerate(self.message))

    def values(self, record: Algorithm) -> dict[str, Any]:
        """The parameters as the algorithm takes them."""
        kinds = {parameter.name: parameter.type for parameter in record.parameters}
        return {name: _value(kinds[name], written) for name, written in self.parameters.items()}

    def described(self) -> str:
        """The question in words, for a report."""
        parts = [f"message of {self.size} bytes"]
        if isinstance(self.message, tuple):
            parts = [f"tuple of {', '.join(map(str, self.message)) or 'no'} bytes"]
        for name, written in self.parameters.items():
            parts.append(f"{name} {written}")
        if self.length is not None:
            parts.append(f"output {self.length} bytes from {self.seek}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Answer(Question):
    digest: bytes = b""


@dataclass(frozen=True)
class Answers:
    """The contents of one file."""

    algorithm: str
    source: str
    version: str
    made: str
    answers: tuple[Answer, ...]


def usual(record: Algorithm, answers: Sequence[Answer]) -> list[Answer]:
    """The answers for the fewest parameters and the length of output that most of these have, by length of
    the message."""
    fewest = basis(record)
    found = [a for a in answers if a.parameters == fewest and not a.seek]
    lengths = [a.length for a in found]
    common = max(set(lengths), key=lengths.count, default=None)
    return sorted((a for a in found if a.length == common), key=lambda a: a.size)


def alike(answers: Iterable[Answer]) -> list[list[Answer]]:
    """The answers from the output's start, by parameters and length of output: each group can be a batch. In
    a group, by length of the message."""
    groups = grouped((a for a in answers if not a.seek), lambda a: [a.length, a.parameters])
    return [sorted(group, key=lambda a: a.size) for group in groups]


def each_its_own(record: Algorithm, answers: Iterable[Answer]) -> list[list[Answer]]:
    """The answers from the output's start that depend on parameters of which every message of a batch may
    have its own: each group can be a batch of such messages."""
    own = {p.name for p in record.parameters if p.per_message}

    def rest(answer: Answer) -> Any:
        shared = {k: v for k, v in answer.parameters.items() if k not in own}
        return [answer.length, shared, sorted(own & answer.parameters.keys())]

    return grouped((a for a in answers if not a.seek and own & a.parameters.keys()), rest)


def grouped(answers: Iterable[Answer], key: Callable[[Answer], Any]) -> list[list[Answer]]:
    """The answers with the same ``key``, which JSON can write, in groups."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(json.dumps(key(answer), sort_keys=True), []).append(answer)
    return list(groups.values())


def _value(kind: type, written: Any) -> Any:
    if kind is bytes:
        return pattern(written, 1) if isinstance(written, int) else bytes.fromhex(written)
    return written


# Questions


def _size(parameter: Parameter) -> int:
    """Bytes of a value with which an algorithm is ordinarily used."""
    if parameter.sizes is not None:
        return parameter.sizes[-1]
    largest = parameter.max_size
    if largest is not None and largest <= _LARGEST_KEY:
        return largest
    return max(16, parameter.min_size or 0)


def basis(record: Algorithm) -> dict[str, Any]:
    """The parameters that have to be given, as they are written down."""
    return {p.name: _size(p) for p in record.parameters if p.name in record.required}


def modes(record: Algorithm) -> list[dict[str, Any]]:
    """Parameters that make the algorithm take each of its modes, one at a time; written down."""
    found: list[dict[str, Any]] = []
    for parameter in record.parameters:
        values: Iterable[Any] = ()
        if parameter.choices is not None:
            values = parameter.choices
        elif parameter.sizes is not None:
            values = parameter.sizes
        elif parameter.type is bytes:
            usual = {parameter.min_size or 1, _size(parameter)}
            if parameter.name == "key":
                usual = record.construction.key_sizes(record, usual)
            values = sorted(usual)
        elif parameter.type is str:
            values = ("integrity_triton 2026-11-25 known answers",)
        elif parameter.type is bool:
            values = (True,)
        elif parameter.type is int and parameter.name == "block_size":
            values = (48, 200)  # a leaf for each byte is a long root
        elif parameter.type is int:
            ends = (parameter.minimum, parameter.maximum)
            values = [n for n in ends if n is not None]
            if parameter.name == "digest_size":
                values = [min(n, _MOST_OUTPUT) for n in values]
        found += [{parameter.name: value} for value in values]
    return found


def edges(record: Algorithm) -> list[int]:
    """Lengths at which an implementation's cases change, from the record's sizes."""
    return sorted(record.construction.edges(record))


def questions(record: Algorithm) -> list[Question]:
    """What an algorithm's answers are to be: edge lengths, modes, lengths of output; each once."""
    return list({json.dumps(_question_fields(q)): q for q in _questions(record)}.values())


def _questions(record: Algorithm) -> Iterator[Question]:
    given, block = basis(record), record.block_size
    fixed_length = record.xof and not record.digest_size
    length = _LENGTH if fixed_length else None
    if record.takes_tuples:
        tuples = ((), (0,), (3,), (0, 3), (3, 0), (1, block, 2 * block + 5), (200,))
        for parts in tuples:
            yield Question(parts, given, length)
        other: list[Message] = [(3, block)]
    else:
        for size in edges(record):
            yield Question(size, given, length)
        other = [block + 3]
    for mode in modes(record):
        own_length = None if "digest_size" in mode else length
        messages = [*other, *([0] if "key" in mode and not record.takes_tuples else [])]
        for message in messages:
            yield Question(message, {**given, **mode}, own_length)
    if record.keyed == "required":
        key = Question(0, given).values(record)["key"]
        for special in record.construction.special_messages(key):
            yield Question(special.hex(), given)
    if record.construction.leaf_size is not None:
        long = 5 * record.construction.leaf_size + 3
        keyed = [{**given, **mode} for mode in modes(record) if "key" in mode]
        for parameters in (given, *keyed):
            for bytes_of_output in (None, 131):
                yield Question(block + 3, parameters, bytes_of_output)
                yield Question(long, parameters, bytes_of_output)
    if record.xof:
        for size, seek in _OUTPUTS:
            if (not seek or record.seekable) and seek + size <= record.output_limit:
                yield Question(other[0], given, size, seek)
                if size == 131:
                    yield Question((5,) if record.takes_tuples else 0, given, size, seek)


# Files


def make(
    record: Algorithm,
    ask: Callable[[Algorithm, Question], bytes],
    *,
    source: str,
    version: str,
    made: str,
    more: Sequence[Answer] = (),
) -> str:
    """The text of an algorithm's file: answers of ``ask`` to :func:`questions`, and ``more``.

    ``ask`` is an independent implementation; ``source``, its ``version`` and the command with which the
    file was ``made`` say for ever after where the answers come from.
    """
    answers = [Answer(**vars(question), digest=ask(record, question)) for question in questions(record)]
    answers += tags_of_tags(record, ask)
    head = {
        "format": FORMAT,
        "algorithm": record.name,
        "standard": record.standard,
        "source": source,
        "version": version,
        "made": made,
    }
    lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    rows = [json.dumps({**_question_fields(a), "digest": a.digest.hex()}) for a in (*answers, *more)]
    body = ",\n".join(f"  {row}" for row in rows)
    return "{\n" + "\n".join(lines) + f'\n "answers": [\n{body}\n ]\n}}\n'


def tags_of_tags(record: Algorithm, ask: Callable[[Algorithm, Question], bytes]) -> Iterator[Answer]:
    """What PBKDF2 goes through with an HMAC (RFC 8018, section 5.2): a tag's tag, that one's, and so on."""
    if record.construction.hmac_of is not None:
        question = Question(record.digest_size, basis(record))
        tag = ask(record, question)
        for _ in range(TAGS_OF_TAGS - 1):
            question = replace(question, message=tag.hex())
            tag = ask(record, question)
            yield Answer(**vars(question), digest=tag)


def _question_fields(question: Question) -> dict[str, Any]:
    fields: dict[str, Any] = {"message": question.message}
    if question.parameters:
        fields["parameters"] = dict(question.parameters)
    if question.length is not None:
        fields["length"] = question.length
    if question.seek:
        fields["seek"] = question.seek
    return fields


def folder() -> Traversable:
    """Where the answers of the built-in algorithms are."""
    return resources.files(__package__) / "answers"


def load(record: Algorithm) -> Answers | None:
    """The known answers of an algorithm; None if there are none.

    Raises ValueError for a file that is not in the format, or is of another algorithm, and OSError or
    ImportError where the file that the record names cannot be read.
    """
    if record.answers is None:
        place = folder() / f"{record.name}.json"
        if not place.is_file():
            return None
    else:
        package, _, name = record.answers.partition(":")
        place = resources.files(package) / name
    return parse(place.read_text("utf-8"), record, str(place))


def parse(text: str, record: Algorithm, where: str) -> Answers:
    """Known answers from a file's text. Raises ValueError, with ``where``, for any other text."""
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r}, not {FORMAT}")
        if get(document["algorithm"]).name != record.name:
            raise ValueError(f"answers of {document['algorithm']}, not of {record.name}")
        if not document["answers"]:
            raise ValueError("no answers")
        answers = tuple(_parse_answer(fields, record) for fields in document["answers"])
        source, version, made = (document[name] for name in ("source", "version", "made"))
        if not all(isinstance(text, str) and text for text in (source, version, made)):
            raise ValueError("source, version and made are texts")
        return Answers(record.name, source, version, made, answers)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: no known answers of format {FORMAT}: {error!r}") from error


def _parse_answer(fields: Mapping[str, Any], record: Algorithm) -> Answer:
    unknown = fields.keys() - {"message", "parameters", "length", "seek", "digest"}
    if unknown:
        raise ValueError(f"unknown members {sorted(unknown)}")
    message = fields["message"]
    if record.takes_tuples:
        message = tuple(message)
    found = Answer(
        message,
        dict(fields.get("parameters", {})),
        fields.get("length"),
        fields.get("seek", 0),
        bytes.fromhex(fields["digest"]),
    )
    found.content()
    checked = record.check_parameters(found.values(record))
    if len(found.digest) != record.check_length(found.length, checked):
        raise ValueError(f"a digest of {len(found.digest)} bytes for {found.described()}")
    return found
