"""Secrets, and their removal from every text that is written, printed, logged, sent or answered.

1. `keys` tells from a variable's name whether it holds a secret, and which parts of its value are secrets themselves.
2. `derivation` lists the values that an application derives from a secret: members of lists and JSON, lines, and what
   is left after decoding.
3. `redactor` removes all of them from texts and JSON, by value. There is one `Redactor` for each process. `writings`
   knows the ways in which each character may be written, `folds` those in which a text may be broken into lines, and
   `encodings` finds secrets in base64 and in hexadecimal digits.
4. `stream` redacts lines that come one by one: an application's output, a log. `formatter` redacts Python's logging.
5. `arguments` masks the command lines of other processes, whose secrets are unknown.

This package runs in every process, and knows settings only by name.
"""
