"""Tests of plot.py: /usr/bin/python3 -m unittest tests/bench/test_plot.py"""

import contextlib
import io
import json
import math
import os
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import plot  # noqa: E402

PICTURES = [f"{name}-{kind}.{form}" for name in ("cost", "restart") for kind in ("dark", "light")
            for form in ("png", "svg")]


def restart(way="hold", worst=95.0, **more):
    return {"round": 1, "subject": "haproxy restart", "way": way, "mode": "fresh", "rate": 1000,
            "family": "ipv4", "sent": 1000, "refused": 0, "reset": 0, "cut": 0, "delayed": 0,
            "total": {"max_ms": worst}, "began_ms": 20.0, "ended_ms": 50.0,
            "timeline_ms": [0.3, 0.4, worst, 0, 0.3], "failed_at_ms": [], **more}


def cost(series="rules", size=0, way="syngate", **more):
    return {"round": 1, "series": series, "size": size, "way": way, "wall_ms": 6.0, **more}


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, name, rows, end=""):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows) + end)

    def run_plot(self):
        """The exit status, the pictures that there are then, and what was said."""
        with contextlib.redirect_stderr(io.StringIO()) as said:
            status = plot.main(self.folder)
        pictures = [name for name in sorted(os.listdir(self.folder)) if "jsonl" not in name]
        return status, pictures, said.getvalue()

    def bytes_of(self, names):
        return [pathlib.Path(self.folder, name).read_bytes() for name in names]


class Pictures(Folder):
    def test_old_rows_tell_how_long_it_took_to_connect(self):
        def said(**more):
            fig = plot.restart_picture([restart(**more)], plot.THEMES["light"])
            return " ".join(text.get_text() for text in fig.texts)
        self.assertIn("took to connect", said())
        self.assertIn("waited for its answer", said(answers_ms=[0.4, 95.0]))

    def test_all_eight_and_the_same_again(self):
        self.write("restarts.jsonl", [restart(way) for way in plot.WAYS])
        self.write("costs.jsonl", [cost(size=size, close_ms=1.4, open_ms=0.05)
                                   for size in (0, 10, 1000)] + [cost("pair", way="iptables")])
        self.assertEqual(self.run_plot(), (0, PICTURES, ""))
        first = self.bytes_of(PICTURES)
        self.assertTrue(all(len(picture) > 10_000 for picture in first))
        self.run_plot()
        self.assertTrue(first == self.bytes_of(PICTURES))
        self.assertFalse(any(b"<dc:date>" in picture for picture in first))

    def test_missing_files(self):
        status, pictures, said = self.run_plot()
        self.assertEqual((status, pictures), (1, []))
        self.assertIn("restarts.jsonl: no such file", said)
        self.assertIn("costs.jsonl: no such file", said)

    def test_one_missing_the_other_with_little(self):
        self.write("restarts.jsonl", [restart("bare", refused=2, failed_at_ms=[31.0, 32.0])])
        status, pictures, said = self.run_plot()
        self.assertEqual((status, pictures), (0, PICTURES[4:]))
        self.assertIn("nothing to draw for cost", said)

    def test_empty_and_irrelevant(self):
        self.write("restarts.jsonl", [])
        self.write("costs.jsonl", [cost("another series")])
        status, pictures, said = self.run_plot()
        self.assertEqual((status, pictures), (1, []))
        self.assertIn("nothing to draw for restart", said)
        self.assertIn("nothing to draw for cost", said)

    def test_little_to_draw(self):
        self.write("restarts.jsonl", [restart(timeline_ms=[], failed_at_ms=None)])
        self.write("costs.jsonl", [cost("pair", way="nft"), cost("ports", size=1, open_ms=0.0)])
        self.assertEqual(self.run_plot(), (0, PICTURES, ""))


class Reading(Folder):
    def read(self, rows, end=""):
        self.write("costs.jsonl", rows, end)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            rows = plot.read(os.path.join(self.folder, "costs.jsonl"), ("series", "way", "size"))
        return rows, said.getvalue()

    def test_whole(self):
        rows = [cost(), cost(size=1, unknown="\u2028")]
        self.assertEqual(self.read(rows), (rows, ""))

    def test_half_written_last_line(self):
        rows, said = self.read([cost()], '{"round":2,"ser')
        self.assertEqual(rows, [cost()])
        self.assertEqual(said, "plot: costs.jsonl: line 2 is no whole object: left out\n")

    def test_other_lines(self):
        rows, said = self.read([[1], 7, {"way": "nft", "size": None}, cost()])
        self.assertEqual(rows, [cost()])
        self.assertIn("line 1 is no whole object", said)
        self.assertIn("line 2 is no whole object", said)
        self.assertIn("line 3 has no series, size", said)


class Restarts(unittest.TestCase):
    def test_representative(self):
        rounds = [restart(worst=worst) for worst in (9.0, 2.0, 5.0)]
        self.assertEqual(plot.representative(rounds)["total"]["max_ms"], 5.0)
        rounds.append(restart(worst=7.0))
        self.assertEqual(plot.representative(rounds)["total"]["max_ms"], 5.0)
        self.assertEqual(plot.representative(rounds[:1]), rounds[0])

    def test_chosen(self):
        rows = [restart("drop"), restart("bare"), restart("drop", mode="keep-alive"),
                restart("hold", subject="nginx restart"), restart("another"), restart("drop", 1.0)]
        ways, rounds = plot.chosen(rows)
        self.assertEqual((list(ways), rounds), (["bare", "drop"], 2))

    def test_chosen_of_several_loads(self):
        rows = [restart("bare", rate=500), restart("bare", 7.0), restart("drop")]
        with contextlib.redirect_stderr(io.StringIO()) as said:
            ways, rounds = plot.chosen(rows)
        self.assertEqual((ways, rounds), ({"bare": rows[1], "drop": rows[2]}, 1))
        self.assertIn("of 2 loads, only 1000 a second by ipv4", said.getvalue())

    def test_shifted(self):
        edges, heights, failed = plot.shifted(restart(
            began_ms=20.0, timeline_ms=[0.01, 0.4, 0, 99_999], failed_at_ms=[31.0, 15.0]))
        self.assertEqual(edges, [-0.02, -0.01, 0, 0.01, 0.02])
        self.assertEqual(heights[:2] + heights[3:], [plot.FLOOR_MS, 0.4, plot.CEILING_MS])
        self.assertTrue(math.isnan(heights[2]))
        self.assertEqual(failed, [-0.005, 0.011])

    def test_summary(self):
        row = restart(worst=1032.0, sent=1430, refused=90, cut=1, delayed=1074)
        self.assertEqual(plot.summary(row),
                         "91 of 1,430 failed, 1,074 delayed ≥ 0.9 s, worst 1.03 s")


class Numbers(unittest.TestCase):
    def test_quartiles(self):
        self.assertEqual(plot.quartiles([5.0]), (5.0, 5.0, 5.0))
        self.assertEqual(plot.quartiles([2.0, 1.0]), (1.25, 1.5, 1.75))
        self.assertEqual(plot.quartiles([5, 1, 4, 2, 3]), (2, 3, 4))

    def test_spread(self):
        rows = [cost(size=10, wall_ms=3.0), cost(size=0, wall_ms=1.0), cost(size=0, wall_ms=2.0),
                cost(size=10, wall_ms=None)]
        self.assertEqual(plot.spread(rows, "wall_ms"),
                         ([0, 10], [(1.25, 3.0), (1.5, 3.0), (1.75, 3.0)]))
        self.assertEqual(plot.spread(rows, "open_ms"), ([], []))

    def test_duration(self):
        for ms, text in ((0.05, "0.05 ms"), (0.999, "1.0 ms"), (7.84, "7.8 ms"), (9.96, "10 ms"),
                         (97.4, "97 ms"), (999.4, "999 ms"), (999.6, "1.00 s"), (2056, "2.06 s")):
            self.assertEqual(plot.duration(ms), text)

    def test_place(self):
        places = [plot.place(size, 100) for size in (0, 100, 1000, 10_000)]
        self.assertEqual(places[:2], [0, 0.7])
        self.assertAlmostEqual(places[3] - places[2], 1)

    def test_decades(self):
        self.assertEqual(plot.decades([0.05, 30.0]), (0.01, 100.0))
        self.assertEqual(plot.decades([1.0]), (1.0, 10.0))

    def test_thinned(self):
        self.assertEqual(plot.thinned([], 1), [])
        self.assertEqual(plot.thinned([0, 0.5, 1, 1.9, 2.5], 1), [0, 1, 2.5])

    def test_apart(self):
        self.assertEqual(plot.apart([0.25, 0.75, 0.5], 0.125), [0.25, 0.75, 0.5])
        self.assertEqual(plot.apart([0.25, 0.3, 1.5], 0.125), [0.175, 0.3, 0.95])


if __name__ == "__main__":
    unittest.main()
