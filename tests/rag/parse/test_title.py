import pytest

from rag.parse.title import sensible_title


@pytest.mark.parametrize(
    "title",
    [
        "Bell Rock Lighthouse",
        "Report 2024",
        "Section 1.2",
        "Node.js in practice",
        "Documentary film",
    ],
)
def test_titles_by_people_stay(title):
    assert sensible_title(f"  {title}\n") == title


@pytest.mark.parametrize(
    "title",
    [
        "",
        "Untitled",
        "untitled-1",
        "Document1",
        "PowerPoint Presentation",
        "Microsoft Word - letter_final.doc",
        "letter_final v2.docx",
        "C:\\temp\\report.indd",
        "/home/ann/paper.tex",
        "(anonymous)",
        "12345",
        "---",
        "x" * 301,
    ],
)
def test_placeholders_and_file_names_are_no_titles(title):
    assert sensible_title(title) == ""
