"""Chooses the questions that an algorithm's known answers belong to, and writes and reads the files of
answers.

``docs/reference/known_answers.md`` describes the format. Answers come from an independent implementation
and never from this package's kernels. ``tests/make_answers.py`` makes the answers of the built-in algorithms.
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
    "by_shared_parameters",
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
_SMALL_LEAF = 48
# The number of leaves needs a second byte.
_MANY_LEAVES = 258 * _SMALL_LEAF + 3
_OUTPUTS = ((1, 0), (33, 0), (131, 0), (200, 0), (10, 1), (70, 63), (5, (1 << 40) + 3))

Message = int | str | tuple[int, ...]
"""A message is the number of its bytes, which come from the pattern, or its bytes in hexadecimal. For a hash
of tuples, it is the number of bytes of the pattern in each string."""

_MOST_BYTES = 1 << 30


def pattern(size: int, start: int = 0) -> bytes:
    """Return ``size`` bytes of the endless sequence 0, 1, ..., 250, 0, 1, ..., from offset ``start`` on. Its
    period, 251, is prime, and therefore coprime to every block and chunk size.

    Raises ValueError if ``size`` is negative or above 2**30.
    """
    if not 0 <= size <= _MOST_BYTES:
        raise ValueError(f"a message made of the pattern must have 0 to {_MOST_BYTES} bytes, not {size}")
    first = start % 251
    return (bytes(range(251)) * ((first + size) // 251 + 1))[first : first + size]


@dataclass(frozen=True)
class Question:
    """A question says what is hashed, and with which parameters."""

    message: Message
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The parameters as the file has them. A value of type bytes is written in hexadecimal, or as the number
    of bytes to take from the pattern, starting at its second byte."""
    length: int | None = None
    """The number of bytes of extendable output, or None for the algorithm's own length."""
    seek: int = 0
    """The offset in the output, in bytes, at which they start."""

    @property
    def size(self) -> int:
        """The number of bytes in the message."""
        if isinstance(self.message, str):
            return len(self.message) // 2
        return self.message if isinstance(self.message, int) else sum(self.message)

    def content(self) -> Any:
        """Return the message as bytes, or as a tuple of bytes for a hash of tuples."""
        if isinstance(self.message, str):
            return bytes.fromhex(self.message)
        if isinstance(self.message, int):
            return pattern(self.message)
        return tuple(pattern(size, i) for i, size in enumerate(self.message))

    def values(self, record: Algorithm) -> dict[str, Any]:
        """Return the parameters as the algorithm takes them."""
        kinds = {parameter.name: parameter.type for parameter in record.parameters}
        return {name: _value(kinds[name], written) for name, written in self.parameters.items()}

    def described(self) -> str:
        """Describe the question in words, for a report."""
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
    """A question with the digest that answers it."""

    digest: bytes = b""


@dataclass(frozen=True)
class Answers:
    """Holds the contents of one file."""

    algorithm: str
    source: str
    version: str
    made: str
    answers: tuple[Answer, ...]


def usual(record: Algorithm, answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers that have only the required parameters and the most common length of output among
    these. They are sorted by the length of the message."""
    fewest = basis(record)
    found = [a for a in answers if a.parameters == fewest and not a.seek]
    lengths = [a.length for a in found]
    common = max(set(lengths), key=lengths.count, default=None)
    return sorted((a for a in found if a.length == common), key=lambda a: a.size)


def alike(answers: Iterable[Answer]) -> list[list[Answer]]:
    """Group the answers that begin at the start of the output by parameters and length of output, so that
    each group can be hashed as one batch. Each group is sorted by the length of the message."""
    groups = grouped((a for a in answers if not a.seek), lambda a: [a.length, a.parameters])
    return [sorted(group, key=lambda a: a.size) for group in groups]


def by_shared_parameters(record: Algorithm, answers: Iterable[Answer]) -> list[list[Answer]]:
    """Group the answers that have a parameter with one value for each message of a batch, such as a key, and
    that begin at the start of the output. The answers of a group agree in all other parameters, so the group
    can be hashed as one batch."""
    per_message = {p.name for p in record.parameters if p.per_message}

    def rest(answer: Answer) -> Any:
        shared = {k: v for k, v in answer.parameters.items() if k not in per_message}
        return [answer.length, shared, sorted(per_message & answer.parameters.keys())]

    return grouped((a for a in answers if not a.seek and per_message & a.parameters.keys()), rest)


def grouped(answers: Iterable[Answer], key: Callable[[Answer], Any]) -> list[list[Answer]]:
    """Group the answers for which ``key`` returns the same value. JSON must be able to write that value."""
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
    """Return the size in bytes that a value of the parameter ordinarily has."""
    if parameter.sizes is not None:
        return parameter.sizes[-1]
    largest = parameter.max_size
    if largest is not None and largest <= _LARGEST_KEY:
        return largest
    return max(16, parameter.min_size or 0)


def basis(record: Algorithm) -> dict[str, Any]:
    """Return the parameters that must be given, as they are written in a file."""
    return {p.name: _size(p) for p in record.parameters if p.name in record.required}


def modes(record: Algorithm) -> list[dict[str, Any]]:
    """Return sets of parameters that select each mode of the algorithm in turn, as they are written in a
    file."""
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
            # With a leaf for each byte, the root would be very long.
            values = (_SMALL_LEAF, 200)
        elif parameter.type is int:
            ends = (parameter.minimum, parameter.maximum)
            values = [n for n in ends if n is not None]
            if parameter.name == "digest_size":
                values = [min(n, _MOST_OUTPUT) for n in values]
        found += [{parameter.name: value} for value in values]
    return found


def edges(record: Algorithm) -> list[int]:
    """Return the lengths at which an implementation may switch to another case, from the record's sizes."""
    return sorted(record.construction.edges(record))


def questions(record: Algorithm) -> list[Question]:
    """Return the questions that an algorithm's file answers, each once. They cover edge lengths, modes and
    lengths of output."""
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
        if record.construction.hmac_of is None:
            # The rows of a batch are equally long. Only if they differ does a digest show which was read.
            yield Question(pattern(block + 1, 100).hex(), given, length)
    for mode in modes(record):
        own_length = None if "digest_size" in mode else length
        messages = [*other, *([0] if "key" in mode and not record.takes_tuples else [])]
        if "block_size" in mode:
            messages.append(_MANY_LEAVES)
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
    """Return the text of an algorithm's file. It contains the answers of ``ask`` to :func:`questions`, and
    ``more``.

    ``ask`` calls an independent implementation. The file records ``source``, its ``version`` and ``made``,
    the command that made the file, so that everyone can see where the answers come from.
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
    """Yield answers for messages that are themselves tags of an HMAC, since PBKDF2 computes such a chain of
    tags (RFC 8018, section 5.2)."""
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
    """Return the folder with the answers of the built-in algorithms."""
    return resources.files(__package__) / "answers"


def load(record: Algorithm) -> Answers | None:
    """Return the known answers of an algorithm, or None if it has none.

    Raises ValueError for a file that is not in the format or belongs to another algorithm, and OSError or
    ImportError if the file that the record names cannot be read.
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
    """Return the known answers in a file's text. Raises ValueError, whose message begins with ``where``, if
    the text is not in the format or belongs to another algorithm."""
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise ValueError(f"the format is {document['format']!r}, not {FORMAT}")
        if get(document["algorithm"]).name != record.name:
            raise ValueError(f"the answers are for {document['algorithm']}, not for {record.name}")
        if not document["answers"]:
            raise ValueError("the list of answers is empty")
        answers = tuple(_parse_answer(fields, record) for fields in document["answers"])
        source, version, made = (document[name] for name in ("source", "version", "made"))
        if not all(isinstance(text, str) and text for text in (source, version, made)):
            raise ValueError("source, version and made must be texts that are not empty")
        return Answers(record.name, source, version, made, answers)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: no known answers of format {FORMAT}: {error!r}") from error


def _parse_answer(fields: Mapping[str, Any], record: Algorithm) -> Answer:
    unknown = fields.keys() - {"message", "parameters", "length", "seek", "digest"}
    if unknown:
        raise ValueError(f"an answer has unknown members: {sorted(unknown)}")
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
        raise ValueError(
            f"the digest has the wrong length, {len(found.digest)} bytes, for {found.described()}"
        )
    return found
