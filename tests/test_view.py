"""The live page in a real browser, and `edgelift view`."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from edgelift.runtime.frames import LiftedFrame
from edgelift.runtime.sinks.websocket import WebSocketSink
from edgelift.runtime.view.page import live_page, recording_page

from .live import COMMON14, lifted, lifted_frames, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytest.importorskip("websockets")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning:playwright.*")

DESKTOP, PHONE = (1280, 800), (390, 844)
HOSTILE = '<img src=x onerror="window.hacked=1"></script><script>window.hacked=2</script>'
CHROMIUM_WAITS_MS = 20_000  # for what happens within a second on a machine that is not busy
FRAMES = """frames => new Promise(done => {
  const next = () => frames-- > 0 ? requestAnimationFrame(next) : done();
  next();
})"""
PIXELS = "id => document.getElementById(id).toDataURL()"
PIXEL = """([x, y, selector]) => {
  const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  copy.drawImage(document.querySelector(selector), -Math.round(x), -Math.round(y));
  return Array.from(copy.getImageData(0, 0, 1, 1).data);
}"""


def without_browser(why: str) -> None:
    """Skip where a person may lack a browser; CI may not."""
    if os.environ.get("CI"):
        pytest.fail(f"CI has to open the page: {why}")
    pytest.skip(why)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        from playwright.sync_api import expect, sync_playwright
    except ModuleNotFoundError:
        without_browser("playwright is not installed")
    executable = os.environ.get("EDGELIFT_CHROMIUM") or shutil.which("chromium")
    if executable is None:
        without_browser("no chromium on the path, and EDGELIFT_CHROMIUM names none")
    expect.set_options(timeout=CHROMIUM_WAITS_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()


Places = dict[tuple[int, int], tuple[float, float]]  # CSS pixels by person and joint
OpenPage = Callable[..., "Page"]
Watched = tuple[WebSocketSink, "Page"]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open an address; afterwards no page may have complained, nor asked anybody but its own server."""
    complaints: list[str] = []
    asked: set[str] = set()
    origins: set[str] = set()
    contexts = []

    def opened(url: str, size: tuple[int, int] = DESKTOP, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on("request", lambda request: asked.add(origin(request.url)))
        page.on("websocket", lambda web: asked.add(origin(web.url.replace("ws:", "http:"))))
        origins.add(origin(url))
        page.goto(url)
        return page

    yield opened
    assert all(page.evaluate("window.hacked") is None for context in contexts for page in context.pages)
    for context in contexts:
        context.close()
    assert complaints == []
    assert asked <= origins | {"data://"}


def origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def see(page: Page, selector: str) -> Locator:
    return page.locator(selector)


def shows(page: Page, selector: str, text: str) -> None:
    """Wait until an element's text is, or begins with, some text."""
    from playwright.sync_api import expect

    expect(see(page, selector)).to_have_text(re.compile(f"^{re.escape(text)}"))


@contextmanager
def watched(open_page: OpenPage, size: tuple[int, int] = DESKTOP, **options: Any) -> Iterator[Watched]:
    with WebSocketSink("ws://127.0.0.1:0") as sink:
        page = open_page(sink.url, size, **options)
        connected(sink, page)
        yield sink, page


def connected(sink: WebSocketSink, page: Page) -> None:
    """Wait until both call it so: the browser does a moment before the server counts it among those who watch."""
    shows(page, "#state", "Connected")
    wait_until(lambda: sink.watchers > 0)


def show(sink: WebSocketSink, page: Page, frame: LiftedFrame) -> Places:
    """Send a frame and return where its joints are once it is drawn."""
    sink.write(frame)
    shows(page, "#seq", str(frame.seq))
    return joints(page)


def joints(page: Page) -> Places:
    return {(j["person"], j["joint"]): (j["x"], j["y"]) for j in page.evaluate("edgelift.joints")}


def pixel(page: Page, place: tuple[float, float], selector: str = "#scene") -> list[int]:
    colour: list[int] = page.evaluate(PIXEL, [*place, selector])
    return colour


@pytest.mark.parametrize("world", [True, False], ids=["world", "camera"])
def test_people_move_on_the_page_as_they_are_lifted(open_page: OpenPage, world: bool) -> None:
    hip, shoulder, ankle = (COMMON14.joints.index(name) for name in ("mid_hip", "mid_shoulder", "left_ankle"))
    with watched(open_page) as (sink, page):
        seen = [show(sink, page, lifted(seq, (0, 1), echo=True, world=world)) for seq in (0, 1)]
        pictures = [page.evaluate(PIXELS, "scene")]
        seen.append(show(sink, page, lifted(9, (0, 1), echo=True, world=world)))
        pictures.append(page.evaluate(PIXELS, "scene"))
        box = see(page, "#scene").bounding_box()
        assert box is not None
        for places in seen:
            assert set(places) == {(person, joint) for person in (0, 1) for joint in range(14)}
            assert all(0 < x < box["width"] and 0 < y < box["height"] for x, y in places.values())
            for person in (0, 1):  # upright, and not mirrored: the other one stands at larger x
                heights = [places[person, joint][1] for joint in (shoulder, hip, ankle)]
                assert heights == sorted(heights)
            assert places[0, hip][0] < places[1, hip][0]
        moved = [np.hypot(*np.subtract(seen[1][key], seen[2][key])) for key in seen[1]]
        assert min(moved) > 0.5
        assert pictures[0] != pictures[1]
        empty = pixel(page, (box["width"] - 4, 60))
        assert all(pixel(page, place) != empty for place in seen[2].values())


def test_nothing_is_drawn_while_nothing_comes(open_page: OpenPage) -> None:
    with watched(open_page) as (sink, page):
        page.evaluate("""() => {
          const fill = CanvasRenderingContext2D.prototype.clearRect;
          window.cleared = 0;
          CanvasRenderingContext2D.prototype.clearRect = function (...box) {
            if (this.canvas.id === "scene") window.cleared += 1;
            return fill.apply(this, box);
          };
        }""")
        for seq in range(3):
            show(sink, page, lifted(seq))
        drawn = page.evaluate("cleared")
        redrawn(page, 20)
        assert page.evaluate("cleared") == drawn >= 3
        frames = lifted_frames(600)
        for frame in frames:
            sink.write(frame)
        shows(page, "#received", "603")
        shows(page, "#seq", "599")
        assert page.evaluate("cleared") < drawn + 600, "the newest is drawn, not every one"
        assert sink.lost == 0


def test_what_views_saw_is_drawn_in_the_shape_of_their_images(open_page: OpenPage) -> None:
    frame = lifted(4, (0, 1), echo=True)
    keypoints = frame.views[0].keypoints.copy()
    keypoints[1, :] = [np.nan, np.nan, 0]
    wide = replace(frame.views[0], stream="cam_02", size=(1920, 1080), keypoints=keypoints)
    unsized = replace(frame.views[0], stream="cam_03", size=None)
    message = replace(frame, views=(frame.views[0], wide, unsized)).message
    elsewhere = [1700, 900]
    # missing is null, or anywhere with no confidence
    message["views"][1]["persons"][1]["kpts"] = [[*elsewhere, 0], [*elsewhere, -1], *[None] * 12]
    with watched(open_page) as (sink, page):
        sink.publish(json.dumps(message).encode())
        shows(page, "#seq", "4")
        assert see(page, "#views figcaption").all_text_contents() == ["cam_01", "cam_02", "cam_03"]
        boxes = [canvas.bounding_box() for canvas in see(page, "#views canvas").all()]
        ratios = [box["width"] / box["height"] for box in boxes if box is not None]
        assert np.allclose(ratios[:2], [1088 / 1920, 1920 / 1080], rtol=0.03)
        assert boxes[0] is not None
        scale = (boxes[0]["width"] - 2) / 1088  # its border is a pixel wide
        for x, y, _ in frame.views[0].keypoints.reshape(-1, 3).tolist():
            assert pixel(page, (x * scale, y * scale), "#views figure:nth-child(1) canvas")[3] > 0
        assert boxes[1] is not None
        scale = (boxes[1]["width"] - 2) / 1920
        canvas = "#views figure:nth-child(2) canvas"
        assert pixel(page, (elsewhere[0] * scale, elsewhere[1] * scale), canvas)[3] == 0
        hip = keypoints[0, 0, :2].tolist()
        assert pixel(page, (hip[0] * scale, hip[1] * scale), canvas)[3] > 0
        show(sink, page, replace(lifted(5), views=()))
        assert see(page, "#unseen").is_visible()


def test_lifted_joints_are_hollow_and_flags_are_told(open_page: OpenPage) -> None:
    wrist = COMMON14.joints.index("left_wrist")
    seen_by = np.full((1, 14), 3)
    with watched(open_page) as (sink, page):
        full = show(sink, page, replace(lifted(1), seen_by=seen_by))
        before = pixel(page, full[0, wrist])
        seen_by = seen_by.copy()
        seen_by[0, wrist] = 0
        show(sink, page, replace(lifted(1), seq=2, seen_by=seen_by, flags=(("swapped",),)))
        assert pixel(page, joints(page)[0, wrist]) != before
        shows(page, "#people li", "person 0swapped")


def test_pause_holds_the_picture_and_resume_is_live_again(open_page: OpenPage) -> None:
    with watched(open_page) as (sink, page):
        show(sink, page, lifted(3))
        shows(page, "#state", "Live")
        held = page.evaluate(PIXELS, "scene")
        ways: list[Callable[[], None]] = [see(page, "#pause").click, lambda: see(page, "#scene").press("Space")]
        for press in ways:
            press()
            shows(page, "#state", "Paused")
            received = page.evaluate("edgelift.received")
            for seq in range(4, 9):
                sink.write(lifted(seq))
            shows(page, "#received", str(received + 5))
            assert page.evaluate("edgelift.seq") == 3
            assert page.evaluate(PIXELS, "scene") == held
            press()
            shows(page, "#seq", "8")
            assert page.evaluate(PIXELS, "scene") != held
            show(sink, page, lifted(3))
            see(page, "#reset").click()
            redrawn(page)
            held = page.evaluate(PIXELS, "scene")


def test_a_recording_holds_what_was_sent(open_page: OpenPage) -> None:
    frames = lifted_frames(20, ids=(0, 4), echo=True)
    with watched(open_page) as (sink, page):
        show(sink, page, frames[0])
        see(page, "#record").click()
        for frame in frames[1:]:
            show(sink, page, frame)
        with page.expect_download() as download:
            see(page, "#record").click()
        assert download.value.suggested_filename == "poses.jsonl"
        assert Path(download.value.path()).read_bytes() == b"".join(frame.json for frame in frames[1:])


def test_a_recording_ends_at_its_limit_and_says_so(open_page: OpenPage) -> None:
    frames = lifted_frames(8)
    with watched(open_page) as (sink, page):
        assert page.evaluate("document.body.dataset.recordLimit") == str(200_000_000)
        limit = sum(len(frame.json) for frame in frames[:5]) + 9
        page.evaluate("limit => { document.body.dataset.recordLimit = limit }", limit)
        see(page, "#record").click()
        for frame in frames:
            show(sink, page, frame)
        shows(page, "#note", "Full")
        with page.expect_download() as download:
            see(page, "#record").click()
        assert Path(download.value.path()).read_bytes() == b"".join(frame.json for frame in frames[:5])


def test_the_page_goes_on_when_its_server_comes_back(open_page: OpenPage) -> None:
    with watched(open_page) as (sink, page):
        show(sink, page, lifted(2))
    shows(page, "#state", "No connection")
    assert page.evaluate("edgelift.seq") == 2, "the last picture stays"
    with WebSocketSink(f"ws://127.0.0.1:{sink.port}") as again:
        connected(again, page)
        show(again, page, lifted(1))


def test_who_lacks_the_token_is_told(open_page: OpenPage) -> None:
    with WebSocketSink("ws://127.0.0.1:0?token=a%26b") as sink:
        refused = open_page(sink.url.partition("?")[0])
        shows(refused, "#state", "Refused: the token is missing or wrong")
        refused.close()  # it asks again and again: a server that ends in between is an error on its console
        page = open_page(sink.url)
        connected(sink, page)
        show(sink, page, lifted(1))


def test_orbit_zoom_and_reset(open_page: OpenPage) -> None:
    hip, shoulder = COMMON14.joints.index("mid_hip"), COMMON14.joints.index("mid_shoulder")
    with watched(open_page) as (sink, page):
        home = show(sink, page, lifted(0, (0, 1)))

        def trunk() -> float:
            return float(np.hypot(*np.subtract(joints(page)[0, hip], joints(page)[0, shoulder])))

        height = trunk()
        page.mouse.move(400, 300)
        page.mouse.down()
        page.mouse.move(700, 300, steps=4)
        page.mouse.up()
        redrawn(page)
        assert abs(joints(page)[0, hip][0] - home[0, hip][0]) > 20
        see(page, "#scene").dblclick()
        redrawn(page)
        assert same(joints(page), home)
        page.mouse.wheel(0, -300)
        redrawn(page)
        assert trunk() > 1.2 * height
        for seq in range(1, 8):
            show(sink, page, lifted(seq, (0, 1)))
        assert trunk() > 1.2 * height, "a distance once chosen stays"
        show(sink, page, lifted(0, (0, 1)))
        see(page, "#reset").click()
        redrawn(page)
        assert same(joints(page), home)
        for key in ("ArrowLeft", "ArrowUp", "+"):
            see(page, "#scene").press(key)
        redrawn(page)
        assert not same(joints(page), home)
        see(page, "#scene").press("0")
        redrawn(page)
        assert same(joints(page), home)


def redrawn(page: Page, frames: int = 2) -> None:
    """Wait for some frames of the screen: by the second, what was asked for before is drawn."""
    page.evaluate(FRAMES, frames)


def same(one: Places, other: Places) -> bool:
    """Whether joints are where they were, to a thousandth of a pixel."""
    return one.keys() == other.keys() and np.allclose([one[k] for k in one], [other[k] for k in one], atol=1e-3)


def test_hostile_names_are_text_and_malformed_messages_are_counted(open_page: OpenPage) -> None:
    frame = lifted(6, echo=True)
    named = replace(frame, stream=HOSTILE, lifter=HOSTILE, provider=HOSTILE, flags=((HOSTILE,),))
    persons = [None, {"xyz": None}, {"xyz": [None, [], [1, 2], [1e308] * 3, ["1"] * 3], "conf": 3, "flags": 7}]
    odd = [
        b"{nonsense", b"[]", b"null", b'{"type":"pose2d","persons":[]}', b'{"type":"pose3d","v":1}',
        told(persons=persons, views=1, stream="odd"), told(persons=[], stream={"toString": 1}),
        told(persons=[], stream="odd", views=[None, {"stream": 1}, {"stream": "a", "persons": [{"kpts": [3, [1]]}]}]),
    ]  # fmt: skip
    with watched(open_page) as (sink, page):
        for message in odd:
            sink.publish(message)
        shows(page, "#received", "2")
        assert page.evaluate("edgelift.joints") == []
        sink.write(replace(frame, stream="odd"))
        shows(page, "#seq", "6")
        assert len(joints(page)) == 14  # what was odd has not spoilt the view
        sink.write(replace(named, views=(replace(frame.views[0], stream=HOSTILE),)))
        shows(page, "#received", "4")
        see(page, "#stream").select_option(HOSTILE)
        shows(page, "#seq", "6")
        assert page.evaluate("edgelift.malformed") == 6
        assert see(page, "#source").text_content() == f"{HOSTILE} · {HOSTILE} · {HOSTILE}"
        assert see(page, "#people li").text_content() == f"person 0{HOSTILE}"
        assert HOSTILE in see(page, "#views figcaption").all_text_contents()
        assert see(page, "img").count() == 0


def told(**what: Any) -> bytes:
    return json.dumps({"type": "pose3d", "skeleton": HOSTILE} | what).encode()


def test_streams_that_are_lifted_apart_can_be_chosen(open_page: OpenPage) -> None:
    with watched(open_page) as (sink, page):
        show(sink, page, lifted(1))
        assert see(page, "#stream").is_hidden()
        sink.write(replace(lifted(8, (0, 1)), stream="cam_02"))
        shows(page, "#received", "2")
        assert len(joints(page)) == 14
        see(page, "#stream").select_option("cam_02")
        shows(page, "#seq", "8")
        assert len(joints(page)) == 28


def test_streams_that_went_give_way_to_those_that_come(open_page: OpenPage) -> None:
    with watched(open_page) as (sink, page):
        for number in range(80):
            sink.write(replace(lifted(number), stream=f"cam_{number}"))
        shows(page, "#received", "80")
        names = see(page, "#stream option").all_text_contents()
        assert names == [f"cam_{number}" for number in range(16, 80)]


def test_a_recording_of_clocks_of_their_own_is_as_long_as_it_took(open_page: OpenPage, tmp_path: Path) -> None:
    frames = [
        replace(frame, stream=stream, t_ns=frame.t_ns + start_s * 10**9)
        for frame in lifted_frames(21)
        for stream, start_s in (("cam_01", 5), ("cam_02", 300))
    ]
    path = tmp_path / "page.html"
    path.write_text(recording_page(frame.json.decode() for frame in frames), encoding="utf-8")
    assert see(open_page(path.as_uri()), "#time").get_attribute("max") == "1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(open_page: OpenPage, tmp_path: Path, scheme: str) -> None:
    look = {"color_scheme": scheme, "has_touch": True, "is_mobile": True}
    frames = lifted_frames(5, (0, 1), echo=True)
    with watched(open_page, PHONE, **look) as (sink, page):
        show(sink, page, replace(frames[1], views=frames[1].views * 3, stream="a stream with a very long name " * 4))
        fits(page, "#pause", "#record", "#reset", "#scene", "#state")
        see(page, "#record").click()
        shows(page, "#note", "0.0 MB")
        fits(page, "#pause", "#record", "#reset")
    path = tmp_path / "page.html"
    path.write_text(recording_page(frame.json.decode().strip() for frame in frames), encoding="utf-8")
    fits(open_page(path.as_uri(), PHONE, **look), "#pause", "#time", "#speed", "#reset")


def fits(page: Page, *selectors: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    for selector in selectors:
        box = see(page, selector).bounding_box()
        assert box is not None, selector
        assert box["x"] >= 0, selector
        assert box["x"] + box["width"] <= PHONE[0], selector
        assert box["y"] + box["height"] <= PHONE[1], selector


def test_a_recording_plays_in_a_page_of_its_own(open_page: OpenPage, tmp_path: Path) -> None:
    frames = [replace(frame, stream=HOSTILE) for frame in lifted_frames(21, (0, 1), echo=True)]
    path = tmp_path / "page.html"
    path.write_text(recording_page(frame.json.decode() for frame in frames), encoding="utf-8")
    page = open_page(path.as_uri())
    shows(page, "#state", "Recording · 21 frames")
    time = see(page, "#time")
    assert time.get_attribute("max") == "1"
    time.press("Home")
    shows(page, "#seq", "0")
    first = joints(page)
    time.press("End")
    shows(page, "#seq", "20")
    assert joints(page).keys() == first.keys()
    assert not same(joints(page), first)
    time.evaluate("slider => { slider.value = 0.51; slider.dispatchEvent(new Event('input')); }")
    shows(page, "#seq", "10")
    shows(page, "#pause", "Play")
    see(page, "#speed").select_option("4")
    see(page, "#scene").focus()
    page.keyboard.press("Space")
    shows(page, "#seq", "20")
    shows(page, "#pause", "Play")
    page.keyboard.press("Space")  # begins anew at the end
    shows(page, "#clock", "1.0 / 1.0 s")
    shows(page, "#source", HOSTILE)


def test_a_recording_cannot_leave_its_element() -> None:
    lines = [replace(frame, stream="</script><!-- @SKELETONS@").json.decode().strip() for frame in lifted_frames(2)]
    page = recording_page(lines)
    held = page.partition('id="recording">')[2].partition("</script>")[0]
    assert [json.loads(line) for line in held.split("\n")] == [json.loads(line) for line in lines]
    assert page.count("<script") == live_page().count("<script")
