"""What a run of the suite found: the document, the verdict, and the ways to read it.

1. `model` is the only file that knows the JSON schema. It reads a `Report` back from a file and judges it: only
   `verdict` decides whether a server may start. `building` makes a `Report` of pytest's results.
2. `newest` finds the newest report that can be trusted, `history` keeps every published report as a file of its own,
   and `changes` compares two reports.
3. `banners` renders a report for a terminal; `formats` renders it for other tools.

Nothing here prints, starts or stops anything. A format never decides the verdict.
"""
