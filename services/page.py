"""The page at `/`: chat, documents, traces. Built from `services/ui`, it loads nothing else."""

from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

FOLDER = Path(__file__).parent / "ui" / "dist"
# Its own scripts and styles, and its own API: nothing inline, nothing from elsewhere, no frames.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify ragstone",
    )
)
NAMED_BY_CONTENT = "public, max-age=31536000, immutable"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

router = APIRouter(include_in_schema=False)


@router.head("/")
@router.get("/")
async def page() -> Response:
    """The page itself, asked for anew each time: it names its files by their content."""
    return FileResponse(
        FOLDER / "index.html",
        media_type="text/html",
        headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"},
    )


@router.head("/assets/{name}")
@router.get("/assets/{name}")
async def asset(name: str) -> Response:
    """One of its files."""
    path = FOLDER / "assets" / name
    if path.parent != FOLDER / "assets" or path.suffix not in TYPES or not path.is_file():
        raise HTTPException(404)
    return FileResponse(
        path, media_type=TYPES[path.suffix], headers={"Cache-Control": NAMED_BY_CONTENT}
    )
