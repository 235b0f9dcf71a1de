"""The routes of files that clients send: whole, as a form, or in pieces by the protocol tus 1.0."""

from __future__ import annotations

import base64
import binascii
import errno
import re
from typing import Annotated, Final

from anyio import CancelScope
from fastapi import APIRouter, File, UploadFile
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile as FormFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from .answers import ApiError, Json
from .roots import UPLOADS
from .routing import base_of, service_of
from .uploads import Arrival, Busy, NoRoom, Piece, TooLong, WrongOffset, suffix_of

_VERSION: Final = "1.0.0"
_TUS: Final = {"Tus-Resumable": _VERSION, "Cache-Control": "no-store"}
PIECE_TYPE: Final = "application/offset+octet-stream"


def upload(request: Request, file: Annotated[UploadFile, File()]) -> Json:
    """Store a file that later jobs name as "uploads/NAME"."""
    return Json({"path": stored(request, file), "bytes": file.size or 0}, 201)


def stored(request: Request, file: FormFile) -> str:
    """Store a file of a form; returns how jobs name it. Raises :class:`ApiError` if there is no room."""
    try:
        name = service_of(request).uploads.add(file.file, file.size or 0, suffix_of(file.filename))
    except NoRoom:
        raise no_room() from None
    return f"{UPLOADS}/{name}"


def abilities(request: Request) -> Response:
    """What this server can of tus: its version, its extensions and the largest file."""
    most = service_of(request).settings.limits.upload_bytes
    about = {"Tus-Version": _VERSION, "Tus-Extension": "creation,termination", "Tus-Max-Size": str(most)}
    return Response(status_code=204, headers={**_TUS, **about})


def begin(request: Request) -> Json:
    """Begin an upload in pieces of "Upload-Length" bytes; pieces are sent to the "Location" of the answer."""
    _check_version(request)
    service = service_of(request)
    length, most = _number(request, "upload-length"), service.settings.limits.upload_bytes
    if length > most:
        raise ApiError(413, "BODY_TOO_LARGE", f"the file has more than {most} bytes", headers=_TUS)
    suffix = suffix_of(_filename(request))
    try:
        name = service.uploads.begin(length, suffix)
    except NoRoom:
        raise no_room() from None
    headers = {**_TUS, "Location": f"{base_of(request)}/v1/uploads/{name}"}
    return Json({"path": f"{UPLOADS}/{name}", "bytes": length}, 201, headers)


def arrived(name: str, request: Request) -> Response:
    """How much of an upload has arrived."""
    _check_version(request)
    found = _found(name, request)
    headers = {**_TUS, "Upload-Offset": str(found.offset), "Upload-Length": str(found.length)}
    return Response(status_code=200, headers=headers)


async def append(name: str, request: Request) -> Response:
    """Append a piece, which must begin at the byte "Upload-Offset" at which the upload ends.

    A piece that is cut stays as far as it has come.
    """
    _check_version(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != PIECE_TYPE:
        raise ApiError(415, "WRONG_TYPE", f"send a piece as Content-Type: {PIECE_TYPE}", headers=_TUS)
    offset = _number(request, "upload-offset")
    try:
        piece = await run_in_threadpool(service_of(request).uploads.open, name, offset)
    except LookupError:
        raise _missing(name) from None
    except WrongOffset as error:
        message = f"the upload has {error.at} bytes, and this piece begins at {offset}: ask for Upload-Offset"
        raise ApiError(409, "WRONG_OFFSET", message, details={"offset": error.at}, headers=_TUS) from None
    except Busy:
        raise _busy() from None
    try:
        await _write(piece, request)
    except TooLong:
        message = "the piece goes beyond the Upload-Length of its upload"
        raise ApiError(413, "BODY_TOO_LARGE", message, headers=_TUS) from None
    except ClientDisconnect:
        # Nobody is there who could read it.
        return Response(status_code=400)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise no_room() from None
    return Response(status_code=204, headers={**_TUS, "Upload-Offset": str(piece.offset)})


async def _write(piece: Piece, request: Request) -> None:
    """Write the body of a request in threads, because disks may be slow, and close the piece."""
    try:
        async for data in request.stream():
            await run_in_threadpool(piece.write, data)
    finally:
        with CancelScope(shield=True):
            await run_in_threadpool(piece.close)


def remove(name: str, request: Request) -> Response:
    """Remove an upload, whole or not, that no unfinished job needs."""
    _check_version(request)
    service = service_of(request)
    _found(name, request)
    if service.store.is_needed(name):
        raise ApiError(409, "NOT_ENDED", "a job that has not ended needs this file", headers=_TUS)
    try:
        service.uploads.remove(name)
    except Busy:
        raise _busy() from None
    return Response(status_code=204, headers=_TUS)


def _found(name: str, request: Request) -> Arrival:
    found = service_of(request).uploads.arrival(name)
    if found is None:
        raise _missing(name)
    return found


def _check_version(request: Request) -> None:
    if request.headers.get("tus-resumable") != _VERSION:
        message = f"send Tus-Resumable: {_VERSION}, the version of tus that this server has"
        raise ApiError(412, "WRONG_VERSION", message, headers={**_TUS, "Tus-Version": _VERSION})


def _number(request: Request, header: str) -> int:
    """The whole number in a header. Raises :class:`ApiError` with status 400 for anything else."""
    text = request.headers.get(header, "")
    # Longer ones are larger than any file.
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ApiError(400, "INVALID_PARAMETER", f"{header} must be a number of bytes", headers=_TUS)
    return int(text)


def _filename(request: Request) -> str | None:
    """The value of "filename" in the header "Upload-Metadata": pairs KEY BASE64 with commas between them."""
    for pair in request.headers.get("upload-metadata", "").split(","):
        key, _, value = pair.strip().partition(" ")
        if key == "filename":
            try:
                return base64.b64decode(value, validate=True).decode("utf-8", "replace")
            except binascii.Error:
                message = "Upload-Metadata: the filename must be in base64"
                raise ApiError(400, "INVALID_PARAMETER", message, headers=_TUS) from None
    return None


def _missing(name: str) -> ApiError:
    return ApiError(404, "FILE_NOT_FOUND", f"there is no upload {name[:200]!r}", headers=_TUS)


def _busy() -> ApiError:
    return ApiError(423, "UPLOAD_BUSY", "another piece of this upload arrives: try again later", headers=_TUS)


def no_room() -> ApiError:
    """The answer where the uploads of the server have no room for a file."""
    return ApiError(507, "NO_ROOM", "the uploads of this server take all their room: try again later")


def upload_router() -> APIRouter:
    """The routes of this file."""
    router = APIRouter()
    router.add_api_route("/v1/files", upload, methods=["POST"])
    router.add_api_route("/v1/uploads", abilities, methods=["OPTIONS"])
    router.add_api_route("/v1/uploads", begin, methods=["POST"], status_code=201)
    router.add_api_route("/v1/uploads/{name}", arrived, methods=["HEAD"])
    router.add_api_route("/v1/uploads/{name}", append, methods=["PATCH"], status_code=204)
    router.add_api_route("/v1/uploads/{name}", remove, methods=["DELETE"], status_code=204)
    return router
