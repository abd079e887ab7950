"""Draw the pictures of the documentation, each for a light and for a dark page: `python docs/pictures/draw.py`.

A test draws them again and compares, so that a picture is never older than what it is drawn from.
"""

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

THEMES: Mapping[str, Mapping[str, str]] = {
    "light": {"ink": "#1f2328", "soft": "#59636e", "line": "#818b98", "box": "#f6f8fa", "page": "#ffffff",
              "init": "#ddf4ff", "main": "#dafbe1", "side": "#fff8c5", "volume": "#fbefff", "fail": "#cf222e"},
    "dark": {"ink": "#e6edf3", "soft": "#9198a1", "line": "#656c76", "box": "#151b23", "page": "#0d1117",
             "init": "#12314f", "main": "#12361f", "side": "#3b2e0a", "volume": "#2f1f4a", "fail": "#ff7b72"},
}  # fmt: skip
FONT = "ui-sans-serif, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


class Picture:
    """Shapes on a page, in pixels from the top left."""

    def __init__(self, width: int, height: int, colours: Mapping[str, str], title: str) -> None:
        self._colours = colours
        self._shapes = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" font-family="{FONT}">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto">'
            f'<path d="M0,0 L8,4 L0,8 z" fill="{colours["soft"]}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="8" fill="{colours["page"]}"/>',
        ]

    def box(self, x: int, y: int, width: int, height: int, fill: str, *, dashed: bool = False) -> None:
        """A rounded box."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._shapes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{self._colours[fill]}" '
            f'stroke="{self._colours["line"]}"{dash}/>'
        )

    def text(
        self, x: int, y: int, words: str, *, size: int = 13, colour: str = "ink", bold: bool = False, at: str = "start"
    ) -> None:
        """One line of text; `at` is start, middle or end."""
        weight = ' font-weight="600"' if bold else ""
        self._shapes.append(
            f'<text x="{x}" y="{y}" font-size="{size}" fill="{self._colours[colour]}" text-anchor="{at}"{weight}>'
            f"{escape(words)}</text>"
        )

    def arrow(self, points: list[tuple[int, int]], *, dashed: bool = False) -> None:
        """A line along `points`, with a head at the last."""
        path = " ".join(f"{x},{y}" for x, y in points)
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        self._shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{self._colours["soft"]}" stroke-width="1.5"{dash} '
            'marker-end="url(#head)"/>'
        )

    def rule(self, x: int, top: int, bottom: int) -> None:
        """A life line."""
        self._shapes.append(
            f'<line x1="{x}" y1="{top}" x2="{x}" y2="{bottom}" stroke="{self._colours["line"]}" '
            'stroke-dasharray="3 4"/>'
        )

    def svg(self) -> str:
        """The whole."""
        return "\n".join([*self._shapes, "</svg>", ""])


def pod(colours: Mapping[str, str]) -> str:
    """The pod of a Job: what runs when, what it takes and gives, and when it fails."""
    page = Picture(980, 446, colours, "The pod that a Workspace becomes: preflight, download, tuning, push")
    page.box(16, 16, 176, 58, "box")
    page.text(104, 41, "workspace.yaml", bold=True, at="middle")
    page.text(104, 60, "model, method, data, image", size=11, colour="soft", at="middle")
    page.arrow([(192, 45), (286, 45)])
    page.text(239, 37, "render", size=11, colour="soft", at="middle")
    page.box(288, 16, 150, 58, "box")
    page.text(363, 41, "Job", bold=True, at="middle")
    page.text(363, 60, "policy by exit code", size=11, colour="soft", at="middle")
    page.arrow([(363, 74), (363, 100)])
    page.box(16, 102, 948, 222, "box", dashed=True)
    page.text(30, 124, "pod", colour="soft", size=12)
    page.text(120, 124, "one after the other", colour="soft", size=12)
    page.text(516, 124, "together, until both have ended", colour="soft", size=12)
    columns = [
        (30, "init", "push-preflight", ["may we push?", "an upload, cancelled"], "wrong secret: 77"),
        (
            262,
            "init",
            "data-downloader",
            ["URLs into /data", "whole, verified, looked at"],
            "404: 66 · broken line: 65",
        ),
        (494, "main", "trainer", ["/data into an adapter", "LoRA or QLoRA, resumed"], "misspelt key: 78 · memory: 71"),
        (726, "side", "pusher", ["adapter into an image", "reproducible, by digest"], "trainer died: 69 · network: 75"),
    ]
    for x, fill, name, lines, fails in columns:
        page.box(x, 138, 222, 104, fill)
        page.text(x + 111, 162, name, bold=True, at="middle", size=14)
        for number, line in enumerate(lines):
            page.text(x + 111, 183 + 17 * number, line, size=12, at="middle")
        page.text(x + 111, 229, fails, size=11, colour="fail", at="middle")
    page.arrow([(252, 190), (261, 190)])
    page.arrow([(484, 190), (493, 190)])
    page.box(262, 270, 222, 40, "volume")
    page.text(373, 295, "data-volume  /data", size=12, at="middle")
    page.box(494, 270, 454, 40, "volume")
    page.text(721, 287, "results-volume  /mnt/results", size=12, at="middle")
    page.text(721, 302, "adapter · outcome · lease", size=11, colour="soft", at="middle")
    page.arrow([(340, 242), (340, 269)])
    page.arrow([(484, 284), (520, 284), (520, 243)])
    page.arrow([(605, 242), (605, 269)])
    page.arrow([(837, 269), (837, 243)])
    page.box(262, 352, 222, 58, "box")
    page.text(373, 377, "your dataset", bold=True, at="middle")
    page.text(373, 396, "https · hf · s3 · an image", size=11, colour="soft", at="middle")
    page.arrow([(300, 352), (300, 243)])
    page.box(726, 352, 222, 58, "box")
    page.text(837, 377, "registry", bold=True, at="middle")
    page.text(837, 396, "adapter image @sha256:…", size=11, colour="soft", at="middle")
    page.arrow([(900, 243), (900, 351)])
    page.arrow([(120, 243), (120, 430), (837, 430), (837, 411)], dashed=True)
    page.text(132, 422, "asks", size=11, colour="soft")
    return page.svg()


def outcome(colours: Mapping[str, str]) -> str:
    """How the trainer tells the pusher that it ended, however it ended."""
    page = Picture(
        980, 430, colours, "How the pusher learns how training ended: completed, failed, or dead without a word"
    )
    lines = {"trainer": 150, "results volume": 490, "pusher": 830}
    for name, x in lines.items():
        fill = {"trainer": "main", "results volume": "volume", "pusher": "side"}[name]
        page.box(x - 90, 16, 180, 36, fill)
        page.text(x, 39, name, bold=True, at="middle")
        page.rule(x, 52, 360)
    trainer, volume, pusher = lines.values()

    def tell(y: int, words: str, *, dashed: bool = False) -> None:
        page.arrow([(trainer, y), (volume - 4, y)], dashed=dashed)
        page.text((trainer + volume) // 2, y - 6, words, size=12, at="middle")

    def look(y: int, words: str) -> None:
        page.arrow([(volume, y), (pusher - 4, y)])
        page.text((volume + pusher) // 2, y - 6, words, size=12, at="middle")

    tell(86, "takes the lease: a lock that the kernel drops at its death")
    tell(118, "removes sentinels of an earlier attempt")
    look(118, "each second: a sentinel? the lease?")
    page.text(30, 152, "completed", bold=True, colour="soft")
    tell(172, "adapter, then fine_tuning_completed.txt with its digests")
    look(196, "digests compared: push, exit 0")
    page.text(30, 226, "failed", bold=True, colour="soft")
    tell(246, "fine_tuning_failed.txt: exit code, cause, hint")
    look(270, "nothing to push: exit 69 with the cause")
    page.text(30, 300, "killed", bold=True, colour="soft")
    tell(320, "SIGKILL, out of memory: no word, the lease is free", dashed=True)
    look(344, "free, and after one more look no sentinel: exit 69")
    notes = (
        "Every file appears whole: draft, fsync, rename. Both know the attempt by the pod's uid,",
        "so that what an earlier pod left in the volume is never pushed.",
    )
    for number, note in enumerate(notes):
        page.text(490, 388 + 18 * number, note, size=12, colour="soft", at="middle")
    return page.svg()


PICTURES = {"pod": pod, "outcome": outcome}


def draw(folder: Path) -> None:
    """Write every picture in every theme into `folder`."""
    for name, picture in PICTURES.items():
        for theme, colours in THEMES.items():
            (folder / f"{name}-{theme}.svg").write_text(picture(colours))


if __name__ == "__main__":
    draw(Path(__file__).parent)
