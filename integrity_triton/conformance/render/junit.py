"""A report as JUnit's XML, for continuous integration."""

from __future__ import annotations

from xml.etree import ElementTree

from ..report import ABSENT, COMPILED, FAILED, Cell, Report
from .facts import facts


def to_junit(report: Report) -> str:
    """One XML document: a test suite for each backend and device, with a test case for each algorithm."""
    root = ElementTree.Element("testsuites", name="integrity-triton conformance")
    for name in dict.fromkeys(cell.place for cell in report.cells):
        _add_suite(root, report, name, [cell for cell in report.cells if cell.place == name])
    if report.problems and not any(cell.is_failure for cell in report.cells):
        _add_run(root, report)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "unicode", xml_declaration=True) + "\n"


def _add_suite(root: ElementTree.Element, report: Report, name: str, cells: list[Cell]) -> None:
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=name,
        tests=str(len(cells)),
        failures=str(sum(cell.is_failure for cell in cells)),
        errors="0",
        skipped=str(sum(cell.status == ABSENT and not cell.asked for cell in cells)),
        time=f"{sum(cell.seconds for cell in cells):.3f}",
        timestamp=report.date,
    )
    properties = ElementTree.SubElement(suite, "properties")
    for fact, text in facts(report):
        ElementTree.SubElement(properties, "property", name=fact, value=_printable(text))
    for cell in cells:
        _add_case(suite, cell)


def _add_case(suite: ElementTree.Element, cell: Cell) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=cell.place.replace(" ", "."),
        name=cell.algorithm,
        time=f"{cell.seconds:.3f}",
    )
    if cell.status == ABSENT:
        tag = "failure" if cell.asked else "skipped"
        ElementTree.SubElement(case, tag, message=_printable(f"absent: {cell.reason}"))
    elif cell.status == FAILED:
        failure = ElementTree.SubElement(case, "failure", message=cell.verdict)
        failure.text = _printable(
            "\n".join(
                f"{f.check}: {f.case}\n  expected {f.expected}\n  found {f.found}" for f in cell.failures
            )
        )
    elif cell.status == COMPILED:
        ElementTree.SubElement(case, "skipped", message=_printable(f"compile-only: {cell.reason}"))
    else:
        out = ElementTree.SubElement(case, "system-out")
        out.text = _printable(", ".join(f"{name}: {count}" for name, count in cell.checks.items()))


def _add_run(root: ElementTree.Element, report: Report) -> None:
    """A test case for problems that belong to no cell, such as that nothing ran."""
    suite = ElementTree.SubElement(
        root, "testsuite", name="run", tests="1", failures="1", errors="0", skipped="0", time="0"
    )
    case = ElementTree.SubElement(suite, "testcase", classname="run", name="run", time="0")
    text = _printable("; ".join(report.problems))
    ElementTree.SubElement(case, "failure", message=text).text = text


def _printable(text: str) -> str:
    """``text`` with a replacement for each character that XML 1.0 cannot represent."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
